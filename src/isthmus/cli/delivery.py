"""`isthmus delivery ...`: live or queued, chosen for each destination."""
# ruff: noqa: D417 - the shared options --data and --json are explained in options.py

from typing import Annotated, Literal

from cyclopts import App, Parameter

from isthmus.cli import show
from isthmus.cli.call import call
from isthmus.cli.options import AsJson, Data, Part

app = App(name="delivery", help="Live or queued: how what devices here send goes on.")
From = Annotated[
    str | None, Parameter(name="--from", metavar="DEVICE", help="only what this device of this site sends.")
]


@app.command(name="set")
def set_(
    title: Annotated[str, Parameter(metavar="AET")],
    mode: Literal["live", "queued"],
    /,
    *,
    from_device: From = None,
    data: Data = None,
) -> None:
    """Choose how images for a device go on: live, while both devices wait, or queued, through the Routers' spools.

    Live (the default) gives the sender the far device's own answer. Queued answers the sender as soon as its Router
    has the image safe on disk; from then on the Router owes its delivery. It holds for associations that are opened
    from now on. What the owner of the device does not allow is refused.

    ```
    isthmus delivery set SOUTH_PACS queued
    isthmus delivery set SOUTH_PACS live --from CT1
    ```

    Args:
        title: the AE title that devices here call.
        mode: live or queued.
    """
    answer = call(data, Part.ROUTER, "delivery_set", title=title, mode=mode, from_device=from_device)
    who = f"What {answer['from_device']} sends" if answer["from_device"] else "What devices here send"
    print(f"{who} to {answer['title']} is {answer['mode']} from now on.")
    for note in answer["notes"]:
        print(f"Note: {note}")


@app.command(name="list")
def list_(*, data: Data = None, as_json: AsJson = False) -> None:
    """List what was chosen. Where nothing was, delivery is live.

    ```
    isthmus delivery list
    ```
    """
    rows = call(data, Part.ROUTER, "delivery_list")
    if as_json:
        return show.as_json(rows)
    columns = {"title": "TO", "from_device": "FROM", "mode": "DELIVERY", "allowed": "ITS OWNER ALLOWS"}
    lines = [{**row, "from_device": row["from_device"] or "all"} for row in rows]
    show.table(lines, columns, empty="Nothing was chosen: all delivery is live.")
    return None


@app.command
def unset(title: Annotated[str, Parameter(metavar="AET")], /, *, from_device: From = None, data: Data = None) -> None:
    """Forget a choice. What is queued already is still delivered.

    ```
    isthmus delivery unset SOUTH_PACS
    isthmus delivery unset SOUTH_PACS --from CT1
    ```

    Args:
        title: the AE title that devices here call.
    """
    answer = call(data, Part.ROUTER, "delivery_unset", title=title, from_device=from_device)
    print(f"Delivery to {answer['title']}: {answer['delivery']}.")
