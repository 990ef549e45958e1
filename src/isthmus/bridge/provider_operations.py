"""What an operator does with cloud pairs: add, list, change, remove, set up. Secrets go in, and never come out."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

import structlog

from isthmus.bridge.parts import Parts
from isthmus.bridge.providers.checks import (
    about,
    check_installed,
    checked,
    checked_ca,
    lack,
    merged_secrets,
    remote,
    said_of,
)
from isthmus.bridge.providers.lending import provider_of
from isthmus.bridge.providers.prices import check_prices, cost
from isthmus.bridge.providers.secrets import PairSecrets
from isthmus.bridge.providers.service import (
    BUILT_IN_URL,
    DEFAULT_PRIORITY,
    SERVICES,
    Pair,
    check_priority,
    listed,
    parse_name,
)
from isthmus.bridge.providers.stock import month_of
from isthmus.bridge.providers.trial import Step, Trial
from isthmus.contract.rest import ProviderEntry
from isthmus.errors import OperatorError

_log = structlog.get_logger()
_MONTH: Final = re.compile(r"2[0-9]{3}-(0[1-9]|1[0-2])")


class ProviderOperations:
    """The operations of the control API about cloud pairs. Raises OperatorError for what cannot be done."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def table(self) -> Mapping[str, Callable[..., Awaitable[Any]]]:
        """Return the operations by name."""
        return {
            "provider_asks": self.provider_asks,
            "provider_add": self.provider_add,
            "provider_list": self.provider_list,
            "provider_set": self.provider_set,
            "provider_remove": self.provider_remove,
            "provider_setup": self.provider_setup,
            "provider_test": self.provider_test,
            "provider_usage": self.provider_usage,
        }

    async def provider_asks(
        self, name: str | None = None, signalling: str = BUILT_IN_URL, blobstore: str = BUILT_IN_URL
    ) -> list[dict[str, Any]]:
        """Return which secrets a pair needs: one that is there, or one that is about to be added with these URLs."""
        if name is None:
            entry = ProviderEntry(name="new", signalling=signalling, blobstore=blobstore, priority=0)
            pair = Pair(checked(entry))
        else:
            pair = self._parts.providers.demand(name)
        return [
            {"secret": f"{service}.{secret.name}", "meaning": secret.meaning, "required": secret.required}
            for service in remote(pair)
            for secret in provider_of(pair, service)[0].secrets
        ]

    async def provider_add(
        self,
        name: str,
        signalling: str,
        blobstore: str,
        priority: int = DEFAULT_PRIORITY,
        secrets: Mapping[str, str] | None = None,
        ca: str = "",
        prices: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Add a pair; Routers are told at once, and use it as soon as their sites have accepted its hosts."""
        entry = ProviderEntry(
            name=parse_name(name), signalling=signalling, blobstore=blobstore, priority=check_priority(priority)
        )
        pair = Pair(checked(entry))
        for service in remote(pair):
            await check_installed(pair, service)
        kept = merged_secrets(pair, PairSecrets(), secrets or {})
        pair = await self._parts.providers.add(entry, kept, ca=checked_ca(ca), prices=check_prices(prices or {}))
        _log.info("cloud pair added", pair=name, priority=priority)
        await self._tell()
        return self._shown(pair)

    async def provider_list(self) -> list[dict[str, Any]]:
        """List the pairs, the best first: what they are, whether this Bridge has what they need, who can use them."""
        return [
            self._shown(pair) | {"lacks": {service: await lack(pair, service) for service in SERVICES}}
            for pair in self._parts.providers.all
        ]

    async def provider_set(
        self,
        name: str,
        priority: int | None = None,
        off: bool | None = None,
        secrets: Mapping[str, str] | None = None,
        ca: str | None = None,
        prices: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Change a pair: what is None stays. Prices of which none are given are kept; secrets too."""
        providers = self._parts.providers
        pair = providers.demand(name)
        if priority is not None:
            pair = replace(pair, entry=pair.entry.model_copy(update={"priority": check_priority(priority)}))
        if off is not None:
            pair = replace(pair, off=off)
        if ca is not None:
            pair = replace(pair, ca=checked_ca(ca))
        if prices is not None:
            pair = replace(pair, prices={**pair.prices, **check_prices(prices)})
        kept = None if secrets is None else merged_secrets(pair, self._known_secrets(pair), secrets)
        pair = await providers.change(pair, kept)
        _log.info("cloud pair changed", pair=name, priority=pair.entry.priority, off=pair.off, secrets=kept is not None)
        await self._tell()
        return self._shown(pair)

    async def provider_remove(self, name: str, force: bool = False) -> dict[str, Any]:
        """Remove a pair with its secrets; not while sessions use it, unless `force`: these are then lost."""
        self._parts.providers.demand(name)
        used = self._sessions_of(name)
        if used and not force:
            raise OperatorError(
                f"{used} sessions use {name} now",
                hint=f"isthmus provider set {name} --off lets them end first; --force loses them",
            )
        await self._parts.providers.remove(name)
        _log.warning("cloud pair removed", pair=name, sessions=used)
        await self._tell()
        return {"name": name, "sessions": used, "order": listed(self._parts.providers.all)}

    async def provider_setup(self, name: str, keep_days: int = 30) -> dict[str, Any]:
        """Make what a pair lacks at its providers (bucket, rule, account); say what was done."""
        if not 1 <= keep_days <= 3650:
            raise OperatorError(f"keep_days: a number of days from 1 to 3650 is meant, not {keep_days}")
        pair = self._parts.providers.demand(name)
        done: dict[str, list[str]] = {}
        for service in remote(pair):
            provider, url = provider_of(pair, service)
            fields, way = self._parts.lender.own_keys(pair, service), self._parts.lender.way(pair, service)
            with said_of(service):
                done[service] = await provider.set_up(url, fields, way, keep_days=keep_days)
        _log.info("cloud pair set up", pair=name, keep_days=keep_days)
        return {"name": name, "keep_days": keep_days, "done": done}

    async def provider_test(self, name: str, step: Step) -> list[dict[str, Any]]:
        """Try one step of what a Router does with a pair; return what was found."""
        pair = self._parts.providers.demand(name)
        if pair.is_built_in:
            raise OperatorError("the built-in pair needs no test here", hint="isthmus router check URL, at a site")
        trial = Trial(pair, self._parts.lender, self._parts.identity.router_id)
        return [asdict(finding) for finding in await trial.run(step)]

    async def provider_usage(
        self, month: str | None = None, prices: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        """Say what each site asked of each pair in a month (UTC), and what it cost.

        `prices` (by kind, or PAIR.kind for one pair) go before those that are kept with the pairs.
        """
        month = month or month_of(self._parts.clock.now())
        if not _MONTH.fullmatch(month):
            raise OperatorError(f"month: '{month}' is not a month", hint="year and month: 2026-11")
        given = {name: price for name, price in (prices or {}).items() if "." not in name}
        check_prices(given)
        unknown = {name.partition(".")[0] for name in prices or {} if "." in name} - self._parts.providers.ever_known
        if unknown:
            raise OperatorError(f"prices: there is no cloud pair {', '.join(sorted(unknown))}")
        rows = []
        for line in await self._parts.usage.month(month):
            pair = self._parts.providers.find(line.provider)
            own = {
                name.partition(".")[2]: price
                for name, price in (prices or {}).items()
                if name.partition(".")[0] == line.provider and "." in name
            }
            known = {**(pair.prices if pair is not None else {}), **given, **check_prices(own)}
            counts = {**line.requests, "up": line.up, "out": line.out, "byte_days": line.byte_days}
            rows.append(asdict(line) | {"cost": cost(known, counts)})
        costs = [row["cost"] for row in rows if row["cost"] is not None]
        return {"month": month, "rows": rows, "cost": sum(costs) if costs else None}

    # inside

    async def _tell(self) -> None:
        """Have every Router, and every other Bridge of this database, know of a change."""
        self._parts.providers_changed()
        await self._parts.spread()

    def _known_secrets(self, pair: Pair) -> PairSecrets:
        try:
            return self._parts.providers.secrets_of(pair)
        except OperatorError:
            return PairSecrets()  # sealed under an identity that is gone: all of them must be entered anew

    def _sessions_of(self, name: str) -> int:
        return sum(session.provider == name for session in self._parts.sessions.live)

    def _shown(self, pair: Pair) -> dict[str, Any]:
        entry, accounts = pair.entry, self._parts.accounts.all
        return {
            **entry.model_dump(),
            "off": pair.off,
            "built_in": pair.is_built_in,
            "titles": {service: about(pair, service)[0] for service in SERVICES},
            "tried": {service: about(pair, service)[1] for service in SERVICES},
            "secrets": self._secret_names(pair),
            "ca": bool(pair.ca),
            "prices": dict(pair.prices),
            "sites": [
                account.site for account in accounts if entry.name in self._parts.providers.usable_by(account.router_id)
            ],
            "all_sites": len(accounts),
            "sessions": self._sessions_of(entry.name),
            "order": listed(self._parts.providers.all),
        }

    def _secret_names(self, pair: Pair) -> list[str]:
        try:
            kept = self._parts.providers.secrets_of(pair)
        except OperatorError:
            return []
        return sorted(
            [f"signalling.{name}" for name in kept.signalling] + [f"blobstore.{name}" for name in kept.blobstore]
        )
