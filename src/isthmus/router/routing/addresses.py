"""Whether an association comes from where its device is registered."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import TypeAlias

from isthmus.router.routing.records import LocalDevice

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup: TypeAlias = Callable[[str], Iterable[str]]


def system_lookup(host: str) -> list[str]:
    """Return the addresses of a host name as the machine resolves it; none if it does not."""
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []


def parse_address(text: str) -> IpAddress | None:
    """Return an address as it is written in a socket name: without a zone, an IPv4-mapped one as IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class HostNames:
    """The addresses behind the names of devices, remembered, so that no association waits for a name server.

    A name is looked up at its first use; after that `refresh` renews it in the background. One that can no longer be
    resolved keeps its last addresses: a name server that is down shuts nobody out.
    """

    def __init__(self, lookup: Lookup = system_lookup) -> None:
        self._lookup = lookup
        self._known: dict[str, frozenset[IpAddress]] = {}

    def addresses(self, host: str) -> frozenset[IpAddress]:
        """Return the addresses of `host`, which may be an address itself."""
        if (address := parse_address(host)) is not None:
            return frozenset((address,))
        if host not in self._known:
            self._known[host] = self._ask(host)
        return self._known[host]

    async def refresh(self, hosts: Iterable[str] = ()) -> None:
        """Look every known name up again, and those of `hosts`, off the event loop."""
        names = {host for host in hosts if parse_address(host) is None}
        for host in names | set(self._known):
            found = await asyncio.to_thread(self._ask, host)
            if found or host not in self._known:
                self._known[host] = found

    def _ask(self, host: str) -> frozenset[IpAddress]:
        found = (parse_address(text) for text in self._lookup(host))
        return frozenset(address for address in found if address is not None)


def comes_from(device: LocalDevice, address: str, hosts: HostNames) -> bool:
    """Return whether `address` is where `device` may call from: its own host, or one of its ranges."""
    caller = parse_address(address)
    if caller is None:
        return False
    if any(caller.version == network.version and caller in network for network in device.from_addresses):
        return True
    return caller in hosts.addresses(device.host)


def address_towards(host: str) -> str:
    """Return the address of this machine that a device at the address `host` reaches it at; else the machine's name."""
    address = parse_address(host)
    if address is None:
        return socket.gethostname()  # asking a name server could take long, and this is advice only
    try:
        with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))  # a datagram socket sends nothing by this; the system chooses a route
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()
