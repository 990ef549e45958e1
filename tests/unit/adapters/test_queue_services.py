"""What of the two queue services needs no server: URLs, names, policies, when to look."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import pytest

from isthmus.adapters.signalling.azure import PROVIDER as AZURE
from isthmus.adapters.signalling.azure.place import Place as AzurePlace
from isthmus.adapters.signalling.azure.rhythm import LEAST_SECONDS, LEAST_WHEN_SLOW_SECONDS, MOST_SECONDS, Rhythm
from isthmus.adapters.signalling.inbox import Inbox
from isthmus.adapters.signalling.sqs import PROVIDER as SQS
from isthmus.adapters.signalling.sqs.place import Place as SqsPlace
from isthmus.adapters.signalling.sqs.provider import policy
from isthmus.cloudio.providers import signalling_provider
from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.kit.names import HostPort
from isthmus.kit.tasks import Tasks
from isthmus.ports.provider import Loan, Surroundings, Way

ROUTER = "A2" * 18
A_MONTH = 30 * 24 * 3600.0
MOST_A_MONTH = 150_000


class TestSqsPlaces:
    def test_a_region_and_a_namespace_say_where_the_queues_are(self) -> None:
        place = SqsPlace.parse("sqs://eu-central-1/relay")
        assert SQS.hosts("sqs://eu-central-1/relay") == [HostPort("sqs.eu-central-1.amazonaws.com", 443)]
        url = f"https://sqs.eu-central-1.amazonaws.com/123456789012/relay-{ROUTER}"
        assert place.queue_url("123456789012", ROUTER) == url
        assert place.queue_arn("1", ROUTER) == f"arn:aws:sqs:eu-central-1:1:relay-{ROUTER}"
        assert place.sts_endpoint == "https://sts.eu-central-1.amazonaws.com"

    def test_other_partitions_have_other_names(self) -> None:
        assert SQS.hosts("sqs://cn-north-1/relay") == [HostPort("sqs.cn-north-1.amazonaws.com.cn", 443)]
        assert (
            SqsPlace.parse("sqs://us-gov-west-1/relay").queue_arn("1", "*")
            == "arn:aws-us-gov:sqs:us-gov-west-1:1:relay-*"
        )

    def test_what_is_like_sqs_is_named_by_host_and_port(self) -> None:
        place = SqsPlace.parse("sqs://queues.example:9324/relay?region=eu-west-3&tls=no")
        assert place.endpoint == place.sts_endpoint == "http://queues.example:9324"
        assert place.region == "eu-west-3"
        assert SqsPlace.parse("sqs://queues.example:443/relay").endpoint == "https://queues.example:443"

    @pytest.mark.parametrize(
        "url",
        [
            "sqs://eu-central-1", "sqs://eu-central-1/", "sqs://eu-central-1/with-hyphen", "sqs://eu-central-1/a/b",
            "sqs://eu-central-1/sixteencharacter", "sqs://somewhere/relay", "sqs://h:1/relay?tls=perhaps",
            "sqs://h:1/relay?endpoint=evil", "sqs://key:secret@h:1/relay", "sqs://h:port/relay", "sqs:///relay",
            "sqs://eu-central-1/relay?tls=no", "sqs://h:1/relay?region=nowhere", "azqueue://account/relay",
        ],
    )  # fmt: skip
    def test_any_other_url_is_refused_without_its_secrets(self, url: str) -> None:
        with pytest.raises(OperatorError, match="not the URL") as refused:
            SQS.hosts(url)
        assert "sqs://REGION" in refused.value.hint
        assert "secret" not in str(refused.value)

    def test_every_mailbox_has_a_queue_of_its_own_with_a_legal_name(self) -> None:
        place = SqsPlace.parse("sqs://eu-central-1/fifteencharacte")
        names = {place.queue(mailbox) for mailbox in ("a", "A", "a-b", "a_b", "x" * 64, ROUTER)}
        assert len(names) == 6
        assert all(len(name) <= 80 for name in names)
        for mailbox in ("", "a.b", "a/b", "x" * 65, "*", "ä"):
            with pytest.raises(ProviderTrouble) as refused:
                place.queue(mailbox)
            assert refused.value.retry is Retry.NEVER

    def test_a_router_may_receive_at_its_own_queue_and_send_to_all_of_the_namespace_and_nothing_else(self) -> None:
        lent = policy(SqsPlace.parse("sqs://eu-central-1/relay"), "1", ROUTER)
        arn = "arn:aws:sqs:eu-central-1:1:relay-"
        assert lent == {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": ["sqs:ReceiveMessage", "sqs:DeleteMessage"],
                    "Resource": f"{arn}{ROUTER}",
                },
                {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": f"{arn}*"},
            ],
        }
        assert len(json.dumps(lent)) < 2048, "AWS takes no longer one"


class TestAzurePlaces:
    def test_an_account_and_a_namespace_say_where_the_queues_are(self) -> None:
        place = AzurePlace.parse("azqueue://relayaccount/relay")
        assert AZURE.hosts("azqueue://relayaccount/relay") == [HostPort("relayaccount.queue.core.windows.net", 443)]
        assert place.url == "https://relayaccount.queue.core.windows.net"
        assert place.queue(ROUTER) == f"relay-{ROUTER.lower()}"

    def test_other_clouds_and_what_is_like_it_can_be_named(self) -> None:
        china = AzurePlace.parse("azqueue://relayaccount/relay?suffix=core.chinacloudapi.cn")
        assert china.url == "https://relayaccount.queue.core.chinacloudapi.cn"
        assert AzurePlace.parse("azqueue://h.example:10001/acc/relay?tls=no").url == "http://h.example:10001/acc"
        assert AzurePlace.parse("azqueue://h.example:10001/acc/relay").url == "https://h.example:10001/acc"

    @pytest.mark.parametrize(
        "url",
        [
            "azqueue://account", "azqueue://account/", "azqueue://account/Capitals", "azqueue://account/with-hyphen",
            "azqueue://account/a/b", "azqueue://ac/relay", "azqueue://my.account/relay", "azqueue://h:1/relay",
            "azqueue://account/relay?tls=no", "azqueue://account/relay?suffix=localhost", "azqueue://h:1/acc/relay?x=y",
            "azqueue://account:secret@h:1/acc/relay", "azqueue://h:port/acc/relay", "sqs://eu-central-1/relay",
        ],
    )  # fmt: skip
    def test_any_other_url_is_refused_without_its_secrets(self, url: str) -> None:
        with pytest.raises(OperatorError, match="not the URL") as refused:
            AZURE.hosts(url)
        assert "azqueue://ACCOUNT" in refused.value.hint
        assert "secret" not in str(refused.value)

    def test_every_mailbox_has_a_queue_of_its_own_though_queues_know_no_capitals(self) -> None:
        place = AzurePlace.parse("azqueue://relayaccount/sixteencharacter")
        mailboxes = ("A", "a", "H-A", "h-a", "x" * 64, "X" * 64, "X" * 41, "a_b", "a-b", "a--b", "-", ROUTER)
        names = {place.queue(mailbox) for mailbox in mailboxes}
        assert len(names) == len(mailboxes)
        for name in names:
            assert len(name) <= 63
            assert name == name.lower()
            assert "--" not in name
            assert "_" not in name
            assert name[-1] != "-"
        for mailbox in ("", "a.b", "x" * 65, "ä"):
            with pytest.raises(ProviderTrouble):
                place.queue(mailbox)


class TestRhythm:
    def test_an_idle_listener_stays_within_what_an_idle_router_may_ask_for(self) -> None:
        rhythm, now, looks = Rhythm(0.0), 0.0, 0
        while (now := rhythm.next_look()) < A_MONTH:
            rhythm.looked(now, found=False)
            looks += 1
        assert A_MONTH / MOST_SECONDS <= looks <= MOST_A_MONTH

    def test_looks_come_at_once_after_something_and_then_ever_later(self) -> None:
        rhythm, at = Rhythm(0.0), []
        for _ in range(8):
            at.append(rhythm.next_look())
            rhythm.looked(at[-1], found=False)
        assert at == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8])

    def test_what_was_sent_has_an_idle_listener_look_soon(self) -> None:
        rhythm = Rhythm(0.0)
        rhythm.looked(1000.0, found=False)
        assert rhythm.next_look() == 1000.0 + MOST_SECONDS
        rhythm.stir(1007.0)
        assert rhythm.next_look() == pytest.approx(1007.0 + LEAST_SECONDS)

    def test_sending_without_pause_does_not_put_off_the_look(self) -> None:
        rhythm = Rhythm(0.0)
        rhythm.looked(10.0, found=False)
        for number in range(1, 100):
            rhythm.stir(10.0 + number / 100)
        assert rhythm.next_look() == pytest.approx(10.01 + LEAST_SECONDS)

    def test_in_a_flow_the_first_look_is_when_the_next_thing_is_due(self) -> None:
        rhythm, now = Rhythm(0.0), 0.0
        for _ in range(50):
            now += 0.6
            rhythm.looked(now, found=True)
        assert rhythm.next_look() - now == pytest.approx(0.45, abs=0.01)
        rhythm.looked(now + 0.45, found=False)
        assert rhythm.next_look() - now == pytest.approx(0.57, abs=0.01)

    def test_a_question_ends_a_flow(self) -> None:
        rhythm, now = Rhythm(0.0), 0.0
        for _ in range(50):
            now += 6.0
            rhythm.looked(now, found=True)
        rhythm.stir(now + 1.0)
        assert rhythm.next_look() <= now + 1.0 + LEAST_WHEN_SLOW_SECONDS
        rhythm.looked(now + 3.0, found=True)  # the answer
        assert rhythm.next_look() <= now + 3.0 + LEAST_WHEN_SLOW_SECONDS

    def test_a_flow_that_stops_is_looked_for_ever_later(self) -> None:
        rhythm, now, looks = Rhythm(0.0), 0.0, 0
        for _ in range(10):
            now += 1.0
            rhythm.looked(now, found=True)
        while (at := rhythm.next_look()) < now + 3600.0:
            rhythm.looked(at, found=False)
            looks += 1
        assert 3600.0 / MOST_SECONDS <= looks <= 3600.0 / MOST_SECONDS + 20

    def test_answers_that_take_their_time_are_looked_for_after_half_of_it_at_first(self) -> None:
        rhythm, now = Rhythm(0.0), 0.0
        for _ in range(50):
            rhythm.stir(now)
            now += 0.6
            rhythm.looked(now, found=True)
        rhythm.stir(now)
        assert rhythm.next_look() - now == pytest.approx(0.3, abs=0.01)
        for _ in range(50):
            rhythm.stir(now)
            now += 30.0
            rhythm.looked(now, found=True)
        assert rhythm.next_look() - now == LEAST_WHEN_SLOW_SECONDS


class TestInbox:
    async def test_what_came_is_taken_before_trouble_is_told(self) -> None:
        inbox = Inbox(100)
        inbox.put(b"one")
        inbox.fail(ProviderTrouble("keys are refused", retry=Retry.NEVER))
        notices = aiter(inbox.notices())
        assert await anext(notices) == b"one"
        with pytest.raises(ProviderTrouble, match="refused"):
            await anext(notices)

    async def test_there_is_room_again_once_the_listener_caught_up(self) -> None:
        inbox = Inbox(3)
        inbox.put(b"four")
        notices = aiter(inbox.notices())
        room = inbox.room()
        assert room.send(None) is not None, "it waits"
        room.close()
        assert await anext(notices) == b"four"
        await inbox.room()


def test_both_are_found_by_their_schemes_and_say_what_they_were_tried_with() -> None:
    assert signalling_provider("sqs://eu-central-1/relay") is SQS
    assert signalling_provider("azqueue://account/relay") is AZURE
    assert "simulator" in SQS.tried
    assert "emulator" in AZURE.tried


class NoKeysYet:
    """Keys that nobody has been lent so far, and a meter for what never happens."""

    async def loan(self) -> Loan:
        await asyncio.Event().wait()
        raise AssertionError

    async def urls(self, method: str, names: Sequence[str]) -> list[str]:
        raise AssertionError

    def count(self, kind: str, *, up: int = 0, down: int = 0) -> None:
        """Counts nothing."""


async def test_closing_leaves_nobody_waiting_to_publish_or_to_hear() -> None:
    nobody = NoKeysYet()
    service = SQS.open("sqs://eu-central-1/relay", Surroundings(nobody, Way(), nobody))
    tasks = Tasks("test")
    publishing = [tasks.spawn(service.publish(ROUTER, b"x"), name="publish") for _ in range(50)]
    ended = tasks.spawn(_all(service.listen(ROUTER)), name="listen")
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await service.close()
        for publisher in publishing:
            with pytest.raises(ProviderTrouble):
                await publisher
        assert await ended == []
    with pytest.raises(ProviderTrouble, match="closed"):
        await service.publish(ROUTER, b"x")
    await tasks.close()


async def _all(notices: AsyncIterator[bytes]) -> list[bytes]:
    return [notice async for notice in notices]
