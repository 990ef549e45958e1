"""What an operator does with a Bridge: behind the control API while it runs, in the CLI's own process while not."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError, validate_call

from isthmus import __version__
from isthmus.bridge.accounts.service import DEFAULT_VALID_DAYS
from isthmus.bridge.blobs.choice import is_url
from isthmus.bridge.config import BridgeAddress, BridgeConfig
from isthmus.bridge.parts import Parts
from isthmus.bridge.provider_operations import ProviderOperations
from isthmus.errors import OperatorError
from isthmus.kit.clock import SystemClock
from isthmus.kit.files import folder_lock, make_private_folder, read_json, write_durably
from isthmus.kit.names import HostPort, SiteName

_ADDRESS_FILE: Final = "address.json"


class Administration:
    """Every operation takes and returns what JSON can say. Raises OperatorError for what cannot be done."""

    def __init__(self, parts: Parts, address: BridgeAddress | None) -> None:
        """Administer a Bridge; `address` is None if it does not run."""
        self._parts = parts
        self._address = address
        self._operations: dict[str, Callable[..., Awaitable[Any]]] = {
            name: validate_call(getattr(self, name))
            for name in ("invite", "invites", "withdraw", "revoke", "sites", "sessions", "audit", "status")
        }
        self._operations |= {name: validate_call(work) for name, work in ProviderOperations(parts).table().items()}

    async def run(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        """Run an operation by name. Raises OperatorError for an unknown one, or for arguments that do not fit."""
        if operation not in self._operations:
            raise OperatorError(f"there is no operation '{operation}'", hint=", ".join(sorted(self._operations)))
        try:
            return await self._operations[operation](**arguments)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise OperatorError(f"{operation}: {place}: {first['msg']}") from error

    async def invite(self, site: str, valid_days: float = DEFAULT_VALID_DAYS) -> dict[str, Any]:
        """Make an invite for a site."""
        name = SiteName.parse(site)
        invite = await self._parts.accounts.invite(
            name, valid_days=valid_days, url=self._url(), identity=self._parts.identity.public
        )
        return {"site": name, "invite": str(invite), "valid_days": valid_days, "url": invite.url}

    async def invites(self) -> list[dict[str, Any]]:
        """List all invites, without their secrets, which the Bridge does not have."""
        now = self._parts.clock.now()
        return [
            {**asdict(invite), "open": invite.used is None and invite.withdrawn is None and invite.expires > now}
            for invite in await self._parts.accounts.invites()
        ]

    async def withdraw(self, site: str) -> dict[str, Any]:
        """Withdraw the open invites of a site."""
        return {"site": site, "withdrawn": await self._parts.accounts.withdraw(SiteName.parse(site))}

    async def revoke(self, site: str) -> dict[str, Any]:
        """Shut out a site's Router at once and for good."""
        account = await self._parts.revoke(SiteName.parse(site))
        return {"site": account.site, "router_id": account.router_id.spoken}

    async def sites(self) -> list[dict[str, Any]]:
        """List the enrolled sites."""
        return [
            {
                "site": account.site,
                "router_id": account.router_id.spoken,
                "online": self._parts.hub.is_online(account.router_id),
                "version": account.version,
                "enrolled": account.enrolled,
            }
            for account in self._parts.accounts.all
        ]

    async def sessions(self) -> list[dict[str, Any]]:
        """List the live sessions."""
        return [_shown(session.to_audit()) for session in self._parts.sessions.live]

    async def audit(self, limit: int = 100) -> list[dict[str, Any]]:
        """List sessions, newest first."""
        if not 0 < limit <= 10_000:
            raise OperatorError("limit is a number from 1 to 10000")
        return [_shown(entry) for entry in await self._parts.audit.newest(limit)]

    async def status(self) -> dict[str, Any]:
        """Say where the Bridge is and what it does."""
        parts = self._parts
        return {
            "running": self._address is not None,
            "version": __version__,
            "url": self._url() if self._address is not None or _stored(parts.config.data, "url") else None,
            "identity": parts.identity.router_id.spoken,
            "listen": None if self._address is None else str(self._address.listen),
            "sites": len(parts.accounts.all),
            "bridges": 1 if parts.cluster is None else parts.cluster.bridges,
            "routers_online": len(parts.hub.online),
            "sessions_live": len(parts.sessions.live),
            "notices": parts.hub.forwarded_notices,
            "notice_bytes": parts.hub.forwarded_bytes,
            "dropped_bytes": dict(parts.hub.dropped_bytes),
            "blob_bytes": parts.blobs.used,
        }

    def _url(self) -> str:
        if self._address is not None:
            return self._address.url
        stored = _stored(self._parts.config.data, "url")
        if stored is None:
            raise OperatorError("this Bridge has never run, so its address is not known", hint="isthmus bridge run")
        return stored


@asynccontextmanager
async def open_administration(data: Path) -> AsyncIterator[Administration]:
    """Administer a Bridge that does not run, on the database of its last run.

    Raises OperatorError if it does run, since it then holds its folder.
    """
    make_private_folder(data)
    with folder_lock(data):
        config = with_stored_database(BridgeConfig(data=data, listen=HostPort("127.0.0.1", 0)))
        parts = await Parts.open(config, SystemClock())
        try:
            yield Administration(parts, None)
        finally:
            await parts.close()


def store_address(config: BridgeConfig, url: str) -> None:
    """Remember how Routers reach this Bridge and where its database is, for what is done while it does not run."""
    fields: dict[str, Any] = {"url": url, "database_url": config.database_url, "bus": config.bus}
    if config.blobs is not None:
        fields["blobs"] = config.blobs if is_url(config.blobs) else str(Path(config.blobs).absolute())
        fields["blobs_keys"] = dict(config.blobs_keys) or None
    kept = {name: value for name, value in fields.items() if value is not None}
    write_durably(config.data / _ADDRESS_FILE, json.dumps(kept).encode())


def store_database(data: Path, url: str) -> None:
    """Remember that the database of the Bridge in this folder is another from now on."""
    fields = (read_json(data / _ADDRESS_FILE) or {}) | {"database_url": url}
    write_durably(data / _ADDRESS_FILE, json.dumps(fields).encode())


def with_stored_database(config: BridgeConfig) -> BridgeConfig:
    """Return `config` with database, bus and blobs of the last run, unless it names others itself."""
    data, blobs = config.data, _stored(config.data, "blobs")
    same = config.blobs in {None, blobs}  # keys are for one store
    return replace(
        config,
        database_url=config.database_url or _stored(data, "database_url"),
        bus=config.bus or _stored(data, "bus"),
        blobs=config.blobs or blobs,
        blobs_keys=config.blobs_keys or (_stored_keys(data) if same else {}),
    )


def _stored(folder: Path, name: str) -> str | None:
    value = (read_json(folder / _ADDRESS_FILE) or {}).get(name)
    return value if isinstance(value, str) else None


def _stored_keys(folder: Path) -> dict[str, str]:
    keys = (read_json(folder / _ADDRESS_FILE) or {}).get("blobs_keys")
    return {str(name): str(value) for name, value in keys.items()} if isinstance(keys, dict) else {}


def _shown(entry: Any) -> dict[str, Any]:
    return {**asdict(entry), "session_id": entry.session_id.hex()}
