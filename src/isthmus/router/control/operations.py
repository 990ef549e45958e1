"""What only a running Router can do for its operator: sessions, echoes, tests, pausing."""

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from isthmus.errors import AssociationRefused, OperatorError
from isthmus.kit.names import AETitle, HostPort
from isthmus.router.control.administration import Administration
from isthmus.router.live.echo import Echo, EchoResult
from isthmus.router.live.registry import Live
from isthmus.router.queued.spool.room import Room
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.records import LocalDevice
from isthmus.router.sync import Sync

Operation = Callable[..., Awaitable[Any]]


class LiveOperations:
    """The operations of the control API that need the live relay."""

    def __init__(
        self,
        live: Live,
        administration: Administration,
        sync: Sync,
        echo: Echo,
        dicom: HostPort,
        dicom_tls: HostPort | None,
        room: Room,
    ) -> None:
        self._live = live
        self._directory = live.core.directory
        self._administration = administration
        self._sync = sync
        self._echo = echo
        self._dicom = dicom
        self._dicom_tls = dicom_tls
        self._room = room

    def table(self) -> Mapping[str, Operation]:
        """Return the operations by name."""
        return {
            "sessions": self.sessions,
            "echo": self.echo,
            "device_test": self.device_test,
            "pause": self.pause,
            "status": self.status,
        }

    async def sessions(self) -> list[dict[str, Any]]:
        """Return the associations relayed now: who, since when, how much."""
        now = self._live.core.clock.now()
        rows = []
        for session in self._live.sessions.values():
            if session.parties is None:
                continue
            age = max(now - session.started, 0.001)
            rows.append(
                {
                    "session": session.session_id.hex(),
                    "calling": session.parties.calling,
                    "called": session.parties.called,
                    "site": session.parties.far_site,
                    "direction": "out" if session.device_asks else "in",
                    "services": list(session.services),
                    "started": session.started,
                    "state": "established",
                    "mode": session.mode,
                    "pair": session.pair,
                    "age": round(age, 1),
                    "bytes_out": session.bytes_out,
                    "bytes_in": session.bytes_in,
                    "rate": round((session.bytes_out + session.bytes_in) / age),
                }
            )
        return rows

    async def echo(self, title: str, calling: str | None = None) -> dict[str, Any]:
        """C-ECHO a device through the relay as one of our own devices, and say what took how long."""
        called = AETitle.parse(title)
        caller = choose_caller(self._directory, called) if calling is None else self._find(calling)
        result = await self._echo.through_the_relay(called, caller)
        return _as_json(result)

    async def device_test(self, device: str, calling: str | None = None) -> dict[str, Any]:
        """C-ECHO one of our own devices directly."""
        found = self._find(device)
        title = AETitle.parse(calling) if calling else AETitle("ISTHMUS")
        return _as_json(await self._echo.of_device(found, title))

    async def status(self) -> dict[str, Any]:
        """Return who this Router is, where it listens, whether the Bridge answers, what it relays and keeps."""
        status = self._administration.status()
        bridge = {
            "url": status["bridge"],
            "connected": self._sync.connected,
            "trouble": self._sync.trouble,
            "refusal": self._sync.refusal,
            "clock_offset": round(self._sync.offset, 1),
        }
        return status | {
            "running": True,
            "dicom": str(self._dicom),
            "dicom_tls": str(self._dicom_tls) if self._dicom_tls else None,
            "bridge": bridge,
            "sessions": len(self._live.sessions),
            "paused": self._live.paused,
            "spool": dataclasses.asdict(self._room.state()),
        }

    async def pause(self, paused: bool = True) -> dict[str, Any]:
        """Take no new associations, or take them again; the live ones go on."""
        self._live.paused = paused
        return {"paused": self._live.paused, "sessions": len(self._live.sessions)}

    def _find(self, device: str) -> LocalDevice:
        title = self._directory.fold(device)
        for found in self._directory.devices:
            if title in {self._directory.fold(found.title), self._directory.fold(found.network_title)}:
                return found
        raise OperatorError(f"this site has no device {device}", hint="isthmus device list")


def choose_caller(directory: Directory, called: AETitle) -> LocalDevice:
    """Return the first device of this site that reaches `called`, other than the called one itself.

    Raises OperatorError if there is none, with what the one that comes nearest would hear.
    """
    nearest: tuple[LocalDevice, AssociationRefused] | None = None
    for device in directory.devices:
        if device.disabled or directory.fold(called) in {
            directory.fold(device.title),
            directory.fold(device.network_title),
        }:
            continue
        try:
            directory.resolve(device, called)
        except AssociationRefused as refused:
            if nearest is None or refused.result > nearest[1].result:  # for now rather than for good
                nearest = device, refused
            continue
        return device
    if nearest is None:
        raise OperatorError(f"this site has no device to call {called} as", hint="isthmus device add AET@HOST")
    device, why = nearest
    raise OperatorError(
        f"no device of this site reaches {called}; {device.title} would be refused"
        f" ({why.result}/{why.source}/{why.reason}): {why}",
        hint=why.hint,
    ) from why


def _as_json(result: EchoResult) -> dict[str, Any]:
    total = sum(leg.seconds for leg in result.legs)
    return dataclasses.asdict(result) | {"seconds": total}
