"""`isthmus doctor`: what is wrong here."""

from isthmus.cli import show
from isthmus.cli.options import AsJson, Data, Part, folder_of


def doctor(*, data: Data = None, as_json: AsJson = False) -> int:
    """Check clock, ports, disk, fsync, proxy, keys and versions: what is wrong, and what to do about it.

    The exit status is 1 if something is wrong.

    ```
    isthmus doctor
    ```
    """
    from isthmus.router.doctor import examine

    findings = examine(folder_of(Part.ROUTER, data))
    if as_json:
        show.as_json(findings)
    return 0
