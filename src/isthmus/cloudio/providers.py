"""Providers by URL: the scheme names an entry point of the group `isthmus.signalling` or `isthmus.blobstore`.

Behind each is an object as `isthmus.ports.provider` describes it.
"""

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from isthmus.errors import OperatorError
from isthmus.ports.provider import BlobstoreProvider, SignallingProvider

SIGNALLING: Final = "isthmus.signalling"
BLOBSTORE: Final = "isthmus.blobstore"
BUILT_IN: Final = "bridge"
"""The scheme of what every Bridge carries; it is joined to the Router by hand, and opened by no URL."""
_HIDDEN: Final = "hidden"


def signalling_provider(url: str) -> SignallingProvider:
    """Return the provider of the signalling service that a URL names. Raises OperatorError if it is not installed."""
    return cast("SignallingProvider", _provider(SIGNALLING, url))


def blobstore_provider(url: str) -> BlobstoreProvider:
    """Return the provider of the blobstore that a URL names. Raises OperatorError if it is not installed."""
    return cast("BlobstoreProvider", _provider(BLOBSTORE, url))


def schemes(group: str) -> list[str]:
    """Return the URL schemes that are installed for SIGNALLING or BLOBSTORE, `bridge` among them."""
    return sorted({BUILT_IN, *_installed(group)})


def is_built_in(url: str) -> bool:
    """Return whether a URL names what the Bridge itself carries."""
    return urlsplit(url).scheme == BUILT_IN


def printable(url: str) -> str:
    """Return a URL as it may be shown: user, password and the values of the query are hidden."""
    parts = urlsplit(url)
    where = parts.netloc.rpartition("@")
    netloc = f"{_HIDDEN}@{where[2]}" if where[1] else parts.netloc
    query = urlencode([(key, _HIDDEN) for key, _ in parse_qsl(parts.query, keep_blank_values=True)])
    return SplitResult(parts.scheme, netloc, parts.path, query, "").geturl()


def _provider(group: str, url: str) -> object:
    found = _installed(group).get(urlsplit(url).scheme)
    if found is None:
        raise OperatorError(
            f"no provider for {printable(url) or 'an empty URL'} is installed",
            hint=f"known here: {', '.join(f'{name}:' for name in schemes(group))}",
        )
    return cast("object", found.load())


@functools.cache
def _installed(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by scheme; looking for them takes some 10 ms, and they do not change."""
    return {point.name: point for point in entry_points(group=group)}
