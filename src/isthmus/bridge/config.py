"""What an operator can say about a Bridge."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from isthmus.kit.names import HostPort

GIB: Final = 1024**3


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """Settings of one Bridge.

    Attributes:
        data: its folder.
        listen: where Routers connect; port 0 means any free one.
        public_url: how Routers reach it, if not at `listen`; invites carry it.
        tls: False behind a reverse proxy that speaks TLS, or inside a trusted network.
        certificate: PEM file of the certificate (chain) to use instead of a self-made one.
        key: PEM file of its private key.
        database_url: postgresql://USER:PASSWORD@HOST/NAME; None is what the last run used, and SQLite in `data` at
            first. Several Bridges may share one, if they have the same identity.
        blobs: the folder of the built-in blobstore, or the URL of an object store, which Bridges on one database share;
            None is `blobs` in `data`.
        blobs_keys: what that object store lets the Bridge in with, by the names that its provider gives.
        bus: nats://HOST:PORT, by which Bridges on one database speak to each other; None is the database itself.
        blob_quota: bytes that the built-in blobstore keeps for one site's live sessions.
        blob_seconds: for how long it keeps a live blob that nobody deletes.
        queue_quota: bytes that it keeps of what one site has queued for others.
        queue_seconds: for how long it keeps what is queued and nobody fetches.
    """

    data: Path
    listen: HostPort
    public_url: str | None = None
    tls: bool = True
    certificate: Path | None = None
    key: Path | None = None
    database_url: str | None = field(default=None, repr=False)
    blobs: str | None = None
    blobs_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    bus: str | None = field(default=None, repr=False)
    blob_quota: int = 4 * GIB
    blob_seconds: float = 86_400.0
    queue_quota: int = 32 * GIB
    queue_seconds: float = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class BridgeAddress:
    """Where a running Bridge can be reached: URL for Routers, the socket it listens on, and its identity."""

    url: str
    listen: HostPort
    identity: bytes
    control_url: str
