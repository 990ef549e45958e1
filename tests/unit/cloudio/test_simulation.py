"""T24: many seeds of whole stream pairs over bad clouds."""

import pytest

from isthmus.cloudio.pool import Pool
from isthmus.cloudio.window import ReaderWindow, Sealed, WriterWindow
from isthmus.testing import simulator
from isthmus.testing.depth import count
from isthmus.testing.simulator import SimulationFailed, simulate

PARTS = count(push=8, nightly=200)
SEEDS_EACH = count(push=250, nightly=500)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_streams_lose_nothing_repeat_nothing_and_heal(part: int) -> None:
    for seed in range(part * SEEDS_EACH, (part + 1) * SEEDS_EACH):
        simulate(seed)


def test_a_seed_gives_the_same_story_each_time() -> None:
    assert simulate(5) == simulate(5)


def any_seed_fails() -> bool:
    try:
        for seed in range(40):
            simulate(seed)
    except SimulationFailed:
        return True
    return False


class TestTheSimulatorSees:
    """Faults put in on purpose: a simulator that finds none of them would be worth nothing."""

    def test_a_writer_that_never_sends_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(WriterWindow, "overdue", lambda _self, _now: [])
        assert any_seed_fails()

    def test_a_reader_that_hands_on_repeats(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def accept(window: ReaderWindow, sequence: int, segment: bytes | memoryview, now: float) -> bool:
            window._held[sequence] = segment
            window.next_expected = min(window.next_expected, sequence)
            return True

        monkeypatch.setattr(ReaderWindow, "accept", accept)
        assert any_seed_fails()

    def test_a_reader_that_skips_gaps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def pop(window: ReaderWindow) -> bytes | memoryview | None:
            if not window._held:
                return None
            window.next_expected = min(window._held)
            return window._held.pop(window.next_expected)

        monkeypatch.setattr(ReaderWindow, "pop", pop)
        assert any_seed_fails()

    def test_a_writer_that_ignores_credit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        take = WriterWindow.take

        def greedy(window: WriterWindow) -> Sealed | None:
            window.credit = 2**60
            return take(window)

        monkeypatch.setattr(WriterWindow, "take", greedy)
        monkeypatch.setattr(WriterWindow, "has_room", lambda _self: True)
        assert any_seed_fails()

    def test_memory_that_is_not_given_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(WriterWindow, "drop", lambda _self: None)
        give = Pool.give
        monkeypatch.setattr(Pool, "give", lambda self, count: give(self, count - 1))
        assert any_seed_fails()

    def test_healing_that_takes_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(simulator, "PATIENCE", -9.0)
        assert any_seed_fails()
