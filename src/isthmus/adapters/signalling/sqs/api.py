"""The calls of AWS services that are made here, with our keys, our way out of the site and our words for trouble."""

import asyncio
import functools
import ssl
from collections.abc import Mapping
from typing import Any, Final, Literal

from aiobotocore.config import AioConfig  # type: ignore[import-untyped]  # has no types
from aiobotocore.credentials import AioCredentials  # type: ignore[import-untyped]  # has no types
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]  # has no types
from aiobotocore.session import AioSession  # type: ignore[import-untyped]  # has no types
from botocore.credentials import ReadOnlyCredentials  # type: ignore[import-untyped]  # has no types
from botocore.exceptions import (  # type: ignore[import-untyped]  # has no types
    BotoCoreError,
    ClientError,
    HTTPClientError,
    ProxyConnectionError,
    SSLError,
)
from botocore.loaders import create_loader  # type: ignore[import-untyped]  # has no types

from isthmus.adapters.signalling.inbox import NoQueue
from isthmus.adapters.signalling.sqs.place import Place
from isthmus.errors import ProviderTrouble, Retry
from isthmus.ports.provider import Keys, Loan, Way

_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 30.0  # longer than the longest poll
_POOL: Final = 50

_NO_QUEUE: Final = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
_DELETED: Final = frozenset({"AWS.SimpleQueueService.QueueDeletedRecently", "QueueDeletedRecently"})
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
_SKEWED: Final = frozenset({"RequestTimeTooSkewed", "InvalidSignatureException", "SignatureDoesNotMatch"})
_REFUSED: Final = frozenset(
    {
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "MissingAuthenticationToken",
        "InvalidAccessKeyId",
        "InvalidSecurity",
    }
)
_FORBIDDEN: Final = frozenset({"AccessDenied", "AccessDeniedException", "KMS.AccessDeniedException", "KmsAccessDenied"})
_THROTTLED: Final = frozenset(
    {"Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "TooManyRequestsException",
     "RequestLimitExceeded", "OverLimit", "KmsThrottled", "SlowDown"}
)  # fmt: skip


class Caller:
    """Calls one service.

    Args:
        service: which one.
        place: where it is.
        keys: `Keys` are asked for a loan at each call, and know when to renew it; a loan is used as it is; None leaves
            it to the machine's own identity (environment, files, metadata of the instance).
        way: how one gets there.
    """

    def __init__(self, service: Literal["sqs", "sts"], place: Place, keys: Keys | Loan | None, way: Way) -> None:
        self._service = service
        self._place = place
        self._endpoint = place.endpoint if service == "sqs" else place.sts_endpoint
        self._keys = keys
        self._way = way
        self._client: Any = None  # aiobotocore makes its classes while it runs
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Caller of {self._service} at {self._endpoint}>"

    async def call(self, operation: str, **parameters: object) -> Mapping[str, Any]:
        """Make one call, once. Raises ProviderTrouble; NoQueue if that is what it is."""
        try:
            client = await self._opened()
            answer: Mapping[str, Any] = await getattr(client, operation)(**parameters)
        except ClientError as error:
            raise self._trouble(error) from error
        except ProxyConnectionError as error:
            raise ProviderTrouble("the proxy does not let us through to AWS", retry=Retry.LATER) from error
        except SSLError as error:
            raise ProviderTrouble(
                f"TLS with {self._place.host} failed",
                retry=Retry.LATER,
                hint="isthmus router ca, if a proxy re-signs TLS",
            ) from error
        except (HTTPClientError, OSError, TimeoutError) as error:
            raise ProviderTrouble(
                f"{self._endpoint} is out of reach ({type(error).__name__})", retry=Retry.LATER
            ) from error
        except BotoCoreError as error:
            raise ProviderTrouble(f"{self._service}: {type(error).__name__}", retry=Retry.NEVER) from error
        return answer

    async def close(self) -> None:
        """Let go of connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _opened(self) -> Any:
        async with self._opening:
            if self._client is None:
                session, explicit = _session(), {}
                if isinstance(self._keys, Loan):
                    explicit = _explicit(self._keys)
                elif self._keys is not None:
                    session = _new_session()
                    session.register_component("credential_provider", _Lender(self._keys))
                proxy = self._way.proxy
                config = AioConfig(
                    connect_timeout=_CONNECT_SECONDS,
                    read_timeout=_READ_SECONDS,
                    max_pool_connections=_POOL,
                    proxies={"http": proxy, "https": proxy} if proxy else {},
                    retries={"total_max_attempts": 1},  # each is billed, so each is ours to decide on and to count
                    http_session_cls=_trusting(self._way),
                    parameter_validation=False,
                    warm_up_loader_caches=True,  # in a thread
                )
                context = session.create_client(
                    self._service,
                    region_name=self._place.region,
                    endpoint_url=self._endpoint,
                    config=config,
                    **explicit,
                )
                self._client = await context.__aenter__()
        return self._client

    def _trouble(self, error: ClientError) -> ProviderTrouble:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        name = self._service.upper()
        if code in _NO_QUEUE:
            return NoQueue()
        if code in _EXPIRED:
            return ProviderTrouble(f"the keys for {name} have expired", retry=Retry.LATER)
        if code in _SKEWED:
            hint = "check the secret key, and the clocks of this machine and of the Bridge"
            return ProviderTrouble(f"{name} refuses the signature ({code})", retry=Retry.NEVER, hint=hint)
        if code in _REFUSED:
            return ProviderTrouble(f"{name} refuses the keys ({code})", retry=Retry.NEVER, hint="check the access key")
        operation = f"{self._service}:{error.operation_name}"
        if code in _FORBIDDEN:
            return ProviderTrouble(
                f"the keys may not do {operation}",
                retry=Retry.NEVER,
                hint=f"a policy that allows {operation} is needed",
            )
        if code in _DELETED:
            return ProviderTrouble("a queue of that name was deleted less than a minute ago", retry=Retry.LATER)
        if code in _THROTTLED or status == 429:
            return ProviderTrouble(f"{name} is asked too often ({code})", retry=Retry.LATER)
        if status >= 500 or status == 0:
            return ProviderTrouble(f"{name} is in trouble itself (HTTP {status})", retry=Retry.LATER)
        if status in {401, 403}:  # and a proxy may say so as well
            hint = f"check the keys, the clocks, and that a policy allows {operation}"
            return ProviderTrouble(f"{operation} is refused ({code})", retry=Retry.NEVER, hint=hint)
        return ProviderTrouble(f"{name} does not do {operation} ({code})", retry=Retry.NEVER)


@functools.cache
def _models() -> Any:
    """Return AWS's description of its services, some megabytes of JSON that every client may share."""
    return create_loader()


def _new_session() -> Any:
    session = AioSession()
    session.register_component("data_loader", _models())
    return session


@functools.cache
def _session() -> Any:
    """Return what clients with keys of their own share: making it is most of the work of making a client."""
    return _new_session()


def _explicit(loan: Loan) -> dict[str, str | None]:
    fields = loan.fields
    return {
        "aws_access_key_id": fields["access_key_id"],
        "aws_secret_access_key": fields["secret_access_key"],
        "aws_session_token": fields.get("session_token"),
    }


class _Lender:
    """What aiobotocore asks for credentials."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def load_credentials(self) -> "_LentCredentials":
        return _LentCredentials(self._keys)


class _LentCredentials(AioCredentials):  # type: ignore[misc]  # aiobotocore has no types
    """Credentials that are asked for anew for each signature."""

    def __init__(self, keys: Keys) -> None:
        super().__init__("", "")
        self._keys = keys

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        loan = await self._keys.loan()
        try:
            return ReadOnlyCredentials(
                loan.fields["access_key_id"], loan.fields["secret_access_key"], loan.fields.get("session_token")
            )
        except KeyError as error:
            raise ProviderTrouble(f"the keys for AWS lack {error.args[0]}", retry=Retry.NEVER) from error


def _trusting(way: Way) -> type[AIOHTTPSession]:
    """Return aiobotocore's way to speak HTTP, which trusts this machine's CAs and the site's besides its own."""

    class Trusting(AIOHTTPSession):  # type: ignore[misc]  # aiobotocore has no types
        def _get_ssl_context(self) -> ssl.SSLContext:  # called in a thread; no public way adds a CA to the usual ones
            context = ssl.create_default_context()
            if way.ca is not None:
                context.load_verify_locations(way.ca)
            return context

    return Trusting
