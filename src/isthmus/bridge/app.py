"""Running a Bridge: joins the parts to their sockets, and lets go of all of it in order."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
import uvicorn
from starlette.types import ASGIApp

from isthmus.bridge.administration import Administration, store_address, with_stored_database
from isthmus.bridge.config import BridgeAddress, BridgeConfig
from isthmus.bridge.control import FILE, Control
from isthmus.bridge.gathering import GatheringProtocol
from isthmus.bridge.http import make_app
from isthmus.bridge.parts import Parts
from isthmus.bridge.signalling.socket import socket_class
from isthmus.bridge.tls import Tls
from isthmus.errors import OperatorError, ProviderTrouble
from isthmus.kit.clock import Clock, SystemClock
from isthmus.kit.files import folder_lock, make_private_folder
from isthmus.kit.names import HostPort
from isthmus.kit.platform import raise_open_file_limit
from isthmus.kit.tasks import Tasks

__all__ = ["BridgeAddress", "BridgeConfig", "run_bridge"]

_log = structlog.get_logger()
_KEEP_ALIVE_SECONDS: Final = 90  # above the heartbeat, so that a Router's connection is warm when a device calls
_STOP_SECONDS: Final = 5
_EXPIRE_SECONDS: Final = 5.0
_SWEEP_SECONDS: Final = 600.0


class _Server(uvicorn.Server):
    """Uvicorn inside our loop: signals are the caller's, and it tells when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run_bridge(
    config: BridgeConfig,
    stop: asyncio.Event,
    ready: Callable[[BridgeAddress], None],
    *,
    clock: Clock | None = None,
    joined: Callable[[BridgeAddress, Parts], None] | None = None,
) -> None:
    """Run a Bridge until `stop` is set; `ready` is called once Routers can connect.

    `joined` is called just before with the parts, for those who look inside.

    Raises OperatorError if its folder or database is in use or damaged, or its address is taken.
    """
    clock = clock or SystemClock()
    raise_open_file_limit()
    make_private_folder(config.data)
    with folder_lock(config.data):
        config = with_stored_database(config)
        parts = await Parts.open(config, clock)
        tasks = Tasks("bridge")
        try:
            await parts.serve()

            def tell(address: BridgeAddress) -> None:
                if joined is not None:
                    joined(address, parts)
                ready(address)

            await _serve(parts, tasks, stop, tell)
        finally:
            await tasks.close()
            await parts.close()


async def _serve(parts: Parts, tasks: Tasks, stop: asyncio.Event, ready: Callable[[BridgeAddress], None]) -> None:
    config = parts.config
    public = _listen(config.listen)
    local = _listen(HostPort("127.0.0.1", 0))
    control_url = f"http://127.0.0.1:{local.getsockname()[1]}"
    listen = HostPort(config.listen.host, public.getsockname()[1])
    address = BridgeAddress(config.public_url or _url(config, listen), listen, parts.identity.public, control_url)
    control = Control(Administration(parts, address))
    sockets = socket_class(parts.hub, parts.guard)
    async with (
        _running(make_app(parts), public, tasks, tls=parts.tls, ws=sockets),
        _running(control.app, local, tasks, tls=None, ws="none"),
    ):
        store_address(config, address.url)
        control.write_file(config.data, control_url)
        tasks.spawn(_expire(parts), name="expiring leases")
        tasks.spawn(_sweep(parts), name="sweeping")
        tasks.spawn(parts.audit.run(), name="writing the audit")
        tasks.spawn(parts.usage.run(), name="writing usage")
        _log.info("bridge runs", url=address.url, listen=str(listen), tls=parts.tls is not None)
        try:
            ready(address)
            await stop.wait()
        finally:
            if parts.cluster is not None:
                parts.cluster.leave()
            parts.polls.stop()
            (config.data / FILE).unlink(missing_ok=True)
            _log.info("bridge stops")


@asynccontextmanager
async def _running(app: ASGIApp, sock: socket.socket, tasks: Tasks, *, tls: Tls | None, ws: Any) -> AsyncIterator[None]:
    settings = uvicorn.Config(
        app,
        loop="none",
        http=GatheringProtocol,
        ws=ws,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    settings.load()
    settings.ssl = None if tls is None else tls.context
    server = _Server(settings)
    serving = tasks.spawn(server.serve(sockets=[sock]), name="serving")
    serving.add_done_callback(lambda _: server.up.set())
    try:
        await server.up.wait()
        yield
    finally:
        server.should_exit = True
        await serving


async def _expire(parts: Parts) -> None:
    while True:
        await asyncio.sleep(_EXPIRE_SECONDS)
        parts.sessions.expire()


async def _sweep(parts: Parts) -> None:
    while True:
        for work in (_forget_blobs, Parts.refresh_certificate):
            try:
                await work(parts)
            except ProviderTrouble as trouble:
                _log.warning("sweeping put off", reason=str(trouble), hint=trouble.hint)
        await asyncio.sleep(_SWEEP_SECONDS)


async def _forget_blobs(parts: Parts) -> None:
    if count := await parts.blobs.sweep():
        _log.info("forgotten blobs deleted", count=count)


def _listen(where: HostPort) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        raise OperatorError(
            f"cannot listen on {where}: {error.strerror}", hint="choose another with --listen"
        ) from error
    sock.setblocking(False)
    return sock


def _url(config: BridgeConfig, listen: HostPort) -> str:
    anywhere = listen.host in {"0.0.0.0", "::", ""}  # noqa: S104 - compared, not listened on
    host = HostPort(socket.gethostname(), listen.port) if anywhere else listen
    return f"{'https' if config.tls else 'http'}://{host}"
