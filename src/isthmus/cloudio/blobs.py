"""Which blobs of a stream pair to put, get and delete. Pure: whoever performs the work reports back.

The writer puts segments that are too large for a notice, and any segment whose second repetition was not acknowledged.
The reader gets what it was told of or misses, and deletes what it read. Whoever made a leftover deletes it.
"""

from dataclasses import dataclass, replace
from enum import Enum
from math import inf
from typing import Final

from isthmus.cloudio.options import StreamOptions

_MOST_DELETES: Final = 4  # tries; once more at the end, and then the sweeper or the store's own rule has it


class BlobTask(Enum):
    """What to do with a blob."""

    PUT = "put"
    GET = "get"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class BlobWork:
    """One call on the blobstore.

    Attributes:
        task: which call.
        sequence: the data segment it is about; -1 for a deletion.
        name: the blob.
        body: what to put.
        tries: how often it failed before.
        not_before: when it may be tried (monotonic seconds).
    """

    task: BlobTask
    sequence: int
    name: str
    body: memoryview | None = None
    tries: int = 0
    not_before: float = 0.0


@dataclass(slots=True)
class _Put:
    name: str
    healing: bool
    running: bool = False
    stored: bool = False
    unclear: bool = False
    released: bool = False


class BlobBook:
    """The blob work of one stream pair: what waits, what is running, what would be left behind."""

    def __init__(self, options: StreamOptions) -> None:
        self._options = options
        self._waiting: list[BlobWork] = []
        self._puts: dict[int, _Put] = {}
        self._gets: dict[int, str] = {}
        self._deletes: set[str] = set()

    @property
    def empty(self) -> bool:
        """Nothing waits or runs."""
        return not self._waiting and not self._puts and not self._gets and not self._deletes

    def put(self, sequence: int, name: str, body: memoryview, *, healing: bool) -> None:
        """Want a sealed segment stored; `healing`: beside the notice that carries it."""
        if sequence not in self._puts:
            self._puts[sequence] = _Put(name, healing)
            self._waiting.append(BlobWork(BlobTask.PUT, sequence, name, body))

    def get(self, sequence: int, name: str) -> None:
        """Want a segment of the far side, which is not `wanted` yet."""
        self._gets[sequence] = name
        self._waiting.append(BlobWork(BlobTask.GET, sequence, name))

    def wanted(self, sequence: int) -> bool:
        """Whether this segment is being looked for."""
        return sequence in self._gets

    def hurry(self, sequence: int) -> None:
        """The far side says that this blob is there: look now."""
        for index, work in enumerate(self._waiting):
            if work.task is BlobTask.GET and work.sequence == sequence:
                self._waiting[index] = replace(work, not_before=0.0)

    def stored(self, sequence: int) -> bool:
        """Whether this segment is in the store."""
        put = self._puts.get(sequence)
        return put is not None and put.stored

    def released(self, sequence: int) -> None:
        """The far side has this segment: what was put for it and is not deleted by the reader goes."""
        put = self._puts.get(sequence)
        if put is None:
            return
        put.released = True
        if put.running:
            return
        del self._puts[sequence]
        self._unwait(BlobTask.PUT, sequence)
        if put.unclear or (put.stored and put.healing):
            self._delete(put.name)

    def arrived(self, sequence: int) -> None:
        """The segment came another way: no need to look for its blob."""
        if self._gets.pop(sequence, None) is not None:
            self._unwait(BlobTask.GET, sequence)

    def take(self, now: float) -> BlobWork | None:
        """Return work to do now, or None."""
        for index, work in enumerate(self._waiting):
            if work.not_before <= now:
                del self._waiting[index]
                if work.task is BlobTask.PUT:
                    self._puts[work.sequence].running = True
                return work
        return None

    def deadline(self) -> float:
        """Return when `take` has something."""
        return min((work.not_before for work in self._waiting), default=inf)

    def done(self, work: BlobWork) -> bool:
        """Note that work succeeded. For a PUT, return whether the far side still waits for it."""
        match work.task:
            case BlobTask.PUT:
                put = self._puts[work.sequence]
                put.running, put.stored = False, True
                put.unclear = put.unclear or work.tries > 0
                if put.released:
                    put.unclear = True
                    self.released(work.sequence)
                    return False
                return True
            case BlobTask.GET:
                self._gets.pop(work.sequence, None)
                self._delete(work.name)
                return True
            case BlobTask.DELETE:
                self._deletes.discard(work.name)
                return False

    def failed(self, work: BlobWork, now: float) -> None:
        """Note that work failed, and plan it again if there still is a point."""
        wait = min(self._options.backoff_first * 2 ** min(work.tries, 8), self._options.backoff_most)
        again = replace(work, tries=work.tries + 1, not_before=now + wait)
        match work.task:
            case BlobTask.PUT:
                put = self._puts[work.sequence]
                put.running, put.unclear = False, True
                if put.released:
                    self.released(work.sequence)
                    return
            case BlobTask.GET:
                if work.sequence not in self._gets:
                    return
            case BlobTask.DELETE:
                if again.tries >= _MOST_DELETES:
                    return
        self._waiting.append(again)

    def give_up(self, work: BlobWork) -> None:
        """Note that work will never succeed."""
        self._puts.pop(work.sequence, None)
        self._gets.pop(work.sequence, None)
        self._deletes.discard(work.name)

    def leftovers(self) -> list[str]:
        """Return every name that may still be in the store on this stream's account, and forget all work."""
        names = {put.name for put in self._puts.values() if put.running or put.stored or put.unclear}
        names.update(self._gets.values())
        names.update(self._deletes)
        self._waiting.clear()
        self._puts.clear()
        self._gets.clear()
        self._deletes.clear()
        return sorted(names)

    def _delete(self, name: str) -> None:
        if name not in self._deletes:
            self._deletes.add(name)
            self._waiting.append(BlobWork(BlobTask.DELETE, -1, name))

    def _unwait(self, task: BlobTask, sequence: int) -> None:
        self._waiting = [work for work in self._waiting if work.task is not task or work.sequence != sequence]
