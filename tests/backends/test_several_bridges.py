"""Several Bridges on one PostgreSQL behind one address: nobody notices which one it reached."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.backends import bridges
from tests.backends.bridges import STOPS_SECONDS, BridgeProcess, Bridges, running_bridges
from tests.backends.servers.nats import NatsServer, bus_url
from tests.backends.servers.postgres import PostgresServer
from tests.interop import dcmtk
from tests.interop.queued import all_are, queue_for, storescu
from tests.interop.sites import CT, MR, caller, publish

from isthmus.adapters.bridge_http import BridgeConnection
from isthmus.contract.documents import GrantedDevice
from isthmus.contract.invites import Invite
from isthmus.contract.notices import NoticeKind
from isthmus.contract.rest import SessionEnd
from isthmus.errors import Problem
from isthmus.router.queued import mirror
from isthmus.testing.bridge import Member
from isthmus.testing.devices import Archive, Wire, calling, listening
from isthmus.testing.dicom import echo_rq, echo_rsp
from isthmus.testing.network import NetworkOptions, until


@pytest.fixture
async def url(server: PostgresServer) -> str:
    """Return the URL of a new database."""
    return server.url(await server.new_database())


@pytest.fixture(params=["notify", "nats"])
def arguments(request: pytest.FixtureRequest, url: str) -> list[str]:
    """Return how each Bridge is run: once for each engine."""
    if request.param == "notify":
        return ["--database-url", url]
    return ["--database-url", url, "--bus", bus_url(request.getfixturevalue("nats_bus"))]


async def test_an_association_crosses_from_a_router_at_one_bridge_to_a_router_at_another(
    tmp_path: Path, arguments: list[str]
) -> None:
    archive = Archive()
    async with listening(archive) as pacs, running_bridges(tmp_path, arguments) as network:
        await spread(network)
        await network.pair(pacs)
        async with calling(network.sites["north"].port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == 2
            await wire.send(echo_rq())
            assert await wire.pdu() == echo_rsp()
            await wire.release()
        await network.quiet()


async def spread(network: Bridges) -> None:
    """Have north's notices come through the first Bridge, south's through the second; both accept each other."""
    for bridge, name in zip(network.bridges, ("north", "south"), strict=True):
        network.balancer.ports = [bridge.port]
        await network.join(name)
    network.balancer.ports = [bridge.port for bridge in network.bridges]
    await network.accept_all()


async def test_what_is_done_at_one_bridge_holds_at_the_other(tmp_path: Path, arguments: list[str]) -> None:
    """Invites, accounts, documents, presence, revisions, replays, revocation."""
    async with running_bridges(tmp_path, arguments) as network, members(network) as crowd:
        one, other = await crowd.join("clinic", invited_at=0, at=1), await crowd.join("hospital", invited_at=1, at=0)
        revisions = [(await crowd.way(one, at).heartbeat([])).revision for at in (0, 1)]
        assert len(set(revisions)) == 1
        one.listen()
        other.listen()
        await one.client.publish([one.statement(other)])
        await other.client.publish([other.statement(one, GrantedDevice(title="PACS", services=["store"]))])
        await until(lambda: all_online(network, 2))
        here, there = [await crowd.way(one, at).network() for at in (0, 1)]
        assert here == there.model_copy(update={"time": here.time})
        assert [(entry.site, entry.online, entry.statement is not None) for entry in here.sites] == [
            ("hospital", True, True)
        ]
        request, _ = one.request(other)
        await one.client.open_session(request)
        offer = await other.next(NoticeKind.OFFER)
        assert offer[1:17] == request.session_id
        await crowd.way(other, 1).end_session(
            request.session_id, SessionEnd(outcome="released", bytes_out=7, bytes_in=1001)
        )
        await until(lambda: no_session(network))
        with pytest.raises(Problem, match="of this id exists or ended"):
            await crowd.way(one, 0).open_session(request)

        await network.bridges[0].control.control("revoke", site="hospital")
        with pytest.raises(Problem, match="no longer belongs"):
            await crowd.way(other, 1).heartbeat([])
        assert (await one.next(NoticeKind.REVOKED))[17:].decode() == other.mailbox
        await until(lambda: all_online(network, 1))


async def test_a_title_that_is_claimed_at_two_bridges_at_once_is_given_to_one_of_them(
    tmp_path: Path, arguments: list[str]
) -> None:
    async with running_bridges(tmp_path, arguments) as network, members(network) as crowd:
        claimants = [await crowd.join(f"site{number}", invited_at=0, at=number % 2) for number in range(6)]
        for number in range(5):
            said = await asyncio.gather(
                *(claimant.client.publish([claimant.titles(f"TITLE{number}")]) for claimant in claimants),
                return_exceptions=True,
            )
            assert sum(answer is None for answer in said) == 1
            assert all(isinstance(answer, Problem) and answer.status == 409 for answer in said if answer is not None)


async def test_an_invite_that_is_used_at_two_bridges_at_once_lets_one_router_in(tmp_path: Path, url: str) -> None:
    async with running_bridges(tmp_path, ["--database-url", url]) as network:
        invite = Invite.parse((await network.bridges[0].control.control("invite", site="clinic"))["invite"])
        rivals = [newcomer(bridge, "clinic", invite.identity) for bridge in network.bridges for _ in range(3)]
        try:
            said = await asyncio.gather(
                *(rival.client.enrol(invite, rival.prekey_document()) for rival in rivals), return_exceptions=True
            )
        finally:
            for rival in rivals:
                await rival.close()
        assert sorted(getattr(answer, "status", 201) for answer in said) == [201, 403, 403, 403, 403, 403]


async def test_a_bridge_with_another_identity_or_other_blobs_refuses_to_start(tmp_path: Path, url: str) -> None:
    async with running_bridges(tmp_path, ["--database-url", url], count=1) as network:
        stranger = BridgeProcess(tmp_path / "stranger", ["--no-tls", "--database-url", url])
        stranger.data.mkdir()
        assert "another identity key" in await refusal(stranger)
        assert "identity.key" in "".join(stranger.said)
        (stranger.data / "identity.key").write_bytes((network.bridges[0].data / "identity.key").read_bytes())
        assert "blobs elsewhere" in await refusal(stranger)
        assert "--blobs" in "".join(stranger.said)


async def test_twenty_associations_outlive_every_bridge_that_is_restarted_and_one_that_is_killed(
    tmp_path: Path, arguments: list[str]
) -> None:
    """Bridges stop one after another, then one dies; not a byte of what the devices send is lost or repeated."""
    archive = Archive()
    async with listening(archive) as pacs, running_bridges(tmp_path, arguments) as network:
        await network.join("north")
        await network.join("south")
        await network.accept_all()
        await network.pair(pacs)
        port = network.sites["north"].port
        async with contextlib.AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(calling(port)) for _ in range(20)]
            for wire in wires:
                assert (await wire.associate("PACS", "WS"))[0] == 2
            for bridge in network.bridges:
                await bridge.stop()
                await all_answer(wires)
                await bridge.start()
                await network.together()
            await network.bridges[1].stop(signal.SIGKILL)
            await all_answer(wires)
            for wire in wires:
                await wire.release()
        assert (pacs.dialled, archive.released) == (20, 20)
        await network.quiet()


async def test_real_devices_send_live_and_queued_by_way_of_two_bridges_that_speak_tls(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections are shared out blindly: blobs are put at one Bridge and read at the other, and so with letters."""
    monkeypatch.setattr(mirror, "APART_SECONDS", 0.0)
    options = NetworkOptions(tls=True)
    async with (
        running_bridges(tmp_path, arguments, options=options) as network,
        dcmtk.storescp(tmp_path / "got", title="ARCHIVE") as port,
    ):
        await spread(network)
        title = await caller(network, "SCANNER")
        await publish(network, "ARCHIVE", port)
        ran = await storescu(network.sites["north"].port, title, "ARCHIVE", [CT, MR])
        assert ran.code == 0, ran.output
        assert len(dcmtk.files(tmp_path / "got")) == 2
        await queue_for(network, "QUEUED", port)
        ran = await storescu(network.sites["north"].port, title, "QUEUED", [CT, MR])
        assert ran.code == 0, ran.output
        await all_are(network.sites["north"], "QUEUED", delivered=2)
        assert len(set(network.balancer.taken)) == 2
        assert (network.bridges[0].data / "tls.crt").read_bytes() == (network.bridges[1].data / "tls.crt").read_bytes()


async def test_an_association_outlives_the_bus(tmp_path: Path, url: str, nats_bus: NatsServer) -> None:
    archive = Archive()
    bus = ["--bus", bus_url(nats_bus)]
    async with (
        listening(archive) as pacs,
        running_bridges(tmp_path, ["--database-url", url, *bus]) as network,
    ):
        await spread(network)
        await network.pair(pacs)
        async with calling(network.sites["north"].port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == 2
            await all_answer([wire])
            nats_bus.kill()
            await wire.send(echo_rq())
            await asyncio.sleep(6)  # the outage: the Bridges lose sight of each other
            nats_bus.start()
            assert await wire.pdu(20) == echo_rsp()
            await wire.release()
        await network.together()
        await network.quiet()


async def all_answer(wires: Sequence[Wire]) -> None:
    """Have the far device answer on each association, within the 25 s that a lost way may take to come back."""
    for wire in wires:
        await wire.send(echo_rq())
    assert await asyncio.gather(*(wire.pdu(25) for wire in wires)) == [echo_rsp()] * len(wires)


def newcomer(bridge: BridgeProcess, site: str, identity: bytes) -> Member:
    """Return somebody who speaks to one Bridge only."""
    return Member(site, f"http://127.0.0.1:{bridge.port}", identity)


class Crowd:
    """Members of the network who speak to one Bridge or the other."""

    def __init__(self, network: Bridges) -> None:
        self._network = network
        self._to_close: list[Member | BridgeConnection] = []

    async def join(self, site: str, *, invited_at: int, at: int) -> Member:
        """Return who was invited at one Bridge and enrolled at another."""
        said = await self._network.bridges[invited_at].control.control("invite", site=site)
        invite = Invite.parse(said["invite"])
        member = newcomer(self._network.bridges[at], site, invite.identity)
        self._to_close.append(member)
        await member.client.enrol(invite, member.prekey_document())
        return member

    def way(self, member: Member, at: int) -> BridgeConnection:
        """Return a member's way to one Bridge."""
        bridge = self._network.bridges[at]
        way = BridgeConnection(f"http://127.0.0.1:{bridge.port}", member.bridge_identity, member.identity)
        self._to_close.append(way)
        return way

    async def close(self) -> None:
        """Let go of everybody."""
        for one in self._to_close:
            await one.close()


@contextlib.asynccontextmanager
async def members(network: Bridges) -> AsyncIterator[Crowd]:
    """Return what makes members."""
    crowd = Crowd(network)
    try:
        yield crowd
    finally:
        await crowd.close()


async def all_online(network: Bridges, count: int) -> bool:
    """Return whether every Bridge counts so many Routers."""
    counts = [(await bridge.control.control("status"))["routers_online"] for bridge in network.bridges]
    return counts == [count] * len(counts)


async def no_session(network: Bridges) -> bool:
    """Return whether no Bridge has a live session."""
    return not any([await bridge.control.control("sessions") for bridge in network.bridges])


async def test_a_bridge_that_takes_too_long_to_start_does_not_outlive_its_test(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def note(*words: str, **options: Any) -> asyncio.subprocess.Process:
        started.append(await start(*words, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", note)
    monkeypatch.setattr(bridges, "STARTS_SECONDS", 0)
    stranger = BridgeProcess(tmp_path, ["--no-tls", "--database-url", url])
    with pytest.raises(TimeoutError):
        await refusal(stranger)
    with pytest.raises(TimeoutError):
        async with running_bridges(tmp_path, ["--database-url", url], count=1):
            pass
    try:
        assert [process.returncode for process in started] == [-signal.SIGKILL] * 2
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def refusal(bridge: BridgeProcess) -> str:
    """Return what a Bridge says that does not start."""
    try:
        with pytest.raises(AssertionError) as refused:
            await bridge.start()
        process = bridge.process
        assert process is not None
        async with asyncio.timeout(STOPS_SECONDS):
            assert await process.wait() == 1
    finally:
        await bridge.stop(signal.SIGKILL)
    return str(refused.value)
