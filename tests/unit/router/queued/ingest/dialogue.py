"""A device that talks to `Receiving` PDU by PDU, and a spool that keeps objects in memory or does not."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from isthmus.association.negotiation import AgreedContext
from isthmus.contract.letters import ObjectKind
from isthmus.dicom import uids
from isthmus.dicom.command import CommandSet
from isthmus.dicom.framing import Data, Framer, Pdu, PduType
from isthmus.envelope.records import ObjectMeta
from isthmus.errors import IsthmusError
from isthmus.kit.tasks import Tasks
from isthmus.router.queued.ingest.receiving import Receiving
from isthmus.router.queued.ingest.requests import Request
from isthmus.testing.dicom import CT_IMAGE_STORAGE

CONTEXTS = {
    1: AgreedContext(1, uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN),
    3: AgreedContext(3, CT_IMAGE_STORAGE, uids.EXPLICIT_VR_LITTLE_ENDIAN),
    5: AgreedContext(5, uids.STORAGE_COMMITMENT_PUSH_MODEL, uids.IMPLICIT_VR_LITTLE_ENDIAN),
}


class FakeWriter:
    def __init__(self, bundle: "FakeBundle", meta: ObjectMeta) -> None:
        self.bundle = bundle
        self.meta = meta
        self.data = bytearray()
        self.abandoned = False

    def write(self, fragment: bytes) -> bool:
        self.data += fragment
        return not self.bundle.full

    async def finish(self) -> None:
        await self.bundle.durable.wait()
        if self.bundle.fails is not None:
            raise self.bundle.fails
        self.bundle.objects.append((self.meta, bytes(self.data)))

    def abandon(self) -> None:
        self.abandoned = True


class FakeBundle:
    """`durable`: objects are made so while it is set."""

    def __init__(self) -> None:
        self.on_writable: Any = None
        self.objects: list[tuple[ObjectMeta, bytes]] = []
        self.writers: list[FakeWriter] = []
        self.durable = asyncio.Event()
        self.durable.set()
        self.full = False
        self.fails: Exception | None = None
        self.no_room: IsthmusError | None = None

    def begin(self, meta: ObjectMeta) -> FakeWriter:
        if self.no_room is not None:
            raise self.no_room
        self.writers.append(FakeWriter(self, meta))
        return self.writers[-1]


class FakeSession:
    """Takes what the Router says to the device."""

    def __init__(self) -> None:
        self.session_id = bytes(16)
        self.said: list[tuple[CommandSet, int] | str] = []
        self.runs: list[bytes] = []
        self.aborts: list[tuple[int, int]] = []
        self.resumed = 0
        self._framer = Framer()

    def on_data(self, payload: bytes) -> None:
        self.runs.append(payload)
        for frame in self._framer.feed(payload):
            if isinstance(frame, Data):
                self.said += [(command.parse(), command.context_id) for command in frame.commands]
            else:
                assert isinstance(frame, Pdu)
                self.said.append(PduType(frame.type).name)

    def on_writable(self) -> None:
        self.resumed += 1

    def let_go(self, *, source: int, reason: int) -> None:
        self.aborts.append((source, reason))


class Dialogue:
    """One association; is its own `Keeping`."""

    def __init__(self, tasks: Tasks, contexts: Mapping[int, AgreedContext], *, max_pdu_length: int) -> None:
        self.session = FakeSession()
        self.bundle = FakeBundle()
        self.commits: list[bytes] = []
        self.troubles: list[Exception] = []
        self.over = 0
        self.link = Receiving(
            cast("Any", self.session), contexts, cast("Any", self.bundle), self, tasks, max_pdu_length=max_pdu_length
        )

    def meta(self, request: Request) -> ObjectMeta:
        return ObjectMeta(
            kind=request.kind, calling="CT1", called="PACS", association=bytes(16), command=request.command.raw,
            sop_class=request.sop_class, sop_instance=request.sop_instance,
            transfer_syntax=request.context.transfer_syntax, received=1.0,
        )  # fmt: skip

    async def commit(self, meta: ObjectMeta, data_set: Sequence[bytes]) -> None:
        assert meta.kind is ObjectKind.COMMIT
        if self.bundle.fails is not None:
            raise self.bundle.fails
        self.commits.append(b"".join(data_set))

    def refused(self, request: Request, error: Exception) -> None:
        del request
        self.troubles.append(error)

    def ended(self) -> None:
        self.over += 1

    def send(self, data: bytes) -> bool:
        """Let the device send these bytes, in a buffer that is used again at once; return whether it is read on."""
        buffer = bytearray(data)
        may_go_on = self.link.write(memoryview(buffer), flush=True)
        buffer[:] = b"\xee" * len(buffer)
        return may_go_on

    async def settled(self) -> None:
        """Let everything happen that can."""
        for _ in range(20):
            await asyncio.sleep(0)

    def only_answer(self) -> tuple[CommandSet, int]:
        """Return the one response that came, and on which context."""
        (said,) = self.session.said
        assert not isinstance(said, str)
        return said

    @property
    def statuses(self) -> list[int | None]:
        """What the responses said so far."""
        return [said[0].status for said in self.session.said if not isinstance(said, str)]


@asynccontextmanager
async def dialogue(
    *, max_pdu_length: int = 16_384, contexts: Mapping[int, AgreedContext] = CONTEXTS
) -> AsyncIterator[Dialogue]:
    """Give an association that was accepted."""
    tasks = Tasks("test")
    try:
        yield Dialogue(tasks, contexts, max_pdu_length=max_pdu_length)
    finally:
        await tasks.close()
