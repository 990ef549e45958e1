"""A blobstore by signed URLs: for stores that lend no keys. The Bridge signs one for each request."""

from collections.abc import AsyncIterator, Mapping
from typing import Final

from isthmus.adapters.blobstore.trouble import Service, check_name, code_of, is_about_container
from isthmus.adapters.blobstore.web import Answer, Web
from isthmus.errors import BlobExists, BlobMissing, ProviderTrouble, Retry
from isthmus.ports.blobstore import BlobInfo, BlobstoreTraits
from isthmus.ports.provider import Keys, Meter, Way

IF_ABSENT: Final = {"If-None-Match": "*"}
"""Put if absent (RFC 9110 section 13.1.2). Not all signatures cover it; then a store heeds it all the same."""
_MOST_SIGNED: Final = 100


class SignedBlobstore:
    """What a Router does with URLs that the Bridge signed: put, get and delete, but no listing."""

    def __init__(
        self,
        service: Service,
        keys: Keys,
        way: Way,
        traits: BlobstoreTraits,
        meter: Meter,
        *,
        put_headers: Mapping[str, str] = IF_ABSENT,
    ) -> None:
        self.traits = traits
        self._service = service
        self._keys = keys
        self._web = Web(service, way)
        self._meter = meter
        self._put_headers = put_headers

    def __repr__(self) -> str:
        return f"<SignedBlobstore: {self._service}>"

    async def put(self, name: str, body: bytes) -> None:
        """Create a blob. Raises BlobExists."""
        if len(body) > self.traits.max_blob_bytes:
            raise self._service.too_large(len(body), self.traits.max_blob_bytes)
        (url,) = await self._keys.urls("PUT", [check_name(name)])
        self._meter.count("put", up=len(body))
        answer = await self._web.ask("put", "PUT", url, headers=self._put_headers, body=body)
        if answer.status in {409, 412}:
            try:
                present = await self.get(name)
            except BlobMissing:
                raise self._service.contested() from None
            if present != body:
                raise BlobExists(name)
        elif answer.status >= 300:
            raise self._refusal("put", answer)

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        """Return a blob. Raises BlobMissing."""
        del wait  # nobody tells us when it comes
        (url,) = await self._keys.urls("GET", [check_name(name)])
        body = b""
        try:
            answer = await self._web.ask("get", "GET", url, most=self.traits.max_blob_bytes)
            if answer.status == 200:
                body = answer.body
        finally:
            self._meter.count("get", down=len(body))
        if answer.status == 404 and not is_about_container(code_of(answer.text)):
            raise BlobMissing(name)
        if answer.status != 200:
            raise self._refusal("get", answer)
        return body

    async def delete(self, *names: str) -> None:
        """Delete blobs, one request each."""
        for first in range(0, len(names), _MOST_SIGNED):
            some = [check_name(name) for name in names[first : first + _MOST_SIGNED]]
            for url in await self._keys.urls("DELETE", some):
                self._meter.count("delete")
                answer = await self._web.ask("delete", "DELETE", url)
                if answer.status >= 300 and (answer.status != 404 or is_about_container(code_of(answer.text))):
                    raise self._refusal("delete", answer)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Refuse: there are no signatures for that."""
        for _ in prefix[:0]:
            yield BlobInfo("", 0, 0.0)
        raise ProviderTrouble(f"{self._service}: signed URLs list nothing", retry=Retry.NEVER)

    async def close(self) -> None:
        """Let go of connections."""
        await self._web.close()

    def _refusal(self, operation: str, answer: Answer) -> ProviderTrouble:
        return self._service.refusal(operation, answer.status, code_of(answer.text))
