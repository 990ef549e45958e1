"""`s3:` keeps blobs in a bucket of Amazon S3, or of a store that speaks its protocol.

obstore and aiobotocore are imported at first use only.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from isthmus.adapters.blobstore.lent import PRESIGNED, LentBlobstore, demand, demand_obstore, not_installed
from isthmus.adapters.blobstore.place import Parts
from isthmus.adapters.blobstore.signed import SignedBlobstore
from isthmus.adapters.blobstore.trouble import Service
from isthmus.errors import ProviderTrouble, Retry
from isthmus.kit.names import HostPort
from isthmus.ports.blobstore import Blobstore, BlobstoreTraits
from isthmus.ports.provider import LOAN_SECONDS, Loan, Meter, Secret, Surroundings, Unmetered, Way

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Credential

    from isthmus.adapters.blobstore.objects import ObjectBlobstore

_TITLE: Final = "S3"
_USAGE: Final = (
    "s3://BUCKET[/PREFIX]?region=REGION at Amazon; "
    "s3://HOST:PORT/BUCKET[/PREFIX][?region=REGION][&tls=no][&billed=no] elsewhere"
)
_REGION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_AMAZON_REGION: Final = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d+")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_USUAL_REGION: Final = "us-east-1"
_HTTPS_PORT: Final = 443
_MOST_BLOB_BYTES: Final = 64 * 1024 * 1024
_MOST_DELETIONS: Final = 1000
_LONGEST_SESSION: Final = 64
_NEEDS: Final = {
    "put": "s3:PutObject",
    "get": "s3:GetObject",  # and s3:ListBucket, or what is not there looks forbidden
    "delete": "s3:DeleteObject",
    "list": "s3:ListBucket",
}


@dataclass(frozen=True, slots=True)
class Place:
    """What a URL says.

    Attributes:
        bucket: which one.
        prefix: what every key begins with, `/` at its end; empty for the whole bucket.
        region: as the store calls it.
        like: where a store is that is not Amazon's; None for Amazon.
        tls: whether that is reached by HTTPS.
        billed: whether its requests are paid for.
    """

    bucket: str
    prefix: str
    region: str
    like: HostPort | None = None
    tls: bool = True
    billed: bool = True

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL: with a port, it names a host; without one, a bucket at Amazon. Raises OperatorError."""
        parts = Parts.parse(url, "s3", _USAGE)
        region = parts.query.pop("region", "")
        if parts.port is None:
            if not _AMAZON_REGION.fullmatch(region):
                raise parts.wrong("without a port this is a bucket at Amazon, and lacks its region")
            parts.finish()
            if not _BUCKET.fullmatch(parts.host) or "." in parts.host:  # a dot in it breaks TLS: it is part of the host
                raise parts.wrong("a bucket is called by 3 to 63 lower-case letters, digits and -")
            return cls(parts.host, parts.prefix(parts.segments), region)
        bucket, *segments = parts.segments or [""]
        if not _BUCKET.fullmatch(bucket):
            raise parts.wrong("the URL lacks a bucket: 3 to 63 lower-case letters, digits, - and .")
        region = region or _USUAL_REGION
        if not _REGION.fullmatch(region):
            raise parts.wrong("a region is called by lower-case letters, digits and -")
        tls, billed = parts.switch("tls", default=True), parts.switch("billed", default=True)
        parts.finish()
        return cls(bucket, parts.prefix(segments), region, parts.at(tls), tls, billed)

    @property
    def host(self) -> HostPort:
        """What a Router connects to: at Amazon each bucket has a host of its own."""
        return self.like or HostPort(f"{self.bucket}.s3.{self.region}.{self._domain}", _HTTPS_PORT)

    @property
    def endpoint(self) -> str:
        """Where obstore finds the bucket, or the store."""
        return f"{'https' if self.tls else 'http'}://{self.like or self.host.host}"

    @property
    def resource(self) -> str:
        """How a policy names the bucket."""
        return f"arn:{self._partition}:s3:::{self.bucket}"

    @property
    def service(self) -> Service:
        """How it is called in messages."""
        title = "Amazon S3" if self.like is None else _TITLE
        return Service(title, str(self.host), f"bucket {self.bucket}", _NEEDS)

    @property
    def traits(self) -> BlobstoreTraits:
        """What it can do. Listings do not lag (Amazon since 2020, Ceph always)."""
        return BlobstoreTraits(max_blob_bytes=_MOST_BLOB_BYTES, list_lag=0.0, has_ttl=True, billed=self.billed)

    @property
    def _partition(self) -> str:
        if self.region.startswith("cn-"):
            return "aws-cn"
        return "aws-us-gov" if self.region.startswith("us-gov-") else "aws"

    @property
    def _domain(self) -> str:
        return "amazonaws.com.cn" if self._partition == "aws-cn" else "amazonaws.com"


class S3Provider:
    """Amazon S3 and its like (`isthmus.ports.provider.BlobstoreProvider`).

    `s3://BUCKET[/PREFIX]?region=REGION` is a bucket at Amazon. `s3://HOST:PORT/BUCKET[/PREFIX]` is one elsewhere, the
    port always written out; there, `region=` is what the store calls its own (us-east-1 if it does not care), `tls=no`
    is for a laboratory, and `billed=no` says that requests cost nothing.

    With a role, a Router is lent session keys that put, get and delete below the prefix and list nothing. Without one
    the Bridge keeps its keys to itself and signs each URL.
    """

    title = "Amazon S3, or a store that speaks S3"
    tried = "Ceph's gateway 16.2, with signatures, session keys and policies"
    secrets: Sequence[Secret] = (
        Secret("access_key_id", "access key of a user; left out, the Bridge's own identity at AWS", required=False),
        Secret("secret_access_key", "that key's secret half", required=False),
        Secret("role", "ARN of a role to assume for each Router; left out, the Bridge signs each URL", required=False),
        Secret("sts", "URL of the service that assumes roles, if it is not the store's own", required=False),
    )

    def hosts(self, url: str) -> list[HostPort]:
        """Return the bucket's host at Amazon, or the store's. Raises OperatorError."""
        return [Place.parse(url).host]

    def open(self, url: str, surroundings: Surroundings) -> Blobstore:
        """Return the bucket. Keys: access_key_id, secret_access_key, session_token if there is one; or presigned."""
        place = Place.parse(url)
        demand_obstore("S3")
        keys, way, meter = surroundings.keys, surroundings.way, surroundings.meter

        def opener(fields: Mapping[str, str]) -> Blobstore:
            if fields.get(PRESIGNED):
                return SignedBlobstore(place.service, keys, way, place.traits, meter)
            return _store(place, fields, way, meter)

        return LentBlobstore(keys, opener, place.traits)

    async def lend(self, url: str, secrets: Mapping[str, str], router_id: str, way: Way) -> Loan:
        """Return session keys if there is a role, or that URLs are signed."""
        place, role = Place.parse(url), secrets.get("role")
        if not role:
            _own(secrets)
            return Loan({PRESIGNED: "yes"})
        try:
            from isthmus.adapters.blobstore.aws import Aws
        except ImportError as error:
            raise not_installed("aws", "the lending of keys for S3") from error
        sts = Aws("sts", place, secrets, way)
        try:
            answer = await sts.call(
                "assume_role",
                RoleArn=role,
                RoleSessionName=router_id[:_LONGEST_SESSION],
                Policy=_policy(place),
                DurationSeconds=int(LOAN_SECONDS),
            )
        finally:
            await sts.close()
        lent = answer["Credentials"]
        fields = {
            "access_key_id": lent["AccessKeyId"],
            "secret_access_key": lent["SecretAccessKey"],
            "session_token": lent["SessionToken"],
        }
        return Loan(fields, lent["Expiration"].timestamp())

    async def sign(
        self, url: str, secrets: Mapping[str, str], method: str, names: Sequence[str], *, seconds: float
    ) -> list[str]:
        """Return signed URLs, made with the operator's keys."""
        place = Place.parse(url)
        demand_obstore("S3")
        return list(await _store(place, _own(secrets), Way(), Unmetered()).sign(method, names, seconds))

    async def set_up(self, url: str, secrets: Mapping[str, str], way: Way, *, keep_days: int) -> list[str]:
        """Make the bucket if it lacks, and the rule that empties it."""
        try:
            from isthmus.adapters.blobstore.aws import set_up
        except ImportError as error:
            raise not_installed("aws", "the setting up of S3") from error
        return await set_up(Place.parse(url), secrets, way, keep_days=keep_days)


def _store(place: Place, fields: Mapping[str, str], way: Way, meter: Meter) -> "ObjectBlobstore":
    from obstore.store import S3Store

    from isthmus.adapters.blobstore.objects import ONE_TRY, Manners, ObjectBlobstore, client_config, opening

    token = fields.get("session_token")
    # Ceph 16 takes a request for several deletions to be about the bucket itself, of which a session may do nothing
    one_by_one = place.like is not None and token is not None
    config: S3Config = {
        "endpoint": place.endpoint,
        "region": place.region,
        "virtual_hosted_style_request": place.like is None,
        "unsigned_payload": place.tls,  # TLS keeps it whole, and blobs are sealed
        "disable_bulk_delete": one_by_one,
        "skip_signature": False,
    }
    credential: S3Credential = {
        "access_key_id": demand(fields, "access_key_id", _TITLE),
        "secret_access_key": demand(fields, "secret_access_key", _TITLE),
        "token": token,
        "expires_at": None,
    }

    async def provide() -> "S3Credential":
        return credential  # as a whole: given one by one, what lacks is taken from the environment

    with opening(place.service):
        opened = S3Store(
            place.bucket,
            config=config,
            credential_provider=provide,
            client_options=client_config(way, allow_http=not place.tls),
            retry_config=ONE_TRY,
        )
    manners = Manners(most_deletions=1 if one_by_one else _MOST_DELETIONS, hides_missing=token is not None)
    return ObjectBlobstore(opened, place.service, place.prefix, place.traits, meter, manners)


def _own(secrets: Mapping[str, str]) -> Mapping[str, str]:
    """Return the operator's keys. Raises ProviderTrouble if there are none."""
    for name in ("access_key_id", "secret_access_key"):
        if not secrets.get(name):
            raise ProviderTrouble(
                f"the Bridge has no {name} for S3",
                retry=Retry.NEVER,
                hint="give access_key_id and secret_access_key; or, where the Bridge has an identity at AWS, role",
            )
    return secrets


def _policy(place: Place) -> str:
    """Return what a Router may do, in IAM's words; without blanks, which Ceph 16 reads as plus signs."""
    allow = {
        "Effect": "Allow",
        "Action": [_NEEDS[operation] for operation in ("put", "get", "delete")],
        "Resource": f"{place.resource}/{place.prefix}*",
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [allow]}, separators=(",", ":"))


PROVIDER: Final = S3Provider()
