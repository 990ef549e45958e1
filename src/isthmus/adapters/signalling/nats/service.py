"""A NATS server as signalling service: a mailbox is a subject, and what nobody listens for is gone."""

import asyncio
import base64
import functools
import itertools
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import structlog

from isthmus import __version__
from isthmus.adapters.signalling.nats.accounts import Nkey, Role
from isthmus.adapters.signalling.nats.framing import WebSocketFraming
from isthmus.adapters.signalling.nats.line import Line, ServerInfo
from isthmus.adapters.signalling.nats.way import CONNECT_SECONDS, Carrier, Place, open_line
from isthmus.errors import IsthmusError, OperatorError, ProviderTrouble, Retry
from isthmus.kit import backoff
from isthmus.kit.clock import Clock, SystemClock
from isthmus.kit.complaint import Complaint
from isthmus.kit.tasks import Tasks
from isthmus.ports.provider import Keys, Loan, Meter, Way
from isthmus.ports.signalling import SignallingTraits

_log = structlog.get_logger()
_USUAL_NOTICE_BYTES: Final = 1024 * 1024  # max_payload of a server that says nothing else
_MOST_NOTICE_BYTES: Final = 2 * 1024 * 1024
_MOST_WAITING_BYTES: Final = 16 * 1024 * 1024  # dropped beyond: a server that waits for us makes other sites wait too
_FIRST_DELAY: Final = 0.2  # a server restarts in a second, and associations wait for it
_MOST_DELAY: Final = 5.0
_REFUSED_DELAY: Final = 60.0
_WRITE_SECONDS: Final = 10.0
_TURN_BYTES: Final = 512 * 1024  # or
_TURN_NOTICES: Final = 128  # published without a turn of the loop
_RENEWAL_SECONDS: Final = 240.0  # before a loan ends
_RENEWAL_PART: Final = 0.2  # of a loan that is shorter
_RENEWAL_AGAIN: Final = 15.0
_MAILBOX_CHARACTERS: Final = 64
_MAILBOX: Final = re.compile(r"[A-Za-z0-9_-]+")
_QUOTED: Final = re.compile(r'"([^"]*)"')
_REFUSED: Final = ("authorization violation", "authentication", "account", "user")


class _Mailbox:
    """What came for a mailbox that is listened at."""

    def __init__(self, number: int, subject: bytes) -> None:
        self.number = number
        self.subject = subject
        self.notices: deque[bytes] = deque()
        self.listeners = 0
        self.arrival: asyncio.Future[None] | None = None
        self.sink: Callable[[bytes], None] | None = None
        self.failure: ProviderTrouble | None = None

    def wake(self) -> None:
        """Tell who listens that something changed."""
        if self.arrival is not None and not self.arrival.done():
            self.arrival.set_result(None)


class NatsSignalling:
    """NATS, seen from one Router (`isthmus.ports.signalling.PromptSignalling`)."""

    def __init__(self, place: Place, keys: Keys, way: Way, meter: Meter, clock: Clock | None = None) -> None:
        """Describe the way; it is taken at first use, and again when the connection is lost."""
        self.traits = SignallingTraits(max_notice_bytes=_USUAL_NOTICE_BYTES, cheap_bulk=True, retention=0.0)
        self._place = place
        self._keys = keys
        self._way = way
        self._meter = meter
        self._clock = clock or SystemClock()
        self._tasks = Tasks("NATS signalling")
        self._complaint = Complaint()
        self._hosts = itertools.cycle(place.hosts)
        self._head = functools.lru_cache(maxsize=4096)(self._make_head)
        self._boxes: dict[str, _Mailbox] = {}
        self._numbers = itertools.count(1)
        self._by_number: dict[int, _Mailbox] = {}
        self._waiting_bytes = 0
        self._since_turn = 0
        self._line: Line | None = None
        self._ends: dict[Line, asyncio.Event] = {}  # of each connection that is open
        self._settled = asyncio.Event()  # not set while a connection is being made
        self._trouble: ProviderTrouble | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<NatsSignalling {self._line!r}, {self._waiting_bytes} bytes to take>"

    @property
    def is_connected(self) -> bool:
        """Whether the way to a server is open now."""
        return self._line is not None

    @property
    def waiting_bytes(self) -> int:
        """Bytes that came and were not taken yet."""
        return self._waiting_bytes

    async def publish(self, to: str, notice: bytes) -> None:
        """Send a notice to a mailbox. Raises ProviderTrouble if no server is in reach or the notice is too long."""
        head = self._checked(to, notice)
        line = self._line
        if line is None:
            line = await self._connected()
            self._checked(to, notice)  # now that the server said what it takes
        line.publish(head, notice)
        self._meter.count("publish", up=len(notice))
        if line.is_full:
            try:
                async with asyncio.timeout(_WRITE_SECONDS):
                    await line.writable()
            except TimeoutError as error:
                raise ProviderTrouble("the NATS server takes no notices", retry=Retry.LATER) from error
        self._since_turn += _TURN_BYTES // _TURN_NOTICES + len(notice)
        if self._since_turn >= _TURN_BYTES:
            self._since_turn = 0
            await asyncio.sleep(0)  # or a writer that never waits would keep the loop from its socket

    def publish_at_once(self, to: str, notice: bytes) -> bool:
        """Send a notice if the way is open and has room. Raises ProviderTrouble if it is too long."""
        head = self._checked(to, notice)
        line = self._line
        if line is None or line.is_full:
            return False
        line.publish(head, notice)
        self._meter.count("publish", up=len(notice))
        return True

    def attach(self, at: str, sink: Callable[[bytes], None]) -> None:
        """Give each notice for a mailbox to `sink`."""
        box = self._box(at)
        box.sink = sink
        while box.notices:
            sink(self._taken(box))
        self._start()

    async def listen(self, at: str) -> AsyncIterator[bytes]:
        """Yield the notices for a mailbox. Raises ProviderTrouble if these keys may not have them."""
        self._start()
        box = self._box(at)
        box.listeners += 1
        try:
            while not self._closed:
                while box.notices:
                    yield self._taken(box)
                if box.failure is not None:
                    raise ProviderTrouble(str(box.failure), retry=box.failure.retry, hint=box.failure.hint)
                if box.arrival is None or box.arrival.done():
                    box.arrival = asyncio.get_running_loop().create_future()
                if not self._closed:
                    await asyncio.shield(box.arrival)
        finally:
            box.listeners -= 1
            self._drop_if_unheard(at, box)

    async def close(self) -> None:
        """End every listener and the connection, after what waits to be sent."""
        self._closed = True
        await self._tasks.close()  # first, or one of them would open a connection that nobody ends
        for line in self._ends:
            line.close()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                for end in self._ends.values():
                    await end.wait()
        except TimeoutError:
            for line in self._ends:
                line.abort()
        self._ends.clear()
        self._line = None
        self._settled.set()
        for box in self._boxes.values():
            box.wake()

    # publishing

    def _checked(self, to: str, notice: bytes) -> bytes:
        if len(notice) > self.traits.max_notice_bytes:
            raise ProviderTrouble(f"a notice has at most {self.traits.max_notice_bytes} bytes", retry=Retry.NEVER)
        return self._head(to)

    def _make_head(self, to: str) -> bytes:
        return b"PUB %b " % self._subject(to)

    def _subject(self, mailbox: str) -> bytes:
        if len(mailbox) > _MAILBOX_CHARACTERS or not _MAILBOX.fullmatch(mailbox):
            raise ProviderTrouble("a mailbox has a name of 1 to 64 letters, digits, - and _", retry=Retry.NEVER)
        return f"{self._place.prefix}.{mailbox}".encode("ascii")

    async def _connected(self) -> Line:
        self._start()
        await self._settled.wait()
        if self._line is not None:
            return self._line
        trouble = self._trouble or ProviderTrouble("NATS is out of reach", retry=Retry.LATER)
        raise ProviderTrouble(str(trouble), retry=trouble.retry, hint=trouble.hint)

    # listening

    def _box(self, at: str) -> _Mailbox:
        box = self._boxes.get(at)
        if box is None:
            box = self._boxes[at] = _Mailbox(next(self._numbers), self._subject(at))
            self._by_number[box.number] = box
            if self._line is not None:
                self._line.subscribe(box.subject, box.number)
        return box

    def _drop_if_unheard(self, at: str, box: _Mailbox) -> None:
        if box.listeners or box.sink is not None or self._boxes.get(at) is not box:
            return
        del self._boxes[at], self._by_number[box.number]
        while box.notices:
            self._taken(box)
        if self._line is not None:
            self._line.unsubscribe(box.number)

    def _came(self, number: int, notice: bytes) -> None:
        box = self._by_number.get(number)
        if box is None:
            return  # nobody listens any more
        self._meter.count("receive", down=len(notice))
        if box.sink is not None:
            box.sink(notice)
            return
        if self._waiting_bytes + len(notice) > _MOST_WAITING_BYTES:
            if self._complaint.is_news("dropped", asyncio.get_running_loop().time()):
                _log.warning("notices dropped: they come faster than they are taken", waiting_bytes=self._waiting_bytes)
            return
        box.notices.append(notice)
        self._waiting_bytes += len(notice)
        box.wake()

    def _taken(self, box: _Mailbox) -> bytes:
        notice = box.notices.popleft()
        self._waiting_bytes -= len(notice)
        return notice

    # the connection

    def _start(self) -> None:
        if self._closed:
            raise ProviderTrouble("this signalling service was closed", retry=Retry.NEVER)
        if not len(self._tasks):
            self._tasks.spawn(self._keep_connected(), name="keeping connected")

    async def _keep_connected(self) -> None:
        waits = backoff.delays(_FIRST_DELAY, _MOST_DELAY)
        refused = backoff.delays(_FIRST_DELAY, _REFUSED_DELAY)
        while True:
            self._settled.clear()
            try:
                loan = await self._keys.loan()
                line = await self._connect(loan)
            except IsthmusError as error:
                self._failed(_as_trouble(error))
                await asyncio.sleep(next(waits if self._trouble_passes() else refused))
                continue
            self._use(line)
            if self._complaint.over():
                _log.info("NATS connected again")
            waits = backoff.delays(_FIRST_DELAY, _MOST_DELAY)
            refused = backoff.delays(_FIRST_DELAY, _REFUSED_DELAY)
            await self._keep(line, loan)
            await asyncio.sleep(next(waits))

    async def _keep(self, line: Line, loan: Loan) -> None:
        """Return when the connection is lost; until then, replace it by another whenever its loan is about to end."""
        wait = self._renewal(loan)
        while True:
            try:
                async with asyncio.timeout(wait):
                    await self._ends[line].wait()
                del self._ends[line]
                if self._line is line:
                    self._line = None
                return
            except TimeoutError:
                pass
            try:
                fresh = await self._keys.loan()
                successor = await self._connect(fresh)
            except IsthmusError as error:
                if self._complaint.is_news(str(error), asyncio.get_running_loop().time()):
                    _log.warning("NATS keys not renewed", error=str(error), hint=error.hint)
                wait = _RENEWAL_AGAIN
                continue
            self._use(successor)
            self._tasks.spawn(self._retire(line), name="the connection before")
            line, wait = successor, self._renewal(fresh)

    async def _retire(self, line: Line) -> None:
        """End a connection after what it still brings."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                for box in self._boxes.values():
                    line.unsubscribe(box.number)
                await line.settle()
                line.close()
                await self._ends[line].wait()
        except (TimeoutError, ProviderTrouble):
            line.abort()
        self._ends.pop(line, None)

    def _renewal(self, loan: Loan) -> float | None:
        """Return in how many seconds to ask for other keys."""
        if loan.expires is None:
            return None
        left = loan.expires - self._clock.now()
        return max(left - min(_RENEWAL_SECONDS, left * _RENEWAL_PART), 1.0)

    async def _connect(self, loan: Loan) -> Line:
        at = next(self._hosts)
        complaints: list[str] = []

        def heard(complaint: str) -> None:
            complaints.append(complaint)
            self._complained(complaint)

        def make(framing: WebSocketFraming | None) -> Line:
            return Line(framing=framing, on_notice=self._came, on_error=heard, on_lost=self._on_lost)

        line, info = await open_line(self._place, at, self._way, make)
        self._ends[line] = asyncio.Event()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await line.introduce(_introduction(self._place, info, loan))
                for box in self._boxes.values():
                    box.failure = None
                    line.subscribe(box.subject, box.number)
                await line.settle()
        except (ProviderTrouble, TimeoutError) as error:
            del self._ends[line]
            line.abort()
            if isinstance(error, ProviderTrouble) and error.retry is Retry.NEVER:
                raise
            said = complaints[0] if complaints else str(error) or "no answer in time"
            is_over = loan.expires is not None and loan.expires <= self._clock.now()
            raise _refusal(str(at), said, is_over=is_over) from error
        except asyncio.CancelledError:
            del self._ends[line]
            line.abort()
            raise
        most = min(info.max_payload, _MOST_NOTICE_BYTES)
        self.traits = SignallingTraits(max_notice_bytes=most, cheap_bulk=True, retention=0.0)
        return line

    def _use(self, line: Line) -> None:
        self._line = line
        self._trouble = None
        self._settled.set()

    def _failed(self, trouble: ProviderTrouble) -> None:
        if self._complaint.is_news(str(trouble), asyncio.get_running_loop().time()):
            _log.warning("NATS not connected", error=str(trouble), hint=trouble.hint)
        self._trouble = trouble
        self._settled.set()
        if trouble.retry is Retry.NEVER:
            for box in self._boxes.values():
                box.failure = trouble
                box.wake()

    def _trouble_passes(self) -> bool:
        return self._trouble is None or self._trouble.retry is not Retry.NEVER

    def _complained(self, complaint: str) -> None:
        """Note what a server says: who may not listen is told, all else is for the log."""
        found = _QUOTED.search(complaint)
        if complaint.lower().startswith("permissions violation for subscription") and found is not None:
            for box in self._boxes.values():
                if box.subject == found[1].encode():
                    box.failure = ProviderTrouble(
                        "these keys may not listen at this mailbox", retry=Retry.NEVER, hint="each Router has its own"
                    )
                    box.wake()
        if self._complaint.is_news(complaint, asyncio.get_running_loop().time()):
            _log.warning("NATS complains", complaint=complaint)

    def _on_lost(self, line: Line, reason: str) -> None:
        end = self._ends.get(line)
        if end is not None:
            end.set()
        if self._line is not line:
            return
        self._line = None
        self._settled.clear()
        if not self._closed and self._complaint.is_news(f"lost: {reason}", asyncio.get_running_loop().time()):
            _log.warning("NATS connection lost", reason=reason)


def _introduction(place: Place, info: ServerInfo, loan: Loan) -> dict[str, Any]:
    """Return the words of CONNECT. Raises ProviderTrouble if these keys do not suit the server."""
    fields = loan.fields
    words: dict[str, Any] = {
        "verbose": False,
        "pedantic": False,
        "tls_required": place.carrier is Carrier.TLS,
        "lang": "python",
        "version": __version__,
        "name": "isthmus",
        "protocol": 1,
        "echo": True,
        "headers": False,
    }
    if "jwt" in fields and "seed" in fields:
        if not info.nonce:
            raise ProviderTrouble(
                "this NATS server does not look at keys, so that anybody could read any mailbox",
                retry=Retry.NEVER,
                hint="isthmus provider setup says how to configure it",
            )
        user = _user(fields["seed"])
        signature = base64.urlsafe_b64encode(user.sign(info.nonce)).decode().rstrip("=")
        return words | {"jwt": fields["jwt"], "nkey": user.public, "sig": signature}
    if "user" in fields:
        return words | {"user": fields["user"], "pass": fields.get("password", "")}
    if "token" in fields:
        return words | {"auth_token": fields["token"]}
    raise ProviderTrouble("there are no keys for NATS", retry=Retry.NEVER, hint="isthmus provider setup")


def _user(seed: str) -> Nkey:
    try:
        return Nkey.parse(seed, Role.USER)
    except OperatorError as error:
        raise ProviderTrouble(str(error), retry=Retry.NEVER, hint=error.hint) from error


def _refusal(at: str, complaint: str, *, is_over: bool) -> ProviderTrouble:
    """Return what a server's complaint at the beginning means."""
    said = complaint.lower()
    if "expired" in said or (is_over and said.startswith(_REFUSED)):
        return ProviderTrouble(
            f"NATS at {at}: the keys are no longer good", retry=Retry.LATER, hint="is the clock of a machine wrong?"
        )
    if said.startswith(_REFUSED):
        return ProviderTrouble(
            f"NATS at {at} does not accept these keys",
            retry=Retry.NEVER,
            hint="does its configuration name the account whose seed the Bridge has? isthmus provider setup",
        )
    return ProviderTrouble(f"NATS at {at}: {complaint}", retry=Retry.LATER)


def _as_trouble(error: IsthmusError) -> ProviderTrouble:
    if isinstance(error, ProviderTrouble):
        return error
    return ProviderTrouble(str(error), retry=Retry.LATER, hint=error.hint)
