"""Devices for tests: plain sockets that speak DICOM PDU by PDU, so that every byte and every ending is seen.

Nothing here hides an A-ASSOCIATE-RJ behind an abort, waits longer than it is told, or answers out of turn.
"""

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from isthmus.dicom.associate import AssociateRequest
from isthmus.dicom.command import CommandField
from isthmus.dicom.framing import Data, Framer, PduType
from isthmus.dicom.pdus import RELEASE_RP, RELEASE_RQ
from isthmus.errors import RemoteMisuse
from isthmus.kit.tasks import Tasks
from isthmus.testing.dicom import associate_ac, associate_rq, echo_rsp, store_rsp

PATIENCE: Final = 15.0
"""Seconds after which a test that waits for a device has failed."""
_HEADER: Final = 6

Script = Callable[["Wire"], Awaitable[None]]


class Wire:
    """One TCP connection of a device."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.request = b""  # the A-ASSOCIATE-RQ that was sent or received
        self.accept = b""

    def __repr__(self) -> str:
        return f"<Wire to {self.writer.get_extra_info('peername')}>"

    async def send(self, data: bytes) -> None:
        """Send bytes and wait until the socket takes more."""
        self.writer.write(data)
        await self.writer.drain()

    async def pdu(self, seconds: float = PATIENCE) -> bytes:
        """Return the next whole PDU; empty if the connection ended first, in whatever way."""
        async with asyncio.timeout(seconds):
            try:
                header = await self.reader.readexactly(_HEADER)
                return header + await self.reader.readexactly(int.from_bytes(header[2:], "big"))
            except (asyncio.IncompleteReadError, ConnectionError):
                return b""

    async def ended(self, seconds: float = PATIENCE) -> bytes:
        """Wait for the end of the connection; return what came before it."""
        rest = bytearray()
        async with asyncio.timeout(seconds):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(1 << 16):
                    rest += piece
        return bytes(rest)

    async def read_some(self, most: int = 1 << 16) -> bytes:
        """Return what is there; empty at the end."""
        try:
            return await self.reader.read(most)
        except ConnectionError:
            return b""

    async def associate(self, called: str, calling: str, **options: Any) -> bytes:
        """Ask for an association; return the answer, an AC, RJ or A-ABORT."""
        self.request = associate_rq(called, calling, **options)
        await self.send(self.request)
        self.accept = await self.pdu()
        return self.accept

    async def release(self) -> None:
        """Release the association, and fail unless that is what the other side does too."""
        await self.send(RELEASE_RQ)
        answer = await self.pdu()
        assert answer == RELEASE_RP, f"an A-RELEASE-RP was expected, not {answer[:32].hex()}"
        await self.close()

    async def close(self) -> None:
        """Close as a device that is done."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        """Close with a TCP reset, as a device that lost its power and came back."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.writer.transport.abort()


@asynccontextmanager
async def calling(port: int, *, source: str = "127.0.0.1", receive_buffer: int | None = None) -> AsyncIterator[Wire]:
    """Connect to a Router as a device does; closed at the end, however that comes."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((source, 0))
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    wire = Wire(*await asyncio.open_connection(sock=sock))
    try:
        yield wire
    finally:
        wire.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await wire.writer.wait_closed()


class Listening:
    """A device that is called: every connection runs its script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.port = 0
        self.dialled = 0
        self.bytes_in = 0
        self.wires: list[Wire] = []
        self.requests: list[bytes] = []
        self.failures: list[BaseException] = []
        self.open = 0
        self._tasks = Tasks("device")
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Listening at {self.port}: dialled {self.dialled} times, {self.open} open>"

    async def until(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait until `condition` holds, looking whenever a connection came, asked or went."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def let_go(self, seconds: float = PATIENCE) -> None:
        """Wait until no connection is open."""
        await self.until(lambda: self.open == 0, seconds)

    def tell(self) -> None:
        """Have `until` look again."""
        self._changed.set()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.dialled += 1
        self.open += 1
        wire = Wire(reader, writer)
        self.wires.append(wire)
        self._tasks.spawn(self._run(wire), name="connection")
        self.tell()

    async def _run(self, wire: Wire) -> None:
        try:
            await self.script(wire)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except (AssertionError, TimeoutError) as error:
            self.failures.append(error)
        finally:
            self.open -= 1
            self.tell()
            wire.writer.transport.abort()


@asynccontextmanager
async def listening(script: Script, *, receive_buffer: int | None = None) -> AsyncIterator[Listening]:
    """Run a device that is called. At the end an assertion that failed in its script fails the test."""
    device = Listening(script)
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(device._connected, sock=sock, limit=1 << 18)  # noqa: SLF001 - its own class
    device.port = sock.getsockname()[1]
    try:
        yield device
    finally:
        server.close()
        await device._tasks.close()  # noqa: SLF001 - its own class
        await server.wait_closed()
    for failure in device.failures:
        raise failure


class Archive:
    """What a usual called device does: accepts, answers C-ECHO and C-STORE, releases. Keeps a digest of what it got.

    Args:
        refuse: ids of presentation contexts that it refuses.
        user_items: more user items of its A-ASSOCIATE-AC.
    """

    def __init__(self, *, refuse: Sequence[int] = ()) -> None:
        self.refuse = refuse
        self.digest = hashlib.sha256()
        self.bytes_in = 0
        self.commands: list[int] = []
        self.endings: list[str] = []
        self.released = 0
        self.requests: list[AssociateRequest] = []

    async def __call__(self, wire: Wire) -> None:
        """Serve one association."""
        request = await wire.pdu()
        if not request:
            return
        wire.request = request
        parsed = AssociateRequest.parse(request)
        self.requests.append(parsed)
        wire.accept = associate_ac(request, [id_ for id_ in self.refuse if id_ in {c.id for c in parsed.contexts}])
        await wire.send(wire.accept)
        try:
            self.endings.append(await self._serve(wire))
        except RemoteMisuse:  # a device is not ours to test: it gives up
            self.endings.append("gave up")

    async def _serve(self, wire: Wire) -> str:
        framer = Framer()
        asked: tuple[int, int] | None = None  # a C-STORE-RQ whose data set is under way: context, message id
        while data := await wire.read_some(1 << 18):
            for frame in framer.feed(data):
                if not isinstance(frame, Data):
                    if frame.type is PduType.RELEASE_RQ:
                        self.released += 1
                        await wire.send(RELEASE_RP)
                        await wire.close()
                        return "released"
                    return f"aborted {frame.raw[8]}/{frame.raw[9]}"
                self.bytes_in += len(frame.run)
                self.digest.update(frame.run)
                for command in frame.commands:
                    fields = command.parse()
                    self.commands.append(int(fields.command_field or 0))
                    if fields.message_id is None:
                        continue
                    if fields.command_field is CommandField.C_ECHO_RQ:
                        await wire.send(echo_rsp(command.context_id, fields.message_id))
                    elif fields.command_field is CommandField.C_STORE_RQ:
                        asked = command.context_id, fields.message_id
                if frame.turn and asked is not None:
                    await wire.send(store_rsp(asked[0], asked[1]))
                    asked = None
        return "lost"
