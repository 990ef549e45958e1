"""Revisions: one number per Router that grows when anything it may see changes, and the push that says so."""

import asyncio
from collections.abc import Iterable
from typing import Final

from isthmus.bridge.signalling.hub import Hub
from isthmus.contract.notices import NoticeKind
from isthmus.envelope.identity import Random, RouterId

_COALESCE_SECONDS: Final = 0.1  # a site that publishes ten documents rings once


class Changes:
    """What changed for whom. Revisions of two runs of a Bridge never agree, so that a restart is noticed."""

    def __init__(self, hub: Hub, random: Random) -> None:
        self._hub = hub
        self._run = random(8).hex()
        self._counts: dict[RouterId, int] = {}
        self._to_tell: set[RouterId] = set()

    def revision(self, router_id: RouterId) -> str:
        """Return the revision of the network as this Router sees it."""
        return f"{self._run}-{self._counts.get(router_id, 0)}"

    def touch(self, router_ids: Iterable[RouterId]) -> None:
        """Note a change that these Routers see; those that listen are told in a moment."""
        touched = set(router_ids)
        if not touched:
            return
        for router_id in touched:
            self._counts[router_id] = self._counts.get(router_id, 0) + 1
        if not self._to_tell:
            asyncio.get_running_loop().call_later(_COALESCE_SECONDS, self._tell)
        self._to_tell |= touched

    def _tell(self) -> None:
        told, self._to_tell = self._to_tell, set()
        for router_id in told:
            if self._hub.is_online(router_id):
                self._hub.tell(router_id, NoticeKind.NETWORK_CHANGED)
