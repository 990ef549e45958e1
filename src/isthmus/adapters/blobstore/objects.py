"""A blobstore over obstore, which speaks to S3, Google Cloud Storage and Azure. It is imported at first use only.

obstore raises builtin errors for some troubles, and its messages dump the request: they are read here, never shown.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from isthmus.adapters.blobstore.trouble import Service, check_name, code_of, is_about_container, seconds_for
from isthmus.errors import BlobExists, BlobMissing, ProviderTrouble, Retry
from isthmus.ports.blobstore import BlobInfo, BlobstoreTraits
from isthmus.ports.provider import Meter, Way

if TYPE_CHECKING:  # stubs alone have these
    from obstore.store import AzureStore, ClientConfig, GCSStore, RetryConfig, S3Store

_STATUS: Final = re.compile(r"Server returned (?:non-2xx|error) status code: (\d{3})")
_UNTRUSTED: Final = re.compile(r"(?i)certificate|UnknownIssuer|CaUsedAsEndEntity")
_NOT_THERE: Final = (FileNotFoundError, NotFoundError)
_REFUSED: Final = (PermissionDeniedError, UnauthenticatedError)
_TAKEN: Final = (AlreadyExistsError, PreconditionError)
_ERRORS: Final = (BaseError, FileNotFoundError, ValueError, NotImplementedError, OSError)
_NO_CONTAINER: Final = "The specified container does not exist"  # all that Azure says for one of several deletions
_ANY_REQUEST_SECONDS: Final = 3600  # each call here has its own time, by size
_CONNECT_SECONDS: Final = 5

ONE_TRY: Final["RetryConfig"] = {"max_retries": 0, "retry_timeout": timedelta(seconds=10)}
"""Each request is ours to decide on, and to count."""


@dataclass(frozen=True, slots=True)
class Manners:
    """How a store differs from others.

    Attributes:
        most_deletions: how many blobs one request deletes; 1 if there is none for several.
        page: how many blobs the store lists in a request.
        hides_missing: with these keys the store says "forbidden" of what is not there, since they may not list.
        says_taken: codes by which the store says "forbidden" of a name that is taken, to keys that may not overwrite.
    """

    most_deletions: int = 1
    page: int = 1000
    hides_missing: bool = False
    says_taken: frozenset[str] = frozenset()


class ObjectBlobstore:
    """A bucket or container, or what is below a prefix there."""

    def __init__(
        self,
        opened: "S3Store | GCSStore | AzureStore",
        service: Service,
        prefix: str,
        traits: BlobstoreTraits,
        meter: Meter,
        manners: Manners,
    ) -> None:
        self.traits = traits
        self._opened = opened
        self._service = service
        self._prefix = prefix
        self._meter = meter
        self._manners = manners

    def __repr__(self) -> str:
        return f"<ObjectBlobstore: {self._service}>"

    async def put(self, name: str, body: bytes) -> None:
        """Create a blob. Raises BlobExists."""
        path = self._prefix + check_name(name)
        if len(body) > self.traits.max_blob_bytes:
            raise self._service.too_large(len(body), self.traits.max_blob_bytes)
        self._meter.count("put", up=len(body))
        try:
            async with asyncio.timeout(seconds_for(len(body))):
                await obstore.put_async(self._opened, path, body, mode="create", use_multipart=False)
        except _TAKEN:
            await self._compare(name, body)
        except TimeoutError as error:
            raise self._service.late("put") from error
        except _ERRORS as error:
            trouble = self._trouble("put", error)
            if not (isinstance(error, _REFUSED) and code_of(str(error)) in self._manners.says_taken):
                raise trouble from None
            await self._compare(name, body, unless_there=trouble)

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        """Return a blob. Raises BlobMissing."""
        del wait  # nobody tells us when it comes
        path = self._prefix + check_name(name)
        found = b""
        try:
            async with asyncio.timeout(seconds_for(0)) as limit:
                answer = await obstore.get_async(self._opened, path)
                size = answer.meta["size"]
                if size > self.traits.max_blob_bytes:
                    raise self._service.too_large(size, self.traits.max_blob_bytes)
                limit.reschedule(asyncio.get_running_loop().time() + seconds_for(size))
                found = bytes(await answer.bytes_async())
        except TimeoutError as error:
            raise self._service.late("get") from error
        except _ERRORS as error:
            if self._is_missing(error):
                raise BlobMissing(name) from None
            raise self._trouble("get", error) from None
        finally:
            self._meter.count("get", down=len(found))
        return found

    async def delete(self, *names: str) -> None:
        """Delete blobs: in one request if the store can, else a few at a time."""
        paths = [self._prefix + check_name(name) for name in names]
        most = self._manners.most_deletions
        for first in range(0, len(paths), most):
            await self._delete(paths[first : first + most])

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Yield the blobs whose names start with `prefix`, which need not end where a name's part does."""
        whole = self._prefix + prefix
        folder = whole.rpartition("/")[0]
        listing = aiter(obstore.list(self._opened, folder or None, chunk_size=self._manners.page))
        while True:
            self._meter.count("list")
            try:
                async with asyncio.timeout(seconds_for(0)):
                    page = await anext(listing)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise self._service.late("list") from error
            except _ERRORS as error:
                raise self._trouble("list", error) from None
            for row in page:
                if row["path"].startswith(whole):
                    name = row["path"].removeprefix(self._prefix)
                    yield BlobInfo(name, row["size"], row["last_modified"].timestamp())
            if len(page) < self._manners.page:
                return

    async def close(self) -> None:
        """Nothing to wait for: connections go with the object."""

    async def sign(self, method: Any, names: Sequence[str], seconds: float) -> Sequence[str]:
        """Return a signed URL for each blob, to be used with this HTTP method. Raises ProviderTrouble."""
        paths = [self._prefix + check_name(name) for name in names]
        try:
            async with asyncio.timeout(seconds_for(0)):
                return await obstore.sign_async(self._opened, method, paths, timedelta(seconds=seconds))
        except TimeoutError as error:
            raise self._service.late("signature") from error
        except _ERRORS as error:
            raise self._trouble("sign", error) from None

    async def _compare(self, name: str, body: bytes, *, unless_there: ProviderTrouble | None = None) -> None:
        """A name is taken: by the same bytes that were put before, or by others."""
        try:
            present = await self.get(name)
        except BlobMissing:
            raise unless_there or self._service.contested() from None
        if present != body:
            raise BlobExists(name)

    async def _delete(self, paths: Sequence[str]) -> None:
        self._meter.count("delete")
        try:
            async with asyncio.timeout(seconds_for(0)):
                await obstore.delete_async(self._opened, paths if len(paths) > 1 else paths[0])
        except TimeoutError as error:
            raise self._service.late("delete") from error
        except _ERRORS as error:
            if not _says_missing(error):
                raise self._trouble("delete", error) from None

    def _is_missing(self, error: Exception) -> bool:
        if self._manners.hides_missing and isinstance(error, _REFUSED) and code_of(str(error)) == "AccessDenied":
            return True
        return _says_missing(error)

    def _trouble(self, operation: str, error: Exception) -> ProviderTrouble:
        """Return what an error of obstore's means, in our words; its own hold the request and more."""
        text = str(error)
        status = _STATUS.search(text)
        if status is not None:
            return self._service.refusal(operation, int(status[1]), code_of(text))
        if isinstance(error, _REFUSED):
            return self._service.refusal(operation, 403, code_of(text))
        if isinstance(error, _NOT_THERE):
            return self._service.refusal(operation, 404, _code(text))
        if "kind: Timeout" in text:
            return self._service.late(operation)
        if _UNTRUSTED.search(text):
            return self._service.untrusted()
        return self._service.unreachable("the connection broke" if "kind: Connect" not in text else "")


def _says_missing(error: Exception) -> bool:
    if not isinstance(error, _NOT_THERE):
        return False
    return not is_about_container(_code(str(error)))


def _code(text: str) -> str:
    return code_of(text) or ("ContainerNotFound" if _NO_CONTAINER in text else "")


@contextmanager
def opening(service: Service) -> Iterator[None]:
    """Say in our words that a store cannot be opened with such keys: obstore looks at them at once."""
    try:
        yield
    except _ERRORS:
        raise ProviderTrouble(
            f"{service}: the keys are not written as such keys are", retry=Retry.NEVER, hint="check the keys"
        ) from None


def client_config(way: Way, *, allow_http: bool) -> "ClientConfig":
    """Return how obstore is to connect."""
    config: ClientConfig = {
        "allow_http": allow_http,
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        "timeout": timedelta(seconds=_ANY_REQUEST_SECONDS),
    }
    if way.proxy is not None:
        config["proxy_url"] = way.proxy
    if way.ca is not None:
        config["root_certificate"] = way.ca.read_bytes()
    return config
