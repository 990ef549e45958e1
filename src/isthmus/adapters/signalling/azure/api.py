"""The calls of Azure Queue Storage that are made here, with our way out of the site and our words for trouble."""

import base64
import binascii
import contextlib
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.storage.queue import generate_account_sas, generate_queue_sas
from azure.storage.queue.aio import QueueClient

from isthmus.adapters.signalling.azure.place import Place
from isthmus.adapters.signalling.inbox import NoQueue
from isthmus.errors import ProviderTrouble, Retry
from isthmus.ports.provider import Way

_CONNECT_SECONDS: Final = 5.0
_TOTAL_SECONDS: Final = 15.0
_CONNECTIONS: Final = 50
_MOST_AT_ONCE: Final = 32
_CLIENTS_KEPT: Final = 256

_NO_QUEUE: Final = frozenset({"QueueNotFound", "ResourceNotFound"})
_THROTTLED: Final = frozenset({"ServerBusy", "OperationTimedOut", "TooManyRequests"})
_BEING_DELETED: Final = "QueueBeingDeleted"
_NO_SHARED_KEYS: Final = "KeyBasedAuthenticationNotPermitted"
_UNSIGNED: Final = frozenset({"AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation"})


class Caller:
    """Calls one storage account.

    A `secret` is the account's key, or a shared access signature (SAS), which is known by its `=`-separated fields.
    """

    def __init__(self, place: Place, way: Way) -> None:
        """Read the certificates that TLS trusts, which is work for a thread. Raises ProviderTrouble."""
        self._place = place
        self._proxy = way.proxy
        self._tls = _trust(way)
        self._session: aiohttp.ClientSession | None = None
        self._clients: dict[tuple[str, str], QueueClient] = {}

    def __repr__(self) -> str:
        return f"<Caller of {self._place.url}>"

    async def create(self, queue: str, secret: str) -> None:
        """Make a queue if there is none. Raises ProviderTrouble."""
        with _troubles("create a queue"):
            try:
                await self._client(queue, secret).create_queue()
            except HttpResponseError as error:
                if _code(error) != "QueueAlreadyExists":
                    raise

    async def send(self, queue: str, secret: str, text: str, *, seconds: int) -> None:
        """Put a message, which goes after so many seconds. Raises ProviderTrouble; NoQueue if that is what it is."""
        with _troubles("add a message"):
            await self._client(queue, secret).send_message(text, time_to_live=seconds)

    async def receive(self, queue: str, secret: str, *, hidden_seconds: int) -> list[str]:
        """Return up to 32 messages, which are hidden from then on. Raises ProviderTrouble."""
        with _troubles("get messages"):
            pages = self._client(queue, secret).receive_messages(
                messages_per_page=_MOST_AT_ONCE, visibility_timeout=hidden_seconds
            )
            try:
                page = await anext(pages.by_page())  # one request; the next page would be another
            except StopAsyncIteration:
                return []
            return [str(message.content) async for message in page]

    def sign(self, queue: str, key: str, *, expires: float) -> tuple[str, str]:
        """Return a SAS to get what is in one queue, and one to add to any queue of the account; the key makes both.

        Raises ProviderTrouble if it cannot be a key.
        """
        _demand_key(key)
        account, until = self._place.account, datetime.fromtimestamp(expires, UTC)
        protocol = "https" if self._place.tls else "https,http"
        receive = generate_queue_sas(account, queue, key, permission="p", expiry=until, protocol=protocol)
        send = generate_account_sas(account, key, resource_types="o", permission="a", expiry=until, protocol=protocol)
        return receive, send

    async def close(self) -> None:
        """Let go of connections."""
        self._clients.clear()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _client(self, queue: str, secret: str) -> QueueClient:
        client = self._clients.get((queue, secret))
        if client is None:
            if len(self._clients) >= _CLIENTS_KEPT:
                self._clients.clear()
            client = self._clients[queue, secret] = QueueClient(
                self._place.url,
                queue,
                credential=_credential(self._place, secret),
                transport=AioHttpTransport(session=self._opened(), session_owner=False),
                retry_total=0,  # each is billed, so each is ours to decide on and to count
                connection_timeout=_CONNECT_SECONDS,
                read_timeout=_TOTAL_SECONDS,
            )
        return client

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=_CONNECTIONS),
                proxy=self._proxy,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=_TOTAL_SECONDS, sock_connect=_CONNECT_SECONDS),
            )
        return self._session


def _demand_key(key: str) -> None:
    """Raise ProviderTrouble if this cannot be an account's key."""
    try:
        base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProviderTrouble(
            "this is not a storage account's key", retry=Retry.NEVER, hint="copy all of it: it is base64"
        ) from error


def _credential(place: Place, secret: str) -> Any:
    if "sig=" in secret:
        return AzureSasCredential(secret)
    _demand_key(secret)
    return AzureNamedKeyCredential(place.account, secret)


def _trust(way: Way) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if way.ca is not None:
            context.load_verify_locations(way.ca)
    except OSError as error:
        raise ProviderTrouble(f"{way.ca} is no file of certificates", retry=Retry.NEVER) from error
    return context


@contextlib.contextmanager
def _troubles(what: str) -> Iterator[None]:
    """Raise ProviderTrouble for what Azure's library raises."""
    try:
        yield
    except HttpResponseError as error:
        raise _trouble(what, error) from error
    except (ServiceRequestError, ServiceResponseError, aiohttp.ClientError, OSError, TimeoutError) as error:
        cause = getattr(error, "inner_exception", None) or error
        if isinstance(cause, aiohttp.ClientHttpProxyError | aiohttp.ClientProxyConnectionError):
            raise ProviderTrouble("the proxy does not let us through to Azure", retry=Retry.LATER) from error
        if isinstance(cause, aiohttp.ClientSSLError):
            hint = "isthmus router ca, if a proxy re-signs TLS"
            raise ProviderTrouble("TLS with Azure failed", retry=Retry.LATER, hint=hint) from error
        raise ProviderTrouble(f"Azure is out of reach ({type(cause).__name__})", retry=Retry.LATER) from error
    except AzureError as error:
        raise ProviderTrouble(f"Azure: {type(error).__name__}", retry=Retry.LATER) from error


def _trouble(what: str, error: HttpResponseError) -> ProviderTrouble:
    code, status = _code(error), error.status_code or 0
    if code in _NO_QUEUE or (status == 404 and not code):
        return NoQueue()
    if code == _BEING_DELETED:
        return ProviderTrouble("this queue is being deleted", retry=Retry.LATER)
    if code in _THROTTLED or status == 429 or status >= 500 or status == 0:
        return ProviderTrouble(f"Azure is in trouble or asked too often ({code or status})", retry=Retry.LATER)
    if code == _NO_SHARED_KEYS:
        hint = "allow storage account key access for this account"
        return ProviderTrouble("this account allows no keys", retry=Retry.NEVER, hint=hint)
    if code in _UNSIGNED or status == 401:
        hint = "check the account's key, and the clocks of this machine and of the Bridge"
        return ProviderTrouble(f"Azure refuses the keys ({code})", retry=Retry.NEVER, hint=hint)
    if status == 403:
        hint = "the account's key at the Bridge, or a SAS that allows this, is needed"
        return ProviderTrouble(f"the keys may not {what} ({code})", retry=Retry.NEVER, hint=hint)
    return ProviderTrouble(f"Azure does not {what} ({code or status})", retry=Retry.NEVER)


def _code(error: HttpResponseError) -> str:
    """Return what the service calls it; only the errors of storage have that, those known to the library as enum."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")
