"""Two sites as processes, a sender that never tires and an archive that remembers: for faults of queued delivery."""

import asyncio
import contextlib
import functools
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from isthmus.demo.parts import Part
from isthmus.dicom.command import NO_DATA_SET, CommandField, CommandSet, Tag, encode
from isthmus.dicom.fragments import FragmentReader
from isthmus.dicom.framing import Data, Framer, PduType
from isthmus.dicom.pdus import RELEASE_RP, message
from isthmus.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from isthmus.testing.devices import Listening, Wire, calling, listening
from isthmus.testing.dicom import CT_IMAGE_STORAGE, associate_ac, store_rq
from isthmus.testing.free_ports import free_port

PATIENCE: Final = 60.0
_CONTEXT: Final = 3


class RememberingArchive:
    """Accepts all, answers each C-STORE with `status`, and remembers the digest of each data set by its instance."""

    def __init__(self, status: Callable[[str], int] = lambda _uid: 0) -> None:
        self.status = status
        self.kept: dict[str, str] = {}
        self.times: Counter[str] = Counter()
        self.mixed: list[str] = []

    async def __call__(self, wire: Wire) -> None:
        """Serve one association."""
        request = await wire.pdu(PATIENCE)
        if not request:
            return
        await wire.send(associate_ac(request, []))
        framer, reader = Framer(), FragmentReader()
        digest, command = hashlib.sha256(), b""
        while data := await wire.read_some(1 << 18):
            for frame in framer.feed(data):
                if not isinstance(frame, Data):
                    if frame.type is PduType.RELEASE_RQ:
                        await wire.send(RELEASE_RP)
                    await wire.close()
                    return
                for fragment in reader.feed(frame.run):
                    if fragment.command:
                        command += bytes(fragment.data)
                        continue
                    digest.update(fragment.data)
                    if fragment.last:
                        await wire.send(self._take(fragment.context_id, command, digest.hexdigest()))
                        digest, command = hashlib.sha256(), b""

    def _take(self, context_id: int, raw: bytes, digest: str) -> bytes:
        fields = _fields(raw)
        uid, message_id = fields.sop_instance, fields.message_id
        status = self.status(uid)
        if status == 0:
            if self.kept.setdefault(uid, digest) != digest:
                self.mixed.append(uid)
            self.times[uid] += 1
        return message(context_id, _store_rsp(uid, message_id, status))


@dataclass(slots=True)
class Sender:
    """Sends objects of its own making, one after the other, and goes on with the next Router process when one dies."""

    port: int
    chance: random.Random
    acknowledged: dict[str, str] = field(default_factory=dict)
    failures: Counter[int] = field(default_factory=Counter)
    _number: int = 0

    async def send(self, count: int, *, size: int = 40_000) -> None:
        """Send until `count` more are acknowledged."""
        until = len(self.acknowledged) + count
        while len(self.acknowledged) < until:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, AssertionError, TimeoutError):
                await self._associate(until, size)
            await asyncio.sleep(0.05)  # between two tries to reach a Router that is not up yet

    async def _associate(self, until: int, size: int) -> None:
        async with calling(self.port) as wire:
            if (await wire.associate("PACS", "SCANNER"))[:1] != b"\x02":
                return
            while len(self.acknowledged) < until:
                self._number += 1
                uid = f"1.2.826.0.1.{self._number}"
                body = self.chance.randbytes(2 * self.chance.randint(1, size // 2))
                await wire.send(store_rq(body, _CONTEXT, 1 + self._number % 60_000, sop_instance=uid))
                answer = await wire.pdu(PATIENCE)
                if answer[:1] != b"\x04":
                    return
                status = _fields(answer[12:]).status
                if status == 0:
                    self.acknowledged[uid] = hashlib.sha256(body).hexdigest()
                else:
                    self.failures[status] += 1
            await wire.release()


@dataclass(slots=True)
class QueuedSites:
    """A Bridge and two Routers; SCANNER at north sends to PACS at south, which is queued."""

    bridge: Part
    north: Part
    south: Part
    archive: RememberingArchive
    device: Listening
    north_port: int = field(default_factory=free_port)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, folder: Path, archive: RememberingArchive | None = None) -> AsyncIterator["QueuedSites"]:
        """Set all of it up with the commands that people type; the Routers run when this yields."""
        archive = archive or RememberingArchive()
        async with listening(archive) as device:
            sites = cls(
                Part("bridge", "bridge", folder), Part("north", "router", folder), Part("south", "router", folder),
                archive, device,
            )  # fmt: skip
            try:
                await asyncio.to_thread(sites._set_up)
                yield sites
            finally:
                for part in (sites.north, sites.south, sites.bridge):
                    await asyncio.to_thread(part.stop)

    def start(self, part: Part, environment: dict[str, str] | None = None) -> None:
        """Start a Router, north's always at the same port."""
        port = self.north_port if part is self.north else 0
        part.start("--dicom", f"127.0.0.1:{port}", environment=environment)

    async def delivered(self, sender: Sender, seconds: float = PATIENCE) -> None:
        """Wait until the archive has all that the sender's Router acknowledged, byte for byte; progress is life."""
        kept = self.archive.kept
        while not sender.acknowledged.keys() <= kept.keys():
            before = len(kept)
            await self.device.until(lambda before=before: len(kept) > before, seconds)  # type: ignore[misc]  # a default binds it
        wrong = [uid for uid, digest in sender.acknowledged.items() if self.archive.kept[uid] != digest]
        assert not wrong
        assert not self.archive.mixed

    def _set_up(self) -> None:
        self.bridge.start("--listen", "127.0.0.1:0")
        for part in (self.north, self.south):
            self._wait_invited(part)
            self.start(part)
        for part, other in ((self.north, self.south), (self.south, self.north)):
            _until(functools.partial(_knows, part, other))
            part.command("site", "accept", other.name, "--id", other.ask("router", "status")["router_id"])
        self.north.command("device", "add", "SCANNER@127.0.0.1")
        self.south.command("device", "add", f"PACS@127.0.0.1:{self.device.port}")
        self.south.command("device", "probe", "PACS", "--declare", f"{CT_IMAGE_STORAGE}:{EXPLICIT_VR_LITTLE_ENDIAN}")
        self.south.command("grant", "add", "PACS", "--site", "north", "--services", "any")
        _until(lambda: any(row["title"] == "PACS" for row in self.north.ask("directory")))
        self.north.command("delivery", "set", "PACS", "queued")

    def _wait_invited(self, part: Part) -> None:
        invite = max(self.bridge.command("bridge", "invite", part.name).split(), key=len)
        part.data.mkdir(mode=0o700)
        part.command("router", "join", invite)


@dataclass(frozen=True, slots=True)
class _Fields:
    sop_instance: str
    message_id: int
    status: int


def _fields(raw: bytes) -> _Fields:
    command = CommandSet.parse(raw)
    uid, status = command.uid(Tag.AFFECTED_SOP_INSTANCE_UID), command.number(Tag.STATUS)
    return _Fields(uid or "", command.message_id or 0, status or 0)


def _store_rsp(uid: str, message_id: int, status: int) -> bytes:
    return encode(
        {
            Tag.AFFECTED_SOP_CLASS_UID: CT_IMAGE_STORAGE,
            Tag.COMMAND_FIELD: CommandField.C_STORE_RSP,
            Tag.MESSAGE_ID_BEING_RESPONDED_TO: message_id,
            Tag.DATA_SET_TYPE: NO_DATA_SET,
            Tag.STATUS: status,
            Tag.AFFECTED_SOP_INSTANCE_UID: uid,
        }
    )


def _knows(part: Part, other: Part) -> bool:
    return other.name in {row["site"] for row in part.ask("site", "list")}


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(100):  # each asks a command, which takes a good part of a second
        if condition():
            return
    raise AssertionError("it did not come about")
