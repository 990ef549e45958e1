"""`isthmus sessions`: associations relayed now."""

from isthmus.cli import show
from isthmus.cli.call import call_running
from isthmus.cli.options import AsJson, Data, Part


def sessions(*, data: Data = None, as_json: AsJson = False) -> None:
    """List the associations that this Router relays now, with bytes, rate and age.

    ```
    isthmus sessions
    ```
    """
    rows = call_running(data, Part.ROUTER, "sessions")
    if as_json:
        return show.as_json(rows)
    columns = {
        "calling": "CALLING",
        "called": "CALLED",
        "site": "SITE",
        "direction": "WAY",
        "state": "STATE",
        "mode": "MODE",
        "pair": "OVER",
        "services": "FOR",
        "out": "OUT",
        "in": "IN",
        "rate": "RATE",
        "age": "AGE",
    }
    lines = [
        {
            **row,
            "out": show.size(row["bytes_out"]),
            "in": show.size(row["bytes_in"]),
            "rate": f"{show.size(row['rate'])}/s",
            "age": show.duration(row["age"]),
        }
        for row in rows
    ]
    show.table(lines, columns, empty="No live associations.")
    return None
