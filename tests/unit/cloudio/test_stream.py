"""Duplex over memory: providers, in fair and bad weather. What it decides is tested in test_core and simulated."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.adapters.signalling.memory import MemorySignalling
from isthmus.cloudio.options import StreamOptions
from isthmus.cloudio.pool import Pool
from isthmus.cloudio.stream import Cloud, Duplex
from isthmus.contract.notices import PREFIX_BYTES, NoticeKind, pack
from isthmus.envelope.keys import SessionKeys
from isthmus.errors import AssociationAborted, ProviderTrouble, Retry
from isthmus.kit.clock import SystemClock
from isthmus.kit.tasks import Tasks
from isthmus.ports.signalling import Signalling, SignallingTraits
from isthmus.testing.recorder import Recorder
from isthmus.testing.weather import Weather, WeatherBlobstore, WeatherSignalling

SESSION = bytes(range(16))
QUICK = StreamOptions(
    segment_bytes=8192,
    inline_bytes=1024,
    resend_floor=0.01,
    resend_most=0.05,
    gap_grace=0.02,
    status_restless=0.02,
    status_idle=0.1,
    backoff_first=0.005,
    backoff_most=0.02,
)
CREDIT = 64 * 1024


class Eager(Recorder):
    """Takes what comes and lets more come at once."""

    stream: Duplex

    def on_data(self, payload: bytes) -> None:
        super().on_data(payload)
        self.stream.consumed(len(payload))


class Pair:
    """Two sides of one session over one cloud."""

    def __init__(
        self,
        *,
        cheap_bulk: bool = True,
        options: StreamOptions = QUICK,
        weather: Weather | None = None,
        wrap: Callable[[Signalling], Signalling] = lambda signalling: signalling,
        device: type[Recorder] = Eager,
    ) -> None:
        self.memory = MemorySignalling(cheap_bulk=cheap_bulk)
        self.store = MemoryBlobstore()
        cloud = Cloud(wrap(self.memory), self.store)
        if weather is not None:
            signalling = WeatherSignalling(cloud.signalling, weather, seed=1)
            cloud = Cloud(signalling, WeatherBlobstore(self.store, weather, seed=2))
        self.pools = (Pool(), Pool())
        self.devices = (device(), device())
        self.sides = tuple(
            Duplex(
                session_id=SESSION,
                keys=SessionKeys.derive(bytes(32), initiator=index == 0),
                cloud=cloud,
                to=f"site{1 - index}",
                pool=self.pools[index],
                clock=SystemClock(),
                first_credit_out=CREDIT,
                first_credit_in=CREDIT,
                observer=self.devices[index],
                options=options,
            )
            for index in (0, 1)
        )
        self.tasks = Tasks("pair")
        for observer, side in zip(self.devices, self.sides, strict=True):
            observer.stream = side  # type: ignore[attr-defined]  # only Eager needs it
        for index, side in enumerate(self.sides):
            self.tasks.spawn(self._listen(index, side), name="listen")
        self.runs = [self.tasks.spawn(side.run(), name="run") for side in self.sides]

    async def _listen(self, index: int, side: Duplex) -> None:
        """Route notices as a Router does: a session that has ended is answered with GONE."""
        async for notice in self.memory.listen(f"site{index}"):
            if not self.runs[index].done():
                side.receive(notice)
            elif notice[0] != NoticeKind.GONE:
                await self.memory.publish(f"site{1 - index}", pack(NoticeKind.GONE, SESSION))

    async def send(self, index: int, content: bytes, size: int = 5000) -> None:
        """Write all, at the pace that the stream allows, and finish."""
        side, device = self.sides[index], self.devices[index]
        for start in range(0, len(content), size):
            before = device.writable
            if not side.write(content[start : start + size], flush=False):
                while device.writable == before:
                    await wait(device)
        side.finish()

    async def ended(self) -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*self.runs)

    def received(self, index: int) -> bytes:
        return b"".join(self.devices[index].data)


async def wait(device: Recorder) -> None:
    async with asyncio.timeout(20):
        device.told.clear()
        await device.told.wait()


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Pair]]:
    pairs: list[Pair] = []

    def make_(**arguments: object) -> Pair:
        pairs.append(Pair(**arguments))  # type: ignore[arg-type]  # passed through
        return pairs[-1]

    yield make_
    for pair in pairs:
        await pair.tasks.close()
        assert len(pair.store) == 0, "blobs were left behind"
        assert [pool.used for pool in pair.pools] == [0, 0], "memory was not given back"
    assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks were left behind"


@pytest.mark.parametrize("cheap_bulk", [True, False])
async def test_what_is_written_on_one_side_arrives_on_the_other(make: Callable[..., Pair], cheap_bulk: bool) -> None:
    pair = make(cheap_bulk=cheap_bulk)
    there, back = secrets.token_bytes(600_000), secrets.token_bytes(90_000)
    await asyncio.gather(pair.send(0, there), pair.send(1, back))
    await pair.ended()
    assert pair.received(1) == there
    assert pair.received(0) == back
    assert all(side.complete for side in pair.sides)
    assert [device.finals for device in pair.devices] == [1, 1]
    assert (pair.sides[0].stats.bytes_out, pair.sides[0].stats.bytes_in) == (600_000, 90_000)
    assert pair.sides[0].stats.rtt is not None


@pytest.mark.parametrize("cheap_bulk", [True, False])
@pytest.mark.parametrize(
    "weather",
    [
        Weather(drop=0.3),
        Weather(repeat=0.5, reorder=0.5),
        Weather(trouble=0.3),
        Weather(drop=0.1, repeat=0.2, reorder=0.2, trouble=0.2, delay=0.002, lag=0.02),
    ],
    ids=["drop", "disorder", "trouble", "everything"],
)
async def test_bad_weather_changes_nothing_but_the_time(
    make: Callable[..., Pair], cheap_bulk: bool, weather: Weather
) -> None:
    pair = make(cheap_bulk=cheap_bulk, weather=weather)
    there, back = secrets.token_bytes(200_000), secrets.token_bytes(50_000)
    await asyncio.gather(pair.send(0, there), pair.send(1, back))
    await pair.ended()
    assert (pair.received(1), pair.received(0)) == (there, back)
    assert all(side.complete for side in pair.sides)


async def test_a_stream_survives_providers_that_are_gone_for_a_while(make: Callable[..., Pair]) -> None:
    weather = Weather()
    pair = make(weather=weather)
    content = secrets.token_bytes(400_000)
    sending = pair.tasks.spawn(pair.send(0, content), name="send")
    while len(pair.received(1)) < 50_000:
        await wait(pair.devices[1])
    weather.gone = True
    async with asyncio.timeout(20):
        while pair.sides[0]._core._troubles < 5:  # noqa: ASYNC110 - a stream does not tell that it is in trouble
            await asyncio.sleep(0)
    weather.gone = False
    await sending
    pair.sides[1].finish()
    await pair.ended()
    assert pair.received(1) == content


async def test_what_never_arrives_in_notices_arrives_in_blobs(make: Callable[..., Pair]) -> None:
    class NoData:
        def __init__(self, inner: Signalling) -> None:
            self._inner = inner
            self.traits: SignallingTraits = inner.traits
            self.listen = inner.listen
            self.close = inner.close

        async def publish(self, to: str, notice: bytes) -> None:
            if notice[0] != NoticeKind.DATA:
                await self._inner.publish(to, notice)

    pair = make(wrap=NoData)
    await asyncio.gather(pair.send(0, b"x" * 30_000), pair.send(1, b""))
    await pair.ended()
    assert pair.received(1) == b"x" * 30_000
    assert all(side.complete for side in pair.sides)
    assert pair.sides[0].stats.resent > 0


@pytest.mark.parametrize("cheap_bulk", [True, False])
async def test_a_prompt_service_is_given_notices_without_a_turn_of_the_loop(
    make: Callable[..., Pair], cheap_bulk: bool
) -> None:
    class Prompt:
        """Takes most notices at once, has no room for some and trouble with others."""

        def __init__(self, inner: Signalling) -> None:
            self._inner = inner
            self.traits: SignallingTraits = inner.traits
            self.listen = inner.listen
            self.publish = inner.publish
            self.close = inner.close
            self.at_once = 0
            prompts.append(self)

        def publish_at_once(self, to: str, notice: bytes) -> bool:
            self.at_once += 1
            if self.at_once % 5 == 0:
                return False
            if self.at_once % 7 == 0:
                raise ProviderTrouble("503", retry=Retry.LATER)
            publishing = self._inner.publish(to, notice)
            try:
                publishing.send(None)  # run it up to its first wait
            except StopIteration:
                return True
            publishing.close()  # it had to wait
            return False

        def attach(self, at: str, sink: Callable[[bytes], None]) -> None:
            raise NotImplementedError

    prompts: list[Prompt] = []
    pair = make(wrap=Prompt, cheap_bulk=cheap_bulk)
    assert pair.sides[0]._prompt is not None
    there, back = secrets.token_bytes(200_000), secrets.token_bytes(50_000)
    await asyncio.gather(pair.send(0, there), pair.send(1, back))
    await pair.ended()
    assert (pair.received(1), pair.received(0)) == (there, back)
    assert all(side.complete for side in pair.sides)
    assert prompts[0].at_once > 0


async def test_a_device_that_takes_nothing_stops_the_far_writer(make: Callable[..., Pair]) -> None:
    pair = make(device=Recorder)
    written = 0
    while pair.sides[0].write(bytes(4096), flush=False):
        written += 4096
    assert written <= CREDIT
    while len(pair.received(1)) < written:
        await wait(pair.devices[1])
    assert pair.devices[0].writable == 0
    pair.sides[1].consumed(len(pair.received(1)))
    while pair.devices[0].writable == 0:
        await wait(pair.devices[0])
    for side in pair.sides:
        side.close()
    await pair.ended()
    assert not pair.sides[0].complete


@pytest.mark.parametrize("cheap_bulk", [True, False])
async def test_closing_in_the_middle_leaves_nothing(make: Callable[..., Pair], cheap_bulk: bool) -> None:
    pair = make(cheap_bulk=cheap_bulk, weather=Weather(delay=0.005))
    sending = pair.tasks.spawn(pair.send(0, secrets.token_bytes(500_000)), name="send")
    while len(pair.received(1)) < 20_000:
        await wait(pair.devices[1])
    sending.cancel()
    for side in pair.sides:
        side.close()
    await pair.ended()


async def test_cancelling_run_leaves_nothing(make: Callable[..., Pair]) -> None:
    pair = make(cheap_bulk=False, weather=Weather(delay=0.005))
    for side in pair.sides:
        side.write(bytes(60_000), flush=True)
    await asyncio.sleep(0)
    for run in pair.runs:
        run.cancel()
    await asyncio.wait(pair.runs)
    assert all(run.cancelled() for run in pair.runs)


async def test_a_signal_arrives_ahead_and_closing_waits_until_it_was_seen(make: Callable[..., Pair]) -> None:
    pair = make(weather=Weather(drop=0.3))
    pair.sides[0].signal(b"abort")
    pair.sides[0].close(linger=10)
    async with asyncio.timeout(20):
        await pair.runs[0]
    assert pair.devices[1].signals == [b"abort"]
    assert pair.sides[0].signal_seen
    pair.sides[1].close()
    await pair.ended()


async def test_closing_does_not_wait_longer_than_it_may_for_a_signal_to_be_seen(make: Callable[..., Pair]) -> None:
    pair = make(weather=Weather(drop=1.0))
    pair.sides[0].signal(b"abort")
    pair.sides[0].close(linger=0.05)
    pair.sides[1].close()
    await pair.ended()
    assert not pair.sides[0].signal_seen


async def test_a_publish_that_never_returns_does_not_keep_the_stream_from_ending(make: Callable[..., Pair]) -> None:
    class Stuck:
        def __init__(self, inner: Signalling) -> None:
            self.traits: SignallingTraits = inner.traits
            self.listen = inner.listen
            self.close = inner.close

        async def publish(self, to: str, notice: bytes) -> None:
            await asyncio.get_running_loop().create_future()

    pair = make(wrap=Stuck, options=replace(QUICK, silence_limit=0.3))
    pair.sides[0].write(b"anybody?", flush=True)
    pair.sides[1].write(b"anybody?", flush=True)
    await pair.ended()
    assert [len(device.errors) for device in pair.devices] == [1, 1]
    assert isinstance(pair.devices[0].errors[0], AssociationAborted)


async def test_a_publish_that_never_returns_does_not_keep_close_from_ending_it(make: Callable[..., Pair]) -> None:
    entered = asyncio.Event()

    class Stuck:
        def __init__(self, inner: Signalling) -> None:
            self.traits: SignallingTraits = inner.traits
            self.listen = inner.listen
            self.close = inner.close

        async def publish(self, to: str, notice: bytes) -> None:
            entered.set()
            await asyncio.get_running_loop().create_future()

    pair = make(wrap=Stuck)
    pair.sides[0].write(b"anybody?", flush=True)
    await entered.wait()
    for side in pair.sides:
        side.close()
        await asyncio.sleep(0)
        side.close()
    await pair.ended()
    assert pair.devices[0].errors == []


async def test_a_refusal_for_good_ends_the_stream(make: Callable[..., Pair]) -> None:
    class Refusing:
        def __init__(self, inner: Signalling) -> None:
            self.traits: SignallingTraits = inner.traits
            self.listen = inner.listen
            self.close = inner.close

        async def publish(self, to: str, notice: bytes) -> None:
            raise ProviderTrouble("forbidden", retry=Retry.NEVER)

    pair = make(wrap=Refusing)
    pair.sides[0].write(b"data", flush=True)
    async with asyncio.timeout(20):
        await pair.runs[0]
    assert [str(error) for error in pair.devices[0].errors] == ["forbidden"]
    pair.sides[1].close()
    await pair.ended()


async def test_gone_ends_the_stream(make: Callable[..., Pair]) -> None:
    pair = make()
    for side in pair.sides:
        side.receive(pack(NoticeKind.GONE, SESSION))
    await pair.ended()
    assert all(isinstance(device.errors[0], AssociationAborted) for device in pair.devices)


async def test_run_after_close_returns_at_once(make: Callable[..., Pair]) -> None:
    pair = make()
    for side in pair.sides:
        side.close()
    await pair.ended()
    await pair.sides[0].run()


async def test_a_reader_may_be_given_views_of_notices(make: Callable[..., Pair]) -> None:
    pair = make()
    pair.sides[0].write(b"some payload", flush=True)
    outgoing = pair.sides[0]._core.next_notice(0.0)
    assert outgoing is not None
    assert len(outgoing.notice) > PREFIX_BYTES
    pair.sides[1].receive(memoryview(outgoing.notice))
    assert pair.received(1) == b"some payload"
    for side in pair.sides:
        side.close()
    await pair.ended()


async def test_a_fault_that_shows_in_the_timer_ends_the_run_instead_of_leaving_it_asleep(
    make: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make(options=StreamOptions(status_idle=0.1, status_restless=0.1))
    side = pair.sides[0]

    def stumble(_now: float) -> None:
        if asyncio.current_task() is None:  # in a callback of the loop, where nobody hears of it
            monkeypatch.undo()
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(side._core, "tick", stumble)
    async with asyncio.timeout(10):
        with pytest.raises(ZeroDivisionError):
            await pair.runs[0]
        await pair.runs[1]
    assert len(pair.devices[1].errors) == 1
