"""Who called without being registered, so that a person can add it with one command. Bounded: anybody can knock."""

import dataclasses
from typing import Final

from isthmus.kit.names import AETitle
from isthmus.router.routing.records import UnknownCaller
from isthmus.router.routing.store import Store

MOST: Final = 1000  # rows: more than a hospital has modalities, little enough to list


class UnknownCallers:
    """Counted in memory, since a flood of them must not become a flood of disk writes; `flush` makes them durable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._dirty = False
        self._callers = {(row.title, row.address, row.called): row for row in reversed(store.unknown_callers())}

    def note(self, title: AETitle, address: str, called: AETitle, now: float) -> None:
        """Count one more attempt; the one that knocked least recently makes room."""
        title, called = printable(title), printable(called)
        key = (title, address, called)
        seen = self._callers.pop(key, None)  # put back at the end: the order is that of the last attempts
        if seen is None:
            seen = UnknownCaller(title, address, called, 0, now, now)
            if len(self._callers) >= MOST:
                del self._callers[next(iter(self._callers))]
        self._callers[key] = dataclasses.replace(seen, count=seen.count + 1, last=now)
        self._dirty = True

    def listed(self) -> list[UnknownCaller]:
        """Return them, the last one first."""
        return list(reversed(self._callers.values()))

    def forget(self, title: AETitle) -> None:
        """Drop a title that has been registered since."""
        for key in [key for key in self._callers if key[0] == title]:
            del self._callers[key]
            self._dirty = True

    def flush(self) -> None:
        """Write what changed."""
        if self._dirty:
            self._store.save_unknown_callers(self._callers.values())
            self._dirty = False


def printable(title: str) -> AETitle:
    """Return a title as a device sent it without what would upset a terminal or a log."""
    return AETitle("".join(character if " " <= character <= "~" else "?" for character in title))
