"""An MQTT broker as signalling service: a mailbox is a topic, and what nobody is subscribed to is gone."""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import aiomqtt
import structlog

from isthmus.errors import ProviderTrouble, Retry
from isthmus.kit import backoff
from isthmus.kit.complaint import Complaint
from isthmus.kit.tasks import Tasks
from isthmus.ports.provider import Surroundings
from isthmus.ports.signalling import SignallingTraits
from isthmus_mqtt.provider import Place

_log = structlog.get_logger()
_MOST_NOTICE_BYTES: Final = 128 * 1024  # what the brokers of clouds take
_MOST_WAITING: Final = 256  # notices that nobody takes; older ones are dropped
_MOST_IN_FLIGHT: Final = 16
_SECONDS: Final = 10.0
_REFUSED: Final = frozenset({4, 5, 134, 135})  # bad user or password, not authorized: MQTT 3.1.1 and 5


class _Mailbox:
    def __init__(self) -> None:
        self.notices: deque[bytes] = deque(maxlen=_MOST_WAITING)
        self.arrival = asyncio.Event()
        self.listeners = 0


class MqttSignalling:
    """A broker, seen from one Router (`isthmus.ports.signalling.Signalling`)."""

    def __init__(self, place: Place, surroundings: Surroundings) -> None:
        """Describe the way; it is taken at first use, and again when the connection is lost."""
        self.traits = SignallingTraits(max_notice_bytes=_MOST_NOTICE_BYTES, cheap_bulk=True, retention=0.0)
        self._place = place
        self._surroundings = surroundings
        self._tasks = Tasks("MQTT signalling")
        self._complaint = Complaint()
        self._boxes: dict[str, _Mailbox] = {}
        self._client: aiomqtt.Client | None = None
        self._limits: set[asyncio.Timeout] = set()  # of notices whose receipt the broker has not confirmed
        self._settled = asyncio.Event()  # not set while a connection is being made
        self._trouble: ProviderTrouble | None = None
        self._closed = False

    async def publish(self, to: str, notice: bytes) -> None:
        """Send a notice; returns when the broker has it. Raises ProviderTrouble."""
        if len(notice) > _MOST_NOTICE_BYTES:
            raise ProviderTrouble(f"a notice has at most {_MOST_NOTICE_BYTES} bytes", retry=Retry.NEVER)
        self._start()
        await self._settled.wait()
        if self._client is None:
            trouble = self._trouble or ProviderTrouble("the MQTT broker is out of reach", retry=Retry.LATER)
            raise ProviderTrouble(str(trouble), retry=trouble.retry, hint=trouble.hint)
        try:
            async with asyncio.timeout(_SECONDS) as limit:
                self._limits.add(limit)
                try:
                    await self._client.publish(self._topic(to), notice, qos=1)
                finally:
                    self._limits.discard(limit)
        except (aiomqtt.MqttError, TimeoutError) as error:
            raise ProviderTrouble("the MQTT broker takes no notices", retry=Retry.LATER) from error
        self._surroundings.meter.count("publish", up=len(notice))

    async def listen(self, at: str) -> AsyncIterator[bytes]:
        """Yield the notices for a mailbox, until the service is closed."""
        self._start()
        box = self._boxes.get(at)
        if box is None:
            box = self._boxes[at] = _Mailbox()
            if self._client is not None:
                await self._subscribe(self._client, at)
        box.listeners += 1
        try:
            while not self._closed:
                while box.notices:
                    yield box.notices.popleft()
                box.arrival.clear()
                if not self._closed:
                    await box.arrival.wait()
        finally:
            box.listeners -= 1
            if not box.listeners and self._boxes.get(at) is box:
                del self._boxes[at]  # the topic stays subscribed: what comes is thrown away

    async def close(self) -> None:
        """End every listener and the connection."""
        self._closed = True
        await self._tasks.close()
        self._settled.set()
        for box in self._boxes.values():
            box.arrival.set()

    def _topic(self, mailbox: str) -> str:
        return f"{self._place.prefix}/{mailbox}"

    def _start(self) -> None:
        if self._closed:
            raise ProviderTrouble("this signalling service was closed", retry=Retry.NEVER)
        if not len(self._tasks):
            self._tasks.spawn(self._keep_connected(), name="keeping connected")

    async def _keep_connected(self) -> None:
        waits = backoff.delays(0.2, 5.0)
        while True:
            self._settled.clear()
            try:
                async with await self._make_client() as client:
                    for at in list(self._boxes):
                        await self._subscribe(client, at)
                    self._client, self._trouble = client, None
                    self._settled.set()
                    self._complaint.over()
                    waits = backoff.delays(0.2, 5.0)
                    await self._take_all(client)
            except (aiomqtt.MqttError, ProviderTrouble) as error:
                self._trouble = _as_trouble(error)
                if self._complaint.is_news(str(self._trouble), asyncio.get_running_loop().time()):
                    _log.warning("MQTT not connected", error=str(self._trouble), hint=self._trouble.hint)
            finally:
                self._client = None
                for limit in self._limits:
                    limit.reschedule(asyncio.get_running_loop().time())  # no confirmation will come
            self._settled.set()
            await asyncio.sleep(next(waits))

    async def _make_client(self) -> aiomqtt.Client:
        way, place = self._surroundings.way, self._place
        if way.proxy is not None:
            raise ProviderTrouble("MQTT goes through no proxy here", retry=Retry.NEVER, hint="add it to NO_PROXY")
        tls = None
        if place.secure:
            tls = await asyncio.to_thread(ssl.create_default_context)
            if way.ca is not None:
                tls.load_verify_locations(way.ca)
        loan = await self._surroundings.keys.loan()
        return aiomqtt.Client(
            place.at.host,
            place.at.port,
            username=loan.fields.get("user"),
            password=loan.fields.get("password"),
            tls_context=tls,
            timeout=_SECONDS,
            keepalive=20,
            max_queued_incoming_messages=_MOST_WAITING,
            max_concurrent_outgoing_calls=_MOST_IN_FLIGHT,
        )

    async def _subscribe(self, client: aiomqtt.Client, at: str) -> None:
        granted = await client.subscribe(self._topic(at), qos=0)
        codes = [code if isinstance(code, int) else code.value for code in granted]
        if any(code >= 128 for code in codes):  # MQTT 3.1.1 section 3.9.3
            raise ProviderTrouble(
                "this user may not listen at its mailbox", retry=Retry.NEVER, hint="allow it in the broker's list"
            )

    async def _take_all(self, client: aiomqtt.Client) -> None:
        """Hand on what comes until the connection is lost."""
        async for message in client.messages:
            notice = message.payload
            box = self._boxes.get(message.topic.value.rpartition("/")[2])
            if box is not None and isinstance(notice, bytes):
                self._surroundings.meter.count("receive", down=len(notice))
                box.notices.append(notice)
                box.arrival.set()


def _as_trouble(error: Exception) -> ProviderTrouble:
    """Return what is wrong, without the library's own text, which nobody has read for secrets."""
    if isinstance(error, ProviderTrouble):
        return error
    code = getattr(error, "rc", None)
    if int(getattr(code, "value", code) or 0) in _REFUSED:
        hint = "isthmus provider set, with the user and password that the broker knows"
        return ProviderTrouble("the MQTT broker does not accept this user", retry=Retry.NEVER, hint=hint)
    return ProviderTrouble("the MQTT broker is out of reach", retry=Retry.LATER)
