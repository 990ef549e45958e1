"""The bus by NATS: the name of a Bridge is a subject."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from isthmus.adapters.signalling.nats.service import NatsSignalling
from isthmus.adapters.signalling.nats.way import Place
from isthmus.bridge.cluster.bus import EVERYBODY, MAX_WAITING_BYTES, drop
from isthmus.errors import OperatorError, ProviderTrouble
from isthmus.kit.tasks import Tasks
from isthmus.ports.provider import GivenKeys, Loan, Unmetered, Way

_PREFIX: Final = "isthmus-bridges"
_ANYBODY: Final = "isthmus-bridge"
_NAME_BYTES: Final = 8
_HEAD_BYTES: Final = _NAME_BYTES + 1
_MORE, _LAST = b"\x01", b"\x00"
_MOST_PACKET: Final = 64 * 1024 * 1024
_CLOSE_SECONDS: Final = 2.0


class NatsBus:
    """A NATS server between the Bridges. A packet that is longer than what the server takes goes in parts."""

    def __init__(self, url: str) -> None:
        """Describe the way: nats://[USER:PASSWORD@]HOST:PORT, or a token in place of both. Raises OperatorError."""
        place, loan = _parse(url)
        self._service = NatsSignalling(place, GivenKeys(loan), Way(), Unmetered())
        self._tasks = Tasks("bus")
        self._name = b""
        self._take: Callable[[bytes], None] = drop
        self._parts: dict[bytes, list[bytes]] = {}
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._waiting_bytes = 0
        self._something = asyncio.Event()

    def __repr__(self) -> str:
        return f"<NatsBus {self._service!r}>"

    async def open(self, name: str, take: Callable[[bytes], None]) -> None:
        """Listen; the connection is made as soon as the server can be reached, and again whenever it is lost."""
        self._name, self._take = bytes.fromhex(name), take
        self._service.attach(name, self._came)
        self._service.attach(EVERYBODY, self._came)
        self._tasks.spawn(self._write(), name="writing")

    def send(self, to: str, packet: bytes) -> None:
        """Send a packet at once if the way is open, and otherwise a moment later."""
        most = self._service.traits.max_notice_bytes - _HEAD_BYTES
        for start in range(0, len(packet), most):
            end = start + most
            part = b"".join((self._name, _MORE if end < len(packet) else _LAST, packet[start:end]))
            if self._waiting or not self._service.publish_at_once(to, part):
                self._keep(to, part)

    async def close(self) -> None:
        """Send what still waits, if the server takes it, and disconnect."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                while self._waiting:
                    to, part = self._waiting.popleft()
                    await self._service.publish(to, part)
        except (TimeoutError, ProviderTrouble):
            pass  # who listens notices the gap, or that this Bridge is gone
        await self._tasks.close()
        await self._service.close()

    def _keep(self, to: str, part: bytes) -> None:
        if self._waiting_bytes + len(part) > MAX_WAITING_BYTES:
            return
        self._waiting.append((to, part))
        self._waiting_bytes += len(part)
        self._something.set()

    async def _write(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            while self._waiting:
                to, part = self._waiting.popleft()
                self._waiting_bytes -= len(part)
                try:
                    await self._service.publish(to, part)
                except ProviderTrouble:
                    self._waiting.clear()  # out of date by the time the server is back
                    self._waiting_bytes = 0

    def _came(self, notice: bytes) -> None:
        sender, mark = notice[:_NAME_BYTES], notice[_NAME_BYTES:_HEAD_BYTES]
        if sender == self._name:
            return
        before = self._parts.pop(sender, None)
        if mark == _MORE:
            parts = before or []
            parts.append(notice[_HEAD_BYTES:])
            if sum(map(len, parts)) <= _MOST_PACKET:
                self._parts[sender] = parts
            return
        last = notice[_HEAD_BYTES:]
        self._take(last if before is None else b"".join((*before, last)))


def _parse(url: str) -> tuple[Place, Loan]:
    """Return where the server is, and with which keys to come. What is wrong is not quoted: it may hold a password."""
    try:
        parts = urlsplit(url)
        account, _, hosts = parts.netloc.rpartition("@")
        bare = urlunsplit(parts._replace(netloc=hosts, query=parts.query or f"prefix={_PREFIX}"))
        place = Place.parse(bare)
    except (ValueError, OperatorError) as error:
        raise OperatorError("the URL of --bus is not one", hint="nats://HOST:PORT, nats+tls://HOST:PORT") from error
    user, colon, password = (unquote(part) for part in account.partition(":"))
    if not account:
        return place, Loan({"user": _ANYBODY, "password": ""})  # a server that asks nobody does not look at it
    return place, Loan({"user": user, "password": password} if colon else {"token": user})
