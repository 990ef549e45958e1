"""Several Bridges in processes of their own on one database, behind a balancer that knows nothing of HTTP."""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from isthmus.kit.tasks import Tasks
from isthmus.testing.free_ports import free_port
from isthmus.testing.network import Network, NetworkOptions, Running, until

STARTS_SECONDS = 40
STOPS_SECONDS = 30
_PIECE = 256 * 1024


class Balancer:
    """Gives each connection to the next Bridge that takes it."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.taken: dict[int, int] = {}
        self._turn = itertools.count()
        self._tasks = Tasks("balancer")
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._come, "127.0.0.1", 0)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._tasks.close()

    async def _come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._tasks.spawn(self._carry(reader, writer), name="connection")

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = next(self._turn)
        ports = list(self.ports)
        for index in range(len(ports)):
            port = ports[(first + index) % len(ports)]
            try:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
            self.taken[port] = self.taken.get(port, 0) + 1
            ways = [
                self._tasks.spawn(_copy(reader, far_writer), name="in"),
                self._tasks.spawn(_copy(far_reader, writer), name="out"),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            far_writer.close()
            break
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()


@dataclass(slots=True)
class BridgeProcess:
    """`isthmus bridge run` in a process."""

    data: Path
    arguments: list[str]
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None
    said: list[str] = field(default_factory=list)
    _reading: Tasks = field(default_factory=lambda: Tasks("reading what a Bridge says"))

    async def start(self) -> None:
        """Run it until Routers can connect."""
        (self.data / "control.json").unlink(missing_ok=True)
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "isthmus", "bridge", "run", "--data", str(self.data),
            "--listen", f"127.0.0.1:{self.port}", *self.arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("ISTHMUS_")},
        )  # fmt: skip
        assert self.process.stdout is not None
        reading = self._reading.spawn(self._read(), name="reading")
        async with asyncio.timeout(STARTS_SECONDS):
            line = await self.process.stdout.readline()
            if not line:
                await reading
        assert line.startswith(b"Bridge ready"), "\n".join(self.said)
        status = await self.control.control("status")
        assert self.port == int(status["listen"].rpartition(":")[2])

    @property
    def control(self) -> Running:
        """Its control API."""
        return Running(self.data, asyncio.Event(), asyncio.get_running_loop().create_future())  # type: ignore[arg-type]  # never awaited

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait; one that does not end in time is killed, and fails the test."""
        if self.process is not None:
            process = self.process
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(how)
            try:
                async with asyncio.timeout(STOPS_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
                raise AssertionError(f"a Bridge did not end by {how.name}; it said\n{''.join(self.said)}") from None
            finally:
                self.process = None
                await self._reading.close()

    async def _read(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.said.append(line.decode())


class Bridges(Network):
    """A network whose Bridges are several processes."""

    def __init__(self, folder: Path, options: NetworkOptions, arguments: list[str]) -> None:
        super().__init__(folder, options)
        self.balancer = Balancer()
        self.arguments = arguments
        self.bridges: list[BridgeProcess] = []

    async def add(self) -> BridgeProcess:
        """Run one more Bridge."""
        data = self._folder / f"bridge{len(self.bridges)}"
        data.mkdir(mode=0o700)
        if self.bridges:
            shutil.copy(self.bridges[0].data / "identity.key", data / "identity.key")
        tls = "--tls" if self.options.tls else "--no-tls"
        url = f"{'https' if self.options.tls else 'http'}://127.0.0.1:{self.balancer.port}"
        folder = [] if "--blobs" in self.arguments else ["--blobs", str(self._folder / "blobs")]
        bridge = BridgeProcess(data, [tls, "--public-url", url, *folder, *self.arguments])
        self.bridges.append(bridge)  # before it runs, so that it is ended even if it does not get ready
        await bridge.start()
        self.balancer.ports.append(bridge.port)
        self.bridge = self.bridges[0].control
        return bridge

    async def together(self) -> None:
        """Wait until all Bridges know each other."""
        await until(self._all_met, 15)

    async def _all_met(self) -> bool:
        counts = [
            (await bridge.control.control("status"))["bridges"] for bridge in self.bridges if bridge.process is not None
        ]
        return set(counts) == {len(counts)}


@contextlib.asynccontextmanager
async def running_bridges(
    folder: Path, arguments: list[str], *, count: int = 2, options: NetworkOptions | None = None
) -> AsyncIterator[Bridges]:
    """Run Bridges, and whatever joins them until the end."""
    network = Bridges(folder, options or NetworkOptions(), arguments)
    await network.balancer.open()
    try:
        for _ in range(count):
            await network.add()
        await network.together()
        yield network
    finally:
        how = signal.SIGKILL if sys.exc_info()[0] else signal.SIGTERM
        network.bridge = None
        async with contextlib.AsyncExitStack() as stack:  # one that cannot end keeps none of the others from it
            stack.push_async_callback(network.balancer.close)
            for bridge in reversed(network.bridges):
                stack.push_async_callback(bridge.stop, how)
            await network.close()
