"""Two Routers' tables and a real Bridge: what one site says is what the other believes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from isthmus.adapters.bridge_http import BridgeConnection
from isthmus.bridge.administration import Administration as BridgeAdministration
from isthmus.bridge.app import run_bridge
from isthmus.bridge.config import BridgeAddress, BridgeConfig
from isthmus.bridge.parts import Parts
from isthmus.contract.invites import Invite
from isthmus.errors import AssociationRefused, OperatorError
from isthmus.kit.clock import SystemClock
from isthmus.kit.names import AETitle, HostPort
from isthmus.kit.tasks import Tasks
from isthmus.router.audit import Audit
from isthmus.router.control.administration import Administration
from isthmus.router.control.check import Level, check
from isthmus.router.control.doctor import examine
from isthmus.router.keys import Keys
from isthmus.router.membership import join
from isthmus.router.metrics import Metrics
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.records import RemoteDevice
from isthmus.router.routing.store import Store
from isthmus.router.sync import Sync
from isthmus.testing.clouds import NoClouds


@dataclass
class TheBridge:
    """A Bridge that runs, and its operator."""

    folder: Path
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: Tasks = field(default_factory=lambda: Tasks("test"))
    url: str = ""
    operator: BridgeAdministration | None = None

    async def start(self) -> None:
        config = BridgeConfig(data=self.folder, listen=HostPort("127.0.0.1", 0))
        running = self.tasks.spawn(
            run_bridge(config, self.stop, lambda _: self.ready.set(), joined=self._joined), name="bridge"
        )
        waiting = self.tasks.spawn(self.ready.wait(), name="wait")
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running

    async def invite(self, site: str) -> Invite:
        assert self.operator is not None
        return Invite.parse((await self.operator.invite(site))["invite"])

    def _joined(self, address: BridgeAddress, parts: Parts) -> None:
        self.url = address.url
        self.operator = BridgeAdministration(parts, address)


@dataclass
class Site:
    """All of a Router but its relay."""

    folder: Path
    clock: SystemClock
    keys: Keys
    directory: Directory
    administration: Administration
    sync: Sync


class SlowClock(SystemClock):
    """A machine's clock that is ten minutes late."""

    def now(self) -> float:
        return super().now() - 600.0


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as held:
        yield held


@pytest.fixture
async def bridge(tmp_path: Path, stack: AsyncExitStack) -> TheBridge:
    bridge = TheBridge(tmp_path / "bridge")
    stack.push_async_callback(bridge.tasks.close)
    await bridge.start()
    return bridge


async def joined(
    bridge: TheBridge, stack: AsyncExitStack, name: str, *, clock: SystemClock | None = None, late: bool = False
) -> Site:
    folder = bridge.folder.parent / name
    await join(folder, await bridge.invite(name))
    clock = clock or SystemClock()
    keys = Keys.open(folder, now=clock.now())
    assert keys.membership is not None
    store = Store.open(folder / "router.db")
    stack.callback(store.close)
    audit = Audit(store, clock)
    directory = Directory(store, keys, clock, alert=audit.alert)
    machine = SlowClock() if late else SystemClock()
    http = BridgeConnection(keys.membership.url, keys.membership.identity, keys.identity, clock=machine)
    stack.push_async_callback(http.close)
    sync = Sync(
        http,
        directory,
        keys,
        clock=clock,
        system_clock=clock,
        counts=list,
        clouds=NoClouds(),
        audit=audit,
        metrics=Metrics(),
    )
    return Site(folder, clock, keys, directory, Administration(store, directory, keys, audit, clock), sync)


async def accept(site: Site, other: Site) -> None:
    assert other.keys.membership is not None
    site.sync.network_changed()
    await site.sync.turn()
    site.administration.site_accept(other.keys.membership.site, router_id=other.keys.router_id.spoken)
    await site.sync.turn()


async def test_a_device_is_reached_once_both_accepted_and_it_is_granted(
    bridge: TheBridge, stack: AsyncExitStack
) -> None:
    north, south = await joined(bridge, stack, "north"), await joined(bridge, stack, "south")
    for site in (north, south):
        await site.sync.turn()
        assert site.sync.connected, site.sync.trouble
    south.administration.device_add("SOUTH_PACS@192.0.2.20:104", name="Archive")
    north.administration.device_add("CT1@192.0.2.10")
    south.administration.grant_add("SOUTH_PACS", site="north", services=["store", "query"])
    await accept(north, south)
    await accept(south, north)
    north.sync.network_changed()
    await north.sync.turn()
    assert north.sync.refusal == ""
    assert north.directory.alerts == {}
    ct = north.directory.caller(AETitle("CT1"), "192.0.2.10")
    with pytest.raises(AssociationRefused) as refused:  # the tables agree; no Router of south listens here
        north.directory.resolve(ct, AETitle("SOUTH_PACS"))
    assert (refused.value.result, refused.value.source, refused.value.reason) == (2, 3, 1)
    north.directory._online = frozenset({south.keys.router_id})
    found = north.directory.resolve(ct, AETitle("SOUTH_PACS"))
    assert isinstance(found, RemoteDevice)
    assert found.services == {"store", "query"}
    assert found.name == "Archive"
    assert found.prekey.prekey_id in south.keys.prekeys
    (row,) = north.administration.site_list()
    assert (row["accepted_here"], row["accepted_there"]) == (True, True)


async def test_a_title_that_another_site_has_is_refused_and_all_else_is_published(
    bridge: TheBridge, stack: AsyncExitStack
) -> None:
    north, south = await joined(bridge, stack, "north"), await joined(bridge, stack, "south")
    south.administration.device_add("PACS@192.0.2.20:104")
    await south.sync.turn()
    north.administration.device_add("PACS@192.0.2.20:104")
    await north.sync.turn()
    assert north.sync.connected
    assert north.sync.refusal != ""
    north.administration.device_set("PACS", title="NORTH_PACS")
    await north.sync.turn()
    assert north.sync.refusal == ""


async def test_a_restored_router_is_not_shut_out(bridge: TheBridge, stack: AsyncExitStack) -> None:
    north, south = await joined(bridge, stack, "north"), await joined(bridge, stack, "south")
    for site in (north, south):
        await site.sync.turn()
    await accept(north, south)
    for name in ("A", "B", "C"):
        north.administration.device_add(f"{name}@192.0.2.20:104")
        north.administration.grant_add(name, site="south", services=["echo"])
        await north.sync.turn()
    store = Store.open(north.folder / "restored.db")  # an old backup: nothing of the counters is in it
    stack.callback(store.close)
    audit = Audit(store, north.clock)
    directory = Directory(store, north.keys, north.clock)
    administration = Administration(store, directory, north.keys, audit, north.clock)
    sync = Sync(
        north.sync._bridge,
        directory,
        north.keys,
        clock=north.clock,
        system_clock=None,
        counts=list,
        clouds=NoClouds(),
        audit=audit,
        metrics=Metrics(),
    )
    administration.device_add("D@192.0.2.20:104")
    await sync.turn()
    assert sync.connected, sync.trouble
    assert sync.refusal == ""
    administration.site_accept("south", router_id=south.keys.router_id.spoken)
    await sync.turn()
    assert sync.refusal == ""


async def test_a_machine_whose_clock_is_ten_minutes_late_works_by_the_bridges_clock(
    bridge: TheBridge, stack: AsyncExitStack
) -> None:
    clock = SlowClock()
    north = await joined(bridge, stack, "north", clock=clock, late=True)
    await north.sync.turn()
    assert north.sync.connected, north.sync.trouble
    assert clock.offset == pytest.approx(600.0, abs=5.0)
    north.sync.came_back()
    await north.sync.turn()
    assert north.sync.connected, north.sync.trouble
    assert clock.offset == pytest.approx(600.0, abs=5.0)


async def test_the_way_to_a_real_bridge_is_found_well(bridge: TheBridge) -> None:
    report = await asyncio.to_thread(check, bridge.url)
    assert report.ok, report.findings
    found = {finding.what: finding for finding in report.findings}
    assert found["push"].level is Level.OK
    assert "the Bridge's own" in found["certificate"].found
    assert "TLSv1.3" in found["TLS"].found


async def test_the_doctor_finds_a_joined_router_well(bridge: TheBridge, stack: AsyncExitStack) -> None:
    north, south = await joined(bridge, stack, "north"), await joined(bridge, stack, "south")
    for site in (north, south):
        await site.sync.turn()
    await accept(north, south)
    findings = await asyncio.to_thread(examine, north.folder)
    by_name = {finding.what: finding for finding in findings}
    assert by_name["Bridge"].level is Level.OK
    assert by_name["clock"].level is Level.OK
    assert (by_name["sites"].level, by_name["sites"].found) == (Level.WARN, "south did not accept this site")


async def test_an_invite_of_another_network_does_not_move_a_router(bridge: TheBridge, stack: AsyncExitStack) -> None:
    await joined(bridge, stack, "north")
    with pytest.raises(OperatorError, match="already"):
        await join(bridge.folder.parent / "north", await bridge.invite("south"))
