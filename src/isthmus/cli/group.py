"""`isthmus group ...`: one title for several destinations."""
# ruff: noqa: D417 - the shared options --data and --json are explained in options.py

from typing import Annotated, Any

from cyclopts import App, Parameter

from isthmus.cli import show
from isthmus.cli.call import call
from isthmus.cli.options import AsJson, Data, Part

app = App(name="group", help="One AE title for several destinations, so that a scanner sends once.")
Members = Annotated[list[str], Parameter(name="--member", metavar="AET")]
Title = Annotated[str, Parameter(metavar="AET")]


@app.command
def add(title: Title, /, *, member: Members, data: Data = None) -> None:
    """Make a group, or add members to it. What is sent to its title is queued for each member.

    The sender hears success when its Router has the image safe on disk for all of them; each is then delivered, tried
    again and held on its own. Members can change at any time: the scanner keeps the one title.

    ```
    isthmus group add STROKE --member PACS --member SOUTH_PACS --member AI@east
    ```

    Args:
        title: the AE title that devices here call.
        member: a destination, by the title under which devices here reach it; as often as there are.
    """
    _say(call(data, Part.ROUTER, "group_add", title=title, member=[_plain(name) for name in member]))


@app.command(name="set")
def set_(title: Title, /, *, member: Members, data: Data = None) -> None:
    """Replace the members of a group.

    ```
    isthmus group set STROKE --member PACS --member WEST_PACS
    ```

    Args:
        title: the AE title of the group.
        member: a destination; as often as there are.
    """
    _say(call(data, Part.ROUTER, "group_set", title=title, member=[_plain(name) for name in member]))


@app.command
def remove(
    title: Title, member: Annotated[str | None, Parameter(metavar="AET")] = None, /, *, data: Data = None
) -> None:
    """Take a member out of a group, or forget the whole group. What is queued already is still delivered.

    ```
    isthmus group remove STROKE SOUTH_PACS
    isthmus group remove STROKE
    ```

    Args:
        title: the AE title of the group.
        member: who leaves; without it, the group is forgotten.
    """
    _say(call(data, Part.ROUTER, "group_remove", title=title, member=None if member is None else [_plain(member)]))


@app.command(name="list")
def list_(*, data: Data = None, as_json: AsJson = False) -> None:
    """List the groups and their members.

    ```
    isthmus group list
    ```
    """
    rows = call(data, Part.ROUTER, "group_list")
    if as_json:
        return show.as_json(rows)
    lines = [{**row, "members": ", ".join(row["members"])} for row in rows]
    show.table(lines, {"title": "GROUP", "members": "MEMBERS"}, empty="No groups.")
    return None


@app.command(name="show")
def show_(title: Title, /, *, data: Data = None, as_json: AsJson = False) -> None:
    """Show one group: its members, what to enter in the sender, and what is not well.

    ```
    isthmus group show STROKE
    ```

    Args:
        title: the AE title of the group.
    """
    row = call(data, Part.ROUTER, "group_show", title=title)
    if as_json:
        return show.as_json(row)
    _say(row)
    show.facts([("AE title", row["title"]), ("host", row["host"]), ("port", row["port"])])
    return None


def _say(row: dict[str, Any]) -> None:
    if row["members"]:
        print(f"{row['title']} goes to {', '.join(row['members'])}.")
    else:
        print(f"{row['title']} is no group any more.")
    for note in row["notes"]:
        print(f"Note: {note}")


def _plain(name: str) -> str:
    """Return the title in TITLE or TITLE@SITE: a network title belongs to one site."""
    return name.partition("@")[0]
