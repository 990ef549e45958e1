"""`isthmus directory`: what this site may reach."""

from isthmus.cli import show
from isthmus.cli.call import call
from isthmus.cli.options import AsJson, Data, Part


def directory(*, data: Data = None, as_json: AsJson = False) -> None:
    """List every remote device that this site may reach, and the settings to type into a scanner or archive.

    ```
    isthmus directory
    isthmus directory --json
    ```
    """
    rows = call(data, Part.ROUTER, "directory")
    if as_json:
        return show.as_json(rows)
    columns = {
        "shown_as": "AE TITLE",
        "host": "HOST",
        "port": "PORT",
        "site": "SITE",
        "name": "NAME",
        "services": "SERVICES",
        "callers": "FOR",
        "delivery": "DELIVERY",
        "online": "ONLINE",
    }
    lines = [{**row, "callers": row.get("callers") or "all"} for row in rows]
    show.table(
        lines, columns, empty="Nothing yet: a site shows up once both accepted each other and it granted a device."
    )
    if rows:
        print("\nType AE title, host and port into the device that is to call; it must be in `isthmus device list`.")
    return None
