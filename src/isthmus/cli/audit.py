"""`isthmus audit`: who reached what."""

from isthmus.cli import show
from isthmus.cli.call import call
from isthmus.cli.options import AsJson, Data, Limit, Part


def audit(*, limit: Limit = 100, data: Data = None, as_json: AsJson = False) -> None:
    """List who reached what, when, with which outcome, the newest first. It holds no patient data.

    ```
    isthmus audit
    isthmus audit --limit 1000 --json
    ```
    """
    rows = call(data, Part.ROUTER, "audit", limit=limit)
    if as_json:
        return show.as_json(rows)
    columns = {
        "at": "WHEN",
        "what": "WHAT",
        "calling": "CALLING",
        "called": "CALLED",
        "site": "SITE",
        "services": "FOR",
        "mode": "MODE",
        "outcome": "OUTCOME",
        "bytes_out": "OUT",
        "bytes_in": "IN",
    }
    lines = [
        {
            **row,
            "at": show.moment(row["at"]),
            "bytes_out": show.size(row["bytes_out"]),
            "bytes_in": show.size(row["bytes_in"]),
        }
        for row in rows
    ]
    show.table(lines, columns, empty="Nothing yet.")
    return None
