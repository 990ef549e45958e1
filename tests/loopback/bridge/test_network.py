"""Enrolling, records, sessions and the hub, over real HTTP and WebSockets."""

import asyncio
import re
from pathlib import Path

import pytest

from isthmus.adapters.signalling.websocket import WebSocket
from isthmus.bridge.administration import open_administration
from isthmus.contract.documents import GrantedDevice, ReturnGrant, Statement
from isthmus.contract.notices import NO_SESSION, PREFIX_BYTES, NoticeKind, pack, unpack_fields
from isthmus.contract.rest import SessionCount, SessionEnd, SessionRequest
from isthmus.errors import OperatorError, Problem
from isthmus.kit.names import HostPort
from isthmus.testing.bridge import BridgeUnderTest, Member, running_bridge
from isthmus.testing.network import until

PACS = GrantedDevice(title="PACS", services=["store"])
DAY = 86_400.0


async def refused(work: object, status: int, words: str = "") -> Problem:
    with pytest.raises(Problem) as caught:
        await work  # type: ignore[misc]  # any awaitable
    assert caught.value.status == status
    assert re.search(words, f"{caught.value.title} {caught.value.detail}")
    return caught.value


# invites and enrolment


async def test_an_invite_lets_one_router_in_once(bridge: BridgeUnderTest) -> None:
    invite = await bridge.invite("clinic")
    first, second = bridge.member("clinic"), bridge.member("clinic")
    enrolled = await first.client.enrol(invite, first.prekey_document())
    assert (enrolled.site, enrolled.router_id) == ("clinic", first.identity.router_id)
    await refused(second.client.enrol(invite, second.prekey_document()), 403, "used already")


async def test_enrolling_again_with_the_same_key_is_harmless_since_the_answer_may_have_been_lost(
    bridge: BridgeUnderTest,
) -> None:
    invite, member = await bridge.invite("clinic"), bridge.member("clinic")
    first = await member.client.enrol(invite, member.prekey_document())
    assert await member.client.enrol(invite, member.prekey_document()) == first


async def test_a_withdrawn_invite_lets_nobody_in(bridge: BridgeUnderTest) -> None:
    invite, member = await bridge.invite("clinic"), bridge.member("clinic")
    assert await bridge.administration.withdraw("clinic") == {"site": "clinic", "withdrawn": 1}
    await refused(member.client.enrol(invite, member.prekey_document()), 403, "withdrawn")


async def test_an_invite_for_another_site_is_unknown(bridge: BridgeUnderTest) -> None:
    invite, member = await bridge.invite("clinic"), bridge.member("clinic")
    forged = type(invite)(invite.url, invite.identity, type(invite.site)("hospital"), invite.secret)
    await refused(member.client.enrol(forged, member.prekey_document()), 403, "No such invite")


async def test_a_prekey_that_another_key_signed_is_refused(bridge: BridgeUnderTest) -> None:
    invite, member, other = await bridge.invite("clinic"), bridge.member("clinic"), bridge.member("other")
    await refused(member.client.enrol(invite, other.prekey_document()), 422, "Not a prekey")


async def test_a_site_that_has_a_router_gets_no_invite(bridge: BridgeUnderTest) -> None:
    await bridge.join("clinic")
    with pytest.raises(OperatorError, match="has a Router already"):
        await bridge.invite("clinic")


@pytest.mark.parametrize("days", [0, -1, 31])
async def test_an_invite_is_valid_for_at_most_thirty_days(bridge: BridgeUnderTest, days: float) -> None:
    with pytest.raises(OperatorError, match="at most 30 days"):
        await bridge.invite("clinic", valid_days=days)


async def test_the_database_never_holds_a_secret_of_an_invite(bridge: BridgeUnderTest) -> None:
    invite = await bridge.invite("clinic")
    kept = b"".join(path.read_bytes() for path in bridge.config.data.iterdir() if path.is_file())
    assert invite.secret not in kept
    assert invite.secret.hex().encode() not in kept


# records


async def test_statements_reach_only_the_site_they_are_for(bridge: BridgeUnderTest) -> None:
    one, other, third = [await bridge.join(site) for site in ("one", "other", "third")]
    await one.client.publish([one.statement(other, PACS)])
    seen = {entry.site: entry for entry in (await other.client.network()).sites}
    assert seen["one"].statement is not None
    assert Statement.parse(seen["one"].statement.payload).devices == [PACS]
    assert seen["one"].prekey is not None
    assert seen["third"].prekey is None
    assert all(entry.statement is None and entry.prekey is None for entry in (await third.client.network()).sites)


async def test_a_statement_for_a_former_router_of_a_site_is_not_shown(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.join("one"), await bridge.join("other")
    await one.client.publish([one.statement(other, PACS, to_router_id=one.mailbox)])
    assert (await other.client.network()).sites[0].statement is None


async def test_a_smaller_counter_is_a_rollback(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.join("one"), await bridge.join("other")
    await one.client.publish([one.statement(other, PACS, counter=5)])
    await refused(one.client.publish([one.statement(other, counter=4)]), 409, "not above 5")
    await refused(one.client.publish([one.statement(other, counter=5)]), 409, "not above 5")
    assert (await one.client.network()).own_counter == 5
    await one.client.publish([one.statement(other, counter=6)])


async def test_the_same_document_again_is_harmless(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.join("one"), await bridge.join("other")
    said = one.statement(other, PACS)
    await one.client.publish([said])
    before = (await other.client.network()).revision
    await one.client.publish([said])
    assert (await other.client.network()).revision == before


async def test_a_publication_is_kept_whole_or_not_at_all(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.join("one"), await bridge.join("other")
    foreign = other.titles("PACS")
    await refused(one.client.publish([one.titles("CT1"), foreign]), 403, "own documents")
    await other.client.publish([other.titles("CT1")])


async def test_a_title_that_another_site_has_is_refused_with_the_choices(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.join("one"), await bridge.join("other")
    await one.client.publish([one.titles("PACS", "CT1")])
    problem = await refused(other.client.publish([other.titles("PACS", "MR1")]), 409, r"PACS \(by one\).*alias")
    assert problem.field == "titles"
    await one.client.publish([one.titles("CT1")])
    await other.client.publish([other.titles("PACS", "MR1")])


@pytest.mark.parametrize("title", ["", " PACS", "SEVENTEEN_LETTERS", "A\\B", "PÄCS"])
async def test_what_is_no_ae_title_is_refused(bridge: BridgeUnderTest, title: str) -> None:
    one = await bridge.join("one")
    await refused(one.client.publish([one.titles(title)]), 422, "AE title")


async def test_a_change_is_pushed_to_those_who_see_it(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    await one.next(NoticeKind.NETWORK_CHANGED)
    before = (await one.client.heartbeat([])).revision
    await other.client.publish([other.statement(one, PACS, PACS)])
    while (await one.client.heartbeat([])).revision == before:
        await one.next(NoticeKind.NETWORK_CHANGED)


async def test_who_comes_and_goes_is_pushed_to_the_others(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    await other.signalling.close()
    async with asyncio.timeout(20):
        while (await one.client.network()).sites[0].online:
            await one.next(NoticeKind.NETWORK_CHANGED)


async def test_who_comes_and_goes_is_shown_to_strangers_who_ask_and_pushed_to_none(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    stranger = await bridge.join("stranger")
    before = {member: (await member.client.network()).revision for member in (one, stranger)}
    await other.signalling.close()
    await bridge.offline(other)
    after = {member: await member.client.network() for member in (one, stranger)}
    assert after[one].revision != before[one]
    assert after[stranger].revision == before[stranger]

    async def is_shown() -> bool:
        network = await stranger.client.network()
        return {entry.site: entry.online for entry in network.sites} == {one.site: True, other.site: False}

    await until(is_shown)


async def test_a_new_statement_makes_two_sites_acquainted_who_were_strangers(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.join("one"), await bridge.join("other")
    before = (await one.client.network()).revision
    await other.client.publish([other.statement(one, PACS)])
    network = await one.client.network()
    assert network.revision != before
    before = network.revision
    other.listen()
    await bridge.all_online(other)
    network = await one.client.network()
    assert network.revision != before
    assert network.sites[0].online


# sessions


async def test_an_offer_arrives_as_it_was_made(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    request, draft = one.request(other)
    await one.client.open_session(request)
    notice = await other.next(NoticeKind.OFFER)
    assert notice[1:PREFIX_BYTES] == request.session_id
    fields = unpack_fields(notice[PREFIX_BYTES:], 4)
    assert fields == [draft.offer, draft.signature, draft.request_box, one.mailbox.encode()]


async def test_a_site_that_is_not_connected_is_offline(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    await other.signalling.close()
    await bridge.offline(other)
    await refused(one.open(other), 503, "not connected")


async def test_nothing_is_opened_before_both_sites_accepted(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.join("one"), await bridge.join("other")
    other.listen()
    await bridge.all_online(other)
    await refused(one.open(other), 403, "one has not accepted other")
    await one.client.publish([one.statement(other)])
    await refused(one.open(other), 403, "other has not accepted one")
    await other.client.publish([other.statement(one, PACS)])
    await one.open(other)
    await other.client.publish([other.statement(one, PACS, accepted=False)])
    await refused(one.open(other), 403, "other has not accepted one")


async def test_a_statement_over_its_time_opens_nothing(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    await other.client.publish([other.statement(one, PACS, valid=-1)])
    await refused(one.open(other), 403, "not accepted")


@pytest.mark.parametrize(
    "device",
    [
        GrantedDevice(title="OTHER", services=["store"]),
        GrantedDevice(title="PACS", services=["store"], callers=["CT9"]),
        GrantedDevice(title="PACS", services=["store"], until=1.0),
    ],
)
async def test_what_is_not_granted_is_refused(bridge: BridgeUnderTest, device: GrantedDevice) -> None:
    one, other = await bridge.pair(device)
    await refused(one.open(other), 403, "not granted PACS to CALLER")


async def test_a_title_of_another_site_may_not_call(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    await other.client.publish([other.titles("CALLER")])
    await refused(one.open(other), 403, "CALLER belongs to another site")


async def test_an_answer_to_a_session_comes_back_without_a_grant(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    await refused(other.open(one, calling="PACS", called="CALLER"), 403, "Not granted")
    parent = await one.open(other)
    await other.open(one, calling="PACS", called="CALLER", parent=parent)
    await one.client.end_session(parent, SessionEnd(outcome="released", bytes_out=1, bytes_in=1))
    await other.open(one, calling="PACS", called="CALLER", parent=parent)
    await refused(one.open(other, called="CT2", parent=parent), 403, "Not granted")


async def test_a_return_grant_opens_the_way_back(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    grant = ReturnGrant(caller="PACS", title="CALLER", services=["store"], until=bridge.parts.clock.now() + DAY)
    await one.client.publish([one.statement(other, returns=[grant])])
    await other.open(one, calling="PACS", called="CALLER")


@pytest.mark.parametrize(
    "change",
    [
        {"called": "OTHER"},
        {"calling": "OTHER"},
        {"session_id": bytes(16)},
        {"offer": b"no offer"},
        {"session_id": bytes(15)},
    ],
)
async def test_an_offer_that_says_otherwise_is_refused(bridge: BridgeUnderTest, change: dict[str, object]) -> None:
    one, other = await bridge.pair()
    request, _ = one.request(other)
    await refused(one.client.open_session(request.model_copy(update=change)), 422)


async def test_a_session_id_is_used_once(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    request, _ = one.request(other)
    await one.client.open_session(request)
    another, _ = one.request(other)
    await refused(one.client.open_session(request.model_copy(update={"request": another.request})), 409)
    await one.client.end_session(request.session_id, SessionEnd(outcome="released", bytes_out=0, bytes_in=0))
    await refused(one.client.open_session(request), 409)


async def test_an_offer_that_is_asked_again_is_sent_again_and_is_still_one_session(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    request, _ = one.request(other)
    await one.client.open_session(request)
    first = await other.next(NoticeKind.OFFER)
    await one.client.open_session(request)
    assert await other.next(NoticeKind.OFFER) == first
    assert len(bridge.parts.sessions.live) == 1


async def test_the_audit_keeps_who_when_and_how_much(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    session_id = await one.open(other)
    assert [row["outcome"] for row in await bridge.administration.sessions()] == ["live"]
    await other.client.end_session(session_id, SessionEnd(outcome="released", bytes_out=7, bytes_in=1000))
    await one.client.end_session(session_id, SessionEnd(outcome="released", bytes_out=1001, bytes_in=7))
    assert await bridge.administration.sessions() == []
    (row,) = await bridge.administration.audit()
    assert (row["from_site"], row["to_site"], row["calling"], row["called"]) == ("clinic", "hospital", "CALLER", "PACS")
    assert (row["outcome"], row["bytes_out"], row["bytes_in"]) == ("released", 1001, 7)
    assert row["ended"] >= row["started"]


async def test_only_its_two_routers_end_a_session(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    third = await bridge.join("third")
    session_id = await one.open(other)
    end = SessionEnd(outcome="released", bytes_out=0, bytes_in=0)
    await refused(third.client.end_session(session_id, end), 404)
    await refused(one.client.end_session(bytes(16), end), 404)
    assert len(bridge.parts.sessions.live) == 1


# the hub


async def test_a_router_cannot_write_into_a_session_that_is_not_its_own(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    third = await bridge.join("third")
    session_id = await one.open(other)
    await third.signalling.publish(other.mailbox, pack(NoticeKind.DATA, session_id, b"injected"))
    await third.signalling.publish(other.mailbox, pack(NoticeKind.DATA, NO_SESSION, b"injected"))
    await one.signalling.publish(third.mailbox, pack(NoticeKind.DATA, session_id, b"to a stranger"))
    async with asyncio.timeout(20):
        while bridge.parts.hub.dropped_bytes["refused"] < 3 * PREFIX_BYTES:
            await one.client.heartbeat([])
    await one.signalling.publish(other.mailbox, pack(NoticeKind.DATA, session_id, b"rightful"))
    assert (await other.next(NoticeKind.DATA)).endswith(b"rightful")


@pytest.mark.parametrize("kind", [kind for kind in NoticeKind if kind < 16])
async def test_a_router_cannot_speak_as_the_bridge(bridge: BridgeUnderTest, kind: NoticeKind) -> None:
    one, other = await bridge.pair()
    session_id = await one.open(other)
    await other.next(NoticeKind.OFFER)
    await one.signalling.publish(other.mailbox, pack(kind, session_id, b"forged"))
    await one.signalling.publish(other.mailbox, pack(NoticeKind.CONTROL, session_id, b"rightful"))
    async with asyncio.timeout(20):
        while (notice := await other.notices.get())[0] != NoticeKind.CONTROL:
            assert not notice.endswith(b"forged")


async def test_nothing_is_carried_for_a_session_that_both_have_ended(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    session_id = await one.open(other)
    end = SessionEnd(outcome="released", bytes_out=0, bytes_in=0)
    await one.client.end_session(session_id, end)
    await one.signalling.publish(other.mailbox, pack(NoticeKind.CONTROL, session_id, b"last words"))
    assert (await other.next(NoticeKind.CONTROL)).endswith(b"last words")
    await other.client.end_session(session_id, end)
    assert bridge.parts.hub._links == {}


async def test_a_message_that_is_too_long_closes_the_connection_at_its_header(bridge: BridgeUnderTest) -> None:
    one, _ = await bridge.pair()
    socket = one.signalling._lane
    assert isinstance(socket, WebSocket)
    assert socket._transport is not None
    socket._transport.write(b"\x82\xff" + (1 << 32).to_bytes(8, "big") + bytes(4))
    await bridge.offline(one)
    await bridge.all_online(one)


# revocation


async def test_revocation_cuts_everything_at_once(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    session_id = await one.open(other)
    await bridge.administration.revoke("hospital")
    await refused(other.client.heartbeat([]), 401, "Revoked")
    await refused(other.client.upgrade("/signalling"), 401, "Revoked")
    assert (await one.next(NoticeKind.REVOKED))[PREFIX_BYTES:] == other.mailbox.encode()
    assert (await one.client.network()).sites == []
    assert not bridge.parts.hub.is_online(other.identity.router_id)
    assert bridge.parts.hub._links == {}
    assert [row["outcome"] for row in await bridge.administration.audit()] == ["revoked"]
    await refused(one.open(other), 404)
    assert session_id not in {session.session_id for session in bridge.parts.sessions.live}


async def test_a_revoked_key_never_comes_back_but_its_site_may(bridge: BridgeUnderTest) -> None:
    one, _ = await bridge.pair()
    await bridge.administration.revoke("hospital")
    revoked = bridge.members[1]
    invite = await bridge.invite("hospital")
    await refused(revoked.client.enrol(invite, revoked.prekey_document()), 409, "revoked")
    anew = bridge.member("hospital")
    await anew.client.enrol(invite, anew.prekey_document())
    entry = (await one.client.network()).sites[0]
    assert (entry.router_id, entry.statement) == (anew.mailbox, None)


# restarts


def count(session_id: bytes, of: SessionRequest, other: Member, **bytes_counted: int) -> SessionCount:
    counted = {"bytes_out": 0, "bytes_in": 0, **bytes_counted}
    return SessionCount(
        session_id=session_id,
        other_router_id=other.mailbox,
        calling=of.calling,
        called=of.called,
        started=1.0,
        **counted,
    )


async def test_a_restarted_bridge_knows_its_network_and_takes_back_sessions_that_both_announce(tmp_path: Path) -> None:
    data = tmp_path / "bridge"
    async with running_bridge(data) as first:
        one, other = await first.pair()
        await one.client.publish([one.titles("CALLER")])
        request, _ = one.request(other)
        await one.client.open_session(request)
        first.members.clear()
        listen = first.address.listen
    async with running_bridge(data, listen=HostPort("127.0.0.1", listen.port)) as bridge:
        bridge.members.extend((one, other))
        await bridge.all_online(one, other)
        assert bridge.parts.sessions.live == []
        await one.client.heartbeat([count(request.session_id, request, other, bytes_out=10)])
        assert bridge.parts.sessions.live == []
        await other.client.heartbeat([count(request.session_id, request, one, bytes_in=9)])
        (session,) = bridge.parts.sessions.live
        assert (session.initiator.site, session.bytes_out) == ("clinic", 10)
        await other.signalling.publish(one.mailbox, pack(NoticeKind.CONTROL, request.session_id, b"resumed"))
        assert (await one.next(NoticeKind.CONTROL)).endswith(b"resumed")


async def test_a_session_that_ended_is_not_taken_back(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    request, _ = one.request(other)
    await one.client.open_session(request)
    await one.client.end_session(request.session_id, SessionEnd(outcome="released", bytes_out=0, bytes_in=0))
    await one.client.heartbeat([count(request.session_id, request, other)])
    await other.client.heartbeat([count(request.session_id, request, one)])
    assert bridge.parts.sessions.live == []


async def test_a_bridge_in_use_is_not_administered_behind_its_back(bridge: BridgeUnderTest) -> None:
    with pytest.raises(OperatorError, match="in use"):
        async with open_administration(bridge.config.data):
            pass


async def test_a_bridge_that_does_not_run_is_administered_in_its_folder(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as running:
        await running.join("clinic")
        url = running.address.url
    async with open_administration(tmp_path) as administration:
        assert (await administration.run("invite", {"site": "hospital"}))["url"] == url
        assert [site["site"] for site in await administration.run("sites", {})] == ["clinic"]
        await administration.run("revoke", {"site": "clinic"})
        with pytest.raises(OperatorError, match="no operation"):
            await administration.run("reboot", {})
        with pytest.raises(OperatorError, match="valid_days"):
            await administration.run("invite", {"site": "x", "valid_days": "soon"})


async def test_a_stopping_bridge_says_so_to_its_routers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[str] = []
    lost = WebSocket.connection_lost

    def note(socket: WebSocket, exc: Exception | None) -> None:
        reasons.append(socket._closing)
        lost(socket, exc)

    monkeypatch.setattr(WebSocket, "connection_lost", note)
    async with running_bridge(tmp_path) as running:
        await running.pair()
        members, running.members[:] = list(running.members), []
    for member in members:
        await member.close()
    assert set(reasons) == {"the Bridge stops"}
    assert len(reasons) == 4
