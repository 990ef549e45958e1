"""An archive of ours in the test's hand, a ledger on disk, and objects that are only as long as a test wants."""

import dataclasses
import itertools
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from tests.unit.router.conftest import Home

from isthmus.contract.letters import ObjectKind, Receipt
from isthmus.dicom.command import CommandField, CommandSet, Tag, encode, response
from isthmus.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT_PUSH_MODEL
from isthmus.envelope.records import ObjectMeta
from isthmus.router.live.session import Parties
from isthmus.router.queued.delivery.dispatcher import Dispatcher
from isthmus.router.queued.delivery.reading import OpenedObject
from isthmus.router.queued.delivery.senders import Sender
from isthmus.router.queued.delivery.sending import DeviceLost, DeviceRefused, Pair
from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.ledger.deliveries import DueCopy, Outcome
from isthmus.router.queued.ledger.records import CopyState, Direction
from isthmus.router.routing.records import LocalDevice
from isthmus.testing.dicom import CT_IMAGE_STORAGE, store_command
from isthmus.testing.network import until

CT_PAIR = (CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN)
ARCHIVE = "HOME_PACS"
"""Network title of the archive; its own is PACS."""


class Break(Exception):
    """What a script raises to end the association; `sent`: after it had all of the object."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__()
        self.sent = sent


class Archive:
    """The called device. `answer` gives the status for an object by its number, or breaks the association."""

    def __init__(self) -> None:
        self.on = True
        self.answer: Callable[[int], int | tuple[int, str]] = lambda _: 0
        self.refuses_callers: set[str] = set()
        self.takes: Callable[[Pair], bool] = lambda _: True
        self.takes_again: Callable[[Pair], bool] | None = None  # when it is asked again; as `takes` if None
        self.before: Callable[[], Awaitable[None]] | None = None  # before each answer
        self.got: list[int] = []
        self.commands: deque[CommandSet] = deque(maxlen=16)
        self.callers: list[str] = []
        self.proposals: list[tuple[Pair, ...]] = []
        self.asked_again: list[Pair] = []
        self.attempts = 0
        self.released = 0
        self.aborted = 0
        self.open = 0
        self.most_open = 0

    async def __call__(
        self, device: LocalDevice, sender: Sender, pairs: Sequence[Pair], parties: Parties
    ) -> "ScriptedAssociation":
        self.attempts += 1
        if not self.on:
            raise DeviceRefused("it is off")
        if sender.shown_as in self.refuses_callers:
            raise DeviceRefused("calling title not recognized", caller=True)
        self.callers.append(sender.shown_as)
        self.proposals.append(tuple(pairs))
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        agreed = {pair: 2 * number + 1 for number, pair in enumerate(pairs) if self.takes(pair)}
        return ScriptedAssociation(self, agreed)

    async def again(self, device: LocalDevice, sender: Sender, pairs: Sequence[Pair]) -> set[Pair]:
        if not self.on:
            raise DeviceRefused("it is off")
        self.asked_again += pairs
        return {pair for pair in pairs if (self.takes_again or self.takes)(pair)}


class ScriptedAssociation:
    def __init__(self, archive: Archive, agreed: Mapping[Pair, int]) -> None:
        self.archive = archive
        self.agreed = agreed
        self.over = False

    async def send(
        self, context_id: int, command: CommandSet, pieces: AsyncIterator[bytes], note: Callable[[], None]
    ) -> CommandSet:
        assert context_id in self.agreed.values()
        number = int.from_bytes(b"".join([piece async for piece in pieces]), "big")
        if not self.archive.on:
            self.abort()
            raise DeviceLost("it went off", sent=False)
        try:
            answer = self.archive.answer(number)
        except Break as end:
            if end.sent:
                note()
            self.abort()
            raise DeviceLost("the association was aborted", sent=end.sent) from end
        note()
        self.archive.commands.append(command)
        if self.archive.before is not None:
            await self.archive.before()
        self.archive.got.append(number)
        status, comment = answer if isinstance(answer, tuple) else (answer, "")
        return CommandSet.parse(response(command, status, comment=comment))

    async def release(self) -> None:
        if not self.over:
            self.archive.released += 1
            self._end()

    def abort(self) -> None:
        if not self.over:
            self.archive.aborted += 1
            self._end()

    def _end(self) -> None:
        self.over = True
        self.archive.open -= 1


class Objects:
    """Each object's data set is its number. `unreadable` ones cannot be opened."""

    def __init__(self) -> None:
        self.numbers: dict[bytes, int] = {}
        self.commands: dict[bytes, bytes] = {}
        self.unreadable: dict[int, Exception] = {}
        self.read: list[int] = []

    async def open(self, copy: DueCopy) -> OpenedObject:
        number = self.numbers[copy.object_id]
        if number in self.unreadable:
            raise self.unreadable[number]
        self.read.append(number)
        meta = ObjectMeta(
            kind=ObjectKind(copy.kind),
            calling=copy.calling,
            called=ARCHIVE,
            association=bytes(16),
            command=self.commands.get(copy.object_id) or _request(copy),
            sop_class=copy.sop_class,
            sop_instance="1.2.3",
            transfer_syntax=copy.transfer_syntax,
            received=0.0,
        )

        def no_more() -> Any:
            raise AssertionError("there is only one part")

        return OpenedObject(meta, ([number.to_bytes(8, "big")], False), no_more)


def _request(copy: DueCopy) -> bytes:
    if copy.kind == ObjectKind.STORE:
        return store_command(7, sop_class=copy.sop_class)
    return commit_command()


def commit_command(**more: int | str) -> bytes:
    """Return the command set of an N-ACTION-RQ that asks for storage commitment, with other elements by their names."""
    elements: dict[Tag, int | str | bytes] = {
        Tag.REQUESTED_SOP_CLASS_UID: STORAGE_COMMITMENT_PUSH_MODEL,
        Tag.COMMAND_FIELD: CommandField.N_ACTION_RQ,
        Tag.MESSAGE_ID: 7,
        Tag.DATA_SET_TYPE: 1,
        Tag.REQUESTED_SOP_INSTANCE_UID: "1.2.840.10008.1.20.1.1",
        Tag.ACTION_TYPE_ID: 1,
    }
    return encode(elements | {Tag[name]: value for name, value in more.items()})


@dataclasses.dataclass
class Bench:
    """All that a delivery needs, and ways to look."""

    home: Home
    ledger: Ledger
    archive: Archive
    objects: Objects
    recorded_: list[Outcome]
    finished_: list[str]
    alerts: list[str]
    far: str
    _numbers: "itertools.count[int]"
    _bundles: "itertools.count[int]"
    dispatcher: Dispatcher = dataclasses.field(init=False)

    def again(self) -> Dispatcher:
        """Return the dispatcher after a restart."""
        return Dispatcher(self.dispatcher._means, alert=self.dispatcher._alert)

    def recorded(self, outcomes: Sequence[Outcome]) -> None:
        self.recorded_ += outcomes

    def finished(self, bundle_id: int, name: str) -> None:
        self.finished_.append(name)

    async def queue(
        self,
        count: int = 1,
        *,
        calling: str = "NORTH_CT",
        kind: ObjectKind = ObjectKind.STORE,
        pair: Pair = CT_PAIR,
        pairs: Callable[[int], Pair] | None = None,
        local: bool = False,
        destination: str = ARCHIVE,
        priority: int = 0,
        payload: int = 8,
        command: bytes | None = None,
    ) -> list[int]:
        """Put objects of another site, or of a device of ours, into the ledger; return their numbers."""
        bundle_id = next(self._bundles)
        numbers = [next(self._numbers) for _ in range(count)]
        now = self.home.clock.now()
        source = None if local else self.far
        objects: list[tuple[object, ...]] = []
        copies: list[tuple[object, ...]] = []
        for index, number in enumerate(numbers):
            object_id = number.to_bytes(16, "big")
            self.objects.numbers[object_id] = number
            if command is not None:
                self.objects.commands[object_id] = command
            abstract, transfer = pair if pairs is None else pairs(index)
            objects.append(
                (object_id, bundle_id, index * 100, 100, bytes(32), kind, calling, destination, bytes(16), abstract,
                 transfer, bytes(16), None, now, payload)
            )  # fmt: skip
            envelope = (None, None) if local else (bundle_id.to_bytes(16, "big"), index)
            copies.append((object_id, bundle_id, destination, calling, kind, "waiting", now, priority, *envelope))
        direction = Direction.OUT if local else Direction.IN

        def put(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO bundles (bundle_id, name, direction, calling, called, far_router, size, objects, opened,"
                " closed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
                (bundle_id, f"bundle{bundle_id}", direction, calling, destination, source, 100 * count, count, now),
            )
            connection.executemany(f"INSERT INTO objects VALUES ({', '.join('?' * 15)})", objects)
            connection.executemany(
                "INSERT INTO copies (object_id, bundle_id, destination, calling, kind, state, since, priority,"
                " envelope_id, envelope_index) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                copies,
            )

        await self.ledger.run(put)
        return numbers

    async def rows(self, what: str, **equal: object) -> list[Any]:
        """Return a column, or several, of the copies, in order."""
        where = " AND ".join(f"{name} = ?" for name in equal) or "1"
        found = await self.ledger.read(
            lambda connection: connection.execute(
                f"SELECT {what} FROM copies WHERE {where} ORDER BY copy_id", list(equal.values())
            ).fetchall()
        )
        return [row[0] if len(row) == 1 else row for row in found]

    async def states(self) -> dict[str, int]:
        """Return how many copies are in each state."""
        states = await self.rows("state")
        return {state: states.count(state) for state in set(states)}

    async def receipts(self) -> list[Receipt]:
        """Return the receipts that are due."""
        found = await self.ledger.read(
            lambda connection: connection.execute(
                "SELECT receipt, comment FROM receipts_due ORDER BY receipt_id"
            ).fetchall()
        )
        receipts = []
        for said, sealed in found:
            words = "" if sealed is None else sealed.removeprefix(b"sealed comment ")[::-1].decode()
            receipts.append(Receipt.model_validate_json(said).model_copy(update={"comment": words}))
        return receipts

    async def all_are(self, *states: CopyState) -> None:
        """Wait until every copy is in one of these states."""

        async def holds() -> bool:
            return set(await self.states()) <= {state.value for state in states}

        await until(holds, 60)

    async def settle(self) -> None:
        """Let everything happen that can without more time passing: each step asks the ledger, which is in order."""
        for _ in range(30):
            await self.ledger.read(lambda _: None)

    async def pass_time(self, seconds: float, step: float = 10.0) -> None:
        """Let time pass, in steps in which everything happens that is due."""
        while seconds > 0:
            self.home.clock.advance(min(step, seconds))
            seconds -= step
            await self.dispatcher.look()
            await self.settle()
