"""The Router's way to the Bridge: one warm HTTPS connection, pinned to the Bridge's identity, every request signed.

The Bridge proves with its identity key that it is the one of the invite, and names its certificate. TLS is trusted if
that is the very certificate that the connection shows; if the Bridge speaks no TLS itself, if a CA that the machine
knows vouches for who does. Where a proxy opens TLS on the way, only a CA that was given here may have signed for it.
Proxies of the environment (HTTPS_PROXY, NO_PROXY) are honoured.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import aiohttp
import structlog
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import get_env_proxy_for_url
from pydantic import BaseModel, ValidationError
from yarl import URL

from isthmus import __version__
from isthmus.contract.documents import SignedDocument
from isthmus.contract.invites import Invite
from isthmus.contract.rest import (
    API,
    BlobUrlRequest,
    BlobUrls,
    BridgeIdentity,
    Enrolled,
    Enrolment,
    Heartbeat,
    HeartbeatAnswer,
    Network,
    ProviderLoan,
    Publication,
    SessionCount,
    SessionEnd,
    SessionRequest,
    Usage,
)
from isthmus.envelope.certificates import CHALLENGE_BYTES, check_endorsement, check_proof
from isthmus.envelope.identity import Identity, Random
from isthmus.envelope.requests import NONCE_BYTES, sign_request
from isthmus.errors import OperatorError, Problem, ProviderTrouble, Retry, Untrusted
from isthmus.kit.clock import Clock, SystemClock
from isthmus.kit.gathering import Gathering
from isthmus.kit.line import Line
from isthmus.kit.reasons import in_words
from isthmus.ports.pacing import Pacing, Urgency

_log = structlog.get_logger()

REQUEST_SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 5.0
KEEP_ALIVE_SECONDS: Final = 50.0  # above two heartbeats, below what proxies grant: a call never pays for TLS set-up
_CONNECTIONS: Final = 32
_PROXY_WANTS_ACCOUNT: Final = 407
_TRUST_TRIES: Final = 3
_MOST_ENDORSED: Final = 16
_BLOBS: Final = "/blobs/"
_QUEUED_BLOBS: Final = "/blobs/q/"
_EMPTY_DIGEST: Final = hashlib.sha256(b"").digest()
_WRITE_BYTES: Final = 256 * 1024
_LONG_BYTES: Final = 512 * 1024  # of a body, whose digest then takes longer than the way to a thread and back
_READ_BYTES: Final = 1024 * 1024  # what a connection holds before it makes the Bridge wait
_SLOWEST: Final = 32 * 1024  # bytes a second that a way must carry for a request not to be given up
Answer = TypeVar("Answer", bound=BaseModel)
_MOST_ANSWER_BYTES: Final = 64 * 1024 * 1024  # a network of many sites, each with many devices


class RefusedOnTheWay(ProviderTrouble):
    """An answer that is not in the Bridge's own words: a proxy in between gave it. `status` is HTTP's."""

    def __init__(self, status: int) -> None:
        super().__init__(
            f"the way to the Bridge answers {status}",
            retry=Retry.LATER,
            hint="isthmus router check URL tells what stands in between",
        )
        self.status: Final = status


class _Endorsed(aiohttp.Fingerprint):
    """Trusts the certificates that the Bridge's identity named: one, or those of several Bridges behind one address."""

    def __init__(self, digests: tuple[bytes, ...]) -> None:
        super().__init__(digests[0])
        self._digests = digests

    def check(self, transport: asyncio.Transport) -> None:
        """Raise ServerFingerprintMismatch if another certificate is shown."""
        shown = transport.get_extra_info("ssl_object")
        if shown is None or hashlib.sha256(shown.getpeercert(binary_form=True)).digest() not in self._digests:
            super().check(transport)


class BridgeConnection:
    """What a Router asks of its Bridge.

    Every method raises Problem if the Bridge says no, ProviderTrouble if it cannot be reached, and Untrusted if what
    answers is not the pinned Bridge.

    Attributes:
        offset: seconds to add to this machine's clock to get the Bridge's.
        url: the Bridge's URL.
        up: the cap on what goes to the Bridge, if the operator set one.
        down: the cap on what comes from it.
    """

    def __init__(
        self,
        url: str,
        bridge_identity: bytes,
        identity: Identity,
        *,
        ca: Path | None = None,
        clock: Clock | None = None,
        random: Random = secrets.token_bytes,
    ) -> None:
        """Describe the way; nothing is connected yet.

        Args:
            url: where the Bridge is, as in the invite.
            bridge_identity: its Ed25519 public key, as in the invite.
            identity: ours, which signs.
            ca: PEM file of a CA to trust beside those of the machine.
            clock: the machine's clock.
            random: chance, for nonces.
        """
        self.url = url.rstrip("/")
        self.offset = 0.0
        self.up: Pacing | None = None
        self.down: Pacing | None = None
        self._bridge_identity = bridge_identity
        self._identity = identity
        self._ca = ca
        self._clock = clock or SystemClock()
        self._random = random
        self._session: aiohttp.ClientSession | None = None
        self._trust: ssl.SSLContext | aiohttp.Fingerprint | bool | None = None
        self._connecting = asyncio.Lock()
        self._endorsed: tuple[bytes, ...] = ()
        self._told_inspected = False
        self._line = Line(self._clock)

    def __repr__(self) -> str:
        return f"<BridgeConnection of {self._identity.router_id} at {self.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def own_id(self) -> str:
        """The Router ID that signs, which is also its mailbox."""
        return self._identity.router_id

    async def close(self) -> None:
        """Let go of every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._line.close()

    # the API

    async def identity(self) -> BridgeIdentity:
        """Return who the Bridge says it is, checked against the pin and the connection's certificate."""
        self._trust = None
        return await self._establish_trust()

    async def enrol(self, invite: Invite, prekey: SignedDocument) -> Enrolled:
        """Spend an invite; repeating it with the same key is harmless."""
        body = Enrolment(
            site=invite.site,
            secret=invite.secret,
            public_key=self._identity.public,
            prekey=prekey,
            version=__version__,
        )
        return await self._ask("POST", "/enrolments", Enrolled, body)

    async def network(self) -> Network:
        """Return the network as the Bridge tells it; its documents are still to be verified."""
        network = await self._ask("GET", "/network", Network)
        self.offset = network.time - self._clock.now()
        return network

    async def publish(self, documents: Sequence[SignedDocument]) -> None:
        """Have the Bridge keep these documents, all or none."""
        await self.request("PUT", "/records", Publication(documents=list(documents)))

    async def open_session(self, session: SessionRequest) -> None:
        """Have a session offered to the called site; returns when the offer is on its way."""
        await self.request("POST", "/sessions", session)

    async def end_session(self, session_id: bytes, end: SessionEnd) -> None:
        """Say that a session is over."""
        await self.request("DELETE", f"/sessions/{session_id.hex()}", end)

    async def heartbeat(
        self, counts: Sequence[SessionCount], *, pairs: Sequence[str] = (), usage: Usage | None = None
    ) -> HeartbeatAnswer:
        """Keep sessions alive and the connection warm; say which cloud pairs can be used here."""
        asked = self._clock.now()
        beat = Heartbeat(version=__version__, sessions=list(counts), providers=list(pairs), usage=usage)
        answer = await self._ask("POST", "/heartbeat", HeartbeatAnswer, beat)
        self.offset = answer.time - (asked + self._clock.now()) / 2
        return answer

    async def loan(self, pair: str) -> ProviderLoan:
        """Have the keys of a cloud pair lent."""
        return await self._ask("POST", f"/providers/{pair}/loan", ProviderLoan)

    async def blob_urls(self, pair: str, request: BlobUrlRequest) -> BlobUrls:
        """Have URLs signed for blobs."""
        return await self._ask("POST", f"/providers/{pair}/urls", BlobUrls, request)

    # what the adapters of the built-in providers need

    async def request(
        self,
        method: str,
        path: str,
        body: BaseModel | bytes | None = None,
        *,
        query: str = "",
        most_bytes: int = 0,
        wait: float = 0.0,
    ) -> bytes:
        """Send one signed request below the API's root and return the body of its good answer.

        `most_bytes` is how long the body, or its answer, may be; it is given more time, as a slow way would need.
        `wait` is for how many seconds the Bridge was asked to hold its answer.
        """
        is_json = isinstance(body, BaseModel)
        content = body.model_dump_json(exclude_none=True).encode() if isinstance(body, BaseModel) else body
        target = f"{API}{path}{'?' + query if query else ''}"
        up, down = (_Paced.of(pacing, path) for pacing in (self.up, self.down))
        digest = None if content is None else await _digest(content)
        line = self._line if path.startswith(_QUEUED_BLOBS) else None
        for attempt in (1, 2):
            session, trust = await self._ready()
            headers = self._signed(method, target, digest)
            if content is not None:
                headers["Content-Type"] = "application/json" if is_json else "application/octet-stream"
            try:
                async with session.request(
                    method,
                    URL(self.url + target, encoded=True),  # as it was signed
                    data=None if content is None else _Body(content, up, line),
                    headers=headers,
                    ssl=trust,
                    allow_redirects=False,
                    timeout=_timeout(most_bytes, up, down, wait=wait),
                ) as response:
                    return await _good(response, down)
            except (aiohttp.ServerFingerprintMismatch, aiohttp.ClientConnectorCertificateError) as error:
                # the certificate was renewed, or is not the Bridge's: only the pinned identity can say
                self._trust = None
                if attempt == 2:
                    raise Untrusted("the Bridge's certificate is not endorsed by the pinned identity") from error
            except aiohttp.ServerDisconnectedError as error:
                # a warm connection that was cut while idle; each request of this API may be made twice
                if attempt == 2:
                    raise _unreachable(self.url, error) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise _unreachable(self.url, error) from error
        raise AssertionError("unreachable: the second attempt returns or raises")

    async def upgrade(self, path: str) -> tuple[aiohttp.ClientResponse, asyncio.Transport]:
        """Open a WebSocket; return the response, to be kept and closed with it, and the transport, paused."""
        session, trust = await self._ready()
        target = f"{API}{path}"
        key = base64.b64encode(self._random(16)).decode()
        headers = self._signed("GET", target, None) | {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                response = await session.get(
                    URL(self.url + target, encoded=True),
                    headers=headers,
                    ssl=trust,
                    allow_redirects=False,
                    timeout=timeout,
                )
        except (aiohttp.ServerFingerprintMismatch, aiohttp.ClientConnectorCertificateError) as error:
            self._trust = None
            raise _unreachable(self.url, error) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(self.url, error) from error
        if response.status != 101:
            async with response:
                await _good(response)
            raise ProviderTrouble("the Bridge did not open a WebSocket", retry=Retry.LATER)
        connection = response.connection
        accept = base64.b64encode(hashlib.sha1(key.encode() + _WEBSOCKET_GUID, usedforsecurity=False).digest())
        transport = connection.transport if connection is not None else None
        if transport is None or response.headers.get("Sec-WebSocket-Accept") != accept.decode():
            response.close()
            raise ProviderTrouble("what answers for the Bridge speaks no WebSocket", retry=Retry.LATER)
        transport.pause_reading()
        return response, transport

    # trust

    async def _ready(self) -> tuple[aiohttp.ClientSession, ssl.SSLContext | aiohttp.Fingerprint | bool]:
        if self._session is None or self._trust is None:
            async with self._connecting:
                if self._session is None or self._trust is None:
                    await self._establish_trust()
        assert self._session is not None
        assert self._trust is not None
        return self._session, self._trust

    async def _establish_trust(self) -> BridgeIdentity:
        if self._session is None:
            self._session = _make_session(self.url)
        if not self.url.startswith("https:"):
            return await self._trust_if_pinned(True)
        for asked in range(_TRUST_TRIES):
            # twice from the second time on: Bridges behind one address answer in turns, each with a certificate
            for _ in range(min(asked, 1) + 1):
                said = await self._ask_identity(False)  # what it says is signed; nothing is sent to it yet
                if said.certificate_sha256 is None:
                    return await self._trust_authorities()
                self._endorsed = (said.certificate_sha256, *self._endorsed)[:_MOST_ENDORSED]
            with contextlib.suppress(aiohttp.ServerFingerprintMismatch):
                return await self._trust_if_pinned(_Endorsed(self._endorsed))
        return await self._trust_inspected()

    async def _trust_authorities(self) -> BridgeIdentity:
        """The Bridge speaks no TLS itself: whoever does for it is vouched for by a CA."""
        try:
            return await self._trust_if_pinned(await asyncio.to_thread(_ca_context, self._ca))
        except aiohttp.ClientConnectorCertificateError as error:
            raise Untrusted(
                "the Bridge's certificate is by an unknown CA, and not endorsed", hint="isthmus router join --ca FILE"
            ) from error

    async def _trust_inspected(self) -> BridgeIdentity:
        """Another certificate than the Bridge's is shown: somebody opens TLS, which only a CA given here may do."""
        hint = "exempt the Bridge from TLS inspection, or allow it: isthmus router join --ca FILE"
        if self._ca is None:
            raise Untrusted("TLS to the Bridge is opened on the way: the certificate is not the Bridge's", hint=hint)
        try:
            said = await self._trust_if_pinned(await asyncio.to_thread(_ca_context, self._ca, alone=True))
        except aiohttp.ClientConnectorCertificateError as error:
            raise Untrusted("TLS to the Bridge is opened on the way, and not by the CA of --ca", hint=hint) from error
        if not self._told_inspected:
            self._told_inspected = True
            _log.warning("TLS to the Bridge is opened on the way, as --ca allows", ca=str(self._ca))
        return said

    async def _trust_if_pinned(self, trust: ssl.SSLContext | aiohttp.Fingerprint | bool) -> BridgeIdentity:
        said = await self._ask_identity(trust)
        self._trust = trust
        self.offset = said.time - self._clock.now()
        return said

    async def _ask_identity(self, trust: ssl.SSLContext | aiohttp.Fingerprint | bool) -> BridgeIdentity:
        """Return what the Bridge says of itself, proven with its identity key for this very question."""
        assert self._session is not None
        challenge = self._random(CHALLENGE_BYTES)
        url = f"{self.url}{API}/identity?challenge={challenge.hex()}"
        try:
            headers = {"Connection": "close"} if trust is False else {}  # the next one may be another Bridge's
            async with self._session.get(url, ssl=trust, headers=headers, allow_redirects=False) as response:
                said = _parsed(BridgeIdentity, await _good(response))
        except (aiohttp.ServerFingerprintMismatch, aiohttp.ClientConnectorCertificateError):
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(self.url, error) from error
        if said.identity != self._bridge_identity:
            raise Untrusted("this is not the Bridge that the invite was for", hint="was the Bridge set up anew?")
        check_proof(self._bridge_identity, challenge, said.certificate_sha256, said.proof or b"")
        if said.certificate_sha256 is not None:
            check_endorsement(self._bridge_identity, said.certificate_sha256, said.endorsement or b"")
        return said

    def _signed(self, method: str, target: str, digest: bytes | None) -> dict[str, str]:
        """Return the headers of a request whose body has this SHA-256, or that has none."""
        now = self._clock.now() + self.offset
        authorization = sign_request(
            self._identity,
            self._bridge_identity,
            method,
            target,
            digest or _EMPTY_DIGEST,
            now,
            self._random(NONCE_BYTES),
        )
        headers = {"Authorization": authorization}
        if digest is not None:
            headers["Content-Digest"] = f"sha-256=:{base64.b64encode(digest).decode()}:"
        return headers

    async def _ask(self, method: str, path: str, model: type[Answer], body: BaseModel | None = None) -> Answer:
        return _parsed(model, await self.request(method, path, body))


_WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class _Paced:
    """A cap as one request for a blob has to keep it: what is queued waits for what is live."""

    def __init__(self, pacing: Pacing, urgency: Urgency) -> None:
        self.pacing = pacing
        self.urgency = urgency

    @classmethod
    def of(cls, pacing: Pacing | None, path: str) -> Self | None:
        """Return how a request for `path` keeps the cap; None: there is none, or the request is small."""
        if pacing is None or pacing.is_free or not path.startswith(_BLOBS):
            return None
        return cls(pacing, Urgency.QUEUED if path.startswith(_QUEUED_BLOBS) else Urgency.LIVE)

    async def take(self, size: int) -> None:
        """Return when so many bytes may go."""
        await self.pacing.take(size, self.urgency)


class _Body(aiohttp.Payload):
    """A body in memory, handed to the connection in slices without a copy."""

    _value: bytes

    def __init__(self, content: bytes, paced: _Paced | None, line: Line | None) -> None:
        super().__init__(content)
        self._size = len(content)
        self._paced = paced
        self._line = line

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        transport = writer.transport
        if self._line is not None:
            self._line.carry(transport, len(self._value))
        writer.send_headers()  # with the first slice they would be copied into one
        view = memoryview(self._value)
        paced = self._paced
        step = _WRITE_BYTES if paced is None else paced.pacing.slice_bytes
        try:
            for start in range(0, len(view), step):
                if paced is not None:
                    await paced.take(min(step, len(view) - start))
                await writer.write(view[start : start + step])
        except asyncio.CancelledError:
            if transport is not None:  # it is closed by now, but would first send all that waits
                transport.abort()
            raise


async def _digest(content: bytes) -> bytes:
    """Return the SHA-256 of a body; a long one is left to a thread, which does not hold up the others."""
    if len(content) < _LONG_BYTES:
        return hashlib.sha256(content).digest()
    return (await asyncio.to_thread(hashlib.sha256, content)).digest()


def _make_session(url: str) -> aiohttp.ClientSession:
    proxy = None
    # looked up once: left to aiohttp, each request takes a thread, and reads netrc
    with contextlib.suppress(LookupError):
        proxy, account = get_env_proxy_for_url(URL(url))
        if account is not None:
            proxy = proxy.with_user(account.login).with_password(account.password)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=KEEP_ALIVE_SECONDS),
        timeout=_timeout(0),
        headers={"User-Agent": f"isthmus/{__version__}"},
        auto_decompress=False,
        proxy=proxy,
        read_bufsize=_READ_BYTES,
    )


def _timeout(most_bytes: int, *caps: _Paced | None, wait: float = 0.0) -> aiohttp.ClientTimeout:
    """Return how long a request may take: in all, and without a byte of its answer."""
    rates = [cap.pacing.rate / _CONNECTIONS for cap in caps if cap is not None and cap.pacing.rate is not None]
    return aiohttp.ClientTimeout(
        total=wait + REQUEST_SECONDS + most_bytes / min(_SLOWEST, *rates, _SLOWEST),
        sock_connect=CONNECT_SECONDS,
        sock_read=wait + REQUEST_SECONDS,
    )


def usable_ca(ca: Path) -> Path:
    """Return the absolute path of a PEM file of certificates. Raises OperatorError if `ca` is none that can be read."""
    ca = ca.expanduser().absolute()
    try:
        ssl.create_default_context().load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise OperatorError(
            f"cannot use the CA file {ca}: {error}", hint="a PEM file of certificates is meant"
        ) from error
    return ca


def _ca_context(ca: Path | None, *, alone: bool = False) -> ssl.SSLContext:
    """Return what trusts the machine's CAs and this one, or this one `alone`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if alone else ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as error:  # ssl.SSLError is one
            raise ProviderTrouble(f"cannot use the CA file {ca}: {error}", retry=Retry.LATER) from error
    return context


async def _good(response: aiohttp.ClientResponse, paced: _Paced | None = None) -> bytes:
    parts: list[bytes] = []
    size = 0
    length = response.content_length or 0
    gathering = Gathering(response.connection.transport if response.connection is not None else None)
    pieces = response.content.iter_any() if paced is None else response.content.iter_chunked(paced.pacing.slice_bytes)
    try:
        gathering.expect(length)
        async for part in pieces:
            if paced is not None:
                await paced.take(len(part))
            parts.append(part)
            size += len(part)
            if size > _MOST_ANSWER_BYTES:
                raise ProviderTrouble("the Bridge's answer is too long", retry=Retry.NEVER)
            gathering.expect(length - size)
    except asyncio.CancelledError:
        if response.connection is not None and response.connection.transport is not None:
            response.connection.transport.abort()  # a close would wait for what still comes
        raise
    finally:
        gathering.expect(0)
    content = parts[0] if len(parts) == 1 else b"".join(parts)
    if response.status < 300:
        return content
    raise _problem(response.status, content)


def _problem(status: int, content: bytes) -> Problem | ProviderTrouble:
    try:
        fields: Any = json.loads(content)
        title = str(fields["title"])
    except (ValueError, KeyError, TypeError):
        return RefusedOnTheWay(status)
    detail, field, hint = (str(fields.get(name, "")) for name in ("detail", "field", "hint"))
    return Problem(status, title, detail=detail, field=field, hint=hint)


def _parsed(model: type[Answer], content: bytes) -> Answer:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise ProviderTrouble("the Bridge's answer is not understood", retry=Retry.NEVER) from error


def _unreachable(url: str, error: Exception) -> ProviderTrouble:
    if isinstance(error, aiohttp.ClientHttpProxyError):  # which would say the proxy's URL, with its account
        return ProviderTrouble(
            f"the Bridge at {url} cannot be reached: the proxy answers {error.status}",
            retry=Retry.LATER,
            hint="it wants an account: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"
            if error.status == _PROXY_WANTS_ACCOUNT
            else "have the proxy's owner allow CONNECT to the Bridge's host and port",
        )
    other = isinstance(error, aiohttp.ServerFingerprintMismatch)
    reason = "it shows another certificate than before" if other else in_words(error)
    return ProviderTrouble(
        f"the Bridge at {url} cannot be reached: {reason}",
        retry=Retry.LATER,
        hint="isthmus router check URL tells which part of the way fails",
    )
