"""A whole network in one event loop: a Bridge and Routers on loopback, joined and accepted as people would do it.

Everything is real but the processes: sockets, TLS, databases, keys. For tests that need more than one part.
"""

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp

from isthmus.bridge.app import BridgeAddress, run_bridge
from isthmus.bridge.config import BridgeConfig
from isthmus.bridge.parts import Parts
from isthmus.cloudio.options import StreamOptions
from isthmus.cloudio.stream import Cloud
from isthmus.contract.invites import Invite
from isthmus.errors import OperatorError
from isthmus.kit.names import HostPort
from isthmus.kit.tasks import Tasks
from isthmus.router.app import RouterAddress, run_router
from isthmus.router.config import RouterConfig, RouterLimits
from isthmus.router.lan.connection import DeviceConnection
from isthmus.router.lan.listener import LanConnection
from isthmus.router.live.answering import Answering
from isthmus.router.live.registry import Live
from isthmus.router.membership import join
from isthmus.testing.devices import Listening
from isthmus.testing.free_ports import free_port

_LOOPBACK = HostPort("127.0.0.1", 0)


@dataclass(slots=True)
class Running:
    """A part that runs: its folder, and how to stop it."""

    data: Path
    stop: asyncio.Event
    task: asyncio.Task[None]

    async def control(self, operation: str, /, **arguments: Any) -> Any:
        """Do an operation of its control API. Raises OperatorError with what it says."""
        note = json.loads((self.data / "control.json").read_text())
        address = note["url"] if "url" in note else f"http://{note['address']}"
        async with (
            aiohttp.ClientSession() as http,
            http.post(
                f"{address}/control/{operation}",
                json=arguments,
                headers={"Authorization": f"Bearer {note['token']}"},
            ) as response,
        ):
            answer = await response.json(content_type=None)
            if response.status != 200:
                raise OperatorError(answer["detail"] or answer["title"], hint=answer.get("hint", ""))
            return answer

    async def end(self) -> None:
        """Stop it as SIGTERM does, and wait."""
        self.stop.set()
        await self.task

    async def kill(self) -> None:
        """Stop it without a word, as far as one process can."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@dataclass(slots=True)
class Site(Running):
    """A running Router."""

    name: str
    address: RouterAddress
    live: Live

    @property
    def router_id(self) -> str:
        """Its Router ID, compact."""
        return self.live.core.identity.router_id

    @property
    def port(self) -> int:
        """The LAN port: to this site's devices, every remote device."""
        return self.address.dicom.port


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What a test may want otherwise. `around` is put between a site's Router, by name, and its providers.

    `probes`: Routers ask devices by themselves what they take, so that scripted devices see associations of theirs too.
    `dicom_tls`: each Router also listens for DICOM TLS; the test puts its files into FOLDER/SITE/tls beforehand.
    `ca`: PEM file of the CA that Routers join with.
    """

    tls: bool = False
    ca: Path | None = None
    dicom_tls: bool = False
    probes: bool = False
    limits: RouterLimits = field(default_factory=RouterLimits)
    stream: StreamOptions = field(default_factory=StreamOptions)
    around: Callable[[str, Cloud], Cloud] | None = None


class Network:
    """A Bridge and its sites."""

    def __init__(self, folder: Path, options: NetworkOptions) -> None:
        self._folder = folder
        self.options = options
        self._tasks = Tasks("test network")
        self._bridge_listens = HostPort("127.0.0.1", free_port())
        self.sites: dict[str, Site] = {}
        self.bridge: Running | None = None
        self.bridge_address: BridgeAddress | None = None
        self.parts: Parts | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls,
        folder: Path,
        sites: Sequence[str] = ("north", "south"),
        *,
        tls: bool = True,
        options: NetworkOptions | None = None,
    ) -> AsyncIterator[Self]:
        """Run a Bridge and these sites, each of which accepts each other; fail if a task of theirs outlives them."""
        before = asyncio.all_tasks()
        network = cls(folder, options or NetworkOptions(tls=tls))
        try:
            await network.start_bridge()
            for name in sites:
                await network.join(name)
            await network.accept_all()
            yield network
        finally:
            await network.close()
        await until(lambda: not _left_over(before), 3.0, what=lambda: f"tasks left over: {_left_over(before)}")

    async def pair(
        self, device: Listening, services: Sequence[str] = ("any",), *, caller: str = "WS", **options: Any
    ) -> None:
        """Register `device` as PACS of south, granted to north, and a caller of north."""
        await self.sites["south"].control("device_add", address=f"PACS@127.0.0.1:{device.port}", **options)
        await self.sites["north"].control("device_add", address=f"{caller}@127.0.0.1")
        await self.grant("south", "PACS", "north", services)

    async def quiet(self, seconds: float = 8.0) -> None:
        """Wait until nothing is left of any association, at any Router and at the Bridge; say what is, if it stays."""
        await until(lambda: not self.left(), seconds, what=lambda: "; ".join(self.left()))

    def left(self) -> list[str]:
        """Return what is left of associations that are over."""
        found = []
        for site in self.sites.values():
            if site.task.done():
                continue
            live, answering = site.live, site.live._answerer  # noqa: SLF001 - looks inside
            assert isinstance(answering, Answering)
            counts = {
                "sessions": len(live.sessions),
                "streams": len(live.links),
                "offers": len(live.waiting),
                "answers": sum(row.task is not None and not row.task.done() for row in answering._answering.values()),  # noqa: SLF001 - looks inside
                "bytes of the pool": live.core.pool.used,
                "associations being set up": live.setting_up,
            }
            found += [f"{site.name}: {count} {what}" for what, count in counts.items() if count]
        if self.parts is not None:
            found += [f"the Bridge: session {row.session_id.hex()[:8]} live" for row in self.parts.sessions.live]
            blobs = [path for path in (self._folder / "bridge" / "blobs").rglob("*") if path.is_file()]
            found += [f"the Bridge: blob {path.name}" for path in blobs]
        connections = [thing for thing in gc.get_objects() if type(thing) in {DeviceConnection, LanConnection}]
        open_ones = [one for one in connections if one._transport is not None]  # noqa: SLF001 - looks inside
        return found + [f"open: {one!r}" for one in open_ones]

    async def close(self) -> None:
        """Stop everything."""
        for part in (*self.sites.values(), self.bridge):
            if part is not None and not part.task.done():
                part.stop.set()
        for part in (*self.sites.values(), self.bridge):
            if part is not None:
                with contextlib.suppress(asyncio.CancelledError):
                    await part.task
        await self._tasks.close()

    async def start_bridge(self) -> None:
        """Start the Bridge, or start it again where it was."""
        config = BridgeConfig(data=self._folder / "bridge", listen=self._bridge_listens, tls=self.options.tls)
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        running = run_bridge(config, stop, lambda _: None, joined=lambda *both: ready.set_result(both))
        task = self._tasks.spawn(running, name="bridge")
        self.bridge_address, self.parts = await _first(ready, task)
        self.bridge = Running(config.data, stop, task)

    async def stop_bridge(self) -> None:
        """Stop the Bridge."""
        assert self.bridge is not None
        await self.bridge.end()
        self.parts = None

    async def join(self, name: str) -> Site:
        """Invite a site, enrol its Router and run it."""
        assert self.bridge is not None
        invite = await self.bridge.control("invite", site=name, valid_days=1)
        data = self._folder / name
        await join(data, Invite.parse(invite["invite"]), ca=self.options.ca)
        return await self.start(name)

    async def start(self, name: str, dicom: HostPort = _LOOPBACK) -> Site:
        """Run a Router that has joined, or run it again."""
        options, found = self.options, list[Live]()
        config = RouterConfig(
            data=self._folder / name,
            dicom=dicom,
            dicom_tls=_LOOPBACK if options.dicom_tls else None,
            console=_LOOPBACK,
            probes=options.probes,
            limits=options.limits,
            stream=options.stream,
        )
        around = options.around
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        running = run_router(
            config,
            stop,
            ready.set_result,
            around=None if around is None else lambda cloud: around(name, cloud),
            joined=found.append,
        )
        task = self._tasks.spawn(running, name=name)
        address = await _first(ready, task)
        site = self.sites[name] = Site(config.data, stop, task, name, address, found[0])
        await until(lambda: self._connected(site))
        return site

    @staticmethod
    async def _connected(site: Site) -> bool:
        return bool((await site.control("status"))["bridge"]["connected"])

    async def accept_all(self) -> None:
        """Have every site accept every other one."""
        for site in self.sites.values():
            for other in self.sites.values():
                if other is not site:
                    await self.accept(site, other)

    async def accept(self, site: Site, other: Site) -> None:
        """Have one site accept another, comparing IDs as two people would."""
        router_id = (await other.control("status"))["router_id"]
        await until(lambda: self._sees(site, other.name))
        await site.control("site_accept", site=other.name, router_id=router_id)

    @staticmethod
    async def _sees(site: Site, other: str) -> bool:
        return any(row["site"] == other for row in await site.control("site_list"))

    async def grant(self, owner: str, device: str, to: str, services: Sequence[str] = ("any",), **more: Any) -> None:
        """Grant a device to a site, and wait until that site sees it."""
        await self.sites[owner].control("grant_add", device=device, site=to, services=list(services), **more)
        title = (await self.sites[owner].control("device_show", device=device))["network_title"]
        await until(lambda: self._reaches(self.sites[to], title))

    @staticmethod
    async def _reaches(site: Site, title: str) -> bool:
        return any(row["title"] == title and row["online"] for row in await site.control("directory"))


async def _first(ready: "asyncio.Future[Any]", task: asyncio.Task[None]) -> Any:
    await asyncio.wait({ready, task}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
        raise AssertionError(f"{task.get_name()} ended before it was ready")
    return ready.result()


def _left_over(before: set[asyncio.Task[Any]]) -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() - before if task is not asyncio.current_task()]


async def until(
    condition: Callable[[], Any], seconds: float = 15.0, *, what: Callable[[], str] = lambda: "it never held"
) -> None:
    """Wait until `condition` holds, asking every few milliseconds. Raises AssertionError with `what` if it stays."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                answer = condition()
                if await answer if asyncio.iscoroutine(answer) else answer:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        raise AssertionError(what()) from error
