"""Who may ask what: every operation of the OpenAPI document against every kind of asker (T16), and oversize (T13)."""

import base64
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import aiohttp
import psutil
import pytest
from tests.loopback.bridge.clouds import SECRETS, FakeCloud, install

from isthmus.bridge.blobs.store import Allowance
from isthmus.bridge.gate import OPEN
from isthmus.bridge.http import make_api
from isthmus.contract.rest import API, SessionEnd
from isthmus.envelope.identity import Identity
from isthmus.envelope.requests import sign_request
from isthmus.errors import Problem
from isthmus.testing import depth
from isthmus.testing.bridge import BridgeUnderTest, Member

PAIR = {"name": "one", "signalling": "fake://a/b", "blobstore": "fake://a/c", "secrets": SECRETS}
DOCUMENT: dict[str, Any] = make_api().openapi()
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in sorted(DOCUMENT["paths"].items())
    for method, operation in sorted(methods.items())
]


class Role(Enum):
    """Who asks."""

    OWN = "a Router about its own things"
    OTHER = "another Router about them"
    REVOKED = "a Router that was revoked"
    STRANGER = "a Router that never enrolled"
    NONE = "nobody: no signature"
    BENT = "a Router whose signature was tampered with"


@dataclass
class Asker:
    """Sends requests with or without a signature."""

    bridge: BridgeUnderTest
    http: aiohttp.ClientSession

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        identity: Identity | None = None,
        headers: dict[str, str] | None = None,
        signed_body: bytes | None = None,
        now: float | None = None,
        nonce: bytes | None = None,
        signed_target: str | None = None,
    ) -> tuple[int, Any]:
        digest = hashlib.sha256(body if signed_body is None else signed_body).digest()
        sent = {"Content-Type": "application/json"}
        if identity is not None:
            sent["Authorization"] = sign_request(
                identity,
                self.bridge.address.identity,
                method,
                signed_target or target,
                digest,
                now or time.time(),
                nonce or secrets.token_bytes(16),
            )
            sent["Content-Digest"] = f"sha-256=:{base64.b64encode(digest).decode()}:"
        sent |= headers or {}
        async with self.http.request(
            method, self.bridge.address.url + target, data=body or None, headers=sent
        ) as answer:
            content = await answer.read()
            if answer.status >= 400:
                assert answer.headers["Content-Type"] == "application/problem+json"
                fields = json.loads(content)
                assert fields["status"] == answer.status
                assert fields["title"]
                return answer.status, fields
            return answer.status, content


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> FakeCloud:
    return install(monkeypatch)


@pytest.fixture
async def asker(bridge: BridgeUnderTest) -> AsyncIterator[Asker]:
    async with aiohttp.ClientSession() as http:
        yield Asker(bridge, http)


# What each operation answers to each role; to all but OWN and OTHER every signed operation answers 401.
EXPECTED: dict[str, tuple[int, int]] = {
    "identity": (200, 200),
    "health": (200, 200),
    "metrics": (401, 401),  # the operator's token only
    "enrol": (403, 403),  # the invite is used up
    "probe_down": (200, 200),  # open, within bounds
    "probe_up": (200, 200),
    "network": (200, 200),
    "publish": (204, 403),
    "open_session": (201, 422),  # the offer is not by whoever asks
    "end_session": (204, 404),
    "heartbeat": (200, 200),
    "list_blobs": (200, 200),
    "put_blob": (201, 201),
    "get_blob": (200, 200),  # names are unguessable; whoever was told one may read
    "delete_blob": (204, 204),
    "delete_blobs": (204, 204),
    "join_blobs": (201, 201),  # whoever was told the names of the parts may read them
    "send_notices": (204, 204),  # each notice is judged by itself, and dropped if it is not one's to send
    "receive_notices": (200, 200),  # always one's own
    "leave_notices": (204, 204),
    "lend": (200, 200),  # each is lent its own
    "sign_urls": (200, 200),  # as for get_blob
}


def test_the_document_and_the_gate_agree_on_what_is_open() -> None:
    unsigned = {(method, path) for method, path, operation in OPERATIONS if "security" not in operation}
    assert unsigned == set(OPEN)


def test_every_operation_has_its_row_in_the_table() -> None:
    assert {operation["operationId"] for _, _, operation in OPERATIONS} == set(EXPECTED)


async def _request_for(bridge: BridgeUnderTest, name: str, path: str) -> tuple[str, bytes]:
    own, other = bridge.members[0], bridge.members[1]
    if name == "enrol":
        body = {
            "site": "clinic",
            "secret": base64.urlsafe_b64encode(bytes(32)).decode(),
            "public_key": base64.urlsafe_b64encode(own.identity.public).decode(),
            "prekey": own.prekey_document().model_dump(mode="json"),
            "version": "1",
        }
        return path, json.dumps(body).encode()
    if name == "publish":
        return path, json.dumps({"documents": [own.titles("CT1").model_dump(mode="json")]}).encode()
    if name == "open_session":
        return path, own.request(other)[0].model_dump_json(exclude_none=True).encode()
    if name == "end_session":
        session_id = await own.open(other)
        end = SessionEnd(outcome="released", bytes_out=0, bytes_in=0)
        return path.replace("{session_id}", session_id.hex()), end.model_dump_json().encode()
    if name == "heartbeat":
        return path, b'{"version": "1", "sessions": []}'
    if name in {"lend", "sign_urls"}:
        await bridge.administration.run("provider_add", PAIR)
        return path.replace("{name}", "one"), b"" if name == "lend" else b'{"method": "GET", "names": ["a/blob"]}'
    if name == "delete_blobs":
        return path, b'{"names": ["a/blob", "b"]}'
    if name == "join_blobs":
        for part in ("a/1", "a/2"):
            await own.client.request("PUT", f"/blobs/{part}", b"half")
        digest = base64.urlsafe_b64encode(hashlib.sha256(b"halfhalf").digest()).decode()
        return path, json.dumps({"name": "a/whole", "parts": ["a/1", "a/2"], "sha256": digest}).encode()
    if name in {"get_blob", "delete_blob"}:
        await own.client.request("PUT", "/blobs/a/blob", b"body")
    return path.replace("{name}", "a/blob"), b"body" if name == "put_blob" else b""


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=[o["operationId"] for _, _, o in OPERATIONS])
async def test_each_role_gets_the_stated_answer(
    bridge: BridgeUnderTest,
    asker: Asker,
    cloud: FakeCloud,
    method: str,
    path: str,
    operation: dict[str, Any],
    role: Role,
) -> None:
    own, _ = await bridge.pair()
    other, revoked = await bridge.join("third"), await bridge.join("gone")
    await bridge.administration.revoke("gone")
    name = operation["operationId"]
    target, body = await _request_for(bridge, name, path)
    who = {Role.OWN: own, Role.BENT: own, Role.OTHER: other, Role.REVOKED: revoked, Role.STRANGER: bridge.member("x")}
    member: Member | None = who.get(role)
    identity = member.identity if member is not None else None
    status, _ = await asker.ask(
        method, target, body, identity=identity, signed_target=target + "?bent" if role is Role.BENT else None
    )
    as_own, as_other = EXPECTED[name]
    if name == "enrol":
        # signed with the very key that enrols, or not at all
        as_other = 401
    if "security" not in operation and name != "enrol":
        expected = as_own
    else:
        expected = {Role.OWN: as_own, Role.OTHER: as_other}.get(role, 401)
    assert status == expected


async def test_a_request_is_taken_once(bridge: BridgeUnderTest, asker: Asker) -> None:
    member, nonce = await bridge.join("clinic"), secrets.token_bytes(16)
    now = time.time()
    assert (await asker.ask("GET", f"{API}/network", identity=member.identity, nonce=nonce, now=now))[0] == 200
    status, problem = await asker.ask("GET", f"{API}/network", identity=member.identity, nonce=nonce, now=now)
    assert (status, problem["title"]) == (401, "Used before")


@pytest.mark.parametrize("skew", [-3600.0, 61.0])
async def test_a_wrong_clock_is_called_that(bridge: BridgeUnderTest, asker: Asker, skew: float) -> None:
    member = await bridge.join("clinic")
    status, problem = await asker.ask("GET", f"{API}/network", identity=member.identity, now=time.time() + skew)
    assert (status, problem["title"]) == (401, "Clock skew")


async def test_what_was_signed_before_the_bridge_started_is_refused(bridge: BridgeUnderTest, asker: Asker) -> None:
    member = await bridge.join("clinic")
    status, problem = await asker.ask(
        "GET", f"{API}/network", identity=member.identity, now=bridge.parts.guard._started - 1
    )
    assert (status, problem["title"]) == (401, "Signed too early")


@pytest.mark.parametrize("path", ["/heartbeat", "/blobs/x"])
async def test_a_body_other_than_the_signed_one_is_refused(bridge: BridgeUnderTest, asker: Asker, path: str) -> None:
    member, body = await bridge.join("clinic"), b'{"version": "1", "sessions": []}'
    method = "PUT" if path.startswith("/blobs") else "POST"
    status, problem = await asker.ask(method, API + path, body, identity=member.identity, signed_body=body + b" ")
    assert (status, problem["title"]) == (401, "Not what was signed")
    assert bridge.parts.blobs.used == 0


async def test_a_signed_request_for_one_bridge_is_nothing_to_another(bridge: BridgeUnderTest, asker: Asker) -> None:
    member = await bridge.join("clinic")
    elsewhere = sign_request(
        member.identity, bytes(32), "GET", f"{API}/network", hashlib.sha256().digest(), time.time(), bytes(16)
    )
    assert (await asker.ask("GET", f"{API}/network", headers={"Authorization": elsewhere}))[0] == 401


@pytest.mark.parametrize("path", ["/nothing", "/enrolments/x", "/../../etc/passwd", "/blobs/a%2F..%2Fb", "/blobs/a//b"])
async def test_what_is_not_there_is_a_problem(bridge: BridgeUnderTest, asker: Asker, path: str) -> None:
    member = await bridge.join("clinic")
    status, _ = await asker.ask("GET", API + path, identity=member.identity)
    assert status in {401, 404, 422}


async def test_generated_bodies_get_problems_and_never_a_fault(bridge: BridgeUnderTest, asker: Asker) -> None:
    member = await bridge.join("clinic")
    chance = secrets.SystemRandom()
    values: list[Any] = [
        None,
        "",
        "x",
        -1,
        2**70,
        1.5,
        True,
        [],
        {},
        [None],
        "\ud800",
        "A" * 5000,
        "é",
        bytes(40).hex(),
    ]
    valid: dict[str, list[str]] = {
        "/records": ["documents", "kind", "payload", "router_id", "signature"],
        "/sessions": ["session_id", "to_router_id", "calling", "called", "offer", "signature", "request", "parent"],
        "/heartbeat": ["version", "sessions"],
        "/enrolments": ["site", "secret", "public_key", "prekey", "version"],
    }
    for _ in range(depth.count(push=400, nightly=50_000)):
        path, names = chance.choice(list(valid.items()))
        fields = {name: chance.choice(values) for name in names if chance.random() < 0.9}
        if path == "/records" and chance.random() < 0.5:
            fields = {"documents": [fields | {"kind": "isthmus/titles/v1", "router_id": member.mailbox}]}
        if path == "/heartbeat" and chance.random() < 0.5:
            count = {"session_id": "AAAAAAAAAAAAAAAAAAAAAA", "other_router_id": "x", "calling": "x", "called": "y"}
            numbers = {name: chance.choice(values) for name in ("started", "bytes_out", "bytes_in")}
            fields = {"version": "1", "sessions": [count | numbers]}
        body = json.dumps(fields).encode() if chance.random() < 0.9 else secrets.token_bytes(chance.randrange(200))
        method = "PUT" if path == "/records" else "POST"
        status, _ = await asker.ask(method, API + path, body, identity=member.identity)
        assert status < 500, (path, body)


async def test_a_body_of_1_gib_is_refused_at_its_header(bridge: BridgeUnderTest, asker: Asker) -> None:
    member = await bridge.join("clinic")
    before = psutil.Process().memory_info().rss
    for path in ("/records", "/blobs/x", "/enrolments"):
        method = "POST" if path == "/enrolments" else "PUT"
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 1 << 30:
                sent += 65536
                yield bytes(65536)

        started = time.monotonic()
        try:
            async with asker.http.request(
                method, bridge.address.url + API + path, data=endless(), headers={"Content-Length": str(1 << 30)}
            ) as answer:
                assert answer.status == 413
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            pass  # closed while we were still sending: as good an answer
        assert time.monotonic() - started < 1.0
    assert psutil.Process().memory_info().rss - before < 16 * 1024 * 1024
    assert (await member.client.network()).site == "clinic"


async def test_a_body_of_unknown_length_is_cut_at_the_limit(bridge: BridgeUnderTest, asker: Asker) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(65536)

    with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError, AssertionError)):
        async with asker.http.post(bridge.address.url + f"{API}/enrolments", data=endless()) as answer:
            assert answer.status != 413


async def test_metrics_are_for_the_operators_token(bridge: BridgeUnderTest, asker: Asker) -> None:
    one, other = await bridge.pair()
    await one.open(other)
    status, text = await asker.ask(
        "GET", f"{API}/metrics", headers={"Authorization": f"Bearer {bridge.parts.metrics_token}"}
    )
    assert status == 200
    assert b"isthmus_bridge_routers_online 2.0" in text
    assert b"isthmus_bridge_sessions_live 1.0" in text
    assert b'isthmus_bridge_setups_total{outcome="offered"} 1.0' in text
    assert b"CALLER" not in text
    assert one.mailbox.encode() not in text


async def test_room_for_blobs_is_counted_for_each_site(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.join("one"), await bridge.join("other")
    bridge.parts.blobs._live = Allowance(quota=1000, lifetime=86400.0)
    await one.client.request("PUT", "/blobs/a", bytes(900))
    with pytest.raises(Problem) as full:
        await one.client.request("PUT", "/blobs/b", bytes(101))
    assert full.value.status == 507
    await other.client.request("PUT", "/blobs/b", bytes(101))
    await one.client.request("DELETE", "/blobs/a")
    await one.client.request("PUT", "/blobs/c", bytes(1000))


# the control API


async def test_the_control_api_asks_for_its_token(bridge: BridgeUnderTest, asker: Asker) -> None:
    note = json.loads((bridge.config.data / "control.json").read_text())
    assert (bridge.config.data / "control.json").stat().st_mode & 0o077 == 0
    for token, expected in ((note["token"], 200), (note["token"] + "x", 401), ("", 401)):
        async with asker.http.post(
            f"{note['url']}/control/status", json={}, headers={"Authorization": f"Bearer {token}"}
        ) as answer:
            assert answer.status == expected


async def test_what_an_operator_cannot_do_is_said_in_one_line(bridge: BridgeUnderTest, asker: Asker) -> None:
    note = json.loads((bridge.config.data / "control.json").read_text())
    headers = {"Authorization": f"Bearer {note['token']}"}
    async with asker.http.post(f"{note['url']}/control/revoke", json={"site": "x"}, headers=headers) as answer:
        problem = await answer.json(content_type=None)
    assert (answer.status, problem["detail"]) == (400, "x has no Router here")
    assert problem["hint"] == "isthmus bridge sites"
