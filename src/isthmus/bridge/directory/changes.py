"""Revisions: one number per Router that grows when anything it may see changes, and the push that says so.

Each Bridge counts the changes that happened at it, and tells the others, so that a revision is what all have counted: a
Router hears the same one at whichever Bridge it asks.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from isthmus.bridge.signalling.hub import Hub
from isthmus.contract.notices import NO_SESSION, NoticeKind, pack
from isthmus.envelope.identity import Random, RouterId

_COALESCE_SECONDS: Final = 0.1  # a site that publishes ten documents rings once


@dataclass(frozen=True, slots=True)
class Touch:
    """What changed is seen by these Routers, or, with `but`, by all except them."""

    router_ids: tuple[RouterId, ...]
    but: bool = False


@dataclass(slots=True)
class Column:
    """What one Bridge has counted: for all Routers alike, and what single ones differ by."""

    run: str
    all: int = 0
    own: dict[RouterId, int] = field(default_factory=dict)

    def of(self, router_id: RouterId) -> int:
        """Return the count of one Router."""
        return self.all + self.own.get(router_id, 0)

    def add(self, touch: Touch) -> None:
        """Count one change, at a cost that does not grow with the network."""
        self.all += touch.but
        for router_id in touch.router_ids:
            self.own[router_id] = self.own.get(router_id, 0) + (-1 if touch.but else 1)


class Changes:
    """What changed for whom. Revisions of two runs of a Bridge never agree, so that a restart is noticed.

    `on_touch` is told of every change that happened at this Bridge.
    """

    def __init__(self, hub: Hub, random: Random) -> None:
        self._hub = hub
        self.column = Column(random(8).hex())
        self.on_touch: Callable[[Touch], None] = _ignore
        self._others: dict[str, Column] = {}
        self._to_tell: set[RouterId] = set()
        self._spared: frozenset[RouterId] | None = None  # if all but these are to be told
        self._told_soon = False

    def revision(self, router_id: RouterId) -> str:
        """Return the revision of the network as this Router sees it."""
        if not self._others:
            return f"{self.column.run}-{self.column.of(router_id)}"
        columns = sorted((self.column, *self._others.values()), key=lambda column: column.run)
        return ".".join(f"{column.run}-{column.of(router_id)}" for column in columns)

    def touch(self, router_ids: Iterable[RouterId]) -> None:
        """Note a change that these Routers see; those that listen are told in a moment."""
        self._note(Touch(tuple(set(router_ids))))

    def touch_all_but(self, router_id: RouterId) -> None:
        """Note a change that every Router sees except this one."""
        self._note(Touch((router_id,), but=True))

    def touch_all(self) -> None:
        """Note a change that every Router sees."""
        self._note(Touch((), but=True))

    # what other Bridges say

    def touched(self, run: str, touch: Touch) -> None:
        """Take a change that happened at another Bridge."""
        column = self._others.get(run)
        if column is not None:
            column.add(touch)
            self._tell_soon(touch)

    def set_column(self, column: Column) -> None:
        """Take all that another Bridge has counted."""
        before = self._others.get(column.run)
        self._others[column.run] = column
        if before is not None and (before.all, before.own) != (column.all, column.own):
            self._tell_soon(Touch((), but=True))

    def forget_column(self, run: str) -> None:
        """Count no more what a Bridge has said that is gone."""
        self._others.pop(run, None)

    # inside

    def _note(self, touch: Touch) -> None:
        if touch.router_ids or touch.but:
            self.column.add(touch)
            self.on_touch(touch)
            self._tell_soon(touch)

    def _tell_soon(self, touch: Touch) -> None:
        if not touch.but:
            self._to_tell.update(router_id for router_id in touch.router_ids if self._hub.is_here(router_id))
        elif self._spared is None:
            self._spared = frozenset(touch.router_ids)
        else:
            self._spared &= frozenset(touch.router_ids)
        if not self._told_soon and (self._to_tell or self._spared is not None):
            self._told_soon = True
            asyncio.get_running_loop().call_later(_COALESCE_SECONDS, self._tell)

    def _tell(self) -> None:
        told, spared = self._to_tell, self._spared
        self._to_tell, self._spared, self._told_soon = set(), None, False
        if spared is not None:
            told |= frozenset(_ids(self._hub.here)) - spared
        notice = pack(NoticeKind.NETWORK_CHANGED, NO_SESSION)
        for router_id in told:
            self._hub.deliver_here(router_id.encode(), notice)


def _ids(mailboxes: Collection[bytes]) -> Iterable[RouterId]:
    return (RouterId(mailbox.decode("ascii")) for mailbox in mailboxes)


def _ignore(_touch: Touch) -> None:
    """Nobody listens yet."""
