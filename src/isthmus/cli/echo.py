"""`isthmus echo`: C-ECHO through the relay."""
# ruff: noqa: D417 - the shared options --data and --json are explained in options.py

from typing import Annotated

from cyclopts import Parameter

from isthmus.cli import show
from isthmus.cli.call import call_running
from isthmus.cli.options import AsJson, Data, Part


def echo(
    title: Annotated[str, Parameter(metavar="AET")],
    /,
    *,
    calling: Annotated[str | None, Parameter(name="--as", metavar="DEVICE")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Send a C-ECHO to a device of another site, through the relay, and show the time of each leg.

    ```
    isthmus echo SOUTH_PACS
    isthmus echo SOUTH_PACS --as CT1
    ```

    Args:
        title: AE title as `isthmus directory` shows it.
        calling: the device of this site in whose name to call; without it, the first that may.
    """
    answer = call_running(data, Part.ROUTER, "echo", title=title, calling=calling)
    if as_json:
        return show.as_json(answer)
    show.legs(answer)
    return None
