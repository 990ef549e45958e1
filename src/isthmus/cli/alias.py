"""`isthmus alias ...`: other titles for devices of other sites."""
# ruff: noqa: D417 - the shared options --data and --json are explained in options.py

from typing import Annotated

from cyclopts import App, Parameter

from isthmus.cli import show
from isthmus.cli.call import call
from isthmus.cli.options import AsJson, Data, Part

app = App(name="alias", help="Other titles for devices of other sites.")


@app.command
def add(
    title: Annotated[str, Parameter(metavar="NETWORK_AET")],
    shown_as: Annotated[str, Parameter(metavar="AET")],
    /,
    *,
    data: Data = None,
) -> None:
    """Let the devices of this site call a remote device by another AE title, for example where two titles clash.

    ```
    isthmus alias add SOUTH_PACS PACS2
    isthmus alias add ARCHIVE@south PACS2
    ```

    Args:
        title: the network AE title of the remote device, or TITLE@SITE to be sure whose it is.
        shown_as: the AE title under which this site's devices see it.
    """
    answer = call(data, Part.ROUTER, "alias_add", title=title, shown_as=shown_as)
    print(f"Devices here reach {title} as {shown_as}.")
    for note in answer.get("notes", []):
        print(f"Note: {note}")


@app.command(name="list")
def list_(*, data: Data = None, as_json: AsJson = False) -> None:
    """List the aliases.

    ```
    isthmus alias list
    ```
    """
    rows = call(data, Part.ROUTER, "alias_list")
    if as_json:
        return show.as_json(rows)
    show.table(rows, {"shown_as": "HERE", "title": "NETWORK TITLE"}, empty="No aliases.")
    return None


@app.command
def remove(shown_as: Annotated[str, Parameter(metavar="AET")], /, *, data: Data = None) -> None:
    """Remove an alias: the remote device has its network title here again.

    ```
    isthmus alias remove PACS2
    ```

    Args:
        shown_as: the AE title under which this site's devices see it.
    """
    call(data, Part.ROUTER, "alias_remove", shown_as=shown_as)
    print(f"{shown_as} is no alias any more.")
