"""What `router check` and `doctor` say of pairs that connect to nothing: folders of this machine."""

from typing import Any

from isthmus.kit.findings import Level
from isthmus.router.control.clouds import cloud_findings

SHARE = "/mnt/share"


def clouds(*, allowed: bool, reason: str = "") -> dict[str, Any]:
    pair = {"name": "nfs", "hosts": [SHARE], "reason": reason, "hint": "is it mounted?" if reason else ""}
    return {"pairs": [pair], "hosts": [{"host": SHARE}] if allowed else []}


def test_a_folder_that_is_in_use_is_well() -> None:
    (finding,) = cloud_findings(clouds(allowed=True))
    assert (finding.level, finding.found) == (Level.OK, "nfs: /mnt/share is used")


def test_a_folder_that_does_not_work_is_told_with_what_the_router_found() -> None:
    (finding,) = cloud_findings(clouds(allowed=True, reason="it is not there"))
    assert (finding.level, finding.advice) == (Level.BAD, "is it mounted?")
    assert "it is not there" in finding.found


def test_a_folder_that_nobody_accepted_is_a_warning() -> None:
    (finding,) = cloud_findings(clouds(allowed=False))
    assert finding.level is Level.WARN
    assert "not in this site's egress list" in finding.found
