"""The driver of one TCP connection to a device: reads, feeds the Side, performs what it asks, keeps its deadline.

Nothing here decides anything. Reading stops while the far side gives no credit; the connection is then watched for
hang-up, which a socket that nobody reads does not tell.
"""

import asyncio
import socket
from typing import Final, Protocol, cast

from isthmus.kit import platform
from isthmus.kit.clock import Clock
from isthmus.relay.side import CloseDevice, Side, SideCommand, ToDevice, ToFar

_FIRST_BUFFER: Final = 16 * 1024  # an idle association shall cost little: 200 of them under 100 kB each
_MOST_BUFFER: Final = 256 * 1024  # beyond this a read gains nothing, and a segment is no larger
_WRITE_HIGH_WATER: Final = 1024 * 1024
_HANG_UP_CHECK_SECONDS: Final = 1.0
CLOSING_SECONDS: Final = 10.0
"""How long what was written may still take to leave to a device that is let go: one that never reads would hold it."""


class Owner(Protocol):
    """Who the connection works for."""

    def to_far(self, command: ToFar) -> bool:
        """Write to the stream; False: read no more until `resume`."""
        ...

    def perform(self, command: SideCommand) -> None:
        """Do anything else that the Side asks."""
        ...

    def credit(self, count: int) -> None:
        """That many bytes from the far side have left towards the device."""
        ...

    def closed(self) -> None:
        """The connection is gone."""
        ...


class DeviceConnection(asyncio.BufferedProtocol):
    """One TCP connection to a device, accepted or dialled."""

    def __init__(self, side: Side, owner: Owner, clock: Clock) -> None:
        self.side: Final = side
        self.owner = owner
        self.connected_at = clock.monotonic()
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._buffer = bytearray(_FIRST_BUFFER)
        self._view = memoryview(self._buffer)
        self._paused = False
        self._device_slow = False
        self._owed = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due: float | None = None
        self._watch: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<DeviceConnection {self.side!r}>"

    # -- asyncio's side --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the state machine (PS3.8: transport connection indication or confirmation)."""
        transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER)
        self._socket = transport.get_extra_info("socket")
        if self._socket is not None and self._socket.family in {socket.AF_INET, socket.AF_INET6}:
            platform.tune_device_socket(self._socket)
        self.do(self.side.connected(self._clock.monotonic()))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next read goes."""
        del sizehint
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Feed what was read. Views into it are used up before this returns."""
        if self._socket is not None:
            platform.acknowledge_at_once(self._socket)
        self.do(self.side.from_device(self._view[:nbytes], self._clock.monotonic()))
        if nbytes == len(self._buffer) < _MOST_BUFFER:
            self._buffer = bytearray(min(len(self._buffer) * 4, _MOST_BUFFER))
            self._view = memoryview(self._buffer)

    def eof_received(self) -> bool:
        """Treat a half-closed connection as closed: DICOM has no use for it."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the Side, once."""
        del exc
        self.do(self.side.device_lost(self._clock.monotonic()))
        self._transport = None
        for timer in (self._timer, self._watch):
            if timer is not None:
                timer.cancel()
        self._timer = self._watch = None
        self.owner.closed()

    def pause_writing(self) -> None:
        """Give no credit while the device reads slowly."""
        self._device_slow = True

    def resume_writing(self) -> None:
        """Give the credit that was kept back."""
        self._device_slow = False
        self.sent(0)

    # -- the owner's side ------------------------------------------------------------------------------------------

    def do(self, commands: list[SideCommand]) -> None:
        """Perform what the Side asked, in order."""
        for command in commands:
            if type(command) is ToFar:
                if not self.owner.to_far(command):
                    self.pause()
            elif type(command) is ToDevice:
                if self._transport is not None:
                    self._transport.writelines(command.chunks)
            elif type(command) is CloseDevice:
                self._close(reset=command.reset)
            else:
                self.owner.perform(command)
        self._arm()

    def sent(self, count: int) -> None:
        """Note that `count` stream bytes were handed to the device; credit follows when it keeps up."""
        self._owed += count
        if self._owed and not self._device_slow:
            owed, self._owed = self._owed, 0
            self.owner.credit(owed)

    def pause(self) -> None:
        """Stop reading until `resume`."""
        if self._paused or self._transport is None or self._transport.is_closing():
            return
        self._paused = True
        self._transport.pause_reading()
        self._watch_for_hang_up()

    def resume(self) -> None:
        """Read on."""
        if not self._paused:
            return
        self._paused = False
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def establish(self) -> None:
        """Relay from now on: the far side has been told that the device, which waited for it, accepted."""
        self.do(self.side.establish(self._clock.monotonic()))
        self.resume()

    def hang_up(self) -> None:
        """Close behind what was written, without a further word."""
        self._close(reset=False)

    def drop(self) -> None:
        """Close at once, without a word."""
        if self._transport is not None:
            self._transport.abort()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _close(self, *, reset: bool) -> None:
        transport = self._transport
        if transport is None:
            return
        if reset:
            if self._socket is not None:
                platform.reset_on_close(self._socket)
            transport.abort()
        else:
            self.resume()
            transport.close()
            if self._watch is None:
                self._watch = asyncio.get_running_loop().call_later(CLOSING_SECONDS, transport.abort)

    def _watch_for_hang_up(self) -> None:
        if not self._paused or self._transport is None:
            return
        if self._socket is not None and platform.hung_up(self._socket):
            self._transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(_HANG_UP_CHECK_SECONDS, self._watch_for_hang_up)

    def _arm(self) -> None:
        due = self.side.deadline()
        if due == self._timer_due or (due is not None and self._timer_due is not None and due > self._timer_due):
            return  # a timer that goes off early finds nothing due and is set anew: bytes come more often than that
        self._timer_due = due
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None and self._transport is not None:
            delay = max(0.0, due - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = self._timer_due = None
        self.do(self.side.tick(self._clock.monotonic()))
