"""What every signalling service must do. For those who write one: subclass, give the service, done.

    class TestMyService(SignallingSuite):
        @pytest.fixture
        async def signalling(self) -> AsyncIterator[Signalling]:
            service = MyService(...)
            yield service
            await service.close()

Needs pytest and pytest-asyncio with `asyncio_mode = auto`. Services may drop, repeat and reorder, and so the tests
publish until something arrives and mind neither order nor repeats. A service that is not free in its mailboxes,
its notices or in who may listen overrides `mailbox`, `notice` or `listener`.
"""
# ruff: noqa: D102 - the names of tests are sentences, which a docstring would only repeat

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Final

import pytest

from isthmus.errors import ProviderTrouble, Retry
from isthmus.kit.tasks import Tasks
from isthmus.ports.signalling import LookingSignalling, PromptSignalling, Signalling

_ARRIVES_SECONDS: Final = 20.0
_AGAIN_SECONDS: Final = 0.5
_LARGEST_TRIED: Final = 64 * 1024 * 1024
_MAILBOXES: Final = 3
_MANY: Final = 40
_OF_MANY_BYTES: Final = 32 * 1024


class Inbox:
    """A listener that keeps what came. `arrived` is set with each notice, `ended` when listening ended."""

    def __init__(self, tasks: Tasks, notices: AsyncIterator[bytes]) -> None:
        self.notices: list[bytes] = []
        self.arrived = asyncio.Event()
        self.ended = asyncio.Event()
        tasks.spawn(self._listen(notices), name="inbox")

    async def _listen(self, notices: AsyncIterator[bytes]) -> None:
        async for notice in notices:
            self.notices.append(notice)
            self.arrived.set()
        self.ended.set()

    async def wait_for(self, wanted: set[bytes], publish_again: "Publisher") -> None:
        """Return when all of `wanted` has come; what has not is published again and again."""
        async with asyncio.timeout(_ARRIVES_SECONDS):
            while missing := wanted.difference(self.notices):
                self.arrived.clear()
                for notice in missing:
                    await publish_again(notice)
                try:
                    async with asyncio.timeout(_AGAIN_SECONDS):
                        while not wanted.issubset(self.notices):
                            await self.arrived.wait()
                            self.arrived.clear()
                except TimeoutError:
                    continue


class Publisher:
    """Publishes to one mailbox."""

    def __init__(self, signalling: Signalling, to: str) -> None:
        self._signalling = signalling
        self._to = to

    async def __call__(self, notice: bytes) -> None:
        """Publish `notice`."""
        await self._signalling.publish(self._to, notice)
        if isinstance(self._signalling, LookingSignalling):
            self._signalling.expect()


class SignallingSuite:
    """Tests of the promises in `isthmus.ports.signalling`."""

    def mailbox(self, index: int) -> str:
        """Return the name of one of three mailboxes: by default a random one of the longest, the same within a test.

        The first two differ in case only, since to the port these are two.
        """
        stem: str = self.__dict__.setdefault("_stem", secrets.token_hex(30))
        return stem + ("_-Aa", "_-aA", "-__-")[index]

    def notice(self, size: int) -> bytes:
        """Return a notice of `size` bytes that no other test makes; by default random bytes."""
        return secrets.token_bytes(size)

    def listener(self, signalling: Signalling, at: str) -> Signalling:  # noqa: ARG002 - for those who override it
        """Return the service as the owner of mailbox `at` has it; by default the same one."""
        return signalling

    @pytest.fixture
    async def tasks(self) -> AsyncIterator[Tasks]:
        """Give what runs beside a test."""
        tasks = Tasks("suite")
        yield tasks
        await tasks.close()

    async def test_notices_arrive_as_they_were_sent(self, signalling: Signalling, tasks: Tasks) -> None:
        inbox = self._listen(signalling, 0, tasks)
        wanted = {self.notice(64) for _ in range(20)}
        await inbox.wait_for(wanted, Publisher(signalling, self.mailbox(0)))
        assert set(inbox.notices) == wanted

    async def test_a_notice_of_any_size_up_to_the_largest_arrives(self, signalling: Signalling, tasks: Tasks) -> None:
        inbox = self._listen(signalling, 0, tasks)
        most = min(signalling.traits.max_notice_bytes, _LARGEST_TRIED)
        wanted = {self.notice(size) for size in {17, min(4096, most), most // 2, most}}
        await inbox.wait_for(wanted, Publisher(signalling, self.mailbox(0)))
        assert set(inbox.notices) == wanted

    async def test_a_notice_that_is_too_large_is_refused_for_good(self, signalling: Signalling) -> None:
        if signalling.traits.max_notice_bytes > _LARGEST_TRIED:
            pytest.skip("this service takes more than is tried here")
        with pytest.raises(ProviderTrouble) as refused:
            await signalling.publish(self.mailbox(0), self.notice(signalling.traits.max_notice_bytes + 1))
        assert refused.value.retry is Retry.NEVER

    async def test_listeners_of_different_mailboxes_do_not_see_each_others(
        self, signalling: Signalling, tasks: Tasks
    ) -> None:
        inboxes = [self._listen(signalling, index, tasks) for index in range(_MAILBOXES)]
        wanted = [{self.notice(100) for _ in range(5)} for _ in range(_MAILBOXES)]
        for index, inbox in enumerate(inboxes):
            await inbox.wait_for(wanted[index], Publisher(signalling, self.mailbox(index)))
        for index, inbox in enumerate(inboxes):
            assert set(inbox.notices) == wanted[index]

    async def test_many_notices_at_once_arrive_whole(self, signalling: Signalling, tasks: Tasks) -> None:
        inbox = self._listen(signalling, 0, tasks)
        publish = Publisher(signalling, self.mailbox(0))
        await inbox.wait_for({self.notice(64)}, publish)
        most = min(signalling.traits.max_notice_bytes, _OF_MANY_BYTES)
        wanted = {self.notice(17 + (most - 17) * part // _MANY) for part in range(_MANY)}
        await asyncio.gather(*(publish(notice) for notice in wanted))
        await inbox.wait_for(wanted, publish)
        assert wanted.issubset(inbox.notices)

    async def test_a_prompt_service_gives_and_takes_as_the_others_do(self, signalling: Signalling) -> None:
        listener = self.listener(signalling, self.mailbox(0))
        if not isinstance(listener, PromptSignalling) or not isinstance(signalling, PromptSignalling):
            pytest.skip("this service is not prompt, which nobody demands")
        wanted = {self.notice(64) for _ in range(20)}
        came: set[bytes] = set()
        arrived = asyncio.Event()

        def sink(notice: bytes) -> None:
            came.add(notice)
            arrived.set()

        listener.attach(self.mailbox(0), sink)
        async with asyncio.timeout(_ARRIVES_SECONDS):
            while missing := wanted - came:
                arrived.clear()
                for notice in missing:
                    if not signalling.publish_at_once(self.mailbox(0), notice):
                        await signalling.publish(self.mailbox(0), notice)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN_SECONDS):
                        while not wanted <= came:
                            await arrived.wait()
                            arrived.clear()
        assert came == wanted

    async def test_publishing_to_an_absent_listener_is_no_error(self, signalling: Signalling) -> None:
        await signalling.publish(self.mailbox(0), self.notice(64))

    async def test_a_mailbox_can_be_listened_to_again(self, signalling: Signalling, tasks: Tasks) -> None:
        first = Tasks("first")
        inbox = self._listen(signalling, 0, first)
        await inbox.wait_for({self.notice(64)}, Publisher(signalling, self.mailbox(0)))
        await first.close()
        again = self._listen(signalling, 0, tasks)
        await again.wait_for({self.notice(64)}, Publisher(signalling, self.mailbox(0)))

    async def test_close_ends_every_listener(self, signalling: Signalling, tasks: Tasks) -> None:
        inbox = self._listen(signalling, 0, tasks)
        await inbox.wait_for({self.notice(64)}, Publisher(signalling, self.mailbox(0)))
        await self.listener(signalling, self.mailbox(0)).close()
        async with asyncio.timeout(_ARRIVES_SECONDS):
            await inbox.ended.wait()

    def _listen(self, signalling: Signalling, index: int, tasks: Tasks) -> Inbox:
        at = self.mailbox(index)
        return Inbox(tasks, self.listener(signalling, at).listen(at))
