"""What is asked of S3 and STS besides blobs: roles assumed, buckets made. It is imported at first use only."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, Final, Literal

from aiobotocore.config import AioConfig  # type: ignore[import-untyped]  # has no types
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]  # has no types
from aiobotocore.session import AioSession  # type: ignore[import-untyped]  # has no types
from botocore.exceptions import (  # type: ignore[import-untyped]  # has no types
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    ProxyConnectionError,
    SSLError,
)

from isthmus.adapters.blobstore.s3 import Place
from isthmus.adapters.blobstore.trouble import Service
from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.ports.provider import Way

_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 20.0
_CALL_SECONDS: Final = 30.0
_RULE: Final = "isthmus"
_FIRST_REGION: Final = "us-east-1"  # the one that has no name in a request for a bucket
_NEEDS: Final = {
    "AssumeRole": "sts:AssumeRole",
    "HeadBucket": "s3:ListBucket",
    "CreateBucket": "s3:CreateBucket",
    "PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
}
_NOT_FOUND: Final = frozenset({"404", "NoSuchBucket"})
_NO_RULES: Final = "NoSuchLifecycleConfiguration"
_FOREIGN: Final = "BucketAlreadyExists"


class Refused(ProviderTrouble):
    """A refusal whose code the caller may want to look at."""

    def __init__(self, trouble: ProviderTrouble, code: str) -> None:
        super().__init__(str(trouble), retry=trouble.retry, hint=trouble.hint)
        self.code: Final = code


class Aws:
    """Calls one service with the operator's keys, or with the machine's own identity if there are none."""

    def __init__(self, name: Literal["s3", "sts"], place: Place, secrets: Mapping[str, str], way: Way) -> None:
        self._name = name
        self._place = place
        self._secrets = secrets
        self._way = way
        self._client: Any = None  # aiobotocore makes its classes while it runs
        at = str(place.like) if place.like is not None else f"{name}.{place.region}"
        title = "STS" if name == "sts" else place.service.title
        self._service = Service(title, at, place.service.container, _NEEDS)

    def __repr__(self) -> str:
        return f"<Aws: {self._service}>"

    async def call(self, operation: str, **parameters: object) -> Mapping[str, Any]:
        """Make one call. Raises ProviderTrouble; Refused if the service said why."""
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                client = await self._opened()
                answer: Mapping[str, Any] = await getattr(client, operation)(**parameters)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            raise Refused(self._service.refusal(error.operation_name, status, code), code) from None
        except TimeoutError:
            raise self._service.late(operation) from None
        except NoCredentialsError:
            raise ProviderTrouble(
                "there are no keys for S3, and this machine has no identity at AWS",
                retry=Retry.NEVER,
                hint="give access_key_id and secret_access_key",
            ) from None
        except ProxyConnectionError:
            raise self._service.unreachable("the proxy does not let us through") from None
        except SSLError:
            raise self._service.untrusted() from None
        except (HTTPClientError, OSError):
            raise self._service.unreachable() from None
        except BotoCoreError as error:
            raise ProviderTrouble(f"{self._service}: {type(error).__name__}", retry=Retry.NEVER) from None
        return answer

    async def close(self) -> None:
        """Let go of connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)

    async def _opened(self) -> Any:
        if self._client is None:
            proxy = self._way.proxy
            config = AioConfig(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                proxies={"http": proxy, "https": proxy} if proxy else {},
                retries={"total_max_attempts": 2},
                request_checksum_calculation="when_required",  # older stores refuse the new kinds
                response_checksum_validation="when_required",
                s3={"addressing_style": "path" if self._place.like is not None else "auto"},
                http_session_cls=_trusting(self._way),
            )
            self._client = await (
                AioSession()
                .create_client(
                    self._name,
                    region_name=self._place.region,
                    endpoint_url=self._endpoint(),
                    aws_access_key_id=self._secrets.get("access_key_id"),
                    aws_secret_access_key=self._secrets.get("secret_access_key"),
                    config=config,
                )
                .__aenter__()
            )
        return self._client

    def _endpoint(self) -> str | None:
        if self._name == "sts" and (own := self._secrets.get("sts")):
            return own
        return None if self._place.like is None else self._place.endpoint


async def set_up(place: Place, secrets: Mapping[str, str], way: Way, *, keep_days: int) -> list[str]:
    """Make the bucket if it lacks, and its rule; return what was done. Raises ProviderTrouble or OperatorError."""
    s3 = Aws("s3", place, secrets, way)
    try:
        said = [await _make_bucket(s3, place)]
        said.append(await _make_rule(s3, place, keep_days))
    finally:
        await s3.close()
    if secrets.get("role"):
        said.append("each Router is lent keys for an hour, which put, get and delete there and list nothing")
    else:
        said.append("no role is given: the Bridge keeps the keys, and signs a URL for each blob")
    return said


async def _make_bucket(s3: Aws, place: Place) -> str:
    try:
        await s3.call("head_bucket", Bucket=place.bucket)
    except Refused as refused:
        if refused.code not in _NOT_FOUND:
            raise
    else:
        return f"the bucket {place.bucket} is there"
    where = {} if place.region == _FIRST_REGION else {"LocationConstraint": place.region}
    try:
        await s3.call("create_bucket", Bucket=place.bucket, **({"CreateBucketConfiguration": where} if where else {}))
    except Refused as refused:
        if refused.code == _FOREIGN:
            raise OperatorError(
                f"the bucket {place.bucket} belongs to somebody else", hint="choose another name"
            ) from refused
        raise
    if place.like is None:
        closed = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        await s3.call(
            "put_public_access_block",
            Bucket=place.bucket,
            PublicAccessBlockConfiguration=dict.fromkeys(closed, True),
        )
    return f"made the bucket {place.bucket}"


async def _make_rule(s3: Aws, place: Place, keep_days: int) -> str:
    """Add our rule to those that there are, which belong to somebody."""
    name = f"{_RULE}-{place.prefix.replace('/', '.')}".rstrip("-.")
    rule = {
        "ID": name,
        "Status": "Enabled",
        "Filter": {"Prefix": place.prefix},
        "Expiration": {"Days": keep_days},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    try:
        known = list((await s3.call("get_bucket_lifecycle_configuration", Bucket=place.bucket))["Rules"])
    except Refused as refused:
        if refused.code != _NO_RULES:
            raise
        known = []
    others = [other for other in known if other.get("ID") != name]
    rules = {"Rules": [*others, rule]}
    await s3.call("put_bucket_lifecycle_configuration", Bucket=place.bucket, LifecycleConfiguration=rules)
    kept = f"; {len(others)} other rules are as they were" if others else ""
    return f"the rule {name} deletes what is {keep_days} days old, and uploads that broke off{kept}"


def _trusting(way: Way) -> type[AIOHTTPSession]:
    """Return aiobotocore's way to speak HTTP, which trusts this machine's CAs and the site's besides its own."""

    class Trusting(AIOHTTPSession):  # type: ignore[misc]  # aiobotocore has no types
        def _get_ssl_context(self) -> ssl.SSLContext:  # called in a thread; no public way adds a CA to the usual ones
            context = ssl.create_default_context()
            if way.ca is not None:
                context.load_verify_locations(way.ca)
            return context

    return Trusting
