"""Which hosts this Router may connect to besides its Bridge: what a person of this site accepted, and nothing else.

A Bridge proposes providers; it cannot make a Router look around in its own network. A host of a proposal is accepted
by the proposal's name only if it is on the Internet; one at a private address must be typed by a person, here. So must
a folder of this machine, which stands in the list as a host whose name is the path.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from isthmus.errors import OperatorError
from isthmus.kit.clock import Clock
from isthmus.kit.names import HostPort
from isthmus.router.routing.store import Store

_NO_PORT: Final = 0
Resolve = Callable[[str], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """A host in the list. `typed`: a person named it, so that it may be at a private address."""

    at: HostPort
    typed: bool
    since: float


class Egress:
    """The egress list. Raises what the Router's tables raise when they cannot be written."""

    def __init__(self, store: Store, clock: Clock, *, resolve: Resolve | None = None) -> None:
        self._store = store
        self._clock = clock
        self._resolve = resolve or _addresses

    def __repr__(self) -> str:
        return f"<Egress: {len(self.rows)} hosts>"

    @property
    def rows(self) -> list[AllowedHost]:
        """All hosts that are accepted."""
        return [AllowedHost(at, typed, since) for at, typed, since in self._store.egress()]

    def allow_typed(self, at: HostPort) -> None:
        """Accept a host that a person typed."""
        self._store.put_egress(_folded(at), typed=True, now=self._clock.now())

    async def allow_proposed(self, hosts: Iterable[HostPort]) -> list[HostPort]:
        """Accept the hosts of a proposal; return those that are new. Raises OperatorError if one is not public."""
        known = {row.at for row in self.rows}
        fresh = [at for at in map(_folded, hosts) if at not in known]
        for at in fresh:
            if is_folder(at):
                raise OperatorError(
                    f"{at.host} is a folder of this machine, which only a person here can mean",
                    hint=f"if it is there to be shared: isthmus egress allow --folder {at.host}",
                )
            if private := await self._private(at.host):
                raise OperatorError(
                    f"{at.host} is at a private address ({private}), which only a person here can mean",
                    hint=f"if that host is yours: isthmus egress allow --host {at}",
                )
        for at in fresh:
            self._store.put_egress(at, typed=False, now=self._clock.now())
        return fresh

    def forbid(self, at: HostPort) -> bool:
        """Take a host off the list; return whether it was on it."""
        return self._store.delete_egress(_folded(at))

    async def objection(self, at: HostPort) -> str:
        """Return why this Router does not connect to a host, or an empty text if it may."""
        at = _folded(at)
        row = next((row for row in self.rows if row.at == at), None)
        if row is None:
            return f"{shown(at)} is not in the egress list of this site"
        if not row.typed and (private := await self._private(at.host)):
            return f"{at.host} is at a private address now ({private}); it was accepted as one on the Internet"
        return ""

    async def _private(self, host: str) -> str:
        """Return an address of a host that is not public, or an empty text. A name that only a proxy knows has none."""
        try:
            found = [str(ipaddress.ip_address(host))]
        except ValueError:
            found = await self._resolve(host)
        return next((text for text in found if not ipaddress.ip_address(text).is_global), "")


def folder(path: str) -> HostPort:
    """Return how a folder stands in the list. Raises OperatorError if the path does not begin at the root."""
    if not PurePath(path).is_absolute() or ".." in PurePath(path).parts:
        raise OperatorError(f"'{path}' is not the whole path of a folder", hint="for example /mnt/share/isthmus")
    return HostPort(str(PurePath(path)), _NO_PORT)


def is_folder(at: HostPort) -> bool:
    """Return whether this stands for a folder."""
    return at.port == _NO_PORT and PurePath(at.host).is_absolute()


def shown(at: HostPort) -> str:
    """Return a host and port, or a folder, for people."""
    return at.host if is_folder(at) else str(at)


def _folded(at: HostPort) -> HostPort:
    return at if is_folder(at) else HostPort(at.host.lower().rstrip("."), at.port)


async def _addresses(host: str) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [str(row[4][0]).split("%")[0] for row in found]
