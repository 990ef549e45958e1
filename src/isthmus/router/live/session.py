"""One half of a live session in this Router: a device's connection, its Side, and the link to the other half."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from isthmus.contract.notices import SESSION_ID_BYTES
from isthmus.errors import IsthmusError, RemoteMisuse
from isthmus.kit.clock import Clock
from isthmus.kit.names import AETitle, SiteName
from isthmus.relay.ending import Ending
from isthmus.relay.policy import ReturnWanted
from isthmus.relay.side import Answered, Asked, Ended, FinishFar, Outcome, RefusedHere, SideCommand, TellFar, ToFar
from isthmus.router.lan.connection import DeviceConnection
from isthmus.router.live.link import Link
from isthmus.router.routing.records import DeliveryMode

_log = structlog.get_logger()

_LAST_WORDS_SECONDS: Final = 3.0
"""After the far side's last byte: how long its ending may take to arrive on the other stream."""


@dataclass(frozen=True, slots=True)
class Parties:
    """Who talks to whom, by network titles; `far_site` is None within one site."""

    calling: AETitle
    called: AETitle
    far_site: SiteName | None
    far_router: str


class SessionOwner(Protocol):
    """Who opens and forgets sessions."""

    def asked(self, session: "Session", command: Asked) -> None:
        """A device asks for an association."""
        ...

    def refused_here(self, session: "Session", command: RefusedHere) -> None:
        """A device asked for what no association can be, and has its answer."""
        ...

    def answered(self, session: "Session", command: Answered) -> None:
        """A called device answered, or is gone before it did."""
        ...

    def way_back(self, session: "Session", wanted: ReturnWanted) -> None:
        """A command opens the way back."""
        ...

    def ended(self, session: "Session") -> None:
        """The association is over; `outcome` says how."""
        ...

    def gone(self, session: "Session") -> None:
        """The device's connection is closed."""
        ...


class Session:
    """Joins a DeviceConnection to a Link. Observes the link, owns the connection, decides nothing."""

    def __init__(self, owner: SessionOwner, clock: Clock) -> None:
        self._owner = owner
        self._clock = clock
        self.session_id: bytes = bytes(SESSION_ID_BYTES)
        self.parties: Parties | None = None
        self.started = clock.now()
        self.services: tuple[str, ...] = ()
        self.mode = DeliveryMode.LIVE
        self.pair = ""  # name of the pair of clouds that carries it; empty within one site
        self.still_allowed: Callable[[], object] | None = None  # raises AssociationRefused or Untrusted if it is not
        self.device_asks = True
        self.over_tls = False
        self.return_ok = True
        self.moves_to: AETitle | None = None  # the network title that its last C-MOVE named
        self.outcome: Outcome | None = None
        self.bytes_out = 0  # to the far side
        self.bytes_in = 0
        self.address = ""
        self.connection: DeviceConnection | None = None
        self.link: Link | None = None
        self.on_heard: Callable[[], object] | None = None
        self._last_words: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        who = f"{self.parties.calling}→{self.parties.called}" if self.parties else "not yet"
        state = self.outcome.value if self.outcome else ("established" if self.link else "opening")
        return f"<Session {who} {state}, {self.bytes_out} B out, {self.bytes_in} B in>"

    # -- the connection's owner ------------------------------------------------------------------------------------

    def to_far(self, command: ToFar) -> bool:
        """Write stream bytes to the link."""
        self.bytes_out += len(command.data)
        return self.link is None or self.link.write(command.data, flush=command.flush)

    def perform(self, command: SideCommand) -> None:
        """Perform what is not between device and stream."""
        match command:
            case TellFar(ending=ending):
                if self.link is not None:
                    self.link.signal(ending.encode())
            case FinishFar():
                if self.link is not None:
                    self.link.finish()
            case Asked():
                self._owner.asked(self, command)
            case RefusedHere():
                self._owner.refused_here(self, command)
            case Answered():
                self._owner.answered(self, command)
            case ReturnWanted():
                self._owner.way_back(self, command)
            case Ended(outcome=outcome):
                self.outcome = outcome
                self._owner.ended(self)
            case _:  # pragma: no cover - the connection performs the others itself
                raise AssertionError(command)

    def credit(self, count: int) -> None:
        """Pass the device's progress on as credit."""
        if self.link is not None:
            self.link.consumed(count)

    def closed(self) -> None:
        """The device's connection is gone."""
        self._cancel_last_words()
        self._owner.gone(self)

    # -- the link's observer ---------------------------------------------------------------------------------------

    def on_data(self, payload: bytes) -> None:
        """Take stream bytes to the device."""
        self.bytes_in += len(payload)
        self._heard()
        connection = self.connection
        if connection is None:
            return
        connection.do(connection.side.from_far(payload, self._clock.monotonic()))
        connection.sent(len(payload))

    def on_final(self) -> None:
        """The far side has written its last; if it does not say how it ended, the path is taken for broken."""
        self._heard()
        if self.connection is not None and not self.connection.side.over:
            loop = asyncio.get_running_loop()
            self._last_words = loop.call_later(_LAST_WORDS_SECONDS, self._no_last_words)

    def on_signal(self, payload: bytes) -> None:
        """Take how the far association ended."""
        self._heard()
        if self.connection is None:
            return
        try:
            ending = Ending.decode(payload)
        except RemoteMisuse as error:
            self.on_broken(error)
            return
        self.connection.do(self.connection.side.far_ending(ending, self._clock.monotonic()))

    def on_writable(self) -> None:
        """There is credit again."""
        self._heard()
        if self.connection is not None:
            self.connection.resume()

    def on_broken(self, error: IsthmusError) -> None:
        """The path is gone: let the device go."""
        _log.warning("path to the far Router lost", session=self.session_id.hex()[:8], reason=str(error))
        if self.connection is not None:
            self.connection.do(self.connection.side.far_broken(self._clock.monotonic()))
            self.connection.resume()

    # -- inside ----------------------------------------------------------------------------------------------------

    def let_go(self, *, source: int = 2, reason: int = 0) -> None:
        """End the association on both sides; the device gets an A-ABORT of this source and reason."""
        if self.connection is not None:
            now = self._clock.monotonic()
            self.connection.do(self.connection.side.let_go(now, source=source, reason=reason))

    def _heard(self) -> None:
        if self.on_heard is not None:
            heard, self.on_heard = self.on_heard, None
            heard()

    def _no_last_words(self) -> None:
        self._last_words = None
        if self.connection is not None and not self.connection.side.over:
            self.connection.do(self.connection.side.far_broken(self._clock.monotonic()))

    def _cancel_last_words(self) -> None:
        if self._last_words is not None:
            self._last_words.cancel()
            self._last_words = None
