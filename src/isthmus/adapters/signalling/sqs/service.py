"""SQS as signalling service: a mailbox is a standard queue, a notice a message in base64."""

import asyncio
import base64
import binascii
import functools
import importlib
import importlib.util
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from isthmus.adapters.signalling.inbox import Inbox, NoQueue, looks
from isthmus.adapters.signalling.sqs.place import Place
from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.kit.complaint import Complaint
from isthmus.kit.tasks import Tasks
from isthmus.ports.provider import Keys, Loan, Meter, Way
from isthmus.ports.signalling import SignallingTraits

if TYPE_CHECKING:
    from isthmus.adapters.signalling.sqs.api import Caller

_log = structlog.get_logger()

RETENTION_SECONDS: Final = 120
"""For how long a notice waits in its queue; SQS keeps none for less than 60 s."""
MOST_MESSAGE_BYTES: Final = 256 * 1024
"""The longest message, and the most that a batch carries, that every SQS takes."""
ATTRIBUTES: Final[Mapping[str, str]] = {
    "MessageRetentionPeriod": str(RETENTION_SECONDS),
    "VisibilityTimeout": "60",
    "ReceiveMessageWaitTimeSeconds": "20",
}
_CHUNK_BYTES: Final = 64 * 1024  # each begun one of a request or an answer is billed as a request
_MOST_NOTICE_BYTES: Final = MOST_MESSAGE_BYTES // 4 * 3
_MOST_AT_ONCE: Final = 10  # messages of a batch, and of what is received
_POLL_SECONDS: Final = 20  # the longest, and so the cheapest
_DELETE_SECONDS: Final = 20.0  # what was received is deleted in batches, long before it would show again
_BATCHES_IN_FLIGHT: Final = 4  # to one queue
_SEND_SECONDS: Final = 10.0
_SEND_AGAIN: Final = (0.05, 0.1)  # s; a single 503 is no trouble yet
_INBOX_HIGH_BYTES: Final = 8 * 1024 * 1024
_CLOSE_SECONDS: Final = 2.0


@dataclass(slots=True, eq=False)
class _Sending:
    """A notice on its way out."""

    body: str
    sent: asyncio.Future[None]


@dataclass(slots=True)
class _Outbox:
    """What is to go to one mailbox. What is published while a batch is under way goes with the next one."""

    waiting: deque[_Sending] = field(default_factory=deque)
    in_flight: int = 0

    def take(self) -> list[_Sending]:
        """Return what goes in one batch."""
        batch: list[_Sending] = []
        size = 0
        while self.waiting and len(batch) < _MOST_AT_ONCE:
            size += len(self.waiting[0].body)
            if batch and size > MOST_MESSAGE_BYTES:
                break
            batch.append(self.waiting.popleft())
        return batch

    @property
    def wants_another(self) -> bool:
        """Whether a further batch should set out now."""
        if not self.waiting or self.in_flight >= _BATCHES_IN_FLIGHT:
            return False
        return (
            self.in_flight == 0
            or len(self.waiting) >= _MOST_AT_ONCE
            or sum(len(item.body) for item in self.waiting) >= MOST_MESSAGE_BYTES // 2
        )


class SqsSignalling:
    """SQS, seen from one Router (`isthmus.ports.signalling.Signalling`)."""

    def __init__(self, place: Place, keys: Keys, way: Way, meter: Meter) -> None:
        """Describe the way; it is taken at first use. Raises OperatorError if aiobotocore is not installed."""
        demand_library()
        self.traits = SignallingTraits(
            max_notice_bytes=_MOST_NOTICE_BYTES, cheap_bulk=False, retention=float(RETENTION_SECONDS), billed=True
        )
        self._place = place
        self._keys = keys
        self._way = way
        self._meter = meter
        self._tasks = Tasks("SQS signalling")
        self._complaint = Complaint()
        self._caller: Caller | None = None
        self._opening = asyncio.Lock()
        self._outboxes: dict[str, _Outbox] = {}
        self._inboxes: set[Inbox] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<SqsSignalling at {self._place.host}, {len(self._inboxes)} listeners>"

    async def publish(self, to: str, notice: bytes) -> None:
        """Send a notice to a mailbox; returns when SQS has it. Raises ProviderTrouble."""
        if len(notice) > _MOST_NOTICE_BYTES:
            raise ProviderTrouble(f"a notice has at most {_MOST_NOTICE_BYTES} bytes", retry=Retry.NEVER)
        self._place.queue(to)
        self._demand_open()
        box = self._outboxes.setdefault(to, _Outbox())
        item = _Sending(base64.b64encode(notice).decode("ascii"), asyncio.get_running_loop().create_future())
        box.waiting.append(item)
        if box.wants_another:
            box.in_flight += 1
            self._tasks.spawn(self._send(to, box), name="send")
        await item.sent

    async def listen(self, at: str) -> AsyncIterator[bytes]:
        """Yield the notices for a mailbox. Raises ProviderTrouble if these keys may not have them."""
        self._place.queue(at)
        self._demand_open()
        inbox = Inbox(_INBOX_HIGH_BYTES)
        self._inboxes.add(inbox)
        receiving = self._tasks.spawn(self._receive(at, inbox), name="receive")
        try:
            async for notice in inbox.notices():
                yield notice
        finally:
            self._inboxes.discard(inbox)
            receiving.cancel()

    async def close(self) -> None:
        """End every listener, and say of what was received that it was."""
        self._closed = True
        for inbox in self._inboxes:
            inbox.end()
        await self._tasks.close()
        for box in self._outboxes.values():
            for item in box.waiting:
                if not item.sent.done():
                    item.sent.set_exception(_was_closed())
        if self._caller is not None:
            await self._caller.close()

    # sending

    async def _send(self, to: str, box: _Outbox) -> None:
        try:
            while batch := box.take():
                await self._send_batch(to, batch)
        finally:
            box.in_flight -= 1
            if not box.in_flight and not box.waiting and self._outboxes.get(to) is box:
                del self._outboxes[to]

    async def _send_batch(self, to: str, batch: Sequence[_Sending]) -> None:
        trouble = ProviderTrouble("this notice was not sent", retry=Retry.LATER)
        try:
            for number, wait in enumerate(_SEND_AGAIN):
                try:
                    await self._send_once(to, batch)
                    return
                except ProviderTrouble as error:
                    trouble = error
                    if error.retry is Retry.NEVER or number == len(_SEND_AGAIN) - 1:
                        return
                batch = [item for item in batch if not item.sent.done()]
                await asyncio.sleep(wait)
        finally:
            for item in batch:
                if not item.sent.done():
                    item.sent.set_exception(trouble)

    async def _send_once(self, to: str, batch: Sequence[_Sending]) -> None:
        """Send a batch and settle what was sent, or refused for good. Raises ProviderTrouble for the rest."""
        entries = [{"Id": str(number), "MessageBody": item.body} for number, item in enumerate(batch)]
        size = sum(len(item.body) for item in batch)
        self._count("publish", size, up=size)
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                answer = await self._call("send_message_batch", to, Entries=entries)
        except NoQueue:
            answer = {}  # a mailbox that nobody has listened to yet
        except TimeoutError as error:
            raise ProviderTrouble("SQS takes no notices", retry=Retry.LATER) from error
        again: ProviderTrouble | None = None
        for refused in answer.get("Failed", ()):
            item, code = batch[int(refused["Id"])], str(refused.get("Code", ""))
            if refused.get("SenderFault"):
                if not item.sent.done():
                    item.sent.set_exception(ProviderTrouble(f"SQS refuses a notice ({code})", retry=Retry.NEVER))
            else:
                again = ProviderTrouble(f"SQS did not take a notice ({code})", retry=Retry.LATER)
        failed = {int(refused["Id"]) for refused in answer.get("Failed", ())}
        for number, item in enumerate(batch):
            if number not in failed and not item.sent.done():
                item.sent.set_result(None)
        if again is not None:
            raise again

    # receiving

    async def _receive(self, at: str, inbox: Inbox) -> None:
        received = _Received()
        clock = asyncio.get_running_loop().time
        look = functools.partial(self._look_or_make, at)
        try:
            async for messages in looks("SQS", inbox, look, self._complaint):
                for handle, notice in messages:
                    received.add(handle, clock())
                    if notice is not None:
                        inbox.put(notice)
                if received.is_due(clock()):
                    self._tasks.spawn(self._delete(at, received.take()), name="delete")
        finally:
            await self._delete_all(at, received)

    async def _look_or_make(self, at: str) -> list[tuple[str, bytes | None]]:
        """Receive; make the queue if there is none, which only a Router with keys of its own may do."""
        try:
            return await self._look(at)
        except NoQueue as missing:
            try:
                await make_queue(await self._open(), self._place, at)
            except ProviderTrouble as trouble:
                if trouble.retry is Retry.NEVER:
                    raise missing from trouble
                raise
            return []

    async def _look(self, at: str) -> list[tuple[str, bytes | None]]:
        answer = await self._call(
            "receive_message", at, MaxNumberOfMessages=_MOST_AT_ONCE, WaitTimeSeconds=_POLL_SECONDS
        )
        messages = answer.get("Messages", ())
        size = sum(len(message["Body"]) for message in messages)
        self._count("receive", size, down=size)
        return [(message["ReceiptHandle"], _decoded(message["Body"])) for message in messages]

    async def _delete_all(self, at: str, received: "_Received") -> None:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                while handles := received.take():
                    await self._delete(at, handles)
        except TimeoutError:
            pass  # what is left shows again in a minute, and goes a minute later

    async def _delete(self, at: str, handles: Iterable[str]) -> None:
        entries = [{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(handles)]
        self._count("delete", 0)
        try:
            await self._call("delete_message_batch", at, Entries=entries)
        except ProviderTrouble as trouble:
            _log.info("notices at SQS not deleted, and come again", error=str(trouble))

    # inside

    async def _call(self, operation: str, mailbox: str, **parameters: object) -> Mapping[str, Any]:
        loan = await self._keys.loan()
        account = loan.fields.get("account")
        if not account:
            raise ProviderTrouble("the keys for AWS lack account", retry=Retry.NEVER, hint="the account's 12 digits")
        caller = await self._open()
        return await caller.call(operation, QueueUrl=self._place.queue_url(account, mailbox), **parameters)

    async def _open(self) -> "Caller":
        async with self._opening:
            if self._caller is None:
                self._caller = await open_caller("sqs", self._place, self._keys, self._way)
        return self._caller

    def _demand_open(self) -> None:
        if self._closed:
            raise _was_closed()

    def _count(self, kind: str, size: int, *, up: int = 0, down: int = 0) -> None:
        self._meter.count(kind, up=up, down=down)
        for _ in range((size - 1) // _CHUNK_BYTES):
            self._meter.count(kind)


class _Received:
    """What is to be deleted."""

    def __init__(self) -> None:
        self._handles: deque[str] = deque()
        self._since = 0.0

    def add(self, handle: str, now: float) -> None:
        """Note one more message."""
        if not self._handles:
            self._since = now
        self._handles.append(handle)

    def is_due(self, now: float) -> bool:
        """Whether a batch is full, or the oldest has waited long enough."""
        return len(self._handles) >= _MOST_AT_ONCE or (bool(self._handles) and now - self._since >= _DELETE_SECONDS)

    def take(self) -> list[str]:
        """Return a batch."""
        return [self._handles.popleft() for _ in range(min(len(self._handles), _MOST_AT_ONCE))]


def _was_closed() -> ProviderTrouble:
    return ProviderTrouble("this signalling service was closed", retry=Retry.NEVER)


def demand_library() -> None:
    """Raise OperatorError if aiobotocore is not installed."""
    if importlib.util.find_spec("aiobotocore") is None:
        raise OperatorError("SQS needs aiobotocore, which is not installed", hint="pip install 'isthmus[aws]'")


async def open_caller(service: str, place: Place, keys: Keys | Loan | None, way: Way) -> "Caller":
    """Return what calls a service. The library takes half a second to import, which is left to a thread."""
    demand_library()
    api = await asyncio.to_thread(importlib.import_module, "isthmus.adapters.signalling.sqs.api")
    caller: Caller = api.Caller(service, place, keys, way)
    return caller


async def make_queue(caller: "Caller", place: Place, mailbox: str) -> str:
    """See to it that a mailbox has its queue, and return the account it is in. Raises ProviderTrouble."""
    name, attributes = place.queue(mailbox), dict(ATTRIBUTES)
    try:
        url = str((await caller.call("get_queue_url", QueueName=name))["QueueUrl"])
    except NoQueue:
        url = str((await caller.call("create_queue", QueueName=name, Attributes=attributes))["QueueUrl"])
    account = url.rsplit("/", 2)[1]
    await caller.call("set_queue_attributes", QueueUrl=place.queue_url(account, mailbox), Attributes=attributes)
    return account


def _decoded(body: str) -> bytes | None:
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return None  # not ours, and gone with the rest
