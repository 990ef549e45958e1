"""The gate in front of the REST API: who asks, may it be read, how much of it. Nothing is parsed before that.

Every request but the open ones is signed. Its body's SHA-256 stands in Content-Digest (RFC 9530), so that the
signature is checked before the first byte of the body is read, and the body against the digest after the last.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from isthmus.bridge.accounts.service import Account, Accounts
from isthmus.bridge.problems import problem_response
from isthmus.bridge.rates import BLOBS, NOTICES, REQUESTS, Rates
from isthmus.contract.batches import MOST_BATCH_BYTES
from isthmus.contract.rest import API, MAX_CLOCK_SKEW, REVOKED
from isthmus.envelope.requests import RequestSignature, parse_authorization, verify_request
from isthmus.errors import Problem
from isthmus.kit.clock import Clock

MAX_JSON_BYTES: Final = 1024 * 1024
MAX_BLOB_BYTES: Final = 8 * 1024 * 1024
MAX_PROBE_BYTES: Final = 8 * 1024 * 1024
SIGNALLING_PATH: Final = f"{API}/signalling"
OPEN: Final = frozenset(
    {
        ("GET", f"{API}/identity"),
        ("GET", f"{API}/health"),
        ("GET", f"{API}/metrics"),  # asks for the operator's token itself
        ("GET", f"{API}/probe"),  # bounds itself
        ("POST", f"{API}/probe"),
        ("POST", f"{API}/enrolments"),  # is signed with a key that is in its body
    }
)
_EMPTY_DIGEST: Final = hashlib.sha256(b"").digest()
_CONTENT_DIGEST: Final = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
_BLOBS: Final = f"{API}/blobs/"
_PROBE: Final = f"{API}/probe"
_NOTICES: Final = f"{API}/notices"
_MOST_BYTES: Final = {("POST", _PROBE): MAX_PROBE_BYTES, ("POST", _NOTICES): MOST_BATCH_BYTES}


class SeenNonces:
    """Which (Router, nonce) pairs were used while their time could still pass."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, bytes]] = set()
        self._before: set[tuple[str, bytes]] = set()
        self._turned = 0.0

    def use(self, signature: RequestSignature, now: float) -> bool:
        """Return True the first time."""
        return self.note(signature.router_id, signature.nonce, now)

    def note(self, router_id: str, nonce: bytes, now: float) -> bool:
        """Remember a nonce; return True the first time."""
        if now - self._turned > 2 * MAX_CLOCK_SKEW:
            # two generations, each as long as a signature can be valid: nothing is forgotten too early
            self._before = self._seen if now - self._turned < 4 * MAX_CLOCK_SKEW else set()
            self._seen, self._turned = set(), now
        pair = (router_id, nonce)
        if pair in self._seen or pair in self._before:
            return False
        self._seen.add(pair)
        return True


class Guard:
    """Checks signatures. Knows the accounts, which nonces were used, and who asks too often.

    `on_used` is told which nonces were used, except for blobs: to put, read or delete one twice does no harm.
    """

    def __init__(self, accounts: Accounts, identity: bytes, clock: Clock) -> None:
        self._accounts = accounts
        self._identity = identity
        self._clock = clock
        self._nonces = SeenNonces()
        self._requests = Rates(REQUESTS, clock)
        self._blobs = Rates(BLOBS, clock)
        self._notices = Rates(NOTICES, clock)
        self._started = clock.now()
        self.on_used: Callable[[str, bytes], None] | None = None

    def used_elsewhere(self, router_id: str, nonce: bytes) -> None:
        """Take no request of this nonce: another Bridge has taken it."""
        self._nonces.note(router_id, nonce, self._clock.now())

    def admit(self, method: str, target: str, authorization: str, digest: bytes) -> Account:
        """Return who signed this request. Raises Problem 401, or 429 if that Router asks too often."""
        signature = parse_authorization(authorization)
        if self._accounts.is_revoked(signature.router_id):
            raise Problem(401, REVOKED, detail="This Router no longer belongs to the network.")
        account = self._accounts.of_router(signature.router_id)
        if account is None:
            raise Problem(401, "Not enrolled", detail="This Router is not part of the network.")
        self.check(signature, account.public_key, method, target, digest)
        self._rates_of(target).take(account.router_id)
        return account

    def _rates_of(self, target: str) -> Rates:
        if target.startswith(_BLOBS):
            return self._blobs
        return self._notices if target.startswith(_NOTICES) else self._requests

    def forget(self, account: Account) -> None:
        """Forget how often a Router asked that left the network."""
        for rates in (self._requests, self._blobs, self._notices):
            rates.forget(account.router_id)

    def check(self, signature: RequestSignature, public: bytes, method: str, target: str, digest: bytes) -> None:
        """Return if the signature fits and was not used before. Raises Problem 401."""
        now = self._clock.now()
        verify_request(signature, public, self._identity, method, target, digest, now, MAX_CLOCK_SKEW)
        if signature.time_ms < round(self._started * 1000):
            # what was used before the start is not remembered
            raise Problem(401, "Signed too early", detail="Signed before this Bridge started; sign again.")
        if not self._nonces.use(signature, now):
            raise Problem(401, "Used before", detail="A request of this nonce was taken already.")
        if self.on_used is not None and not target.startswith(_BLOBS):
            self.on_used(signature.router_id, signature.nonce)

    def is_revoked(self, account: Account) -> bool:
        """Return whether this Router was shut out."""
        return self._accounts.is_revoked(account.router_id)

    def admit_socket(self, target: str, authorization: str) -> Account:
        """Return the account of a signed upgrade request. Raises Problem."""
        if target != SIGNALLING_PATH:
            raise Problem(404, "Not Found")
        return self.admit("GET", target, authorization, _EMPTY_DIGEST)


class Gate:
    """ASGI middleware round the whole API. The account of a signed request is at scope["state"]["caller"]."""

    def __init__(self, app: ASGIApp, guard: Guard, count: Callable[[str, str, int], None]) -> None:
        """Wrap `app`; `count` is told method, route and status of every answer."""
        self._app = app
        self._guard = guard
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                self._count(scope["method"], route, message["status"])
            await send(message)

        try:
            receive = await self._admit(scope, receive)
        except Problem as problem:
            await problem_response(problem, close=True)(scope, receive, counting_send)
            return
        await self._app(scope, receive, counting_send)

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        headers = _Headers(scope)
        method, path = scope["method"], scope["path"]
        if path == SIGNALLING_PATH:
            raise Problem(426, "Upgrade required", detail="A proxy may have taken the upgrade out of the request.")
        is_blob = method == "PUT" and path.startswith(_BLOBS)
        is_probe = method == "POST" and path == _PROBE
        limit = MAX_BLOB_BYTES if is_blob else _MOST_BYTES.get((method, path), MAX_JSON_BYTES)
        if headers.content_length() > limit:
            raise _too_large(limit)
        if (method, path) in OPEN or (method == "HEAD" and ("GET", path) in OPEN):
            return _Bounded(receive, limit) if is_probe else whole(await _read(receive, limit))
        has_body = headers.content_length() > 0 or bool(headers.get("transfer-encoding"))
        digest = headers.content_digest() if has_body else _EMPTY_DIGEST
        scope.setdefault("state", {})["caller"] = self._guard.admit(
            method, request_target(scope), headers.get("authorization"), digest
        )
        scope["state"]["digest"] = digest
        checked = _Checked(receive, digest, limit)
        return checked if is_blob else whole(await _read(checked, limit))


class _Headers:
    def __init__(self, scope: Scope) -> None:
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]

    def get(self, name: str) -> str:
        wanted = name.encode()
        return ",".join(value.decode("latin-1") for key, value in self._headers if key == wanted)

    def content_length(self) -> int:
        text = self.get("content-length")
        return int(text) if text.isascii() and text.isdigit() else 0

    def content_digest(self) -> bytes:
        match = _CONTENT_DIGEST.fullmatch(self.get("content-digest"))
        if match is None:
            raise Problem(401, "Not signed", detail="A request with a body carries Content-Digest: sha-256=:...:")
        return base64.b64decode(match[1])


class _Bounded:
    """Receives a body part by part, up to a limit."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = self._left = limit

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise _too_large(self._limit)
        return message


class _Checked(_Bounded):
    """Refuses a body at its end, too, if it is not the one that was signed."""

    def __init__(self, receive: Receive, digest: bytes, limit: int) -> None:
        super().__init__(receive, limit)
        self._digest = digest
        self._hash = hashlib.sha256()

    async def __call__(self) -> Message:
        message = await super().__call__()
        if message["type"] != "http.request":
            return message
        self._hash.update(message.get("body", b""))
        if not message.get("more_body", False) and not hmac.compare_digest(self._hash.digest(), self._digest):
            raise Problem(401, "Not what was signed", detail="The body is not the one that Content-Digest names.")
        return message


async def _read(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "Incomplete", detail="The connection closed inside the body.")
        body: bytes = message.get("body", b"")
        size += len(body)
        if size > limit:
            raise _too_large(limit)
        parts.append(body)
        if not message.get("more_body", False):
            return b"".join(parts)


def whole(body: bytes) -> Receive:
    """Return what gives a body that was read already."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


def request_target(scope: Scope) -> str:
    """Return path and query as they stood in the request line."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return (raw + b"?" + query if query else raw).decode("latin-1")


def _too_large(limit: int) -> Problem:
    return Problem(413, "Too large", detail=f"At most {limit} bytes are taken here.")
