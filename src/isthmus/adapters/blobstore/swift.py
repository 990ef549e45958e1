"""`swift:` keeps blobs in a container of OpenStack Swift, or of Ceph's gateway, which speaks its protocol too."""

import asyncio
import hashlib
import hmac
import json
import re
import secrets as random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol, Self
from urllib.parse import urlencode

from isthmus.adapters.blobstore.lent import PRESIGNED, LentBlobstore, demand
from isthmus.adapters.blobstore.place import Parts
from isthmus.adapters.blobstore.trouble import Service, check_name
from isthmus.adapters.blobstore.web import Answer, Web
from isthmus.errors import BlobExists, BlobMissing, ProviderTrouble, Retry
from isthmus.kit.clock import Clock, SystemClock
from isthmus.kit.names import HostPort
from isthmus.ports.blobstore import BlobInfo, Blobstore, BlobstoreTraits
from isthmus.ports.provider import Keys, Loan, Meter, Secret, Surroundings, Way

_TITLE: Final = "Swift"
_USAGE: Final = (
    "swift://HOST[:PORT]/CONTAINER[/PREFIX]?storage=/v1/AUTH_account[&auth=/auth/v1.0][&digest=sha1][&tls=no]"
)
_CONTAINER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}")
_PATH: Final = re.compile(r"(/[A-Za-z0-9_.-]+){1,6}")
_DIGESTS: Final = {"sha1": hashlib.sha1, "sha256": hashlib.sha256, "sha512": hashlib.sha512}
_MOST_BLOB_BYTES: Final = 64 * 1024 * 1024
_MOST_DELETIONS: Final = 1000
_PAGE: Final = 1000
_MOST_LISTING: Final = 4 * 1024 * 1024
_KEPT_DAYS: Final = 30
_KEPT: Final = _KEPT_DAYS * 86400
_OLD_TOKEN: Final = 401
_IF_ABSENT: Final = {"If-None-Match": "*"}
_NEEDS: Final = {"put": "write", "get": "read", "delete": "write", "list": "read"}


@dataclass(frozen=True, slots=True)
class Place:
    """What a URL says: the store, the path of the account there, container and prefix, where one logs in."""

    at: HostPort
    storage: str
    auth: str
    container: str
    prefix: str
    digest: str = "sha256"
    tls: bool = True

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL. Raises OperatorError."""
        parts = Parts.parse(url, "swift", _USAGE)
        storage, auth = parts.query.pop("storage", ""), parts.query.pop("auth", "/auth/v1.0")
        digest, tls = parts.query.pop("digest", "sha256"), parts.switch("tls", default=True)
        parts.finish()
        container, *segments = parts.segments or [""]
        if not _CONTAINER.fullmatch(container):
            raise parts.wrong("the URL lacks a container: letters, digits, - and _")
        if not _PATH.fullmatch(storage) or not _PATH.fullmatch(auth):
            raise parts.wrong("storage is the path of the account at the store; auth that of the login")
        if digest not in _DIGESTS:
            raise parts.wrong(f"digest is one of {', '.join(_DIGESTS)}")
        return cls(parts.at(tls), storage, auth, container, parts.prefix(segments), digest, tls)

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self.tls else 'http'}://{self.at}"

    @property
    def path(self) -> str:
        """The path of the container."""
        return f"{self.storage}/{self.container}"

    @property
    def service(self) -> Service:
        """How it is called in messages."""
        return Service(_TITLE, str(self.at), f"container {self.container}", _NEEDS)

    @property
    def traits(self) -> BlobstoreTraits:
        """What it can do. Swift's listings are of a database that is behind now and then."""
        return BlobstoreTraits(max_blob_bytes=_MOST_BLOB_BYTES, list_lag=10.0, has_ttl=True)

    def signed(self, method: str, name: str, signing_key: bytes, expires: int) -> str:
        """Return a temporary URL for a blob (Swift's middleware "tempurl")."""
        path = f"{self.path}/{self.prefix}{check_name(name)}"
        signature = hmac.new(signing_key, f"{method}\n{expires}\n{path}".encode(), _DIGESTS[self.digest]).hexdigest()
        return f"{self.origin}{path}?temp_url_sig={signature}&temp_url_expires={expires}"


class Access(Protocol):
    """How one may do something with a blob."""

    lists: bool

    async def request(self, method: str, name: str) -> tuple[str, dict[str, str]]:
        """Return the URL and the header fields of a request. Raises ProviderTrouble."""
        ...

    def refused(self) -> None:
        """The last answer was that nobody is logged in."""
        ...


class Login:
    """Logs in with user and key (TempAuth, "v1"), and keeps the token until it is refused."""

    lists = True

    def __init__(self, place: Place, web: Web, user: str, key: str) -> None:
        self._place = place
        self._web = web
        self._fields = {"X-Auth-User": user, "X-Auth-Key": key}
        self._token = ""
        self._asking = asyncio.Lock()

    async def request(self, method: str, name: str) -> tuple[str, dict[str, str]]:
        """Return a blob's URL, and the token; an empty name means the container."""
        del method
        key = f"/{self._place.prefix}{check_name(name)}" if name else ""
        return f"{self._place.origin}{self._place.path}{key}", {"X-Auth-Token": await self._login()}

    def refused(self) -> None:
        """The token is old."""
        self._token = ""

    async def _login(self) -> str:
        async with self._asking:
            if not self._token:
                answer = await self._web.ask(
                    "log in", "GET", f"{self._place.origin}{self._place.auth}", headers=self._fields
                )
                self._token = answer.headers.get("X-Auth-Token", "")
                if answer.status == _OLD_TOKEN or (answer.status < 300 and not self._token):
                    raise ProviderTrouble(
                        f"{self._place.service} refuses the user or the key", retry=Retry.NEVER, hint="check both"
                    )
                if answer.status >= 300:
                    raise self._place.service.refusal("log in", answer.status)
            return self._token


class Signed:
    """Has the Bridge sign a temporary URL for each request."""

    lists = False

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def request(self, method: str, name: str) -> tuple[str, dict[str, str]]:
        """Return a signed URL. One for GET is good for HEAD as well."""
        (url,) = await self._keys.urls("GET" if method == "HEAD" else method, [check_name(name)])
        return url, {}

    def refused(self) -> None:
        """The next URL is another anyway."""


class SwiftBlobstore:
    """A container, or what is below a prefix there.

    Swift heeds If-None-Match where a blob is put, Ceph's gateway does not. Which it is, is tried out once. Where it
    does not, a name is looked at before it is put: of two who create it in the same moment, the later one overwrites
    the other. Names are random, so that nobody else creates ours.
    """

    def __init__(self, place: Place, web: Web, access: Access, meter: Meter) -> None:
        self.traits = place.traits
        self._place = place
        self._service = place.service
        self._web = web
        self._access = access
        self._meter = meter
        self._heeds: bool | None = None
        self._trying = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<SwiftBlobstore: {self._service}>"

    async def put(self, name: str, body: bytes) -> None:
        """Create a blob. Raises BlobExists."""
        check_name(name)
        if len(body) > _MOST_BLOB_BYTES:
            raise self._service.too_large(len(body), _MOST_BLOB_BYTES)
        async with self._trying:
            if self._heeds is None:
                self._heeds = await self._try_out()
        if not self._heeds:
            present = await self._ask("get", "HEAD", name)
            if present.status < 300:
                await self._compare(name, body)
                return
        answer = await self._put(name, body)
        if answer.status in {409, 412}:
            await self._compare(name, body)
        elif answer.status >= 300:
            raise self._refusal("put", answer)

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        """Return a blob. Raises BlobMissing."""
        del wait  # nobody tells us when it comes
        answer = await self._ask("get", "GET", check_name(name), most=_MOST_BLOB_BYTES)
        if answer.status == 404 and not _is_about_container(answer):
            raise BlobMissing(name)
        if answer.status != 200:
            raise self._refusal("get", answer)
        return answer.body

    async def delete(self, *names: str) -> None:
        """Delete blobs: with a login many in one request, else one each."""
        if self._access.lists and len(names) > 1:
            for first in range(0, len(names), _MOST_DELETIONS):
                await self._delete_many(names[first : first + _MOST_DELETIONS])
            return
        for name in names:
            answer = await self._ask("delete", "DELETE", check_name(name))
            if answer.status >= 300 and (answer.status != 404 or _is_about_container(answer)):
                raise self._refusal("delete", answer)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Yield the blobs whose names start with `prefix`. Signed URLs list nothing."""
        if not self._access.lists:
            raise ProviderTrouble(f"{self._service}: signed URLs list nothing", retry=Retry.NEVER)
        marker, whole = "", self._place.prefix + prefix
        while True:
            query = urlencode({"format": "json", "limit": _PAGE, "prefix": whole, "marker": marker})
            answer = await self._ask("list", "GET", "", query=f"?{query}", most=_MOST_LISTING)
            if answer.status >= 300:
                raise self._refusal("list", answer)
            rows = json.loads(answer.body or b"[]")
            for row in rows:
                marker = row["name"]
                modified = datetime.fromisoformat(row["last_modified"].removesuffix("Z")).replace(tzinfo=UTC)
                yield BlobInfo(marker.removeprefix(self._place.prefix), row["bytes"], modified.timestamp())
            if len(rows) < _PAGE:
                return

    async def close(self) -> None:
        """Let go of connections."""
        await self._web.close()

    async def _put(self, name: str, body: bytes) -> Answer:
        return await self._ask("put", "PUT", name, headers={**_IF_ABSENT, "X-Delete-After": str(_KEPT)}, body=body)

    async def _try_out(self) -> bool:
        """Return whether this store heeds If-None-Match: a blob of our own is put twice."""
        name = f"tried-{random.token_hex(16)}"
        answers = [await self._put(name, body) for body in (b"1", b"2")]
        await self.delete(name)
        for answer in answers:
            if answer.status >= 300 and answer.status != 412:
                raise self._refusal("put", answer)
        return answers[1].status == 412

    async def _compare(self, name: str, body: bytes) -> None:
        try:
            present = await self.get(name)
        except BlobMissing:
            raise self._service.contested() from None
        if present != body:
            raise BlobExists(name)

    async def _delete_many(self, names: Sequence[str]) -> None:
        lines = "".join(f"{self._place.container}/{self._place.prefix}{check_name(name)}\n" for name in names)
        fields = {"Content-Type": "text/plain", "Accept": "application/json"}
        answer = await self._ask("delete", "POST", "", query="?bulk-delete", headers=fields, body=lines.encode())
        if answer.status >= 300:
            raise self._refusal("delete", answer)
        said = json.loads(answer.body or b"{}")
        failed = [error for error in said.get("Errors", []) if not str(error[1]).startswith("404")]
        status = str(said.get("Response Status", "200"))[:3]
        if failed:
            status = str(failed[0][1])[:3]
        if status.isdigit() and int(status) >= 400 and status != "404":
            raise self._service.refusal("delete", int(status))

    async def _ask(
        self,
        operation: str,
        method: str,
        name: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        most: int = 16 * 1024,
    ) -> Answer:
        """Make a request, and once more after a new login if it is the login that is refused."""
        for left in (1, 0):
            url, fields = await self._access.request(method, name)
            if query == "?bulk-delete":
                url = f"{self._place.origin}{self._place.storage}"
            down = 0
            try:
                answer = await self._web.ask(
                    operation, method, url + query, headers={**fields, **(headers or {})}, body=body, most=most
                )
                down = len(answer.body)
            finally:
                self._meter.count(operation, up=len(body or b""), down=down)
            if answer.status == _OLD_TOKEN and left and self._access.lists:
                self._access.refused()
                continue
            break
        return answer

    def _refusal(self, operation: str, answer: Answer) -> ProviderTrouble:
        code = "NoSuchBucket" if _is_about_container(answer) else ""
        return self._service.refusal(operation, answer.status, code)


class SwiftProvider:
    """OpenStack Swift (`isthmus.ports.provider.BlobstoreProvider`).

    `swift://HOST[:PORT]/CONTAINER[/PREFIX]?storage=PATH`: `storage` is the path of the account at the store, such as
    /v1/AUTH_abc. Routers are lent nothing: the Bridge signs a temporary URL for each request. `digest=sha1` is for
    stores that know no other, such as Ceph up to 16. One logs in as TempAuth has it; Keystone is not spoken.
    """

    title = "OpenStack Swift"
    tried = "Ceph's gateway 16.2 (which lets the later of two simultaneous creators win)"
    secrets: Sequence[Secret] = (Secret("user", "account:user"), Secret("key", "that user's key"))

    def hosts(self, url: str) -> list[HostPort]:
        """Return the store's host. Raises OperatorError."""
        return [Place.parse(url).at]

    def open(self, url: str, surroundings: Surroundings) -> Blobstore:
        """Return the container. Keys: that the Bridge signs, or `user` and `key` of a site of its own."""
        place = Place.parse(url)

        def opener(fields: Mapping[str, str]) -> Blobstore:
            web = Web(place.service, surroundings.way)
            access: Access
            if fields.get(PRESIGNED):
                access = Signed(surroundings.keys)
            else:
                access = Login(place, web, demand(fields, "user", _TITLE), demand(fields, "key", _TITLE))
            return SwiftBlobstore(place, web, access, surroundings.meter)

        return LentBlobstore(surroundings.keys, opener, place.traits)

    async def lend(self, url: str, secrets: Mapping[str, str], router_id: str, way: Way) -> Loan:
        """Say that URLs are signed: a login would be for the whole account."""
        del router_id, way
        Place.parse(url)
        demand(secrets, "key", _TITLE)
        return Loan({PRESIGNED: "yes"})

    async def sign(
        self, url: str, secrets: Mapping[str, str], method: str, names: Sequence[str], *, seconds: float
    ) -> list[str]:
        """Return temporary URLs."""
        return signed_urls(Place.parse(url), secrets, method, names, seconds=seconds, clock=SystemClock())

    async def set_up(self, url: str, secrets: Mapping[str, str], way: Way, *, keep_days: int) -> list[str]:
        """Make the container, and tell the account the key by which URLs are signed. Blobs go after 30 days."""
        place = Place.parse(url)
        web = Web(place.service, way)
        try:
            login = Login(place, web, demand(secrets, "user", _TITLE), demand(secrets, "key", _TITLE))
            target, fields = await login.request("PUT", "")
            signing = {"X-Account-Meta-Temp-URL-Key-2": _signing_key(secrets).decode()}
            answer = await web.ask("make a container", "PUT", target, headers=fields)
            if answer.status < 300:
                account = f"{place.origin}{place.storage}"
                answer = await web.ask("set a key", "POST", account, headers={**fields, **signing})
            if answer.status >= 300:
                raise place.service.refusal("set up", answer.status)
        finally:
            await web.close()
        said = [
            f"the container {place.container} is there",
            "the account knows, as its second key for temporary URLs, the one by which the Bridge signs",
        ]
        if keep_days < _KEPT_DAYS:
            said.append(
                f"blobs go by themselves after {_KEPT_DAYS} days, whatever else is asked for: each says so itself"
            )
        return said


def signed_urls(
    place: Place, secrets: Mapping[str, str], method: str, names: Sequence[str], *, seconds: float, clock: Clock
) -> list[str]:
    """Return temporary URLs for blobs."""
    expires, key = int(clock.now() + seconds), _signing_key(secrets)
    return [place.signed(method, name, key, expires) for name in names]


def _signing_key(secrets: Mapping[str, str]) -> bytes:
    """Return the key for temporary URLs: it follows from the user's, which it does not give away."""
    key = demand(secrets, "key", _TITLE).encode()
    return hmac.new(key, b"isthmus temporary URLs", hashlib.sha256).hexdigest().encode()


def _is_about_container(answer: Answer) -> bool:
    """Swift says nothing of that in a 404 for a blob; Ceph's gateway does."""
    return answer.status == 404 and "NoSuchBucket" in answer.text


PROVIDER: Final = SwiftProvider()
