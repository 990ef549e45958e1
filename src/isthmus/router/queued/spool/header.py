"""What stands in front of a bundle's records: where its objects go, sealed under the spool's secret.

Magic (8 bytes), version (2), two zero bytes, length of the rest (4), then JSON under `SpoolSecrets.seal_local`. From
it and the records alone the ledger can be made again. Behind the records of a bundle that came from another site more
of the same may follow: `spool/notes.py`.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from pydantic import ValidationError

from isthmus.contract.documents import Payload
from isthmus.contract.letters import Manifest
from isthmus.envelope.identity import RouterId
from isthmus.errors import SealBroken
from isthmus.kit.names import AETitle, SiteName
from isthmus.router.queued.spool.secrets import SpoolSecrets

MAGIC: Final = b"ISTHMUSB"
VERSION: Final = 1
MAX_BYTES: Final = 64 * 1024 * 1024  # a manifest of the most objects is far below; a length from a damaged file is not
_HEAD: Final = struct.Struct(">8sHHI")


@dataclass(frozen=True, slots=True)
class Destination:
    """A device that is to get a copy.

    Attributes:
        title: its network title.
        site: where it is; None: here.
        router_id: the Router of that site; None: this one.
    """

    title: AETitle
    site: SiteName | None = None
    router_id: RouterId | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where the objects of a bundle come from and go to.

    Attributes:
        calling: network title of the sender.
        called: the title that it called: that of a destination, or of a group.
        destinations: who gets a copy.
        priority: of the copies; more goes first.
    """

    calling: AETitle
    called: AETitle
    destinations: tuple[Destination, ...]
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Inbound:
    """What came with an envelope of another site."""

    far_router: RouterId
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class BundleHeader:
    """A bundle's own words about itself. `opened` in Unix seconds."""

    bundle_id: int
    opened: float
    content: Route | Inbound


class _Destination(Payload):
    title: str
    site: str | None = None
    router_id: str | None = None


class _Stored(Payload):
    bundle_id: int
    opened: float
    calling: str = ""
    called: str = ""
    destinations: tuple[_Destination, ...] = ()
    priority: int = 0
    far_router: str | None = None
    manifest: Manifest | None = None


def pack(header: BundleHeader, name: str, secrets: SpoolSecrets) -> bytes:
    """Return the bytes in front of the records of the bundle whose file has this name."""
    content = header.content
    if isinstance(content, Route):
        stored = _Stored(
            bundle_id=header.bundle_id,
            opened=header.opened,
            calling=content.calling,
            called=content.called,
            destinations=tuple(
                _Destination(title=place.title, site=place.site, router_id=place.router_id)
                for place in content.destinations
            ),
            priority=content.priority,
        )
    else:
        stored = _Stored(
            bundle_id=header.bundle_id,
            opened=header.opened,
            far_router=content.far_router,
            manifest=content.manifest,
        )
    sealed = secrets.seal_local(_label(name), stored.to_payload())
    return _HEAD.pack(MAGIC, VERSION, 0, len(sealed)) + sealed


def unpack(file: BinaryIO, name: str, secrets: SpoolSecrets, *, start: int = 0) -> tuple[BundleHeader, int] | None:
    """Return the header of a bundle and its length, or None if the file has none: it was never made durable.

    `start`: where in the file it stands; behind the records are more of them (`spool/notes.py`). Raises SealBroken if
    there is one that does not verify.
    """
    file.seek(start)
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size or not head.startswith(MAGIC):
        return None
    _, version, _, length = _HEAD.unpack(head)
    if version != VERSION:
        raise SealBroken(f"bundle {name} is of version {version}, which is not known here")
    sealed = file.read(min(length, MAX_BYTES))
    if len(sealed) < length <= MAX_BYTES:
        return None
    try:
        stored = _Stored.parse(secrets.open_local(_label(name), sealed))
    except ValidationError as error:
        raise SealBroken(f"the header of bundle {name} is not readable") from error
    content: Route | Inbound
    if stored.manifest is not None and stored.far_router is not None:
        content = Inbound(RouterId(stored.far_router), stored.manifest)
    else:
        content = Route(
            AETitle(stored.calling),
            AETitle(stored.called),
            tuple(
                Destination(
                    AETitle(place.title),
                    None if place.site is None else SiteName(place.site),
                    None if place.router_id is None else RouterId(place.router_id),
                )
                for place in stored.destinations
            ),
            stored.priority,
        )
    return BundleHeader(stored.bundle_id, stored.opened, content), _HEAD.size + length


def _label(name: str) -> str:
    return f"bundle/{name}"
