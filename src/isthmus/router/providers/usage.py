"""What this Router has asked of providers, by pair and kind: the Bridge sums it up for whoever pays the bill."""

from collections import defaultdict
from dataclasses import dataclass

from isthmus.contract.rest import Usage, UsageCount
from isthmus.envelope.identity import Random


@dataclass(slots=True)
class _Count:
    requests: int = 0
    up: int = 0
    down: int = 0


class PairMeter:
    """Counts for one pair (`isthmus.ports.provider.Meter`)."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, _Count] = defaultdict(_Count)

    def count(self, kind: str, *, up: int = 0, down: int = 0) -> None:
        """Count one request and the bytes that it carried."""
        count = self.counts[kind]
        count.requests += 1
        count.up += up
        count.down += down


class Meters:
    """All pairs' meters. Counts only grow while the Router runs, so that a report may be lost or repeated."""

    def __init__(self, random: Random) -> None:
        self._run = random(8).hex()
        self._meters: dict[str, PairMeter] = {}

    def of(self, pair: str) -> PairMeter:
        """Return the meter of a pair, the same one whenever it is opened again."""
        return self._meters.setdefault(pair, PairMeter())

    def report(self) -> Usage | None:
        """Return all counts, or None if nothing was asked of any provider yet."""
        counts = [
            UsageCount.model_validate(
                {"provider": name, "kind": kind, "requests": row.requests, "up": row.up, "down": row.down}
            )
            for name, meter in self._meters.items()
            for kind, row in meter.counts.items()
        ]
        return Usage(run=self._run, counts=counts) if counts else None
