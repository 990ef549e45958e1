"""A store whose keys are lent: it is opened with them, and anew when there are others."""

from collections.abc import AsyncIterator, Callable, Mapping
from importlib import import_module
from typing import Final

from isthmus.adapters.blobstore.trouble import was_closed
from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.ports.blobstore import BlobInfo, Blobstore, BlobstoreTraits
from isthmus.ports.provider import Keys

PRESIGNED: Final = "presigned"
"""The field of a loan that says: ask the Bridge to sign each URL."""


class LentBlobstore:
    """Asks `keys` before each call, which know when to renew a loan; what is under way goes on with the old ones."""

    def __init__(self, keys: Keys, opener: Callable[[Mapping[str, str]], Blobstore], traits: BlobstoreTraits) -> None:
        """Open at first use; `opener` raises ProviderTrouble if a field lacks."""
        self.traits = traits
        self._keys = keys
        self._opener = opener
        self._opened: Blobstore | None = None
        self._fields: Mapping[str, str] = {}
        self._old: list[Blobstore] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"<LentBlobstore: {self._opened!r}>"

    async def put(self, name: str, body: bytes) -> None:
        """Create a blob."""
        await (await self._inner()).put(name, body)

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        """Return a blob."""
        return await (await self._inner()).get(name, wait=wait)

    async def delete(self, *names: str) -> None:
        """Delete blobs."""
        if names:
            await (await self._inner()).delete(*names)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Yield blobs."""
        async for blob in (await self._inner()).list(prefix):
            yield blob

    async def close(self) -> None:
        """Close what was opened; nothing is opened from now on."""
        self._closed = True
        old, self._old, self._opened = self._old, [], None
        for store in old:
            await store.close()

    async def _inner(self) -> Blobstore:
        loan = await self._keys.loan()
        if self._closed:
            raise was_closed()
        if self._opened is None or loan.fields != self._fields:
            self._opened, self._fields = self._opener(loan.fields), loan.fields
            self._old.append(self._opened)
        return self._opened


def demand(fields: Mapping[str, str], name: str, title: str) -> str:
    """Return a field of the keys. Raises ProviderTrouble if it lacks."""
    value = fields.get(name)
    if not value:
        raise ProviderTrouble(f"the keys for {title} lack {name}", retry=Retry.NEVER)
    return value


def not_installed(extra: str, title: str) -> OperatorError:
    """Return what a library means that is not installed."""
    return OperatorError(f"what {title} needs is not installed here", hint=f"pip install 'isthmus[{extra}]'")


def demand_obstore(title: str) -> None:
    """Raise OperatorError if the library of object stores is not installed."""
    try:
        import_module("obstore")
    except ImportError as error:
        raise not_installed("objectstores", title) from error
