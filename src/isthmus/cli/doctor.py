"""`isthmus doctor`: what is wrong here."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from isthmus.cli import show
from isthmus.cli.call import call_running
from isthmus.cli.options import AsJson, Data, Part, folder_of
from isthmus.errors import OperatorError

if TYPE_CHECKING:
    from isthmus.router.routing.records import LocalDevice


def doctor(*, data: Data = None, as_json: AsJson = False) -> int:
    """Check clock, ports, disk, fsync, proxy, keys, versions, sites and devices: what is wrong, and what to do.

    The exit status is 1 if something is bad. It only looks, and may run beside the Router.

    ```
    isthmus doctor
    ```
    """
    from isthmus.router.control.check import Level, as_rows
    from isthmus.router.control.doctor import examine

    folder = folder_of(Part.ROUTER, data)
    runs = _runs(folder)
    findings = examine(folder, echo=_echo(data) if runs else None, clouds=_clouds(data) if runs else None)
    if as_json:
        show.as_json(as_rows(findings))
    else:
        show.findings(as_rows(findings))
    return 1 if any(finding.level is Level.BAD for finding in findings) else 0


def _runs(folder: Path) -> bool:
    return (folder / "control.json").exists()


def _clouds(data: Data) -> dict[str, Any] | None:
    try:
        return cast("dict[str, Any]", call_running(data, Part.ROUTER, "egress_list"))
    except OperatorError:
        return None


def _echo(data: Data) -> Callable[["LocalDevice"], str]:
    def ask(device: "LocalDevice") -> str:
        try:
            call_running(data, Part.ROUTER, "device_test", device=device.title)
        except OperatorError as error:
            return str(error)
        return ""

    return ask
