"""The bodies of the Bridge's REST API under /api/v1. Unknown fields are ignored on both sides."""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from isthmus.contract.documents import Base64, Instant, SignedDocument

API = "/api/v1"
MAX_CLOCK_SKEW = 60.0  # seconds: enough for a badly kept clock, short enough that a replay window stays small
HEARTBEAT_SECONDS = 20.0
LEASE_SECONDS = 60.0  # three heartbeats: a session that neither Router names any more is over

MOST_WAIT_SECONDS: Final = 10
"""How long the Bridge lets a request wait for a blob that is about to be put."""
MOST_DELETIONS: Final = 1000
MOST_PARTS: Final = 256
"""Of a blob that is put in parts."""

MOST_PROVIDERS: Final = 100
BUILT_IN_PROVIDER: Final = "bridge"
PROVIDER_PATTERN: Final = "^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$"
ProviderName = Annotated[str, Field(pattern=PROVIDER_PATTERN)]
"""Names a pair of cloud services in this network, in session offers and in manifests."""

REVOKED: Final = "Revoked"
"""The title of the problem (401) that a Router gets which no longer belongs to the network."""


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class BridgeIdentity(_Body):
    """Who this Bridge is, before anything is trusted: the invite pins `identity`, which endorses the certificate.

    Attributes:
        certificate_sha256: of the TLS certificate (DER) that it shows; None if it speaks no TLS itself.
        endorsement: the identity's signature over that.
        proof: its signature over the challenge, if there was one, and `certificate_sha256`.
    """

    identity: Base64
    certificate_sha256: Base64 | None = None
    endorsement: Base64 | None = None
    proof: Base64 | None = None
    version: str
    time: Instant


class Enrolment(_Body):
    """A Router's first request, signed with the key it presents."""

    site: str
    secret: Base64
    public_key: Base64
    prekey: SignedDocument
    version: str


class Enrolled(_Body):
    """The Bridge knows this Router from now on."""

    site: str
    router_id: str


class SiteEntry(_Body):
    """Another site of the network, as one Router may see it.

    Attributes:
        providers: names of the pairs of cloud services that its Router said it can use now; the built-in one always.
        statement: what that site says to the asking one; None until it accepts.
        prekey: shown only between sites of which at least one has accepted the other.
    """

    site: str
    router_id: str
    public_key: Base64
    online: bool
    providers: list[ProviderName] = Field(default_factory=list, max_length=MOST_PROVIDERS)
    statement: SignedDocument | None = None
    prekey: SignedDocument | None = None


class ProviderEntry(_Body):
    """A pair of cloud services that sessions and envelopes may use. The pair `bridge` is the built-in one.

    Attributes:
        name: by which a session or envelope names the pair.
        signalling: URL, without any secret.
        blobstore: URL, without any secret.
        priority: the pair with the smallest number goes first.
    """

    name: ProviderName
    signalling: str
    blobstore: str
    priority: int


class ProviderLoan(_Body):
    """Keys of a pair for one Router: fields as its providers understand them, good until `expires`."""

    signalling: dict[str, str] = Field(repr=False)
    blobstore: dict[str, str] = Field(repr=False)
    expires: Instant | None = None


class BlobUrlRequest(_Body):
    """Blobs for which a Router, which has no keys of its own, wants signed URLs."""

    method: Literal["GET", "PUT", "DELETE"]
    names: list[str] = Field(min_length=1, max_length=100)


class BlobUrls(_Body):
    """A signed URL for each blob, in the order asked."""

    urls: list[str] = Field(repr=False)


class UsageCount(_Body):
    """What one Router has asked of a provider since its start: requests of one kind, and the bytes they carried."""

    provider: ProviderName
    kind: Literal["put", "get", "delete", "list", "publish", "receive"]
    requests: Annotated[int, Field(ge=0, le=2**53)]
    up: Annotated[int, Field(ge=0, le=2**53)]
    down: Annotated[int, Field(ge=0, le=2**53)]


class Usage(_Body):
    """All counts of one run of a Router; they only grow, so that a report that is lost or repeated does no harm."""

    run: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    counts: list[UsageCount] = Field(max_length=6 * MOST_PROVIDERS)


class Network(_Body):
    """All that the Bridge tells one Router: `revision` changes with any of it.

    Attributes:
        own_counter: the highest statement counter it has of the asking Router, so that a restored one is not shut out.
    """

    revision: str
    site: str
    sites: list[SiteEntry]
    providers: list[ProviderEntry]
    own_counter: int
    time: Instant


class Publication(_Body):
    """Documents of the asking Router to keep: each replaces the one of its kind (and, for a statement, of its site)."""

    documents: list[SignedDocument] = Field(max_length=1000)


class BlobDeletions(_Body):
    """Names of blobs that nobody needs any more."""

    names: list[str] = Field(max_length=MOST_DELETIONS)


class BlobJoin(_Body):
    """Blobs to be made into one, in this order, since a proxy takes no body as long as the whole.

    Attributes:
        name: of the whole.
        parts: names of the blobs that it consists of, which are gone afterwards.
        sha256: of the whole.
    """

    name: str
    parts: list[str] = Field(min_length=2, max_length=MOST_PARTS)
    sha256: Base64


class SessionRequest(_Body):
    """A live session to open: the signed offer with the encrypted A-ASSOCIATE-RQ, sealed for the called site.

    Attributes:
        parent: the session whose C-MOVE or N-ACTION this association answers, if there is one.
    """

    session_id: Base64
    to_router_id: str
    calling: str
    called: str
    offer: Base64
    signature: Base64
    request: Base64
    parent: Base64 | None = None


class SessionCount(_Body):
    """A session that a Router still relays, with what it has counted."""

    session_id: Base64
    other_router_id: str
    calling: str
    called: str
    started: Instant
    bytes_out: int
    bytes_in: int


class SessionEnd(_Body):
    """A session is over: how, and what it carried."""

    outcome: str = Field(max_length=64)
    bytes_out: int
    bytes_in: int


class Heartbeat(_Body):
    """What a Router says every HEARTBEAT_SECONDS, and at once when it comes back to a Bridge.

    `providers` names the pairs that it can use now; others choose among them when they call it.
    """

    version: str
    sessions: list[SessionCount] = Field(max_length=100_000)
    providers: list[ProviderName] = Field(default_factory=list, max_length=MOST_PROVIDERS)
    usage: Usage | None = None


class HeartbeatAnswer(_Body):
    """The Bridge's time, and the revision of the network, so that a lost push heals."""

    time: Instant
    revision: str
