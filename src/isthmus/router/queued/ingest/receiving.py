"""The far side of an association whose objects are queued: takes what the device sends, keeps it, and answers.

One message at a time, since no more were negotiated: what comes while one is made durable waits, and the device is not
read meanwhile. Nothing is acknowledged before it would survive a power cut.
"""

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol

import structlog

from isthmus.association.negotiation import AgreedContext
from isthmus.contract.letters import ObjectKind
from isthmus.dicom.fragments import Fragment, FragmentReader
from isthmus.dicom.framing import PduType
from isthmus.dicom.pdus import RELEASE_RP, message
from isthmus.dicom.pdv import MAX_COMMAND, Command
from isthmus.envelope.records import ObjectMeta
from isthmus.errors import LocalMisuse, RemoteMisuse
from isthmus.kit.tasks import Tasks
from isthmus.router.live.session import Session
from isthmus.router.queued.ingest.requests import Does, Request, judge, trouble
from isthmus.router.queued.spool.writing import ObjectWriter, OpenBundle
from isthmus.router.queued.trouble import NoRoom

_log = structlog.get_logger()

MOST_COMMITMENT: Final = 16 * 1024 * 1024
"""Bytes of the data set of an N-ACTION, which is held in memory: more than a hundred thousand references."""
_MOST_UNREAD: Final = 256 * 1024  # bytes of responses that a device has not read; real ones read each at once


class Keeping(Protocol):
    """What the association belongs to: knows where its objects go."""

    def meta(self, request: Request) -> ObjectMeta:
        """Return what is to be known of an object."""
        ...

    async def commit(self, meta: ObjectMeta, data_set: Sequence[bytes]) -> None:
        """Make a request for storage commitment durable. Raises NoRoom or SpoolFailed."""
        ...

    def refused(self, request: Request, error: Exception) -> None:
        """An object is not kept; its sender is told so."""
        ...

    def ended(self) -> None:
        """The association is over, and nothing of it is under way any more."""
        ...


class Receiving:
    """The link of a session whose objects are queued; everything happens on the loop."""

    def __init__(
        self,
        session: Session,
        contexts: Mapping[int, AgreedContext],
        bundle: OpenBundle,
        keeping: Keeping,
        tasks: Tasks,
        *,
        max_pdu_length: int,
    ) -> None:
        """`max_pdu_length` is the device's, in bytes as negotiated; 0 is no limit."""
        self.stored = 0
        self._session = session
        self._contexts = contexts
        self._bundle = bundle
        self._keeping = keeping
        self._tasks = tasks
        self._max_pdu_length = max_pdu_length
        self._reader = FragmentReader()
        self._command = bytearray()
        self._command_context: int | None = None  # of the command set that has begun
        self._request: Request | None = None  # the one whose data set comes
        self._writer: ObjectWriter | None = None
        self._collected: list[bytes] = []  # the data set of an N-ACTION
        self._collected_bytes = 0
        self._failure: Exception | None = None  # why the object that comes is not kept
        self._busy = False  # a response is owed
        self._kept: deque[Fragment] = deque()  # came while it was
        self._runs: deque[bytes] = deque()
        self._full = False  # the spool does not keep up
        self._unread = 0
        self._over = False
        bundle.on_writable = self._writable

    def __repr__(self) -> str:
        state = "over" if self._over else "busy" if self._busy else "receiving" if self._request else "idle"
        return f"<Receiving: {state}, {self.stored} objects kept>"

    # -- as the link of the session --------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview, *, flush: bool) -> bool:
        """Take what the device sends. A view is used up before this returns."""
        del flush
        if self._over:
            return True
        if self._busy or self._runs:
            self._runs.append(bytes(data))
            return False
        self._guarded(lambda: self._take(data))
        return self._may_read

    def finish(self) -> None:
        """The device says nothing more."""
        self._end()

    def consumed(self, count: int) -> None:
        """The device has read on."""
        stopped = not self._may_read
        self._unread -= count
        if stopped and self._may_read:
            self._session.on_writable()

    def signal(self, payload: bytes) -> None:
        """The association ended otherwise than by release: an object that is not whole is given up."""
        del payload
        self._end()

    def close(self) -> None:
        """Let go of everything."""
        self._end()

    # -- taking messages apart -------------------------------------------------------------------------------------

    @property
    def _may_read(self) -> bool:
        return not (self._full or self._runs or self._kept) and self._unread < _MOST_UNREAD

    def _take(self, data: bytes | bytearray | memoryview) -> None:
        if data[0] == PduType.RELEASE_RQ and self._reader.between_pdus:
            self._later(self._release)
            return
        self._take_fragments(deque(self._reader.feed(data)))

    def _take_fragments(self, fragments: deque[Fragment]) -> None:
        """Take them up to the end of a message; what comes behind that is kept."""
        while fragments and not self._busy:
            if fragments[0].command:
                self._command_fragment(fragments.popleft())
            else:
                self._data(fragments)
        self._kept.extend(
            Fragment(one.context_id, one.command, one.last, memoryview(bytes(one.data))) for one in fragments
        )

    def _command_fragment(self, fragment: Fragment) -> None:
        if self._request is not None or self._command_context not in {None, fragment.context_id}:
            raise RemoteMisuse("a command set comes inside another message", reason=2)
        self._command_context = fragment.context_id
        self._command += fragment.data
        if len(self._command) > MAX_COMMAND:
            raise RemoteMisuse(f"a command set of more than {MAX_COMMAND} bytes", reason=6)
        if not fragment.last:
            return
        raw, self._command, self._command_context = bytes(self._command), bytearray(), None
        request = judge(Command(fragment.context_id, raw), self._contexts[fragment.context_id])
        if request.does is Does.IGNORE:
            return
        if request.data_follows:
            self._request = request
            self._failure = None
            if request.does is Does.KEEP and request.kind is ObjectKind.STORE:
                self._begin(request)
        else:
            self._owe(functools.partial(self._answered, request))

    def _begin(self, request: Request) -> None:
        try:
            self._writer = self._bundle.begin(self._keeping.meta(request))
        except NoRoom as error:
            self._failure = error

    def _data(self, fragments: deque[Fragment]) -> None:
        """Take the data fragments in front, up to the last one of their message."""
        request = self._request
        parts: list[memoryview] = []
        last = False
        while fragments and not last and not fragments[0].command:
            fragment = fragments.popleft()
            if request is None or fragment.context_id != request.context.id:
                raise RemoteMisuse("a data set comes without its command set", reason=2)
            parts.append(fragment.data)
            last = fragment.last
        assert request is not None
        self._data_set(request, b"".join(parts))
        if last:
            self._request = None
            self._owe(functools.partial(self._answered if request.does is Does.ANSWER else self._keep, request))

    def _data_set(self, request: Request, data: bytes) -> None:
        if self._writer is not None:
            if not self._writer.write(data):
                self._full = True
        elif request.kind is ObjectKind.COMMIT and self._failure is None:
            self._collected.append(data)
            self._collected_bytes += len(data)
            if self._collected_bytes > MOST_COMMITMENT:
                self._collected.clear()
                self._failure = NoRoom(f"a request for storage commitment of more than {MOST_COMMITMENT} bytes")

    # -- answering -------------------------------------------------------------------------------------------------

    def _owe(self, doing: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._busy = True
        self._tasks.spawn(self._pay(doing), name="answer a queued request")

    async def _pay(self, doing: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await doing()
        finally:
            self._busy = False
            if self._over:
                self._keeping.ended()
        self._guarded(self._proceed)

    async def _answered(self, request: Request) -> None:
        self._respond(request, request.status, request.comment)

    async def _keep(self, request: Request) -> None:
        writer, self._writer = self._writer, None
        collected, self._collected, self._collected_bytes = self._collected, [], 0
        try:
            if self._failure is not None:
                raise self._failure
            if writer is not None:
                await writer.finish()
            else:
                await self._keeping.commit(self._keeping.meta(request), collected)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sender must hear that its object is not kept
            self._keeping.refused(request, error)
            self._respond(request, *trouble(error))
        else:
            self.stored += 1
            self._respond(request, request.status)

    def _respond(self, request: Request, status: int, comment: str = "") -> None:
        answer = request.answer(status, comment)
        self._say(message(request.context.id, answer, max_pdu_length=self._max_pdu_length))

    def _say(self, run: bytes) -> None:
        if not self._over:
            self._unread += len(run)
            self._session.on_data(run)

    def _proceed(self) -> None:
        """Go on with what came while a response was owed; read on if that was all."""
        while not (self._over or self._busy) and (self._kept or self._runs):
            if self._kept:
                fragments, self._kept = self._kept, deque()
                self._take_fragments(fragments)
            else:
                self._take(self._runs.popleft())
        if self._may_read and not self._over:
            self._session.on_writable()

    def _release(self) -> None:
        self._say(RELEASE_RP)

    # -- ending ----------------------------------------------------------------------------------------------------

    def _guarded(self, take: Callable[[], None]) -> None:
        """Take what may be malformed: then the association is aborted, once the event that it came in is over."""
        try:
            take()
        except (RemoteMisuse, LocalMisuse) as error:
            _log.warning("association aborted", session=self._session.session_id.hex()[:8], why=str(error))
            source, reason = (error.source, error.reason) if isinstance(error, RemoteMisuse) else (2, 0)
            self._later(lambda: self._session.let_go(source=source, reason=reason))
            self._end()

    def _later(self, call: Callable[[], None]) -> None:
        """Call it when the event that is being taken is over: what is said to the device comes behind that."""
        asyncio.get_running_loop().call_soon(call)

    def _writable(self) -> None:
        self._full = False
        if self._may_read and not self._over:
            self._session.on_writable()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        self._kept.clear()
        self._runs.clear()
        self._collected.clear()
        self._bundle.on_writable = None
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None
        if not self._busy:
            self._keeping.ended()
