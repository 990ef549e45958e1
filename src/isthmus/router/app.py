"""A Router, put together: every part is made here, handed what it needs, and ended here in the opposite order."""

import asyncio
import contextlib
import functools
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from isthmus.adapters.blobstore.bridge import BridgeBlobstore
from isthmus.adapters.bridge_http import BridgeConnection, usable_ca
from isthmus.adapters.signalling.bridge import BridgeSignalling
from isthmus.cloudio.pool import Pool
from isthmus.cloudio.stream import Cloud
from isthmus.contract.notices import PREFIX_BYTES, WITHOUT_SESSION, NoticeKind
from isthmus.errors import OperatorError
from isthmus.kit.clock import SystemClock
from isthmus.kit.files import folder_lock, make_private_folder
from isthmus.kit.names import HostPort
from isthmus.kit.tasks import Tasks
from isthmus.ports.signalling import PromptSignalling, Signalling
from isthmus.router.audit import Audit
from isthmus.router.config import RouterConfig
from isthmus.router.control.administration import Administration
from isthmus.router.control.api import Control
from isthmus.router.control.egress_operations import EgressOperations
from isthmus.router.control.mirror_operations import MirrorOperations
from isthmus.router.control.operations import LiveOperations
from isthmus.router.control.post_operations import PostOperations
from isthmus.router.control.queue_operations import Bells, QueueOperations
from isthmus.router.keys import Keys, read_membership
from isthmus.router.lan.listener import LanListener
from isthmus.router.live.answering import Answering
from isthmus.router.live.echo import Echo
from isthmus.router.live.opening import Opening
from isthmus.router.live.registry import Core, Live
from isthmus.router.metrics import Metrics
from isthmus.router.providers.egress import Egress
from isthmus.router.providers.keys import KeyFiles
from isthmus.router.providers.pairs import CloudPairs
from isthmus.router.providers.usage import Meters
from isthmus.router.queued import queue as queued
from isthmus.router.queued.bandwidth import Bandwidth
from isthmus.router.queued.post.office import Post
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.store import Store
from isthmus.router.sync import Sync

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RouterAddress:
    """Where a running Router listens: for devices, for devices with TLS, and for its operator."""

    dicom: HostPort
    dicom_tls: HostPort | None
    console: HostPort


async def run_router(
    config: RouterConfig,
    stop: asyncio.Event,
    ready: Callable[[RouterAddress], None],
    *,
    around: Callable[[Cloud], Cloud] | None = None,
    joined: Callable[[Live], None] | None = None,
) -> None:
    """Run a Router until `stop` is set, then drain it. `ready` is told where it listens.

    `around` may put something between the Router and its providers; `joined` is called just before `ready` with the
    live relay, for those who look inside.

    Raises OperatorError if it has not joined a network, its folder is in use or damaged, or a port is taken.
    """
    async with _router(config, around or _as_it_is) as (address, live):
        if joined is not None:
            joined(live)
        ready(address)
        await stop.wait()
        _log.info("stopping: no new associations, the live ones may end")


@contextlib.asynccontextmanager
async def _router(config: RouterConfig, around: Callable[[Cloud], Cloud]) -> AsyncIterator[tuple[RouterAddress, Live]]:
    async with contextlib.AsyncExitStack() as stack:
        membership = read_membership(config.data)
        if membership is None:  # before anything is made: nobody mistakes what a mistyped folder holds for a Router
            raise OperatorError(
                f"the Router in {config.data} has not joined a network",
                hint="isthmus router join INVITE; --data DIR names another folder",
            )
        folder = make_private_folder(config.data)
        stack.enter_context(folder_lock(folder))
        clock = SystemClock()
        keys = Keys.open(folder, now=clock.now())
        store = Store.open(folder / "router.db")
        stack.callback(store.close)
        audit = Audit(store, clock)
        await stack.enter_async_context(audit.running())
        directory = Directory(store, keys, clock, alert=audit.alert)
        metrics = Metrics()
        tasks = Tasks("router")
        ca = None if membership.ca is None else usable_ca(membership.ca)
        bridge = BridgeConnection(membership.url, membership.identity, keys.identity, ca=ca)  # it learns its own offset
        stack.push_async_callback(bridge.close)
        signalling = BridgeSignalling(bridge)
        cloud = around(Cloud(signalling, BridgeBlobstore(bridge)))
        stack.push_async_callback(cloud.blobstore.close)
        stack.push_async_callback(cloud.signalling.close)
        bandwidth = Bandwidth(clock, store.bandwidth_rules)
        bridge.up, bridge.down = bandwidth.up, bandwidth.down
        egress, key_files = Egress(store, clock), KeyFiles(folder)
        pairs = CloudPairs(
            cloud,
            bridge,
            own=keys.router_id,
            egress=egress,
            keys=key_files,
            meters=Meters(secrets.token_bytes),
            ca=ca,
            up=bandwidth.up,
            down=bandwidth.down,
            clock=clock,
        )
        core = Core(
            identity=keys.identity,
            prekeys=lambda: keys.prekeys,
            directory=directory,
            bridge=bridge,
            pairs=pairs,
            pool=Pool(config.limits.pool_bytes, later=asyncio.get_running_loop().call_soon),
            clock=clock,
            tasks=tasks,
            audit=audit,
            metrics=metrics,
            limits=config.limits,
            stream=config.stream,
        )
        live = Live(core)
        directory.on_change(bandwidth.apply)
        tasks.spawn(bandwidth.run(), name="keep to the caps on the line")
        queue = await stack.enter_async_context(queued.running(folder, live, store, probes=config.probes))
        opening = Opening(live, queue.ingest)
        live.handle(opening, Answering(live))
        directory.on_change(live.recheck)
        tasks.spawn(live.keep_checking(), name="check what the live associations are allowed")
        stack.push_async_callback(tasks.close)
        sync = Sync(
            bridge,
            directory,
            keys,
            clock=clock,
            system_clock=clock,
            counts=live.counts,
            clouds=pairs,
            audit=audit,
            metrics=metrics,
        )
        pairs.start(live.notice, sync.pairs_changed)
        stack.push_async_callback(pairs.close)

        def came_back() -> None:
            sync.came_back()
            queue.post.connected()

        signalling.on_connected, signalling.on_lost = came_back, sync.went_away
        tasks.spawn(sync.run(), name="keep in step with the Bridge")
        take = functools.partial(_take, live, sync, queue.post)
        if isinstance(cloud.signalling, PromptSignalling):
            cloud.signalling.attach(keys.router_id, take)
        else:
            tasks.spawn(_listen(cloud.signalling, keys.router_id, take), name="listen for notices")
        listener = LanListener(live)
        dicom = await listener.listen(config.dicom)
        dicom_tls = None
        if config.dicom_tls is not None:
            dicom_tls = await listener.listen(config.dicom_tls, _tls_for_devices(folder / "tls"))
        administration = Administration(store, directory, keys, audit, clock)
        administration.listening(dicom)
        control = Control(folder, administration, metrics)
        operations = LiveOperations(
            live, administration, sync, Echo(live, opening), dicom, dicom_tls, room=queue.spool.room
        )
        mirror_operations = MirrorOperations(queue.mirror, administration, audit)
        bells = Bells(deliver=queue.dispatcher.wake, post=queue.post.connected)
        queue_operations = QueueOperations(queue.spool, queue.sealer, directory, audit, clock, bells)
        post_operations = PostOperations(queue.post, administration, audit)
        egress_operations = EgressOperations(pairs, egress, key_files, audit)
        for offered in (operations, mirror_operations, queue_operations, post_operations, egress_operations):
            for name, operation in offered.table().items():
                control.register(name, operation)
        address = await stack.enter_async_context(control.serving(config.console))
        stack.callback(listener.hang_up)
        stack.push_async_callback(live.drain, config.limits.drain_seconds)
        stack.callback(queue.dispatcher.stop)  # or the drain would wait for associations that find ever more to send
        stack.callback(listener.close)
        yield RouterAddress(dicom, dicom_tls, address), live


def _as_it_is(cloud: Cloud) -> Cloud:
    return cloud


async def _listen(signalling: Signalling, router_id: str, take: Callable[[bytes], None]) -> None:
    async for notice in signalling.listen(router_id):
        take(notice)


def _take(live: Live, sync: Sync, post: Post, notice: bytes) -> None:
    """Take a notice where it belongs."""
    kind = notice[0] if notice else 0
    if kind == NoticeKind.NETWORK_CHANGED:
        sync.network_changed()
    elif kind == NoticeKind.REVOKED:
        live.let_go_of_router(notice[PREFIX_BYTES:].decode("ascii", "replace"))
        sync.network_changed()
    elif kind in WITHOUT_SESSION:
        post.notice(notice)
    else:
        live.notice(notice)


def _tls_for_devices(folder: Path) -> ssl.SSLContext:
    """Return the context for devices that call with TLS (PS3.15 section B.12: BCP 195). Raises OperatorError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
        context.load_verify_locations(folder / "devices.pem")
    except (OSError, ssl.SSLError) as error:
        raise OperatorError(
            f"cannot use the TLS files in {folder}: {error}",
            hint="certificate.pem and key.pem are this Router's, devices.pem signs the devices'",
        ) from error
    return context
