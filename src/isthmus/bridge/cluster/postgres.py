"""The bus by PostgreSQL: LISTEN and NOTIFY, and a table without a log for what is longer than a notification may be."""

import asyncio
import base64
import contextlib
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import structlog
from sqlalchemy import BigInteger, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from isthmus.bridge.cluster.bus import EVERYBODY, MAX_WAITING_BYTES, drop
from isthmus.bridge.database import Base, connect_arguments
from isthmus.errors import OperatorError
from isthmus.kit import backoff
from isthmus.kit.complaint import Complaint
from isthmus.kit.tasks import Tasks

_log = structlog.get_logger()
_CHANNEL: Final = "isthmus_"
_ID_BYTES: Final = 16
_KEPT: Final = "#"  # in front of the id of a packet that waits in the table; no base64 begins like this
_SHORT_BYTES: Final = 5900  # in base64 below 8000, the longest notification
_AT_ONCE_BYTES: Final = 4 * 1024 * 1024  # in one transaction
_AT_ONCE: Final = 500
_SWEEP_SECONDS: Final = 60.0
_FORGOTTEN: Final = "DELETE FROM bus_bodies WHERE made < extract(epoch FROM now()) * 1000000 - 120000000"
_FIRST_DELAY: Final = 0.2
_MOST_DELAY: Final = 2.0
_CLOSE_SECONDS: Final = 2.0
_SEND: Final = """
WITH kept AS (
    INSERT INTO bus_bodies (id, made, body)
    SELECT id, extract(epoch FROM now()) * 1000000, body FROM unnest($1::bytea[], $2::bytea[]) AS t (id, body)
)
SELECT pg_notify(channel, payload)
FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS t (channel, payload, place) ORDER BY place
"""
_TAKE: Final = "DELETE FROM bus_bodies WHERE id = ANY($1::bytea[]) RETURNING id, body"


class BodyRow(Base):
    """A packet on its way that is too long for a notification."""

    __tablename__ = "bus_bodies"

    id: Mapped[bytes] = mapped_column(LargeBinary(16), primary_key=True)
    made: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[bytes] = mapped_column(LargeBinary)


class PostgresBus:
    """The database that the Bridges share, as a way between them: one connection to listen, one to write."""

    def __init__(self, url: str) -> None:
        """Describe the way; `url` is that of the database."""
        self._arguments = connect_arguments(url)
        self._tasks = Tasks("bus")
        self._complaint = Complaint()
        self._channels: tuple[str, ...] = ()
        self._take: Callable[[bytes], None] = drop
        self._out: deque[tuple[str, bytes]] = deque()
        self._out_bytes = 0
        self._to_send = asyncio.Event()
        self._came: deque[str] = deque()
        self._to_take = asyncio.Event()
        self._listening = asyncio.Event()
        self._idle = asyncio.Event()  # nothing waits, and nothing is in the database's hands
        self._idle.set()

    def __repr__(self) -> str:
        return f"<PostgresBus: {len(self._out)} packets to send>"

    async def open(self, name: str, take: Callable[[bytes], None]) -> None:
        """Listen. Raises OperatorError if the database cannot be reached."""
        self._channels, self._take = (_CHANNEL + name, _CHANNEL + EVERYBODY), take
        self._tasks.spawn(self._keep(self._listen), name="listening")
        self._tasks.spawn(self._keep(self._write), name="writing")
        try:
            async with asyncio.timeout(_CLOSE_SECONDS * 5):
                await self._listening.wait()
        except TimeoutError as error:
            raise OperatorError("PostgreSQL does not take LISTEN", hint="is there a pooler in between?") from error

    def send(self, to: str, packet: bytes) -> None:
        """Have a packet sent in the next transaction."""
        if self._out_bytes + len(packet) > MAX_WAITING_BYTES:
            return
        self._out.append((to, packet))
        self._out_bytes += len(packet)
        self._idle.clear()
        self._to_send.set()

    async def close(self) -> None:
        """Send what still waits, and disconnect."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._idle.wait()
        await self._tasks.close()

    async def _keep(self, use: Callable[[Any], Any]) -> None:
        """Use a connection, and another one when it is lost."""
        import asyncpg  # type: ignore[import-untyped]  # has no types

        delays = backoff.delays(_FIRST_DELAY, _MOST_DELAY)
        while True:
            try:
                connection = await asyncpg.connect(**self._arguments)
                try:
                    delays = backoff.delays(_FIRST_DELAY, _MOST_DELAY)
                    await use(connection)
                finally:
                    connection.terminate()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                if self._complaint.is_news(str(error), asyncio.get_running_loop().time()):
                    _log.warning("the bus lost PostgreSQL", error=str(error))
            await asyncio.sleep(next(delays))

    # listening

    async def _listen(self, connection: Any) -> None:
        self._came.clear()
        connection.add_termination_listener(lambda _: self._to_take.set())
        for channel in self._channels:
            await connection.add_listener(channel, self._notified)
        self._listening.set()
        while not connection.is_closed():
            await self._to_take.wait()
            self._to_take.clear()
            await self._take_all(connection)
        raise OSError("the connection was lost")

    def _notified(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        if not self._came and not payload.startswith(_KEPT):
            self._take(base64.b64decode(payload))
            return
        self._came.append(payload)  # behind what is still being read
        self._to_take.set()

    async def _take_all(self, connection: Any) -> None:
        while self._came:
            ids = [bytes.fromhex(payload[1:]) for payload in self._came if payload.startswith(_KEPT)]
            count = len(self._came)
            bodies = {bytes(row["id"]): row["body"] for row in await connection.fetch(_TAKE, ids)} if ids else {}
            for _ in range(count):
                payload = self._came[0]
                if not payload.startswith(_KEPT):
                    self._take(base64.b64decode(payload))
                elif (body := bodies.get(bytes.fromhex(payload[1:]))) is not None:
                    self._take(body)
                self._came.popleft()

    # writing

    async def _write(self, connection: Any) -> None:
        loop = asyncio.get_running_loop()
        await connection.execute("SET synchronous_commit = off")
        self._drop()  # out of date
        swept = loop.time()
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while self._out:
                await self._send_some(connection)
            self._idle.set()
            if loop.time() - swept > _SWEEP_SECONDS:
                swept = loop.time()
                await connection.execute(_FORGOTTEN)

    async def _send_some(self, connection: Any) -> None:
        ids: list[bytes] = []
        bodies: list[bytes] = []
        channels: list[str] = []
        payloads: list[str] = []
        size = 0
        while self._out and size < _AT_ONCE_BYTES and len(payloads) < _AT_ONCE:
            to, packet = self._out.popleft()
            size += len(packet)
            channels.append(_CHANNEL + to)
            if len(packet) <= _SHORT_BYTES:
                payloads.append(base64.b64encode(packet).decode("ascii"))
                continue
            ids.append(secrets.token_bytes(_ID_BYTES))
            bodies.append(packet)
            payloads.append(_KEPT + ids[-1].hex())
        self._out_bytes -= size
        await connection.execute(_SEND, ids, bodies, channels, payloads)

    def _drop(self) -> None:
        self._out.clear()
        self._out_bytes = 0
        self._idle.set()
