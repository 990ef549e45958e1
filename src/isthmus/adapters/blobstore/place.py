"""What the URL of a blobstore says, taken apart once for all of them."""

import re
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import parse_qs, urlsplit

from isthmus.errors import OperatorError
from isthmus.kit.names import HostPort

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HOST: Final = re.compile(r"[A-Za-z0-9:]([A-Za-z0-9.:-]{0,252})")
_SWITCH: Final = {"yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class Parts:
    """A URL's parts. `usage` is what is meant instead, for the person who typed something else."""

    usage: str
    host: str
    port: int | None
    segments: list[str]
    query: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str, scheme: str, usage: str) -> Self:
        """Take a URL apart. Raises OperatorError."""
        try:
            parts = urlsplit(url)
            port = parts.port
            query = {
                name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
            }
        except ValueError as error:
            raise OperatorError(f"this is not a URL of {scheme}:", hint=usage) from error
        host = parts.hostname or ""
        if parts.scheme != scheme or not _HOST.fullmatch(host) or parts.fragment:
            raise OperatorError(f"this is not a URL of {scheme}:", hint=usage)
        if parts.username is not None:
            raise OperatorError("a URL holds no account: keys are entered as secrets", hint=usage)
        return cls(usage, host, port, [segment for segment in parts.path.split("/") if segment], query)

    def wrong(self, what: str) -> OperatorError:
        """Return what is said of a part that is not what is meant."""
        return OperatorError(what, hint=f"{self.usage} is meant")

    def switch(self, name: str, *, default: bool) -> bool:
        """Take a yes or no out of the query. Raises OperatorError."""
        text = self.query.pop(name, "yes" if default else "no")
        if text not in _SWITCH:
            raise self.wrong(f"{name} is yes or no")
        return _SWITCH[text]

    def finish(self) -> None:
        """Raise OperatorError if something of the query was not taken."""
        if self.query:
            raise self.wrong(f"'{next(iter(self.query))[:20]}' in the URL means nothing here")

    def prefix(self, segments: list[str]) -> str:
        """Return what every blob's key begins with, `/` at its end, or an empty text. Raises OperatorError."""
        if not all(_SEGMENT.fullmatch(segment) for segment in segments) or len(segments) > 4:
            raise self.wrong("a prefix is up to four names of letters, digits, - and _")
        return "".join(f"{segment}/" for segment in segments)

    def at(self, tls: bool) -> HostPort:
        """Return host and port."""
        return HostPort(self.host, self.port if self.port is not None else (443 if tls else 80))
