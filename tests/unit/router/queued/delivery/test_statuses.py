"""Every status there can be means exactly one thing."""

from isthmus.router.queued.delivery.statuses import TRIED_SECONDS, TRIES, Action, action, again_after


def _by_the_table(status: int) -> Action:
    if status in {0x0000, 0x0001, 0x0107, 0x0116} or 0xB000 <= status <= 0xBFFF:
        return Action.DELIVERED
    if status == 0x0111:
        return Action.DELIVERED_FLAGGED
    if status in {0x0110, 0x0213} or 0xA700 <= status <= 0xA7FF:
        return Action.TRANSIENT
    return Action.HELD


def test_each_of_the_65536_statuses_has_the_action_of_the_table() -> None:
    assert [status for status in range(0x10000) if action(status) is not _by_the_table(status)] == []


def test_refusals_that_the_table_names_hold_the_object() -> None:
    named = [0x0117, 0x0122, 0x0124, 0x0211, 0x0212, 0xA900, 0xA9FF, 0xC000, 0xCFFF]
    assert {action(status) for status in named} == {Action.HELD}


def test_a_pending_status_is_no_answer_to_a_store_and_holds_it() -> None:
    assert action(0xFF00) is Action.HELD
    assert action(0xFE00) is Action.HELD


def test_an_object_is_held_after_five_transient_answers_that_take_at_least_an_hour() -> None:
    now = first = 1000.0
    tries = 1
    while (wait := again_after(tries, first, now)) is not None:
        now += wait
        tries += 1
    assert tries == TRIES
    assert now - first >= TRIED_SECONDS


def test_five_transient_answers_in_quick_succession_do_not_hold_an_object_yet() -> None:
    assert again_after(TRIES, 1000.0, 1010.0) == TRIED_SECONDS - 10.0
    assert again_after(TRIES + 3, 1000.0, 1000.0 + TRIED_SECONDS) is None
