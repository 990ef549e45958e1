"""`gs:` keeps blobs in a bucket of Google Cloud Storage. obstore is imported at first use only."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from isthmus.adapters.blobstore.google import Google, ServiceAccount
from isthmus.adapters.blobstore.lent import LentBlobstore, demand, demand_obstore
from isthmus.adapters.blobstore.place import Parts
from isthmus.adapters.blobstore.trouble import Service
from isthmus.errors import OperatorError
from isthmus.kit.names import HostPort
from isthmus.ports.blobstore import Blobstore, BlobstoreTraits
from isthmus.ports.provider import Loan, Meter, Secret, Surroundings, Way

if TYPE_CHECKING:
    from obstore.store import GCSCredential

_TITLE: Final = "Google Cloud Storage"
_USAGE: Final = "gs://BUCKET[/PREFIX][?location=europe-west3], or gs://HOST:PORT/BUCKET[/PREFIX][?tls=no] for a double"
_GOOGLE: Final = HostPort("storage.googleapis.com", 443)
_STS: Final = "https://sts.googleapis.com"
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]")
_LOCATION: Final = re.compile(r"[A-Za-z0-9-]{1,40}")
_USUAL_LOCATION: Final = "EU"
_MOST_BLOB_BYTES: Final = 64 * 1024 * 1024
_NEEDS: Final = {
    "put": "storage.objects.create",
    "get": "storage.objects.get",
    "delete": "storage.objects.delete",
    "list": "storage.objects.list",
}


@dataclass(frozen=True, slots=True)
class Place:
    """What a URL says. `location` is where a bucket is made that lacks."""

    bucket: str
    prefix: str
    at: HostPort = _GOOGLE
    tls: bool = True
    location: str = _USUAL_LOCATION

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL: with a port, it names a host; without one, a bucket at Google. Raises OperatorError."""
        parts = Parts.parse(url, "gs", _USAGE)
        location = parts.query.pop("location", _USUAL_LOCATION)
        tls = parts.switch("tls", default=True) if parts.port is not None else True
        parts.finish()
        bucket, *segments = [parts.host, *parts.segments] if parts.port is None else parts.segments or [""]
        if not _BUCKET.fullmatch(bucket):
            raise parts.wrong("a bucket is called by 3 to 63 lower-case letters, digits, - and _")
        if not _LOCATION.fullmatch(location):
            raise parts.wrong("a location is called by letters, digits and -")
        at = _GOOGLE if parts.port is None else parts.at(tls)
        return cls(bucket, parts.prefix(segments), at, tls, location)

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self.tls else 'http'}://{self.at if self.at != _GOOGLE else self.at.host}"

    @property
    def sts(self) -> str:
        """Where tokens are narrowed; only the Bridge goes there."""
        return _STS if self.at == _GOOGLE else self.origin

    @property
    def service(self) -> Service:
        """How it is called in messages."""
        return Service(_TITLE, str(self.at), f"bucket {self.bucket}", _NEEDS)

    @property
    def traits(self) -> BlobstoreTraits:
        """What it can do. Listings do not lag, as Google has it."""
        return BlobstoreTraits(max_blob_bytes=_MOST_BLOB_BYTES, list_lag=0.0, has_ttl=True, billed=True)


class GcsProvider:
    """Google Cloud Storage (`isthmus.ports.provider.BlobstoreProvider`).

    A Router is lent a token of the service account, for an hour, narrowed to the blobs below the prefix.
    """

    title = _TITLE
    tried = ""
    secrets: Sequence[Secret] = (
        Secret("service_account_key", "the JSON of a key of a service account that may write in the bucket"),
    )

    def hosts(self, url: str) -> list[HostPort]:
        """Return Google's host. Raises OperatorError."""
        return [Place.parse(url).at]

    def open(self, url: str, surroundings: Surroundings) -> Blobstore:
        """Return the bucket. Keys: `token` as it is lent, or `service_account_key` of a site of its own."""
        place = Place.parse(url)
        demand_obstore(_TITLE)

        def opener(fields: Mapping[str, str]) -> Blobstore:
            return _store(place, fields, surroundings.way, surroundings.meter)

        return LentBlobstore(surroundings.keys, opener, place.traits)

    async def lend(self, url: str, secrets: Mapping[str, str], router_id: str, way: Way) -> Loan:
        """Return a narrowed token."""
        del router_id  # Google does not tell one bearer of a token from another
        place, account = Place.parse(url), _account(secrets)
        google = Google(place.service, way)
        try:
            token, _ = await google.token(account)
            narrowed, expires = await google.narrowed(place.sts, token, _boundary(place))
        finally:
            await google.close()
        return Loan({"token": narrowed}, expires)

    async def sign(
        self, url: str, secrets: Mapping[str, str], method: str, names: Sequence[str], *, seconds: float
    ) -> list[str]:
        """Refuse: a token is lent instead, which needs no question for each blob."""
        del url, secrets, method, names, seconds
        raise OperatorError("no URLs are signed for Google Cloud Storage: a token is lent")

    async def set_up(self, url: str, secrets: Mapping[str, str], way: Way, *, keep_days: int) -> list[str]:
        """Make the bucket if it lacks, and the rule that empties it."""
        place, account = Place.parse(url), _account(secrets)
        google = Google(place.service, way)
        try:
            token, _ = await google.token(account)
            api = f"{place.origin}/storage/v1/b"
            rule = {"action": {"type": "Delete"}, "condition": {"age": keep_days, **_below(place)}}
            present = await google.api("GET", f"{api}/{place.bucket}", token, "see the bucket")
            if present is None:
                await google.api(
                    "POST", f"{api}?project={account.project}", token, "make a bucket", _bucket(place, rule)
                )
                return [f"made the bucket {place.bucket} in {place.location}, open to nobody", _said(keep_days)]
            others = [other for other in present.get("lifecycle", {}).get("rule", []) if not _is_ours(other, place)]
            change = {"lifecycle": {"rule": [*others, rule]}}
            await google.api("PATCH", f"{api}/{place.bucket}", token, "set the rules of the bucket", change)
        finally:
            await google.close()
        return [f"the bucket {place.bucket} is there", _said(keep_days)]


def _said(keep_days: int) -> str:
    return f"a rule deletes what is {keep_days} days old"


def _below(place: Place) -> dict[str, Any]:
    return {"matchesPrefix": [place.prefix]} if place.prefix else {}


def _is_ours(rule: Mapping[str, Any], place: Place) -> bool:
    condition = dict(rule.get("condition", {}))
    condition.pop("age", None)
    return rule.get("action", {}).get("type") == "Delete" and condition == _below(place)


def _bucket(place: Place, rule: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": place.bucket,
        "location": place.location,
        "iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}, "publicAccessPrevention": "enforced"},
        "softDeletePolicy": {"retentionDurationSeconds": "0"},  # what is deleted is not paid for another week
        "lifecycle": {"rule": [rule]},
    }


def _boundary(place: Place) -> dict[str, Any]:
    """Return to what a token is narrowed: the names of blobs, of which the bucket's own, as in listings, is none."""
    names = f"projects/_/buckets/{place.bucket}/objects/{place.prefix}"
    rule = {
        "availableResource": f"//storage.googleapis.com/projects/_/buckets/{place.bucket}",
        "availablePermissions": ["inRole:roles/storage.objectUser"],
        "availabilityCondition": {"expression": f"resource.name.startsWith('{names}')"},
    }
    return {"accessBoundary": {"accessBoundaryRules": [rule]}}


def _account(secrets: Mapping[str, str]) -> ServiceAccount:
    return ServiceAccount.parse(demand(secrets, "service_account_key", _TITLE))


def _store(place: Place, fields: Mapping[str, str], way: Way, meter: Meter) -> Blobstore:
    from obstore.store import GCSStore

    from isthmus.adapters.blobstore.objects import ONE_TRY, Manners, ObjectBlobstore, client_config, opening

    options = client_config(way, allow_http=not place.tls)
    with opening(place.service):
        if "service_account_key" in fields:
            _account(fields)
            key = json.dumps({**json.loads(fields["service_account_key"]), "gcs_base_url": place.origin})
            opened = GCSStore(place.bucket, service_account_key=key, client_options=options, retry_config=ONE_TRY)
        else:
            token = demand(fields, "token", _TITLE)

            async def credential() -> "GCSCredential":
                return {"token": token, "expires_at": None}

            opened = GCSStore(
                place.bucket,
                base_url=place.origin,
                skip_signature=False,
                credential_provider=credential,
                client_options=options,
                retry_config=ONE_TRY,
            )
    return ObjectBlobstore(opened, place.service, place.prefix, place.traits, meter, Manners())


PROVIDER: Final = GcsProvider()
