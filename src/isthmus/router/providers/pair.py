"""One pair of cloud services, as this Router holds it: off, or open and tried; listened to; out of use while it fails.

Whether a pair works is found out by using it as a session would: a blob put, got and deleted, a notice to ourselves.
The first trouble that a session or an upload has with it takes it out of use, until it has been tried again.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

import structlog

from isthmus.cloudio.providers import is_built_in
from isthmus.cloudio.stream import Cloud
from isthmus.cloudio.trace import Call, Watcher
from isthmus.contract.notices import NO_SESSION, PREFIX_BYTES, NoticeKind, pack
from isthmus.contract.rest import ProviderEntry
from isthmus.errors import BlobExists, BlobMissing, IsthmusError, OperatorError, ProviderTrouble, Retry
from isthmus.kit.backoff import delays
from isthmus.kit.complaint import Complaint
from isthmus.kit.tasks import Tasks
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.signalling import PromptSignalling

_log = structlog.get_logger()

LINGER_SECONDS: Final = 30.0
"""For how long a billed service is still listened to after the last session on it."""
_TRY_SECONDS: Final = 20.0
_TRIES: Final = (1.0, 4.0, 12.0)  # seconds for a notice to ourselves: one may be lost
_LINGER_STEP: Final = 1.0
_AGAIN_FIRST: Final = 2.0
_AGAIN_MOST: Final = 300.0
_PROVEN_SECONDS: Final = 60.0  # a pair that passes its trial and fails again sooner is left alone for longer each time
_LOOK_SECONDS: Final = 3600.0  # what was accepted as public is looked at again
_ANSWERS: Final = frozenset({BlobMissing.__name__, BlobExists.__name__})
_FROM_ROUTERS: Final = frozenset(
    {
        NoticeKind.ACCEPT,
        NoticeKind.DATA,
        NoticeKind.DATA_BLOB,
        NoticeKind.CONTROL,
        NoticeKind.GONE,
        NoticeKind.DIALLING,
    }
)
"""What may come through a pair. All else comes from the Bridge, through its own service."""


class PairState(Enum):
    """Whether sessions may use a pair."""

    OFF = "off"  # nobody here accepted its hosts, or its library is not installed
    TRYING = "being tried"
    WORKS = "works"
    FAILS = "fails"


@dataclass(frozen=True, slots=True)
class Opened:
    """The services of a pair: `cloud` as live sessions use them, and its blobstore for what is queued."""

    cloud: Cloud
    queued: Blobstore


class CloudPair:
    """A pair, as sessions see it; by itself, the built-in one, which is always there."""

    def __init__(self, name: str, opened: Opened | None = None) -> None:
        self.name: Final = name
        self._opened = opened

    def __repr__(self) -> str:
        return f"<CloudPair {self.name}>"

    @property
    def cloud(self) -> Cloud:
        """Its services, even while they fail: sessions on it heal. Raises ProviderTrouble if it is not open."""
        return self._demand().cloud

    @property
    def queued(self) -> Blobstore:
        """Its blobstore for what is queued. Raises ProviderTrouble if it is not open."""
        return self._demand().queued

    @property
    def usable(self) -> bool:
        """Whether a new session or upload may use it."""
        return True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While a session is set up or lives on it, it is listened to, even if that is billed."""
        yield

    def suspect(self, reason: str) -> None:
        """Something went wrong over it."""

    def _demand(self) -> Opened:
        if self._opened is None:
            raise ProviderTrouble(f"the cloud pair {self.name} is not in use here", retry=Retry.LATER)
        return self._opened


class RemotePair(CloudPair):
    """A pair of the Bridge's list.

    Args:
        entry: what the Bridge says of it.
        check: raises OperatorError if it may not be used here.
        opener: returns its services, each call of which is told to the watcher. Raises OperatorError if they cannot be
            opened.
        own: this Router's mailbox.
        take: is given each notice that came.
        changed: is told when it comes into use, or goes out of it.
    """

    def __init__(
        self,
        entry: ProviderEntry,
        *,
        check: Callable[[ProviderEntry], Awaitable[None]],
        opener: Callable[[ProviderEntry, Watcher], Opened],
        own: str,
        take: Callable[[bytes], None],
        changed: Callable[[], None],
    ) -> None:
        super().__init__(entry.name)
        self.entry: Final = entry
        self.state = PairState.TRYING
        self.reason = ""
        self.hint = ""
        self._check = check
        self._opener = opener
        self._own = own
        self._take = take
        self._changed = changed
        self._complaint = Complaint()
        self._holders = 0
        self._held = asyncio.Event()
        self._again = asyncio.Event()
        self._suspected = asyncio.Event()
        self._heard: dict[bytes, asyncio.Event] = {}
        self._listening = Tasks(f"listening at {entry.name}")

    @property
    def usable(self) -> bool:
        """Whether it was tried and nothing went wrong since."""
        return self.state is PairState.WORKS

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While this is held, it is listened to, even if that is billed."""
        self._holders += 1
        self._held.set()
        if self._opened is not None:
            self._opened.cloud.expect()  # the answer to an offer, which went another way
        try:
            yield
        finally:
            self._holders -= 1

    def suspect(self, reason: str) -> None:
        """Something went wrong over it: out of use until it has been tried again, which begins at once."""
        if self.state is PairState.WORKS:
            self._set(PairState.FAILS, reason)
            self._suspected.set()
            self._again.set()

    def look_again(self) -> None:
        """What is allowed here changed."""
        self._again.set()

    async def run(self) -> None:
        """Keep it open and tried until cancelled."""
        waits, penances = delays(_AGAIN_FIRST, _AGAIN_MOST), delays(_AGAIN_FIRST, _AGAIN_MOST)
        time = asyncio.get_running_loop().time
        proven_at = time()
        try:
            while True:
                if self._suspected.is_set() and time() < proven_at:
                    await asyncio.sleep(next(penances))
                elif time() >= proven_at:
                    penances = delays(_AGAIN_FIRST, _AGAIN_MOST)
                self._again.clear()
                self._suspected.clear()
                wait = _LOOK_SECONDS
                try:
                    await self._check(self.entry)
                    if self._opened is None:
                        self._opened = self._opener(self.entry, self._called)
                        self._listen(self._opened.cloud)
                    with self.held():
                        await self._try(self._opened.cloud)
                except OperatorError as error:
                    self._set(PairState.OFF, str(error), error.hint)
                    await self._close()
                except IsthmusError as error:
                    self._set(PairState.FAILS, str(error), error.hint)
                    wait = next(waits)
                else:
                    if self.state is not PairState.WORKS:
                        proven_at = time() + _PROVEN_SECONDS
                    self._set(PairState.WORKS)
                    waits = delays(_AGAIN_FIRST, _AGAIN_MOST)
                await _wait(self._again, wait)
        finally:
            self._set(PairState.OFF, "it is not in use")
            await self._close()

    async def _close(self) -> None:
        """Let go of the services, to the end even if this is cancelled: nobody else has them any more."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        closing = Tasks(f"closing {self.name}").spawn(self._let_go(opened), name="close")
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait([closing])
            raise

    async def _let_go(self, opened: Opened) -> None:
        await self._listening.close()
        self._listening = Tasks(f"listening at {self.name}")
        if not is_built_in(self.entry.signalling):
            await opened.cloud.signalling.close()
        if not is_built_in(self.entry.blobstore):
            await opened.cloud.blobstore.close()

    async def _try(self, cloud: Cloud) -> None:
        """Do once what a session does. Raises ProviderTrouble."""
        try:
            async with asyncio.timeout(_TRY_SECONDS):
                if not is_built_in(self.entry.blobstore):
                    await self._try_blobs(cloud)
                if not is_built_in(self.entry.signalling):
                    await self._try_notice(cloud)
        except TimeoutError as error:
            raise ProviderTrouble(f"no answer within {_TRY_SECONDS:g} s", retry=Retry.LATER) from error

    async def _try_blobs(self, cloud: Cloud) -> None:
        name, body = f"tried/{secrets.token_hex(16)}", secrets.token_bytes(64)
        await cloud.blobstore.put(name, body)
        if await cloud.blobstore.get(name) != body:
            raise ProviderTrouble("a blob came back changed", retry=Retry.LATER)
        await cloud.blobstore.delete(name)

    async def _try_notice(self, cloud: Cloud) -> None:
        mark = secrets.token_bytes(16)
        heard = self._heard[mark] = asyncio.Event()
        try:
            for wait in _TRIES:
                await cloud.signalling.publish(self._own, pack(NoticeKind.TRIED, NO_SESSION, mark))
                cloud.expect()
                if await _wait(heard, wait):
                    return
        finally:
            del self._heard[mark]
        raise ProviderTrouble("a notice to ourselves did not arrive", retry=Retry.LATER)

    # -- listening

    def _listen(self, cloud: Cloud) -> None:
        signalling = cloud.signalling
        if is_built_in(self.entry.signalling):
            return  # which this Router hears anyway
        if signalling.traits.billed:
            self._listening.spawn(self._listen_while_held(cloud), name="listen while a session lives")
        elif isinstance(signalling, PromptSignalling):
            signalling.attach(self._own, self._came)
        else:
            self._listening.spawn(self._listen_on(cloud), name="listen")

    async def _listen_on(self, cloud: Cloud) -> None:
        waits = delays(_AGAIN_FIRST, _AGAIN_MOST)
        while True:
            try:
                async for notice in cloud.signalling.listen(self._own):
                    self._came(notice)
                return  # it was closed
            except ProviderTrouble as trouble:  # what does not heal by itself, such as keys that are refused
                self.suspect(str(trouble))
            await asyncio.sleep(next(waits))

    async def _listen_while_held(self, cloud: Cloud) -> None:
        while True:
            await self._held.wait()
            tasks = Tasks(f"listening at {self.name} for a while")
            try:
                tasks.spawn(self._listen_on(cloud), name="listen")
                idle = 0.0
                while idle <= LINGER_SECONDS:
                    await asyncio.sleep(_LINGER_STEP)
                    idle = 0.0 if self._holders else idle + _LINGER_STEP
                self._held.clear()
            finally:
                await tasks.close()

    def _came(self, notice: bytes) -> None:
        kind = notice[0] if notice else 0
        if kind in _FROM_ROUTERS:
            self._take(notice)
        elif kind == NoticeKind.TRIED and (heard := self._heard.get(notice[PREFIX_BYTES:])) is not None:
            heard.set()

    # -- inside

    def _called(self, call: Call) -> None:
        if call.trouble and call.trouble not in _ANSWERS:
            self.suspect(f"{call.method} failed")

    def _set(self, state: PairState, reason: str = "", hint: str = "") -> None:
        before, self.state = self.usable, state
        self.reason, self.hint = reason, hint
        if state is PairState.WORKS and self._complaint.over():
            _log.info("cloud pair works again", pair=self.name)
        elif state is PairState.FAILS and self._complaint.is_news(reason, asyncio.get_running_loop().time()):
            _log.warning("cloud pair out of use", pair=self.name, reason=reason, hint=hint)
        if before is not self.usable:
            self._changed()


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for `event`, but no longer than that; return whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
