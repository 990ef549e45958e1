"""The LAN listener: to its local devices, this Router is every remote device, on one port.

The gate bounds what unknown connections may cost. Bytes are bounded by the upper layer, which checks a PDU's type and
length before it keeps anything and gives a connection 5 s for its first PDU; numbers are bounded here.
"""

import asyncio
import os
import ssl
from collections import OrderedDict
from typing import Final

import structlog

from isthmus.association.machine import UpperLayer
from isthmus.association.states import Role
from isthmus.errors import OperatorError
from isthmus.kit.names import HostPort
from isthmus.relay.side import Side, SideCommand
from isthmus.router.config import RouterLimits
from isthmus.router.lan.connection import DeviceConnection
from isthmus.router.live.registry import Live
from isthmus.router.live.session import Session

_log = structlog.get_logger()

_BACKLOG: Final = 512


def _reason(error: OSError) -> str:
    """Return the system's words, without the address that asyncio adds. A name that is not known has no errno."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)


class HalfOpen:
    """The connections without an association, oldest first: nothing was asked yet, or it was refused or is over.

    A device asks within milliseconds, and closes as quickly. Of too many the oldest gives way to the newest, so that
    a flood of idle connections keeps nobody out.
    """

    def __init__(self, limits: RouterLimits) -> None:
        self._limits = limits
        self._all: OrderedDict[LanConnection, str] = OrderedDict()
        self._by_address: dict[str, OrderedDict[LanConnection, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    @property
    def all(self) -> "list[LanConnection]":
        """Those that there are."""
        return list(self._all)

    def add(self, connection: "LanConnection", address: str) -> "LanConnection | None":
        """Note a new connection; return the one that must give way to it, if there are too many."""
        same = self._by_address.setdefault(address, OrderedDict())
        same[connection] = None
        self._all[connection] = address
        if len(same) > self._limits.half_open_per_address:
            return next(iter(same))
        if len(self._all) > self._limits.half_open:
            return next(iter(self._all))
        return None

    def discard(self, connection: "LanConnection") -> None:
        """Forget a connection that asked, or is gone."""
        address = self._all.pop(connection, None)
        if address is None:
            return
        same = self._by_address[address]
        del same[connection]
        if not same:
            del self._by_address[address]


class LanConnection(DeviceConnection):
    """A connection that a device made to this Router."""

    def __init__(self, live: Live, half_open: HalfOpen, *, tls: bool) -> None:
        session = Session(live, live.core.clock)
        upper = UpperLayer(Role.ACCEPTOR, idle=live.core.directory.settings.idle_seconds)
        super().__init__(Side(upper, device_asks=True), session, live.core.clock)
        session.connection = self
        session.over_tls = tls
        self._session = session
        self._half_open = half_open
        self._lingers = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the gate's clock; the oldest of too many silent connections gives way."""
        peer = transport.get_extra_info("peername")
        self._session.address = str(peer[0]) if peer else ""
        super().connection_made(transport)
        self._crowd()

    def buffer_updated(self, nbytes: int) -> None:
        """Feed what was read; a connection that has asked is no longer half open."""
        super().buffer_updated(nbytes)
        if self.side.asked and not self._lingers:
            self._half_open.discard(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._lingers = True
        self._half_open.discard(self)
        super().connection_lost(exc)

    def do(self, commands: list[SideCommand]) -> None:
        """Perform what the Side asked; whoever was refused, or is done, has until ARTIM ends, if there is room."""
        super().do(commands)
        if self.side.over and self.side.asked and not self._lingers:
            self._lingers = True
            self._crowd()

    def _crowd(self) -> None:
        gives_way = self._half_open.add(self, self._session.address)
        if gives_way is not None:
            _log.warning("too many idle connections: the oldest is dropped", address=gives_way.address)
            self._half_open.discard(gives_way)
            gives_way.drop()

    @property
    def address(self) -> str:
        """Where it comes from."""
        return self._session.address


class LanListener:
    """Listens for the devices of this site."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._half_open = HalfOpen(live.core.limits)
        self._servers: list[asyncio.Server] = []

    async def listen(self, at: HostPort, tls: ssl.SSLContext | None = None) -> HostPort:
        """Listen; return where. Raises OperatorError naming the address if it is taken or not ours."""
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                lambda: LanConnection(self._live, self._half_open, tls=tls is not None),
                at.host,
                at.port,
                ssl=tls,
                backlog=_BACKLOG,
            )
        except OSError as error:
            raise OperatorError(
                f"cannot listen for devices at {at}: {_reason(error)}",
                hint=f"choose another with {'--dicom' if tls is None else '--dicom-tls'} HOST:PORT",
            ) from error
        self._servers.append(server)
        host, port = server.sockets[0].getsockname()[:2]
        return HostPort(host, port)

    def close(self) -> None:
        """Accept no more connections."""
        for server in self._servers:
            server.close()

    def hang_up(self) -> None:
        """Close the connections without an association, behind what was written: nobody will answer what they ask."""
        for connection in self._half_open.all:
            connection.hang_up()
