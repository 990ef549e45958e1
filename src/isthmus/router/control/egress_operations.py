"""What an operator decides about clouds: which hosts this Router connects to, and with whose keys."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from isthmus.errors import OperatorError
from isthmus.kit.names import HostPort
from isthmus.router.audit import Audit
from isthmus.router.control.device_administration import FieldError, in_field
from isthmus.router.providers.egress import Egress, folder, shown
from isthmus.router.providers.keys import SIDES, KeyFiles, Side
from isthmus.router.providers.pairs import CloudPairs


class EgressOperations:
    """The operations of the control API about cloud pairs. They need a running Router."""

    def __init__(self, pairs: CloudPairs, egress: Egress, keys: KeyFiles, audit: Audit) -> None:
        self._pairs = pairs
        self._egress = egress
        self._keys = keys
        self._audit = audit

    def table(self) -> Mapping[str, Callable[..., Awaitable[Any]]]:
        """Return the operations by name."""
        return {
            "egress_list": self.egress_list,
            "egress_allow": self.egress_allow,
            "egress_forbid": self.egress_forbid,
            "egress_keys": self.egress_keys,
        }

    async def egress_list(self) -> dict[str, Any]:
        """Return the pairs that the Bridge lists, whether each works here, and the hosts that are accepted."""
        return {
            "pairs": self._pairs.shown(),
            "hosts": [
                {
                    "host": shown(row.at),
                    "accepted": "typed here" if row.typed else "with its pair",
                    "since": datetime.fromtimestamp(row.since, UTC).isoformat(timespec="seconds"),
                }
                for row in self._egress.rows
            ],
        }

    async def egress_allow(
        self, pair: str | None = None, hosts: Sequence[str] = (), folders: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Accept the hosts of a pair, or hosts and folders that a person typed."""
        if pair is None and not hosts and not folders:
            raise FieldError("pair", "name a pair of the Bridge's list, or a host with --host")
        typed = [in_field("hosts", HostPort.parse, text) for text in hosts]
        typed += [in_field("folders", folder, path) for path in folders]
        for at in typed:
            self._egress.allow_typed(at)
        accepted = [shown(at) for at in typed]
        if pair is not None:
            accepted += [shown(at) for at in await self._egress.allow_proposed(self._pairs.hosts(pair))]
        self._audit.changed("egress_allow", f"{pair or ''} {' '.join(accepted)}".strip())
        self._pairs.look_again()
        return await self.egress_list()

    async def egress_forbid(self, host: str) -> dict[str, Any]:
        """Take a host off the list; pairs that need it are let go, and sessions on them end."""
        at = in_field("host", folder if host.startswith("/") else HostPort.parse, host)
        if not self._egress.forbid(at):
            raise OperatorError(f"{shown(at)} is not in the egress list", hint="isthmus egress list")
        self._audit.changed("egress_forbid", shown(at))
        self._pairs.look_again()
        return await self.egress_list()

    async def egress_keys(
        self, pair: str, keys: Mapping[str, str] | None = None, *, clear: bool = False
    ) -> dict[str, Any]:
        """Use keys of this site's own for a pair, or forget them; return which are set, not what they are."""
        self._pairs.hosts(pair)
        if clear:
            self._keys.clear(pair)
        elif keys:
            found: dict[Side, dict[str, str]] = self._keys.read(pair) or {side: {} for side in SIDES}
            for name, value in keys.items():
                side, field = _split(name)
                found[side][field] = value
            self._keys.write(pair, found)
        if clear or keys:
            self._audit.changed("egress_keys", f"{pair}: {'forgotten' if clear else ' '.join(sorted(keys or ()))}")
            await self._pairs.open_anew(pair)
        known = self._keys.read(pair) or {}
        return {"pair": pair, "set": sorted(f"{side}.{field}" for side, fields in known.items() for field in fields)}


def _split(name: str) -> tuple[Side, str]:
    first, _, field = name.partition(".")
    for side in SIDES:
        if first == side and field:
            return side, field
    raise FieldError("keys", f"'{name}' is not signalling.NAME or blobstore.NAME")
