"""`azblob:` keeps blobs in a container of Azure Blob Storage.

obstore and azure-storage-blob are imported at first use only.
"""

import asyncio
import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

from isthmus.adapters.blobstore.lent import LentBlobstore, demand, demand_obstore, not_installed
from isthmus.adapters.blobstore.place import Parts
from isthmus.adapters.blobstore.trouble import Service
from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.kit.clock import SystemClock
from isthmus.kit.names import HostPort
from isthmus.ports.blobstore import Blobstore, BlobstoreTraits
from isthmus.ports.provider import LOAN_SECONDS, Loan, Meter, Secret, Surroundings, Way

if TYPE_CHECKING:
    from obstore.store import AzureConfig, AzureCredential

_TITLE: Final = "Azure Blob Storage"
_USAGE: Final = (
    "azblob://ACCOUNT.blob.core.windows.net/CONTAINER[/PREFIX], "
    "or azblob://HOST:PORT/ACCOUNT/CONTAINER[/PREFIX][?tls=no] where the account is no part of the host"
)
_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER: Final = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}")
_MOST_BLOB_BYTES: Final = 64 * 1024 * 1024
_MOST_DELETIONS: Final = 256
_PAGE: Final = 5000
_SET_UP_SECONDS: Final = 30.0
_LENT: Final = "rcd"  # read, create, delete: no listing, and no overwriting
_NEEDS: Final = {"put": "create (c)", "get": "read (r)", "delete": "delete (d)", "list": "list (l)"}
_TAKEN: Final = frozenset({"AuthorizationPermissionMismatch", "UnauthorizedBlobOverwrite"})
"""What Azure says of a name that is taken if the keys may create, but not write over."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a URL says: host, account, container, and what every name begins with."""

    at: HostPort
    account: str
    container: str
    prefix: str
    endpoint: str
    tls: bool = True

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL: with a port, the account is the first name of its path. Raises OperatorError."""
        parts = Parts.parse(url, "azblob", _USAGE)
        tls = parts.switch("tls", default=True) if parts.port is not None else True
        parts.finish()
        segments = list(parts.segments)
        if parts.port is None:
            account, _, rest = parts.host.partition(".")
            if not rest:
                raise parts.wrong("the URL lacks Azure's part of the host")
        else:
            account = segments.pop(0) if segments else ""
        container = segments.pop(0) if segments else ""
        if not _ACCOUNT.fullmatch(account):
            raise parts.wrong("an account is called by 3 to 24 lower-case letters and digits")
        if not _CONTAINER.fullmatch(container):
            raise parts.wrong("the URL lacks a container: 3 to 63 lower-case letters, digits and -")
        at = parts.at(tls)
        endpoint = f"https://{at.host}" if parts.port is None else f"{'https' if tls else 'http'}://{at}/{account}"
        return cls(at, account, container, parts.prefix(segments), endpoint, tls)

    @property
    def service(self) -> Service:
        """How it is called in messages."""
        return Service(_TITLE, str(self.at), f"container {self.container}", _NEEDS)

    @property
    def traits(self) -> BlobstoreTraits:
        """What it can do. It empties itself only where somebody made a rule by hand."""
        return BlobstoreTraits(max_blob_bytes=_MOST_BLOB_BYTES, list_lag=0.0, has_ttl=False, billed=True)


class AzureProvider:
    """Azure Blob Storage (`isthmus.ports.provider.BlobstoreProvider`).

    A Router is lent a shared access signature for the container, which reads, creates and deletes, and neither lists
    nor overwrites. It is for the whole container, whatever the prefix: give Isthmus one of its own.
    """

    title = _TITLE
    tried = "Azurite 3.37 (a simulator that checks signatures and permissions)"
    secrets: Sequence[Secret] = (Secret("account_key", "one of the two access keys of the storage account"),)

    def hosts(self, url: str) -> list[HostPort]:
        """Return the account's host. Raises OperatorError."""
        return [Place.parse(url).at]

    def open(self, url: str, surroundings: Surroundings) -> Blobstore:
        """Return the container. Keys: `sas` as it is lent, or `account_key` for a site of its own."""
        place = Place.parse(url)
        demand_obstore(_TITLE)

        def opener(fields: Mapping[str, str]) -> Blobstore:
            return _store(place, fields, surroundings.way, surroundings.meter)

        return LentBlobstore(surroundings.keys, opener, place.traits)

    async def lend(self, url: str, secrets: Mapping[str, str], router_id: str, way: Way) -> Loan:
        """Return a signature for the container that is good for an hour. It is made here, and nobody is asked."""
        del router_id, way  # Azure does not tell one bearer of a signature from another
        place, key = Place.parse(url), _key(secrets)
        try:
            from azure.storage.blob import generate_container_sas
        except ImportError as error:
            raise not_installed("azure", "the lending of keys for Azure") from error
        expires = SystemClock().now() + LOAN_SECONDS
        token = generate_container_sas(
            place.account,
            place.container,
            account_key=key,
            permission=_LENT,
            expiry=datetime.fromtimestamp(expires, UTC),
            protocol="https" if place.tls else None,
        )
        return Loan({"sas": token}, expires)

    async def sign(
        self, url: str, secrets: Mapping[str, str], method: str, names: Sequence[str], *, seconds: float
    ) -> list[str]:
        """Refuse: a shared access signature is lent instead, which needs no question for each blob."""
        del url, secrets, method, names, seconds
        raise OperatorError("no URLs are signed for Azure: a signature for the container is lent")

    async def set_up(self, url: str, secrets: Mapping[str, str], way: Way, *, keep_days: int) -> list[str]:
        """Make the container if it lacks; the rule that empties it takes a person, whose clicks are told."""
        place, key = Place.parse(url), _key(secrets)
        try:
            from isthmus.adapters.blobstore.containers import make_container
        except ImportError as error:
            raise not_installed("azure", "the setting up of Azure") from error
        try:
            async with asyncio.timeout(_SET_UP_SECONDS):
                made = await make_container(place.service, place.endpoint, place.account, place.container, key, way)
        except TimeoutError:
            raise place.service.late("set-up") from None
        by_hand = (
            f"to do by hand, since an access key may not: in the portal, storage account {place.account}, Lifecycle "
            f"management, add a rule for block blobs with the prefix {place.container}/{place.prefix}: "
            f"if last modified more than {keep_days} days ago, delete"
        )
        lent = "each Router is lent a signature for an hour, which reads, creates and deletes there, and lists nothing"
        return [f"{'made the' if made else 'there is a'} container {place.container}", lent, by_hand]


def _key(secrets: Mapping[str, str]) -> str:
    key = demand(secrets, "account_key", _TITLE)
    try:
        base64.b64decode(key, validate=True)
    except ValueError:
        raise ProviderTrouble(
            "account_key is no access key of Azure: those are in base64", retry=Retry.NEVER, hint="check the key"
        ) from None
    return key


def _store(place: Place, fields: Mapping[str, str], way: Way, meter: Meter) -> Blobstore:
    from obstore.store import AzureStore

    from isthmus.adapters.blobstore.objects import ONE_TRY, Manners, ObjectBlobstore, client_config, opening

    config: AzureConfig = {"account_name": place.account, "endpoint": place.endpoint, "skip_signature": False}
    credential: AzureCredential = (
        {"sas_token": fields["sas"], "expires_at": None}
        if "sas" in fields
        else {"access_key": _key(fields), "expires_at": None}
    )

    async def provide() -> "AzureCredential":
        return credential  # as a whole: given one by one, what lacks is taken from the environment

    with opening(place.service):
        opened = AzureStore(
            place.container,
            config=config,
            credential_provider=provide,
            client_options=client_config(way, allow_http=not place.tls),
            retry_config=ONE_TRY,
        )
    manners = Manners(most_deletions=_MOST_DELETIONS, page=_PAGE, says_taken=_TAKEN)
    return ObjectBlobstore(opened, place.service, place.prefix, place.traits, meter, manners)


PROVIDER: Final = AzureProvider()
