"""How a Router is started: where its data is and where it listens. All else is in its tables."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from isthmus.cloudio.options import StreamOptions
from isthmus.kit.names import HostPort

DEFAULT_DICOM: Final = HostPort("0.0.0.0", 11112)  # noqa: S104 - devices of the LAN call here; who is not known is refused
DEFAULT_CONSOLE: Final = HostPort("127.0.0.1", 0)


@dataclass(frozen=True, slots=True)
class RouterLimits:
    """How much a Router takes on at once.

    Attributes:
        half_open: connections that have not sent their A-ASSOCIATE-RQ yet.
        half_open_per_address: the same from one address, so that one device cannot shut out the others.
        live: associations in all.
        live_per_address: associations from one address.
        pool_bytes: unacknowledged ciphertext of all streams together.
        recheck_seconds: how often the live associations are held against the tables; these are, too, when they change.
        drain_seconds: how long a stop waits for the live associations to end by themselves.
    """

    half_open: int = 512
    half_open_per_address: int = 32
    live: int = 2000
    live_per_address: int = 200
    pool_bytes: int = 256 * 1024 * 1024
    recheck_seconds: float = 20.0
    drain_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """Where a Router keeps its data, listens for DICOM, and serves its control API (port 0: any free one).

    `probes`: ask each device by itself, when it may first be sent queued objects, what it takes.
    `dicom_tls` is a second listener for devices that speak DICOM TLS; its certificate, key and the certificates that
    may sign the devices' are `tls/certificate.pem`, `tls/key.pem` and `tls/devices.pem` in the data folder.
    """

    data: Path
    dicom: HostPort = DEFAULT_DICOM
    dicom_tls: HostPort | None = None
    console: HostPort = DEFAULT_CONSOLE
    probes: bool = True
    limits: RouterLimits = field(default_factory=RouterLimits)
    stream: StreamOptions = field(default_factory=StreamOptions)
