"""Trying a pair as a Router would use it, with keys as a Router is lent them, and saying in words what is wrong."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import StrEnum
from typing import Final

from isthmus.bridge.providers.checks import remote, said_of
from isthmus.bridge.providers.lending import Lender, provider_of
from isthmus.bridge.providers.reach import look
from isthmus.bridge.providers.service import Pair, Service
from isthmus.cloudio.providers import blobstore_provider, is_built_in, signalling_provider
from isthmus.contract.rest import BlobUrlRequest
from isthmus.envelope.identity import RouterId
from isthmus.errors import BlobExists, BlobMissing, OperatorError, Problem, ProviderTrouble, Retry
from isthmus.kit.findings import Finding, Level
from isthmus.kit.names import HostPort
from isthmus.kit.tasks import Tasks
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.provider import Loan, Surroundings, Unmetered
from isthmus.ports.signalling import LookingSignalling, Signalling

_STEP_SECONDS: Final = 40.0
_PRESIGNED: Final = "presigned"  # the field of a loan that holds no keys, since the Bridge signs each URL
_ROUND_TRIPS: Final = 5
_NOTICE_BYTES: Final = 200
_TRIES: Final = (2.0, 4.0, 10.0)  # seconds: the first notice may be lost while the listener is not there yet
_BLOB_BYTES: Final = 4096
_PROBE_BYTES: Final = 512 * 1024
_SPEED_BYTES: Final = 4 * 1024 * 1024
_SPEED_BLOBS: Final = 4  # at once
_SLOW_SECONDS: Final = 2.0  # for the probe; it then tells enough


class Step(StrEnum):
    """What is looked at, one after the other."""

    WAY = "way"
    KEYS = "keys"
    BLOBS = "blobs"
    NOTICES = "notices"
    SPEED = "speed"


class Trial:
    """One pair, tried by the Bridge in the name of a Router whose id is the Bridge's own."""

    def __init__(self, pair: Pair, lender: Lender, own: RouterId) -> None:
        self._pair = pair
        self._lender = lender
        self._own = own

    async def run(self, step: Step) -> list[Finding]:
        """Return what was found in one step; nothing, if the pair has nothing of the kind."""
        work: dict[Step, Callable[[], Awaitable[list[Finding]]]] = {
            Step.WAY: self._way,
            Step.KEYS: self._keys,
            Step.BLOBS: self._blobs,
            Step.NOTICES: self._notices,
            Step.SPEED: self._speed,
        }
        found: list[Finding] = []
        with _found_in(step, found):
            async with asyncio.timeout(_STEP_SECONDS):
                found += await work[step]()
        return found

    async def _way(self) -> list[Finding]:
        found: list[Finding] = []
        seen: set[HostPort] = set()
        for service in remote(self._pair):
            provider, url = provider_of(self._pair, service)
            way = self._lender.way(self._pair, service)
            hosts = [at for at in provider.hosts(url) if at not in seen]
            seen.update(hosts)
            for at in hosts:
                found += await asyncio.to_thread(look, self._pair.entry.name, at, way)
        return found

    async def _keys(self) -> list[Finding]:
        return [await self._lent(service) for service in remote(self._pair)]

    async def _lent(self, service: Service) -> Finding:
        what, asked = f"{service} keys", time.time()
        with said_of(service):
            loan = await self._lender.lend_one(self._pair, service, self._own)
        if loan.expires is not None:
            return Finding(Level.OK, what, f"lent for {(loan.expires - asked) / 60:.0f} min")
        if loan.fields.get(_PRESIGNED):
            return Finding(Level.OK, what, "stay at the Bridge, which signs a URL for each blob")
        if not loan.fields:
            return Finding(Level.OK, what, "none are needed")
        return Finding(Level.WARN, what, "lent; they do not end by themselves", _ENDLESS)

    async def _blobs(self) -> list[Finding]:
        async with self._store() as store:
            if store is None:
                return []
            return [*await try_store(store), *await _list(store)]

    async def _notices(self) -> list[Finding]:
        async with self._service() as service:
            if service is None:
                return []
            tasks, heard = Tasks("trying notices"), asyncio.Queue[bytes]()
            listening = tasks.spawn(_listen(service, self._own, heard), name="listen")
            try:
                trips = [await _round_trip(service, self._own, heard, listening) for _ in range(_ROUND_TRIPS)]
            finally:
                await tasks.close()
        best = sorted(trips)[len(trips) // 2] * 1000
        return [Finding(Level.OK, "notices", f"there and back in {best:.1f} ms (median of {len(trips)})")]

    async def _speed(self) -> list[Finding]:
        async with self._store() as store:
            if store is None:
                return []
            size = min(_PROBE_BYTES, store.traits.max_blob_bytes)
            up, down = await _move(store, size, 1)
            count = 1
            if up < _SLOW_SECONDS:
                size, count = min(_SPEED_BYTES, store.traits.max_blob_bytes), _SPEED_BLOBS
                up, down = await _move(store, size, count)
        rates = f"{count * size / up / 1e6:.1f} MB/s up, {count * size / down / 1e6:.1f} MB/s down"
        return [Finding(Level.OK, "speed", f"{rates} from here ({count} x {size / 1e6:.1f} MB at once)")]

    @asynccontextmanager
    async def _store(self) -> AsyncIterator[Blobstore | None]:
        url = self._pair.entry.blobstore
        if is_built_in(url):
            yield None
            return
        store = blobstore_provider(url).open(url, self._surroundings("blobstore"))
        try:
            yield store
        finally:
            await store.close()

    @asynccontextmanager
    async def _service(self) -> AsyncIterator[Signalling | None]:
        url = self._pair.entry.signalling
        if is_built_in(url):
            yield None
            return
        service = signalling_provider(url).open(url, self._surroundings("signalling"))
        try:
            yield service
        finally:
            await service.close()

    def _surroundings(self, service: Service) -> Surroundings:
        keys = _Lent(self._lender, self._pair, service, self._own)
        return Surroundings(keys, self._lender.way(self._pair, service), Unmetered())


async def try_store(store: Blobstore) -> list[Finding]:
    """Put, get and delete a blob or two, and say how that went. Raises ProviderTrouble if it did not."""
    first, name, body = _name(), _name(), secrets.token_bytes(_BLOB_BYTES)
    times: list[str] = []
    async with _swept(store, [first, name]):
        await store.put(first, body)  # which also connects, and makes what a store makes at first use
        await store.delete(first)
        with _timed("put", times):
            await store.put(name, body)
        with _timed("get", times):
            got = await store.get(name)
        found = await _put_other(store, name)
        with _timed("delete", times):
            await store.delete(name)
    changed = Finding(Level.BAD, "blobs", "a blob came back changed", "is something between that rewrites it?")
    well = Finding(Level.OK, "blobs", f"{', '.join(times)} ({_BLOB_BYTES} bytes)")
    rows = [well if got == body else changed, found, await _get_deleted(store, name)]
    return [row for row in rows if row is not None]


class _Lent:
    """Keys as a Router gets them, made once."""

    def __init__(self, lender: Lender, pair: Pair, service: Service, own: RouterId) -> None:
        self._lender = lender
        self._pair = pair
        self._service: Service = service
        self._own = own
        self._loan: Loan | None = None

    async def loan(self) -> Loan:
        """Return the loan."""
        if self._loan is None:
            try:
                self._loan = await self._lender.lend_one(self._pair, self._service, self._own)
            except OperatorError as error:
                raise ProviderTrouble(str(error), retry=Retry.NEVER, hint=error.hint) from error
        return self._loan

    async def urls(self, method: str, names: Sequence[str]) -> list[str]:
        """Return signed URLs."""
        request = BlobUrlRequest.model_validate({"method": method, "names": list(names)})
        try:
            return (await self._lender.sign(self._pair, request)).urls
        except (OperatorError, Problem) as error:
            raise ProviderTrouble(str(error), retry=Retry.NEVER, hint=error.hint) from error


_ENDLESS: Final = "a site that leaves the network can go on with them: change them at the provider when one does"


@contextmanager
def _found_in(step: Step, found: list[Finding]) -> Iterator[None]:
    """Turn what goes wrong into a finding."""
    try:
        yield
    except TimeoutError:
        found.append(Finding(Level.BAD, step.value, f"no answer within {_STEP_SECONDS:g} s"))
    except (OperatorError, ProviderTrouble) as error:
        found.append(Finding(Level.BAD, step.value, str(error), error.hint))


@contextmanager
def _timed(word: str, times: list[str]) -> Iterator[None]:
    started = time.monotonic()
    yield
    times.append(f"{word} {(time.monotonic() - started) * 1000:.0f} ms")


async def _put_other(store: Blobstore, name: str) -> Finding | None:
    """Return what is wrong if a blob can be overwritten."""
    try:
        await store.put(name, b"another")
    except BlobExists:
        return None
    advice = "its conditional puts do not work: another provider, or a newer version of it, is needed"
    return Finding(Level.BAD, "blobs", "a blob was overwritten by another one", advice)


async def _list(store: Blobstore) -> list[Finding]:
    """Say so if a Router's keys show the names of others' blobs."""
    try:
        async for _ in store.list(_name()):
            break
    except ProviderTrouble:
        return []
    return [Finding(Level.OK, "blobs", "lent keys show the names of all sites' blobs, whose content is sealed")]


async def _get_deleted(store: Blobstore, name: str) -> Finding | None:
    try:
        await store.get(name)
    except BlobMissing:
        return None
    return Finding(Level.WARN, "blobs", "a deleted blob can still be read", "does the bucket keep versions?")


async def _listen(service: Signalling, at: str, heard: asyncio.Queue[bytes]) -> None:
    async for notice in service.listen(at):
        heard.put_nowait(notice)


async def _round_trip(
    service: Signalling, own: str, heard: asyncio.Queue[bytes], listening: asyncio.Task[None]
) -> float:
    """Return for how long a notice to ourselves was under way. Raises ProviderTrouble if none arrives."""
    for wait in _TRIES:
        mark = secrets.token_bytes(_NOTICE_BYTES)
        started = time.monotonic()
        await service.publish(own, mark)
        if isinstance(service, LookingSignalling):
            service.expect()
        while (left := started + wait - time.monotonic()) > 0:
            getting = asyncio.wait_for(heard.get(), left)
            try:
                if await getting == mark:
                    return time.monotonic() - started
            except TimeoutError:
                break
            finally:
                if listening.done():
                    listening.result()
    raise ProviderTrouble(
        "a notice to ourselves did not arrive", retry=Retry.LATER, hint="may these keys listen, and not only send?"
    )


async def _move(store: Blobstore, size: int, count: int) -> tuple[float, float]:
    """Return how many seconds it took to put, and to get, `count` blobs at once."""
    blobs = {_name(): secrets.token_bytes(size) for _ in range(count)}
    async with _swept(store, list(blobs)):
        started = time.monotonic()
        await asyncio.gather(*(store.put(name, body) for name, body in blobs.items()))
        between = time.monotonic()
        await asyncio.gather(*(store.get(name) for name in blobs))
        ended = time.monotonic()
        await store.delete(*blobs)
    return between - started, ended - between


@asynccontextmanager
async def _swept(store: Blobstore, names: Sequence[str]) -> AsyncIterator[None]:
    """Leave nothing behind when something goes wrong, and have that said and not what goes wrong then."""
    try:
        yield
    except BaseException:
        with suppress(ProviderTrouble):
            await store.delete(*names)
        raise


def _name() -> str:
    return f"tried/{secrets.token_hex(16)}"
