"""Whole stream pairs over a bad cloud, decided by a seed, in no time at all.

`simulate(seed)` runs two sessions between two sites that share one cloud. The cloud loses, repeats, delays and so
reorders notices, clogs, refuses, hides and fails blobs; a site may crash. Then the weather clears. What came out must
be what went in: nothing lost, nothing twice, nothing of the other session, and all of it soon after healing. Some
clouds are hostile: they change bytes and send notices back. Then streams may break, but what comes out must still be
true. A failing seed fails again, step by step.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Final

from isthmus.cloudio.blobs import BlobTask, BlobWork
from isthmus.cloudio.core import StreamCore
from isthmus.cloudio.options import StreamOptions
from isthmus.cloudio.pool import Pool
from isthmus.cloudio.terms import Carriage, Outgoing, Phase
from isthmus.contract.notices import PREFIX_BYTES, NoticeKind, pack
from isthmus.envelope.keys import SessionKeys
from isthmus.errors import BlobExists, BlobMissing, IsthmusError, ProviderTrouble, Retry

HEALED_AT: Final = 10.0  # seconds: the longest that providers may be gone
PATIENCE: Final = 10.0  # seconds after healing in which everything must have arrived
_END: Final = 90.0
_LANES: Final = 4
_OPTIONS: Final = StreamOptions(segment_bytes=512, window_least=4096, window_most=32768)


class SimulationFailed(AssertionError):
    """A promise was broken; the message names the seed and the promise."""


@dataclass(frozen=True, slots=True)
class Sky:
    """How bad it is until HEALED_AT. Chances from 0 to 1, times in seconds.

    Attributes:
        drop: chance that a notice is lost.
        repeat: chance that it comes twice.
        hostile: chance that a forged one comes first, or that it comes back to its sender as well.
        jitter: notices take up to this much longer, and so overtake each other.
        blob_trouble: chance that a call on the store fails; half of these were carried out nevertheless.
        blob_lag: a new blob cannot be seen for up to so long.
        clogged: spans in which `publish` does not return.
        refused: spans in which it fails.
        crash: when one site dies, or None.
        revives: whether the dead site comes back and says that it knows of nothing.
    """

    drop: float
    repeat: float
    hostile: float
    jitter: float
    blob_trouble: float
    blob_lag: float
    clogged: tuple[tuple[float, float], ...]
    refused: tuple[tuple[float, float], ...]
    crash: float | None
    revives: bool

    @classmethod
    def draw(cls, chance: random.Random) -> "Sky":
        """Return a sky; one in eight is blue."""
        if chance.random() < 1 / 8:
            return cls(0, 0, 0, 0, 0, 0, (), (), None, False)

        def sometimes(most: float) -> float:
            return chance.random() * most if chance.random() < 0.5 else 0.0

        def span() -> tuple[tuple[float, float], ...]:
            if chance.random() < 0.7:
                return ()
            start = chance.random() * 3
            return ((start, start + chance.random() * (HEALED_AT - start)),)

        crash = chance.random() * 5 if chance.random() < 0.15 else None
        return cls(
            drop=sometimes(0.5),
            repeat=sometimes(0.3),
            hostile=chance.random() * 0.1 if chance.random() < 0.1 else 0.0,
            jitter=sometimes(0.8),
            blob_trouble=sometimes(0.5),
            blob_lag=sometimes(2.0),
            clogged=span(),
            refused=span(),
            crash=crash,
            revives=chance.random() < 0.5,
        )


@dataclass(slots=True)
class Report:
    """What happened, for those who look at many seeds."""

    finished_at: float = 0.0
    complete: int = 0
    broken: int = 0
    resent: int = 0
    notices: int = 0
    blobs: int = 0


@dataclass(eq=False)
class _Half:
    """One side of one session, with the device behind it."""

    world: "_World"
    site: int
    session: int
    to_send: bytes
    expected: bytes
    slow: float
    core: StreamCore = field(init=False)
    far: "_Half" = field(init=False)
    written: int = 0
    received: int = 0
    finals: int = 0
    signals_given: int = 0
    last_signal: int = 0
    error: IsthmusError | None = None
    ended_at: float = inf
    publishing: bool = False
    lanes: int = 0
    timer_at: float = inf
    dead: bool = False
    writable: bool = True

    def on_data(self, payload: bytes) -> None:
        if payload != self.expected[self.received : self.received + len(payload)]:
            self.world.fail("wrong bytes were handed on")
        self.received += len(payload)
        self.world.after(self.slow * self.world.chance.random(), lambda: self.consume(len(payload)))

    def consume(self, count: int) -> None:
        if not self.dead and self.core.phase is Phase.OPEN:
            self.core.consumed(count, self.world.now)
            self.work()

    def on_final(self) -> None:
        self.finals += 1
        if self.received != len(self.expected):
            self.world.fail("the end came before the last byte")

    def on_signal(self, payload: bytes) -> None:
        number = int.from_bytes(payload, "big")
        if not self.last_signal < number <= self.far.signals_given:
            self.world.fail("a signal came twice, or from nowhere")
        self.last_signal = number

    def on_writable(self) -> None:
        self.writable = True
        self.world.after(0.0, self.write)

    def on_broken(self, error: IsthmusError) -> None:
        self.error = error

    def write(self) -> None:
        """Write a while, as a device does."""
        chance = self.world.chance
        while self.writable and not self.dead and self.core.phase is Phase.OPEN and self.written < len(self.to_send):
            size = chance.choice((1, 30, 300, 512, 2000))
            piece = self.to_send[self.written : self.written + size]
            self.written += len(piece)
            self.writable = self.core.write(piece, self.world.now, flush=chance.random() < 0.5)
            if self.written == len(self.to_send):
                self.core.finish(self.world.now)
            elif self.writable and chance.random() < 0.3:
                self.world.after(chance.random() * 0.3, self.write)
                break
        self.work()

    def signal(self) -> None:
        if not self.dead and self.core.phase is Phase.OPEN:
            self.signals_given += 1
            self.core.signal(self.signals_given.to_bytes(2, "big"))
            self.work()

    def work(self) -> None:
        """Do what a driver does: publish, see to blobs, set the timer."""
        if self.dead:
            return
        core, world = self.core, self.world
        core.tick(world.now)
        while not self.publishing and (outgoing := core.next_notice(world.now)) is not None:
            world.publish(self, outgoing)
        while self.lanes < _LANES and (work := core.next_blob_work(world.now)) is not None:
            self.lanes += 1
            world.store(self, work)
        if core.phase is not Phase.OPEN:
            if self.ended_at == inf:
                self.ended_at = world.now
                world.open -= 1
                for name in core.blobs.leftovers():
                    world.blobs.pop(name, None)
            return
        due = core.deadline(world.now)
        if self.lanes < _LANES:
            due = min(due, core.blobs.deadline())
        due = max(due, world.now + 0.0005)
        if self.publishing:
            due = max(due, world.now + 0.25)
        if due < self.timer_at:
            self.timer_at = due
            world.at(due, self.ring)

    def ring(self) -> None:
        if self.world.now >= self.timer_at:
            self.timer_at = inf
            self.work()


class _World:
    """The cloud, the time and the two sites."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)  # noqa: S311 - a simulation is repeatable or worth nothing
        self.sky = Sky.draw(self.chance)
        self.now = 0.0
        self.report = Report()
        self.blobs: dict[str, tuple[bytes, float]] = {}
        self.pools = (Pool(limit=64 * 1024), Pool(limit=64 * 1024))
        self.open = 4
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.halves = [half for session in (0, 1) for half in self._session(session)]

    def fail(self, promise: str) -> None:
        raise SimulationFailed(f"seed {self.seed} at {self.now:.3f} s: {promise} ({self.sky})")

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(self.now + seconds, action)

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (when, self._count, action))

    def _session(self, session: int) -> tuple[_Half, _Half]:
        chance = self.chance
        session_id = bytes((session + 1,)) * 16
        secret = chance.randbytes(32)
        data = [chance.randbytes(chance.choice((0, 1, 700, 5000, 20000))) for _ in range(2)]
        slow = chance.choice((0.0, 0.0, 0.05, 0.4))
        halves = (
            _Half(self, 0, session, data[0], data[1], slow),
            _Half(self, 1, session, data[1], data[0], slow),
        )
        allowed = [chance.choice((1024, 4096)) for _ in range(2)]
        notice_bytes = chance.choice((4096, 4096, 200))
        for index, half in enumerate(halves):
            half.far = halves[1 - index]
            half.core = StreamCore(
                session_id=session_id,
                keys=SessionKeys.derive(secret, initiator=index == 0),
                carriage=Carriage(notice_bytes, 512),
                pool=self.pools[index].share("far"),
                first_credit_out=allowed[index],
                first_credit_in=allowed[1 - index],
                observer=half,
                options=_OPTIONS,
                now=0.0,
            )
            self.after(chance.random() * 0.1, half.write)
            for _ in range(chance.choice((0, 0, 1, 3))):
                self.after(chance.random() * 3, half.signal)
            if not data[index]:
                self.after(0.05, lambda half=half: half.core.finish(self.now))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        return halves

    def bad(self, chance: float) -> bool:
        return self.now < HEALED_AT and self.chance.random() < chance

    def publish(self, half: _Half, outgoing: Outgoing) -> None:
        """Take a notice, or do not."""
        for start, end in self.sky.refused:
            if start <= self.now < end:
                trouble = ProviderTrouble("refused", retry=Retry.LATER)
                half.core.publish_failed(outgoing, trouble, self.now)
                return
        for start, end in self.sky.clogged:
            if start <= self.now < end:
                half.publishing = True
                self.after(end - self.now, lambda: self._unclog(half, outgoing))
                return
        self.carry(half, outgoing.notice)
        half.core.published(outgoing, self.now)

    def _unclog(self, half: _Half, outgoing: Outgoing) -> None:
        half.publishing = False
        if not half.dead:
            self.carry(half, outgoing.notice)
            half.core.published(outgoing, self.now)
            half.work()

    def carry(self, half: _Half, notice: bytes) -> None:
        """Let a notice travel."""
        self.report.notices += 1
        if self.bad(self.sky.drop):
            return
        for _ in range(2 if self.bad(self.sky.repeat) else 1):
            late = self.chance.random() * self.sky.jitter if self.now < HEALED_AT else 0.0
            self._arrive(0.02 + late, 1 - half.site, notice)
        if self.bad(self.sky.hostile):
            self._arrive(0.02, half.site, notice)
        if self.bad(self.sky.hostile) and len(notice) > PREFIX_BYTES:
            changed = bytearray(notice)
            changed[self.chance.randrange(PREFIX_BYTES, len(notice))] ^= 1 << self.chance.randrange(8)
            self._arrive(0.0, 1 - half.site, bytes(changed))

    def _arrive(self, seconds: float, site: int, notice: bytes) -> None:
        self.after(seconds, lambda: self.deliver(site, notice))

    def deliver(self, site: int, notice: bytes) -> None:
        """Route a notice as a Router does: by session; GONE answers for sessions that it knows no more."""
        half = self.halves[(notice[1] - 1) * 2 + site]
        if half.dead or half.core.phase is not Phase.OPEN:
            if (not half.dead or self.sky.revives) and notice[0] != NoticeKind.GONE:
                self.carry(half, pack(NoticeKind.GONE, notice[1:PREFIX_BYTES]))
            return
        half.core.receive(notice, self.now)
        half.work()

    def store(self, half: _Half, work: BlobWork) -> None:
        """Do a call on the store, and answer a little later."""
        self.report.blobs += 1
        trouble = self.bad(self.sky.blob_trouble)
        answer: bytes | ProviderTrouble = b""
        if not trouble or self.chance.random() < 0.5:
            answer = self._call(work)
        if trouble:
            answer = ProviderTrouble("503", retry=Retry.LATER)
        self.after(0.03 + self.chance.random() * 0.05, lambda: self._answer(half, work, answer))

    def _call(self, work: BlobWork) -> bytes | ProviderTrouble:
        blob = self.blobs.get(work.name)
        match work.task:
            case BlobTask.PUT:
                body = bytes(work.body or b"")
                if blob is not None and blob[0] != body:
                    self.fail("different bytes were put under one name")
                    return BlobExists(work.name)
                if blob is None:
                    lag = self.chance.random() * self.sky.blob_lag if self.now < HEALED_AT else 0.0
                    self.blobs[work.name] = (body, self.now + lag)
            case BlobTask.GET:
                if blob is None or blob[1] > self.now:
                    return BlobMissing(work.name)
                return blob[0]
            case BlobTask.DELETE:
                self.blobs.pop(work.name, None)
        return b""

    def _answer(self, half: _Half, work: BlobWork, answer: bytes | ProviderTrouble) -> None:
        half.lanes -= 1
        if half.dead:
            return
        if isinstance(answer, ProviderTrouble):
            half.core.blob_failed(work, answer, self.now)
        elif work.task is BlobTask.GET:
            half.core.blob_got(work, answer, self.now)
        else:
            half.core.blob_done(work)
        half.work()

    def _crash(self) -> None:
        for half in self.halves:
            if half.site == 0:
                half.dead = True
                self.open -= half.ended_at == inf

    def run(self) -> Report:
        if self.sky.crash is not None:
            self.after(self.sky.crash, self._crash)
        while self._agenda and self.open:
            self.now, _, action = heapq.heappop(self._agenda)
            if self.now > _END:
                break
            action()
        for half in self.halves:
            if not half.dead:
                self._judge(half)
        if self.sky.crash is None and not self.sky.hostile and self.blobs:
            self.fail("blobs were left behind")
        self.report.finished_at = self.now
        return self.report

    def _judge(self, half: _Half) -> None:
        core = half.core
        self.report.resent += core.stats.resent
        if core.phase is Phase.OPEN:
            self.fail("a stream hangs")
        if core.phase is Phase.BROKEN:
            self.report.broken += 1
            if not half.far.dead and not self.sky.hostile:
                self.fail(f"a stream broke although both sites live: {half.error}")
            return
        self.report.complete += 1
        if half.received != len(half.expected) or half.finals != 1:
            self.fail("a stream is complete, but not all of it arrived")
        if not half.far.dead and half.ended_at > HEALED_AT + PATIENCE:
            self.fail(f"a stream was complete only at {half.ended_at:.1f} s")
        if self.pools[half.site].used and all(other.ended_at < inf for other in self.halves if other.site == half.site):
            self.fail("memory of the pool was not given back")


def simulate(seed: int) -> Report:
    """Run one seed. Raises SimulationFailed, which names the seed and the broken promise."""
    return _World(seed).run()
