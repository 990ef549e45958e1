"""Many Routers at one Bridge, in one process: signed requests, a WebSocket and the offers of sessions, and no more.

Started by `bench.bridge`, which tells it line by line (JSON) on its standard input what to do, and reads what it
measured from its standard output. What a Router does besides, devices, keys at rest, queues, is left out.
"""

import asyncio
import base64
import hashlib
import json
import random
import resource
import secrets
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, cast

import uvloop

from isthmus import __version__
from isthmus.adapters.signalling.websocket import WebSocket
from isthmus.contract.documents import DocumentKind, GrantedDevice, Prekey, SignedDocument, Statement, Titles
from isthmus.contract.notices import PREFIX_BYTES, NoticeKind, pack, pack_fields
from isthmus.contract.rest import API, HEARTBEAT_SECONDS, Heartbeat, SessionEnd, SessionRequest
from isthmus.envelope.documents import sign_document
from isthmus.envelope.identity import Identity
from isthmus.envelope.offers import OFFER_SECONDS, make_offer
from isthmus.envelope.prekeys import PrekeyPair
from isthmus.envelope.requests import NONCE_BYTES, sign_request
from isthmus.kit.platform import raise_open_file_limit

CALLING: Final = "CALLING"
_REQUEST_BYTES: Final = 4000  # of an A-ASSOCIATE-RQ with a few dozen presentation contexts
_ACCEPT_BYTES: Final = 1500
_EMPTY_DIGEST: Final = hashlib.sha256(b"").digest()
_GIVE_UP_SECONDS: Final = 20.0
_SESSION_SECONDS: Final = 0.5  # for which a session lives
_AT_ONCE: Final = 50  # Routers that connect at the same time


def identity_of(number: int) -> Identity:
    """Return the identity of a Router, which is the same in each process of a benchmark."""
    return Identity.generate(random.Random(number).randbytes)


def site_of(number: int) -> str:
    """Return the name of its site."""
    return f"site{number:05}"


def title_of(number: int) -> str:
    """Return the network AE title of its one device."""
    return f"DEVICE{number:05}"


def partner_of(number: int) -> int:
    """Return the number of the one site that it accepted, and was accepted by."""
    return number ^ 1


def statement_of(number: int, now: float) -> Statement:
    """Return what a site says to its partner: that it may send to its one device."""
    partner = partner_of(number)
    taken = ([f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in range(1, 21)], ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
    device = GrantedDevice(title=title_of(number), name="A device", services=["store"], takes=[taken])
    return Statement(
        site=site_of(number),
        to_site=site_of(partner),
        to_router_id=identity_of(partner).router_id,
        counter=1,
        not_after=now + 86_400,
        accepted=True,
        devices=[device],
    )


class _Http(asyncio.Protocol):
    """One warm connection, on which one request goes at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._head = b""
        self._parts: list[bytes] = []
        self._left = 0
        self._status = 0
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed by the Bridge"))

    async def ask(self, *parts: bytes) -> tuple[int, bytes]:
        """Send a request and return status and body of the answer; to an upgrade, its head."""
        if self.transport is None:
            raise ConnectionResetError("closed by the Bridge")
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.writelines(parts)
        try:
            return await self._answer
        except asyncio.CancelledError:
            if self.transport is not None:
                self.transport.abort()  # its answer may still come, and would be taken for the next one's
            raise

    def data_received(self, data: bytes) -> None:
        if not self._status:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head, self._parts, self._status = b"", [], int(head[9:12])
            lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            self._left = int(lengths[0]) if lengths else 0
            if self._status == 101:
                assert self.transport is not None
                self.transport.pause_reading()
        self._parts.append(data)
        self._left -= len(data)
        if self._left <= 0 and self._answer is not None and not self._answer.done():
            status, self._status = self._status, 0
            self._answer.set_result((status, b"".join(self._parts)))


@dataclass(slots=True)
class _SetUp:
    """A session that is being set up: when it was due, and when what happened (seconds of the performance counter)."""

    due: float
    offered: asyncio.Future[float]
    accepted: asyncio.Future[float]


class Crowd:
    """All Routers, and what was measured of them."""

    def __init__(self, host: str, ports: list[int], bridge_identity: bytes) -> None:
        self.host = host
        self.ports = ports
        self.bridge_identity = bridge_identity
        self.routers: list[FakeRouter] = []
        self.set_ups: dict[bytes, _SetUp] = {}
        self.counts: Counter[str] = Counter()
        self.fetch_when_told = True
        self.prekey: Prekey = PrekeyPair.generate(secrets.token_bytes, time.time()).published()
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, coroutine: Any) -> None:
        """Run something beside; what goes wrong is counted by name."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(self._guarded(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, coroutine: Any) -> None:
        try:
            await coroutine
        except (OSError, TimeoutError, RuntimeError) as error:
            self.counts[f"failed: {type(error).__name__} {error}"[:100]] += 1

    async def connect(self, wanted: int) -> dict[str, Any]:
        """Connect until so many are connected, a few at a time; return how long each took."""
        began, took = time.monotonic(), []
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(router: FakeRouter) -> None:
            async with turn:
                since = time.monotonic()
                await router.connect()
                took.append(time.monotonic() - since)

        fresh = [FakeRouter(self, number) for number in range(len(self.routers), wanted)]
        async with asyncio.TaskGroup() as group:
            for router in fresh:
                group.create_task(one(router))
        self.routers += fresh
        for router in fresh:
            self.spawn(router.beat())
        return {"seconds": time.monotonic() - began, "each": took}

    async def set_up(self, count: int, per_second: float) -> dict[str, Any]:
        """Set up so many sessions, evenly, whether or not the ones before are done."""
        now = time.time()
        drafts = []
        for turn in range(count):
            caller = self.routers[turn % len(self.routers)]
            drafts.append((caller, caller.draft(now)))
            if not turn % 20:
                await asyncio.sleep(0)
        results: list[tuple[float, float]] = []
        before, cpu, began = Counter(self.counts), _cpu_seconds(), time.perf_counter() + 0.05
        async with asyncio.TaskGroup() as group:
            for turn, (caller, draft) in enumerate(drafts):
                due = began + turn / per_second
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(caller.set_up(due, *draft, results))
        seconds = time.perf_counter() - began - _SESSION_SECONDS
        return {
            "asked": count,
            "seconds": seconds,
            "offered": [offered for offered, _ in results],
            "accepted": [accepted for _, accepted in results],
            "counts": dict(self.counts - before),
            "cpu_share": (_cpu_seconds() - cpu) / seconds,
        }


class FakeRouter:
    """A Router as the Bridge sees it."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd = crowd
        self.number = number
        self.identity = identity_of(number)
        self._partner = identity_of(partner_of(number)).router_id
        self._idle: list[_Http] = []
        self._fetching = self._stale = False
        self._socket = WebSocket(masks=True, on_message=self._received, on_lost=self._lost)

    async def connect(self) -> None:
        """Open the WebSocket, send a heartbeat, and ask for the network, as a Router does at its start."""
        http = await self._open()
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        upgrade = (
            f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        )
        status, _ = await http.ask(self._head("GET", f"{API}/signalling", None, upgrade))
        if status != 101 or http.transport is None:
            raise RuntimeError(f"upgrade answered {status}")
        self._socket.take_over(http.transport)
        self._socket.ping()
        await self._heartbeat()
        await self._fetch()

    async def beat(self) -> None:
        """Send heartbeats, at moments that differ from Router to Router."""
        await asyncio.sleep(random.uniform(0, HEARTBEAT_SECONDS))
        while self._socket.is_open:
            self.crowd.spawn(self._heartbeat())
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def draft(self, now: float) -> tuple[bytes, bytes]:
        """Return the id and the request body of a session to the partner, made before time is taken."""
        session_id, called = secrets.token_bytes(16), title_of(partner_of(self.number))
        offer = make_offer(
            self.identity, session_id=session_id, responder=self._partner, prekey=self.crowd.prekey, calling=CALLING,
            called=called, request=bytes(_REQUEST_BYTES), window=1 << 20, now=now + OFFER_SECONDS,
            random=secrets.token_bytes,
        )  # fmt: skip
        request = SessionRequest(
            session_id=session_id, to_router_id=self._partner, calling=CALLING, called=called, offer=offer.offer,
            signature=offer.signature, request=offer.request_box,
        )  # fmt: skip
        return session_id, request.model_dump_json().encode()

    async def set_up(self, due: float, session_id: bytes, body: bytes, results: list[tuple[float, float]]) -> None:
        """Ask for a session, note when the offer was there and when the accept was back, and end it."""
        loop = asyncio.get_running_loop()
        underway = self.crowd.set_ups[session_id] = _SetUp(due, loop.create_future(), loop.create_future())
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                status = await self.ask("POST", f"{API}/sessions", body)
                if status != 201:
                    self.crowd.counts[f"session answered {status}"] += 1
                    return
                results.append((await underway.offered - due, await underway.accepted - due))
            await asyncio.sleep(_SESSION_SECONDS)
            end = SessionEnd(outcome="released", bytes_out=525_000, bytes_in=100).model_dump_json().encode()
            other = self.crowd.routers[partner_of(self.number)]
            for router in (self, other):
                status = await router.ask("DELETE", f"{API}/sessions/{session_id.hex()}", end)
                self.crowd.counts[f"end answered {status}"] += 1
        except (TimeoutError, OSError) as error:
            self.crowd.counts[f"set-up failed: {type(error).__name__}"] += 1
        finally:
            del self.crowd.set_ups[session_id]

    async def ask(self, method: str, path: str, body: bytes | None = None) -> int:
        """Send a signed request and return the status of its answer."""
        http = self._idle.pop() if self._idle else await self._open()
        status, content = await http.ask(self._head(method, path, body), body or b"")
        self.crowd.counts[f"{method} {path.removeprefix(API)[:10]} bytes"] += len(content)
        if http.transport is not None:
            self._idle.append(http)
        return status

    async def _open(self) -> _Http:
        # a Router keeps to one Bridge; where there are two, half of the sessions cross from one to the other
        port = self.crowd.ports[(self.number // 2 + self.number % 2 * (self.number // 4)) % len(self.crowd.ports)]
        _, http = await asyncio.get_running_loop().create_connection(_Http, self.crowd.host, port)
        return http

    async def _heartbeat(self) -> None:
        beat = Heartbeat(version=__version__, sessions=[], providers=["bridge"])
        status = await self.ask("POST", f"{API}/heartbeat", beat.model_dump_json().encode())
        self.crowd.counts["heartbeats" if status == 200 else f"heartbeat answered {status}"] += 1

    async def _fetch(self) -> None:
        """Ask for the network; what is told meanwhile leads to one more question."""
        if self._fetching:
            self._stale = True
            return
        self._fetching = True
        try:
            while True:
                self._stale = False
                status = await self.ask("GET", f"{API}/network")
                self.crowd.counts["networks fetched" if status == 200 else f"network answered {status}"] += 1
                if not self._stale:
                    return
        finally:
            self._fetching = False

    def _head(self, method: str, path: str, body: bytes | None, more: str = "") -> bytes:
        digest = _EMPTY_DIGEST if body is None else hashlib.sha256(body).digest()
        bridge, nonce = self.crowd.bridge_identity, secrets.token_bytes(NONCE_BYTES)
        signed = sign_request(self.identity, bridge, method, path, digest, time.time(), nonce)
        if body is not None:
            more = (
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                f"Content-Digest: sha-256=:{base64.b64encode(digest).decode()}:\r\n"
            )
        return f"{method} {path} HTTP/1.1\r\nHost: bridge\r\nAuthorization: {signed}\r\n{more}\r\n".encode()

    def _received(self, notice: bytes) -> None:
        kind, session_id = notice[0], notice[1:PREFIX_BYTES]
        underway = self.crowd.set_ups.get(session_id)
        if kind == NoticeKind.NETWORK_CHANGED:
            self.crowd.counts["told of changes"] += 1
            if self.crowd.fetch_when_told:
                self.crowd.spawn(self._fetch())
        elif kind == NoticeKind.OFFER and underway is not None and not underway.offered.done():
            underway.offered.set_result(time.perf_counter())
            accept = pack(NoticeKind.ACCEPT, session_id, pack_fields((bytes(_ACCEPT_BYTES),)))
            caller = self._partner.encode()
            self._socket.send(bytes((len(caller),)) + caller, accept)
        elif kind == NoticeKind.ACCEPT and underway is not None and not underway.accepted.done():
            underway.accepted.set_result(time.perf_counter())

    def _lost(self, reason: str) -> None:
        self.crowd.counts[f"connection lost: {reason}"] += 1


def documents_of(number: int, prekey: Prekey, now: float) -> list[tuple[SignedDocument, str]]:
    """Return the documents that a site has published, each with the site that it is for."""
    identity = identity_of(number)
    titles = Titles(counter=1, titles=[title_of(number)])
    said = statement_of(number, now)
    return [
        (sign_document(identity, DocumentKind.PREKEY, prekey.to_payload()), ""),
        (sign_document(identity, DocumentKind.TITLES, titles.to_payload()), ""),
        (sign_document(identity, DocumentKind.STATEMENT, said.to_payload()), said.to_site),
    ]


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _obey(host: str, ports: list[int], bridge_identity: bytes) -> None:
    crowd = Crowd(host, ports, bridge_identity)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        match order.pop("do"):
            case "connect":
                said = await crowd.connect(**order)
            case "set_up":
                said = await crowd.set_up(**order)
            case "rest":
                before, cpu = Counter(crowd.counts), _cpu_seconds()
                await asyncio.sleep(order["seconds"])
                said = {"counts": dict(crowd.counts - before), "cpu_seconds": _cpu_seconds() - cpu}
            case other:
                raise ValueError(other)
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    raise_open_file_limit()
    uvloop.run(_obey(sys.argv[1], [int(port) for port in sys.argv[2].split(",")], bytes.fromhex(sys.argv[3])))
