"""HTTP for stores that are spoken to without a library of their own."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

import aiohttp
from yarl import URL

from isthmus.adapters.blobstore.trouble import Service, seconds_for, was_closed
from isthmus.ports.provider import Way

_CONNECT_SECONDS: Final = 5.0
_LANES: Final = 32
_ERROR_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose body was read whole, or as much of it as an error's text may have."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")


class Web:
    """Connections to one service, through the site's proxy, with the site's CA."""

    def __init__(self, service: Service, way: Way) -> None:
        self._service = service
        self._way = way
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Web to {self._service}>"

    async def ask(
        self,
        operation: str,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        most: int = _ERROR_BYTES,
    ) -> Answer:
        """Make one request, once. `most` bytes of a success may come back. Raises ProviderTrouble.

        `url` is sent as it is: what is signed in it must not be written another way.
        """
        async with (
            self._said_well(operation),
            asyncio.timeout(seconds_for(len(body or b""))) as limit,
            self._opened().request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body if body is None else BytesIO(body),  # which shares the bytes, and they are sent in pieces
                proxy=self._way.proxy,
                allow_redirects=False,
            ) as response,
        ):
            if response.status >= 300:
                most = _ERROR_BYTES
            elif method != "HEAD" and (response.content_length or 0) > most:
                raise self._service.too_large(response.content_length or 0, most)
            limit.reschedule(asyncio.get_running_loop().time() + seconds_for(response.content_length or most))
            content = await self._read(response, most)
            return Answer(response.status, response.headers, content)

    async def close(self) -> None:
        """Let go of the connections; none is made from now on."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _read(self, response: aiohttp.ClientResponse, most: int) -> bytes:
        if response.content_length is not None and response.content_length <= most:
            return await response.read()
        parts, size = [], 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > most:
                if response.status >= 300:
                    break
                raise self._service.too_large(size, most)
            parts.append(chunk)
        return b"".join(parts)

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise was_closed()
        if self._session is None:
            context = ssl.create_default_context()
            if self._way.ca is not None:
                context.load_verify_locations(self._way.ca)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=_LANES),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                auto_decompress=False,
            )
        return self._session

    @asynccontextmanager
    async def _said_well(self, operation: str) -> AsyncIterator[None]:
        try:
            yield
        except aiohttp.ConnectionTimeoutError:
            raise self._service.unreachable("no answer to a connection") from None
        except TimeoutError:
            raise self._service.late(operation) from None
        except aiohttp.ClientHttpProxyError as error:
            raise self._service.unreachable(f"the proxy answers {error.status}") from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
            raise self._service.untrusted() from None
        except aiohttp.ClientConnectorError:
            raise self._service.unreachable() from None
        except (aiohttp.ClientError, OSError):
            raise self._service.unreachable("the connection broke") from None
