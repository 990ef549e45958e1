"""Azure queues as signalling service: a mailbox is a queue, a notice a message in base64."""

import asyncio
import base64
import binascii
import functools
import importlib
import importlib.util
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import structlog

from isthmus.adapters.signalling.azure.place import Place
from isthmus.adapters.signalling.azure.rhythm import Rhythm
from isthmus.adapters.signalling.inbox import Inbox, NoQueue, looks
from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.kit.clock import Clock, SystemClock
from isthmus.kit.complaint import Complaint
from isthmus.kit.tasks import Tasks
from isthmus.ports.provider import Keys, Loan, Meter, Way
from isthmus.ports.signalling import SignallingTraits

if TYPE_CHECKING:
    from isthmus.adapters.signalling.azure.api import Caller

_log = structlog.get_logger()

RETENTION_SECONDS: Final = 60
HIDDEN_SECONDS: Final = 2 * RETENTION_SECONDS
"""What was received is hidden until after it has gone by itself, so that no request is needed to delete it."""
_MOST_NOTICE_BYTES: Final = 48_000  # in base64 just below the 64 KiB of a message
_MOST_AT_ONCE: Final = 32
_TRIES: Final = 2  # a single 503 is no trouble yet
_AGAIN_SECONDS: Final = 0.1
_INBOX_HIGH_BYTES: Final = 8 * 1024 * 1024


class AzureQueueSignalling:
    """Azure Queue Storage, seen from one Router (`isthmus.ports.signalling.Signalling`)."""

    def __init__(self, place: Place, keys: Keys, way: Way, meter: Meter, clock: Clock | None = None) -> None:
        """Describe the way; it is taken at first use. Raises OperatorError if Azure's library is not installed."""
        demand_library()
        self.traits = SignallingTraits(
            max_notice_bytes=_MOST_NOTICE_BYTES, cheap_bulk=False, retention=float(RETENTION_SECONDS), billed=True
        )
        self._place = place
        self._keys = keys
        self._way = way
        self._meter = meter
        self._clock = clock or SystemClock()
        self._tasks = Tasks("Azure queue signalling")
        self._complaint = Complaint()
        self._caller: Caller | None = None
        self._opening = asyncio.Lock()
        self._listeners: dict[Inbox, Rhythm] = {}
        self._stirred = asyncio.Event()
        self._closed = False

    def __repr__(self) -> str:
        return f"<AzureQueueSignalling at {self._place.host}, {len(self._listeners)} listeners>"

    async def publish(self, to: str, notice: bytes) -> None:
        """Send a notice to a mailbox; returns when Azure has it. Raises ProviderTrouble."""
        if len(notice) > _MOST_NOTICE_BYTES:
            raise ProviderTrouble(f"a notice has at most {_MOST_NOTICE_BYTES} bytes", retry=Retry.NEVER)
        queue = self._place.queue(to)
        self._demand_open()
        text = base64.b64encode(notice).decode("ascii")
        for tries in range(1, _TRIES + 1):
            loan = await self._keys.loan()
            caller = await self._open()
            try:
                self._meter.count("publish", up=len(text))
                await caller.send(queue, _secret(loan, "send_sas"), text, seconds=RETENTION_SECONDS)
                break
            except NoQueue:
                break  # a mailbox that nobody has listened to yet
            except ProviderTrouble as trouble:
                if trouble.retry is Retry.NEVER or tries == _TRIES:
                    raise _in_time(trouble, loan, self._clock) from trouble
                await asyncio.sleep(_AGAIN_SECONDS)

    def expect(self) -> None:
        """Look often again: an answer is to come."""
        now = self._clock.monotonic()
        for rhythm in self._listeners.values():
            rhythm.stir(now)
        self._stirred.set()
        self._stirred.clear()

    async def listen(self, at: str) -> AsyncIterator[bytes]:
        """Yield the notices for a mailbox. Raises ProviderTrouble if these keys may not have them."""
        queue = self._place.queue(at)
        self._demand_open()
        inbox = Inbox(_INBOX_HIGH_BYTES)
        self._listeners[inbox] = Rhythm(self._clock.monotonic())
        looking = self._tasks.spawn(self._look_on(queue, inbox), name="look")
        try:
            async for notice in inbox.notices():
                yield notice
        finally:
            del self._listeners[inbox]
            looking.cancel()

    async def close(self) -> None:
        """End every listener and let go of connections."""
        self._closed = True
        for inbox in self._listeners:
            inbox.end()
        await self._tasks.close()
        if self._caller is not None:
            await self._caller.close()

    # receiving

    async def _look_on(self, queue: str, inbox: Inbox) -> None:
        rhythm = self._listeners[inbox]
        look = functools.partial(self._look_or_make, queue)
        async for texts in looks("Azure queue", inbox, look, self._complaint):
            for text in texts:
                if (notice := _decoded(text)) is not None:
                    inbox.put(notice)
            rhythm.looked(self._clock.monotonic(), found=bool(texts))
            if len(texts) < _MOST_AT_ONCE:
                await self._rest(rhythm)

    async def _rest(self, rhythm: Rhythm) -> None:
        """Return when the next look is due, which is sooner once something was published."""
        while (left := rhythm.next_look() - self._clock.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._stirred.wait()
            except TimeoutError:
                return

    async def _look_or_make(self, queue: str) -> list[str]:
        """Receive; make the queue if there is none, which only a Router with keys of its own may do."""
        loan = await self._keys.loan()
        caller = await self._open()
        try:
            secret = _secret(loan, "receive_sas")
            texts: list[str] = []
            try:
                texts = await caller.receive(queue, secret, hidden_seconds=HIDDEN_SECONDS)
            finally:
                self._meter.count("receive", down=sum(len(text) for text in texts))
        except NoQueue:
            if not loan.fields.get("account_key"):
                raise
            self._meter.count("publish")
            await caller.create(queue, loan.fields["account_key"])
            return []
        except ProviderTrouble as trouble:
            raise _in_time(trouble, loan, self._clock) from trouble
        return texts

    # inside

    async def _open(self) -> "Caller":
        async with self._opening:
            if self._caller is None:
                self._caller = await open_caller(self._place, self._way)
        self._demand_open()  # or who asked for keys meanwhile would make connections that nobody ends
        return self._caller

    def _demand_open(self) -> None:
        if self._closed:
            raise ProviderTrouble("this signalling service was closed", retry=Retry.NEVER)


def demand_library() -> None:
    """Raise OperatorError if Azure's library is not installed."""
    try:
        found = importlib.util.find_spec("azure.storage.queue")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise OperatorError(
            "Azure queues need azure-storage-queue, which is not installed", hint="pip install 'isthmus[azure]'"
        )


async def open_caller(place: Place, way: Way) -> "Caller":
    """Return what calls the account. The library takes half a second to import, which is left to a thread."""
    demand_library()
    return await asyncio.to_thread(_make_caller, place, way)


def _make_caller(place: Place, way: Way) -> "Caller":
    caller: Caller = importlib.import_module("isthmus.adapters.signalling.azure.api").Caller(place, way)
    return caller


def _secret(loan: Loan, name: str) -> str:
    secret = loan.fields.get(name) or loan.fields.get("account_key")
    if not secret:
        hint = "account_key, or receive_sas and send_sas"
        raise ProviderTrouble(f"the keys for Azure lack {name}", retry=Retry.NEVER, hint=hint)
    return secret


def _in_time(trouble: ProviderTrouble, loan: Loan, clock: Clock) -> ProviderTrouble:
    """Return `trouble`, or that the loan was over: Azure says the same of that as of keys that are wrong."""
    if trouble.retry is Retry.NEVER and loan.expires is not None and loan.expires <= clock.now():
        return ProviderTrouble("the keys for Azure have expired", retry=Retry.LATER)
    return trouble


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None  # not ours
