"""Providers by URL: the scheme names an entry point of the group `isthmus.signalling` or `isthmus.blobstore`.

An entry point is a function that takes the URL, and by keyword whatever the caller passes on (the built-in `bridge:`
takes the connection to the Bridge), and returns the provider. It connects at first use, not before.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from isthmus.errors import OperatorError
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.signalling import Signalling

SIGNALLING: Final = "isthmus.signalling"
BLOBSTORE: Final = "isthmus.blobstore"
_HIDDEN: Final = "hidden"
_Opener = Callable[..., object]


def open_signalling(url: str, **context: object) -> Signalling:
    """Return the signalling service that a URL names. Raises OperatorError if its scheme is not installed."""
    return cast("Signalling", _opener(SIGNALLING, url)(url, **context))


def open_blobstore(url: str, **context: object) -> Blobstore:
    """Return the blobstore that a URL names. Raises OperatorError if its scheme is not installed."""
    return cast("Blobstore", _opener(BLOBSTORE, url)(url, **context))


def schemes(group: str) -> list[str]:
    """Return the URL schemes that are installed for SIGNALLING or BLOBSTORE."""
    return sorted(point.name for point in entry_points(group=group))


def printable(url: str) -> str:
    """Return a URL as it may be shown: user, password and the values of the query are hidden."""
    parts = urlsplit(url)
    where = parts.netloc.rpartition("@")
    netloc = f"{_HIDDEN}@{where[2]}" if where[1] else parts.netloc
    query = urlencode([(key, _HIDDEN) for key, _ in parse_qsl(parts.query, keep_blank_values=True)])
    return SplitResult(parts.scheme, netloc, parts.path, query, "").geturl()


def _opener(group: str, url: str) -> _Opener:
    scheme = urlsplit(url).scheme
    found: list[EntryPoint] = [point for point in entry_points(group=group) if point.name == scheme]
    if not found:
        raise OperatorError(
            f"no provider for {printable(url) or 'an empty URL'} is installed",
            hint=f"known here: {', '.join(f'{name}:' for name in schemes(group)) or 'none'}",
        )
    return cast("_Opener", found[0].load())
