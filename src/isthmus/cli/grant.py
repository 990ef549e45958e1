"""`isthmus grant ...`: who may reach this site's devices, and for what."""
# ruff: noqa: D417 - the shared options --data and --json are explained in options.py

from typing import Annotated

from cyclopts import App, Parameter

from isthmus.cli import show
from isthmus.cli.call import call
from isthmus.cli.options import AsJson, Data, Part, parse_end_of_day

app = App(name="grant", help="Who may reach this site's devices, and for what.")


@app.command
def add(
    device: str,
    /,
    *,
    site: str,
    services: Annotated[str, Parameter(metavar="LIST")],
    caller: Annotated[str | None, Parameter(metavar="AET")] = None,
    until: Annotated[str | None, Parameter(metavar="DATE")] = None,
    no_return: Annotated[bool, Parameter(negative="")] = False,
    data: Data = None,
) -> None:
    """Let an accepted site reach a device of this one. There is no default: nobody reaches anything ungranted.

    Services: echo, store, query, retrieve, worklist, mpps, commitment, print; or any.

    ```
    isthmus grant add PACS --site north --services echo,query,retrieve
    isthmus grant add PACS --site north --caller CT1 --services store
    isthmus grant add PACS --site north --services any --until 2027-03-31
    ```

    Args:
        device: AE title of the device of this site.
        site: the site that may reach it.
        services: what for: names joined by commas.
        caller: only this calling title of that site; without it, all its devices.
        until: last day on which it holds, such as 2027-03-31.
        no_return: a C-MOVE or N-ACTION under this grant opens no way back for its answers.
    """
    granted = call(
        data,
        Part.ROUTER,
        "grant_add",
        device=device,
        site=site,
        services=[name for name in (part.strip() for part in services.split(",")) if name],
        caller=caller,
        until=None if until is None else parse_end_of_day(until),
        no_return=no_return,
    )
    who = caller or "every device"
    print(f"Grant {granted['grant_id']}: {who} of {site} may reach {device} for {show.words(granted['services'])}.")
    for note in granted.get("notes", []):
        print(f"Note: {note}")


@app.command(name="list")
def list_(*, data: Data = None, as_json: AsJson = False) -> None:
    """List the grants of this site.

    ```
    isthmus grant list
    ```
    """
    rows = call(data, Part.ROUTER, "grant_list")
    if as_json:
        return show.as_json(rows)
    columns = {
        "grant_id": "GRANT",
        "device": "DEVICE",
        "site": "SITE",
        "caller": "CALLER",
        "services": "SERVICES",
        "until": "UNTIL",
    }
    lines = [{**row, "caller": row["caller"] or "all", "until": show.moment(row["until"])} for row in rows]
    show.table(lines, columns, empty="No grants: other sites reach nothing here.")
    return None


@app.command
def remove(grant: int, /, *, data: Data = None) -> None:
    """Withdraw a grant. Associations that are open under it go on to their end; new ones are refused.

    ```
    isthmus grant remove 3
    ```

    Args:
        grant: its number in `isthmus grant list`.
    """
    call(data, Part.ROUTER, "grant_remove", grant=grant)
    print(f"Grant {grant} is withdrawn.")
