"""The names that people and devices use: AE titles, sites, addresses. Parsed once, at the edge."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

from isthmus.errors import OperatorError

_SITE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_MAX_TITLE = 16  # PS3.5 section 6.2, VR AE


class AETitle(str):
    """An AE title without its padding (PS3.5 section 6.2, VR AE): compared trimmed, case-sensitively.

    `AETitle.parse` is for people's input and is strict. `AETitle.from_wire` is for bytes that devices send and
    takes anything, since devices pad with spaces, NULs and worse; the original bytes stay on the wire.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the title a person typed. Raises OperatorError if it could not be sent as one."""
        title = text.strip(" ")
        if not title or len(title) > _MAX_TITLE:
            raise OperatorError(f"'{text}' is not an AE title: 1 to {_MAX_TITLE} characters, not only spaces")
        if "\\" in title or not all(" " <= character <= "~" for character in title):
            raise OperatorError(f"'{text}' is not an AE title: only printable ASCII, no backslash")
        return cls(title)

    @classmethod
    def from_wire(cls, field: bytes) -> Self:
        """Return the title in a 16-byte field, cut at the first NUL and trimmed of spaces; never fails."""
        return cls(field.split(b"\0", 1)[0].decode("ascii", "replace").strip(" "))

    def to_wire(self) -> bytes:
        """Return the title padded with spaces to the 16 bytes of an A-ASSOCIATE field (PS3.8 section 9.3.2)."""
        return self.encode("ascii", "replace")[:_MAX_TITLE].ljust(_MAX_TITLE, b" ")


class SiteName(str):
    """The name of an institution in the network: lower-case letters, digits and hyphens, like a DNS label."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the site name a person typed. Raises OperatorError naming the rule it breaks."""
        if not _SITE.fullmatch(text):
            raise OperatorError(
                f"'{text}' is not a site name: 1 to 63 lower-case letters, digits and hyphens, no hyphen at an end"
            )
        return cls(text)


@dataclass(frozen=True, slots=True)
class HostPort:
    """Where something listens. `port` 0 means any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, default_port: int | None = None) -> Self:
        """Return HOST:PORT, [IPV6]:PORT, or HOST alone if there is a default port. Raises OperatorError."""
        host, port_text = text, ""
        if text.startswith("["):
            host, _, rest = text[1:].partition("]")
            port_text = rest.removeprefix(":")
        elif text.count(":") == 1:
            host, port_text = text.split(":")
        if not host:
            raise OperatorError(f"'{text}' has no host: HOST:PORT is meant, for example 127.0.0.1:11112")
        if not port_text:
            if default_port is None:
                raise OperatorError(f"'{text}' has no port: HOST:PORT is meant, for example {host}:11112")
            return cls(host, default_port)
        if not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65535:
            raise OperatorError(f"'{port_text}' in '{text}' is not a port: a number up to 65535")
        return cls(host, int(port_text))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class DeviceAddress:
    """AET@HOST[:PORT], the one notation for a device in configuration, CLI and pages. No port: it only calls."""

    title: AETitle
    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address a person typed. Raises OperatorError naming the part that is wrong."""
        title, at, place = text.rpartition("@")
        if not at:
            raise OperatorError(f"'{text}' is not AET@HOST[:PORT], for example CT1@192.0.2.10:104")
        where = HostPort.parse(place, default_port=0)
        return cls(AETitle.parse(title), where.host, where.port or None)

    def __str__(self) -> str:
        if self.port is not None:
            return f"{self.title}@{HostPort(self.host, self.port)}"
        return f"{self.title}@{self.host}"


def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return an address or CIDR range as a network. Raises OperatorError."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise OperatorError(f"'{text}' is not an address or a range such as 192.0.2.0/24") from error
