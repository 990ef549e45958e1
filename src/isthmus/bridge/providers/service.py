"""Which pairs of cloud services sessions may use. The built-in one is always there, though it may be switched off.

The list is in the database, and in memory for reading; what Routers say they can use is in memory only, since each
says so again with its next heartbeat.
"""

import asyncio
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import structlog
from sqlalchemy import select

from isthmus.bridge.database import Database, to_micros
from isthmus.bridge.providers.models import ProviderRow
from isthmus.bridge.providers.secrets import Label, PairSecrets, Safe
from isthmus.contract.rest import BUILT_IN_PROVIDER, MOST_PROVIDERS, PROVIDER_PATTERN, ProviderEntry
from isthmus.envelope.identity import RouterId
from isthmus.errors import OperatorError
from isthmus.kit.clock import Clock
from isthmus.kit.files import make_private_folder, write_durably

_log = structlog.get_logger()

BUILT_IN_URL: Final = "bridge:"
MOST_PRIORITY: Final = 1_000_000
DEFAULT_PRIORITY: Final = 10
"""Of a pair that is added: behind the built-in one, until somebody decides otherwise."""
Service = Literal["signalling", "blobstore"]
SERVICES: Final[tuple[Service, Service]] = ("signalling", "blobstore")
_NAME: Final = re.compile(PROVIDER_PATTERN)
_ALWAYS: Final = (BUILT_IN_PROVIDER,)
_CA_FOLDER: Final = "provider-ca"


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair as the operator entered it.

    Attributes:
        entry: what Routers are told.
        off: it is listed for the operator only.
        sealed: its secrets; see `Safe`.
        ca: PEM of whom TLS trusts besides the machine's own when the Bridge itself asks this provider.
        prices: what the operator pays, by kind of request (`isthmus.bridge.providers.prices`).
    """

    entry: ProviderEntry
    off: bool = False
    sealed: bytes | None = field(default=None, repr=False)
    ca: str = field(default="", repr=False)
    prices: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> Label:
        """What its secrets are bound to."""
        return Label(self.entry.name, self.entry.signalling, self.entry.blobstore)

    @property
    def is_built_in(self) -> bool:
        """Whether this is what the Bridge itself carries."""
        return self.entry.name == BUILT_IN_PROVIDER


def parse_name(text: str) -> str:
    """Return the name of a pair that a person typed. Raises OperatorError."""
    if not _NAME.fullmatch(text):
        raise OperatorError(
            f"name: '{text}' is not a name of a pair: 1 to 32 lower-case letters, digits and hyphens, none at an end"
        )
    if text == BUILT_IN_PROVIDER:
        raise OperatorError(f"name: '{text}' is the built-in pair", hint="choose another name")
    return text


def check_priority(priority: int) -> int:
    """Return a priority that can be kept. Raises OperatorError."""
    if not 0 <= priority <= MOST_PRIORITY:
        raise OperatorError(f"priority: a number from 0 to {MOST_PRIORITY} is meant, not {priority}")
    return priority


class Providers:
    """The list, and who can use what of it. Changes are durable before they take effect."""

    def __init__(self, database: Database, safe: Safe, folder: Path, clock: Clock) -> None:
        self._database = database
        self._safe = safe
        self._folder = folder
        self._clock = clock
        self._pairs: dict[str, Pair] = {BUILT_IN_PROVIDER: _built_in()}
        self._known: frozenset[str] = frozenset({BUILT_IN_PROVIDER})
        self._usable: dict[RouterId, tuple[str, ...]] = {}
        self._changing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Providers: {', '.join(sorted(self._pairs))}>"

    async def load(self) -> bool:
        """Read the list into memory; return whether Routers are told something else than before."""
        async with self._changing:  # or an older reading could take the place of a newer one
            before = self.entries
            async with self._database.transaction() as session:
                rows = (await session.scalars(select(ProviderRow))).all()
            pairs = {row.name: _pair(row) for row in rows if row.removed is None}
            self._pairs = {BUILT_IN_PROVIDER: _built_in(), **pairs}
            self._known = frozenset({BUILT_IN_PROVIDER, *(row.name for row in rows)})
            return self.entries != before

    # the list

    @property
    def all(self) -> list[Pair]:
        """Every pair, the best first, those that are switched off too."""
        return sorted(self._pairs.values(), key=lambda pair: (pair.entry.priority, pair.entry.name))

    @property
    def entries(self) -> list[ProviderEntry]:
        """What Routers are told, the best first."""
        return [pair.entry for pair in self.all if not pair.off]

    @property
    def ever_known(self) -> frozenset[str]:
        """Names of all pairs that are or were here: what was asked of them is still counted."""
        return self._known

    def find(self, name: str) -> Pair | None:
        """Return a pair, or None."""
        return self._pairs.get(name)

    def demand(self, name: str) -> Pair:
        """Return a pair. Raises OperatorError if there is none."""
        pair = self.find(name)
        if pair is None:
            raise OperatorError(f"there is no cloud pair {name}", hint="isthmus provider list")
        return pair

    def secrets_of(self, pair: Pair) -> PairSecrets:
        """Return what an operator entered for a pair. Raises OperatorError if it cannot be opened."""
        return PairSecrets() if pair.sealed is None else self._safe.open(pair.label, pair.sealed)

    async def add(self, entry: ProviderEntry, secrets: PairSecrets, *, ca: str, prices: Mapping[str, float]) -> Pair:
        """Add a pair. Raises OperatorError if there is one of this name, or there are too many."""
        async with self._changing:
            if entry.name in self._pairs:
                raise OperatorError(
                    f"name: there is a cloud pair {entry.name} already", hint=f"isthmus provider set {entry.name}"
                )
            if len(self._pairs) >= MOST_PROVIDERS:
                raise OperatorError(f"there are {MOST_PROVIDERS} cloud pairs, which is all that a Bridge keeps")
            pair = Pair(entry, ca=ca, prices=dict(prices))
            pair = replace(pair, sealed=self._safe.seal(pair.label, secrets))
            await self._keep(pair)
        return pair

    async def change(self, changed: Pair, secrets: PairSecrets | None = None) -> Pair:
        """Keep another state of a pair, with other secrets unless these are None.

        Raises OperatorError if nothing would be left that sessions can use.
        """
        async with self._changing:
            self._check_rest(changed.entry.name, off=changed.off)
            if secrets is not None:
                changed = replace(changed, sealed=self._safe.seal(changed.label, secrets))
            await self._keep(changed)
        return changed

    async def remove(self, name: str) -> Pair:
        """Remove a pair and its secrets. Raises OperatorError for the built-in one, or the last that is in use."""
        pair = self.demand(name)
        if pair.is_built_in:
            raise OperatorError("the built-in pair cannot be removed", hint=f"isthmus provider set {name} --off")
        async with self._changing:
            self._check_rest(name, off=True)
            async with self._database.transaction() as session:
                row = await session.get(ProviderRow, name)
                if row is not None:
                    row.sealed, row.ca, row.removed = None, "", to_micros(self._clock.now())
            self._pairs.pop(name, None)
        return pair

    def ca_file(self, pair: Pair) -> Path | None:
        """Return a file with whom TLS trusts for a pair besides the machine's own, or None."""
        if not pair.ca:
            return None
        path = make_private_folder(self._folder / _CA_FOLDER) / f"{pair.entry.name}.pem"
        if not path.exists() or path.read_text() != pair.ca:
            write_durably(path, pair.ca.encode())
        return path

    # who can use what

    def heard(self, router_id: RouterId, names: Iterable[str]) -> bool:
        """Take what a Router says it can use now; return whether others see another list than before.

        Names that are not listed are kept as well: another Bridge's list may be newer than this one's.
        """
        before = self.usable_by(router_id)
        self._usable[router_id] = tuple(sorted({BUILT_IN_PROVIDER, *names}))
        return self.usable_by(router_id) != before

    def usable_by(self, router_id: RouterId) -> list[str]:
        """Return the names of the pairs that a Router can use, the built-in one always."""
        return [name for name in self._usable.get(router_id, _ALWAYS) if name in self._pairs]

    def forget(self, router_id: RouterId) -> None:
        """Forget a Router that left the network."""
        self._usable.pop(router_id, None)

    # inside

    def _check_rest(self, name: str, *, off: bool) -> None:
        if off and not any(not pair.off and pair.entry.name != name for pair in self._pairs.values()):
            raise OperatorError(
                f"{name} is the only cloud pair that is in use: nothing could flow without it",
                hint="isthmus provider add another first, or set one --on",
            )

    async def _keep(self, pair: Pair) -> None:
        entry = pair.entry
        async with self._database.transaction() as session:
            row = await session.get(ProviderRow, entry.name)
            added = row.added if row is not None and row.removed is None else to_micros(self._clock.now())
            await session.merge(
                ProviderRow(
                    name=entry.name,
                    signalling=entry.signalling,
                    blobstore=entry.blobstore,
                    priority=entry.priority,
                    off=pair.off,
                    sealed=pair.sealed,
                    ca=pair.ca,
                    prices=json.dumps(dict(pair.prices)),
                    added=added,
                    removed=None,
                )
            )
        self._pairs[entry.name] = pair
        self._known |= {entry.name}


def listed(pairs: Sequence[Pair]) -> str:
    """Return the order in which sessions choose, in words."""
    return ", then ".join(f"{pair.entry.name} ({pair.entry.priority})" for pair in pairs if not pair.off)


def _built_in() -> Pair:
    return Pair(ProviderEntry(name=BUILT_IN_PROVIDER, signalling=BUILT_IN_URL, blobstore=BUILT_IN_URL, priority=0))


def _pair(row: ProviderRow) -> Pair:
    entry = ProviderEntry(name=row.name, signalling=row.signalling, blobstore=row.blobstore, priority=row.priority)
    return Pair(entry, off=row.off, sealed=row.sealed, ca=row.ca, prices=json.loads(row.prices))
