"""What ends by itself: invites, leases, blobs, nonces, certificates."""

import datetime as dt
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from isthmus.bridge.blobs.store import Allowance, BlobStore
from isthmus.bridge.config import BridgeConfig
from isthmus.bridge.gate import SeenNonces
from isthmus.bridge.tls import Tls, make_certificate
from isthmus.contract.rest import SessionCount, SessionEnd
from isthmus.envelope.certificates import check_endorsement
from isthmus.envelope.identity import Identity, RouterId
from isthmus.envelope.requests import RequestSignature
from isthmus.errors import BlobMissing, OperatorError, Problem
from isthmus.kit.names import HostPort
from isthmus.testing.bridge import Bench, DeafLane, Member
from isthmus.testing.clock import FakeClock

DAY = 86_400.0
END = SessionEnd(outcome="released", bytes_out=0, bytes_in=0)


async def test_an_invite_ends_when_it_says(bench: Bench) -> None:
    member = Member("clinic", "http://127.0.0.1", bytes(32), bench.clock)
    invite = await bench.invite("clinic", valid_days=2)
    bench.clock.advance(2 * DAY + 1)
    with pytest.raises(Problem, match="too old"):
        await bench.parts.accounts.enrol(bench.enrolment(member, invite))


async def test_an_invite_is_good_until_then(bench: Bench) -> None:
    member = Member("clinic", "http://127.0.0.1", bytes(32), bench.clock)
    invite = await bench.invite("clinic", valid_days=2)
    bench.clock.advance(2 * DAY - 1)
    assert (await bench.parts.accounts.enrol(bench.enrolment(member, invite)))[1] is not None


async def test_a_session_that_nobody_names_any_more_is_lost_after_its_lease(bench: Bench) -> None:
    one, other, first, _ = await bench.pair()
    bench.parts.sessions.open(first, one.request(other)[0])
    bench.clock.advance(59)
    bench.parts.sessions.expire()
    assert len(bench.parts.sessions.live) == 1
    bench.clock.advance(2)
    bench.parts.sessions.expire()
    assert bench.parts.sessions.live == []
    assert [entry.outcome for entry in await bench.parts.audit.newest(10)] == ["lost"]


@pytest.mark.parametrize("who", [0, 1])
async def test_a_heartbeat_of_either_router_keeps_a_session(bench: Bench, who: int) -> None:
    one, other, *accounts = await bench.pair()
    request, _ = one.request(other)
    bench.parts.sessions.open(accounts[0], request)
    for _ in range(10):
        bench.clock.advance(30)
        count = SessionCount(
            session_id=request.session_id,
            other_router_id=accounts[1 - who].router_id,
            calling="CALLER",
            called="PACS",
            started=0,
            bytes_out=3,
            bytes_in=2,
        )
        bench.parts.sessions.heartbeat(accounts[who], [count])
        bench.parts.sessions.expire()
    (session,) = bench.parts.sessions.live
    assert (session.bytes_out, session.bytes_in) == ((3, 2), (2, 3))[who]


async def test_a_stranger_keeps_no_session_alive(bench: Bench) -> None:
    one, other, first, _ = await bench.pair()
    await bench.join("third")
    third = bench.parts.accounts.of_site("third")
    assert third is not None
    request, _ = one.request(other)
    bench.parts.sessions.open(first, request)
    bench.clock.advance(50)
    count = SessionCount(
        session_id=request.session_id,
        other_router_id=other.mailbox,
        calling="CALLER",
        called="PACS",
        started=0,
        bytes_out=3,
        bytes_in=2,
    )
    bench.parts.sessions.heartbeat(third, [count])
    bench.clock.advance(11)
    bench.parts.sessions.expire()
    assert bench.parts.sessions.live == []


async def test_a_parent_answers_for_a_minute_after_its_end(bench: Bench) -> None:
    one, other, first, second = await bench.pair()
    bench.parts.hub.attach(first.mailbox, DeafLane())
    parent, _ = one.request(other)
    bench.parts.sessions.open(first, parent)
    bench.parts.sessions.end(first, parent.session_id, END)
    bench.clock.advance(59)
    back = other.request(one, calling="PACS", called="CALLER", parent=parent.session_id)[0]
    bench.parts.sessions.open(second, back)
    bench.clock.advance(2)
    late = other.request(one, calling="PACS", called="CALLER", parent=parent.session_id)[0]
    with pytest.raises(Problem, match="not granted"):
        bench.parts.sessions.open(second, late)


async def test_everything_about_an_ended_session_is_forgotten_but_its_audit(bench: Bench) -> None:
    one, other, first, second = await bench.pair()
    request, _ = one.request(other)
    bench.parts.sessions.open(first, request)
    bench.parts.sessions.end(second, request.session_id, END)
    bench.clock.advance(61)
    bench.parts.sessions.expire()
    assert bench.parts.sessions._sessions == {}
    assert bench.parts.hub._links == {}
    assert [entry.outcome for entry in await bench.parts.audit.newest(10)] == ["released"]


async def test_what_a_router_says_of_an_end_is_no_free_text(bench: Bench) -> None:
    one, other, first, _ = await bench.pair()
    request, _ = one.request(other)
    bench.parts.sessions.open(first, request)
    said = SessionEnd(outcome="Doe^Jane", bytes_out=2**70, bytes_in=-5)
    bench.parts.sessions.end(first, request.session_id, said)
    (entry,) = await bench.parts.audit.newest(10)
    assert (entry.outcome, entry.bytes_out, entry.bytes_in) == ("other", 2**63 - 1, 0)


def test_a_nonce_is_remembered_while_its_time_would_pass() -> None:
    seen, now = SeenNonces(), 1_000_000.0
    signature = RequestSignature(RouterId("A" * 36), 0, bytes(16), bytes(64))
    assert seen.use(signature, now)
    for later in (0.0, 60.0, 119.0):
        assert not seen.use(signature, now + later)


def test_nonces_are_not_kept_for_ever() -> None:
    seen, now = SeenNonces(), 1_000_000.0
    for index in range(1000):
        seen.use(RequestSignature(RouterId("A" * 36), 0, index.to_bytes(16, "big"), bytes(64)), now + index)
    assert len(seen._seen) + len(seen._before) < 300


# blobs


async def body(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def whole(blobs: BlobStore, name: str) -> bytes:
    size, parts = await blobs.read(name)
    content = b"".join([part async for part in parts])
    assert len(content) == size
    return content


async def broken() -> AsyncIterator[bytes]:
    yield b"half"
    raise Problem(401, "Not what was signed")


def store(folder: Path, clock: FakeClock) -> BlobStore:
    return BlobStore(folder / "blobs", clock, live=Allowance(1000, DAY), queued=Allowance(500, 30 * DAY))


async def test_forgotten_blobs_are_swept_after_a_day(tmp_path: Path) -> None:
    clock = FakeClock()
    blobs = store(tmp_path, clock)
    await blobs.open()
    await blobs.put("clinic", "old", body(b"1"), 1, bytes(32))
    clock.advance(DAY - 1)
    await blobs.put("clinic", "new", body(b"1"), 1, bytes(32))
    clock.advance(2)
    assert await blobs.sweep() == 1
    with pytest.raises(BlobMissing):
        await whole(blobs, "old")
    assert await whole(blobs, "new") == b"1"
    assert len(list((tmp_path / "blobs").iterdir())) == 1


async def test_what_is_queued_is_kept_for_a_month_and_counted_apart_from_what_is_live(tmp_path: Path) -> None:
    clock = FakeClock()
    blobs = store(tmp_path, clock)
    await blobs.open()
    await blobs.put("clinic", "q/a", body(bytes(500)), 500, bytes(32))
    with pytest.raises(Problem) as full:
        await blobs.put("clinic", "q/b", body(b"1"), 1, bytes(32))
    assert full.value.status == 507
    await blobs.put("clinic", "live", body(bytes(1000)), 1000, bytes(32))
    await blobs.put("hospital", "q/b", body(b"1"), 1, bytes(32))
    clock.advance(DAY + 1)
    assert await blobs.sweep() == 1
    assert len(await whole(blobs, "q/a")) == 500
    clock.advance(29 * DAY)
    assert await blobs.sweep() == 2
    assert blobs.used == 0
    await blobs.put("clinic", "q/b", body(bytes(500)), 500, bytes(32))


async def test_a_body_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    blobs = store(tmp_path, FakeClock())
    await blobs.open()
    with pytest.raises(Problem):
        await blobs.put("clinic", "a", broken(), 900, bytes(32))
    assert list((tmp_path / "blobs").iterdir()) == []
    assert blobs.used == 0
    await blobs.put("clinic", "a", body(bytes(1000)), 1000, bytes(32))


async def test_a_reopened_store_has_what_it_had(tmp_path: Path) -> None:
    blobs, digest = store(tmp_path, FakeClock()), secrets.token_bytes(32)
    await blobs.open()
    await blobs.put("clinic", "a/b-c_D", body(b"12", b"34"), 4, digest)
    (tmp_path / "blobs" / "new.unfinished").write_bytes(b"half")
    again = store(tmp_path, FakeClock())
    await again.open()
    assert await whole(again, "a/b-c_D") == b"1234"
    assert again.used == 4
    (entry,) = again.list_of("clinic", "a/", "", 10)
    assert (entry.name, entry.size, entry.digest) == ("a/b-c_D", 4, digest)
    assert again.list_of("hospital", "", "", 10) == []
    assert len(list((tmp_path / "blobs").iterdir())) == 1


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a.b", "a b", "é", "a" * 513])
async def test_a_name_outside_the_alphabet_is_refused(tmp_path: Path, name: str) -> None:
    blobs = store(tmp_path, FakeClock())
    await blobs.open()
    with pytest.raises(Problem) as refused:
        await blobs.put("clinic", name, body(b""), 0, bytes(32))
    assert refused.value.status == 422


# certificates


def tls(tmp_path: Path, clock: FakeClock, identity: Identity, url: str = "https://bridge.example.org") -> Tls:
    return Tls(BridgeConfig(data=tmp_path, listen=HostPort("127.0.0.1", 0), public_url=url), identity, clock)


def test_a_certificate_is_kept_endorsed_and_renewed_by_itself(tmp_path: Path) -> None:
    clock, identity = FakeClock(), Identity.generate(secrets.token_bytes)
    first = tls(tmp_path, clock, identity)
    check_endorsement(identity.public, first.sha256, first.endorsement)
    assert tls(tmp_path, clock, identity).sha256 == first.sha256
    clock.advance(300 * DAY)
    assert not first.refresh()
    clock.advance(60 * DAY)
    before = first.sha256
    assert first.refresh()
    assert first.sha256 != before
    check_endorsement(identity.public, first.sha256, first.endorsement)
    assert (tmp_path / "tls.key").stat().st_mode & 0o077 == 0


def test_another_host_name_needs_another_certificate(tmp_path: Path) -> None:
    clock, identity = FakeClock(), Identity.generate(secrets.token_bytes)
    first = tls(tmp_path, clock, identity)
    second = tls(tmp_path, clock, identity, "https://elsewhere.example.org")
    assert first.sha256 != second.sha256
    leaf = x509.load_pem_x509_certificate((tmp_path / "tls.crt").read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "elsewhere.example.org" in names.get_values_for_type(x509.DNSName)


def test_a_key_that_does_not_fit_is_replaced(tmp_path: Path) -> None:
    clock, identity = FakeClock(), Identity.generate(secrets.token_bytes)
    first = tls(tmp_path, clock, identity)
    _, other_key = make_certificate(["localhost"], dt.datetime.fromtimestamp(clock.now(), dt.UTC))
    (tmp_path / "tls.key").write_bytes(other_key)
    assert tls(tmp_path, clock, identity).sha256 != first.sha256


def test_the_operators_certificate_needs_its_key(tmp_path: Path) -> None:
    config = BridgeConfig(data=tmp_path, listen=HostPort("127.0.0.1", 0), certificate=tmp_path / "x.pem")
    with pytest.raises(OperatorError, match="needs its key"):
        Tls(config, Identity.generate(secrets.token_bytes), FakeClock())


def test_an_operators_certificate_that_is_not_there_is_an_operators_error(tmp_path: Path) -> None:
    where, missing = HostPort("127.0.0.1", 0), tmp_path / "missing"
    config = BridgeConfig(data=tmp_path, listen=where, certificate=missing, key=missing)
    with pytest.raises(OperatorError, match="cannot use the certificate"):
        Tls(config, Identity.generate(secrets.token_bytes), FakeClock())
