"""`isthmus bandwidth ...`: how much of the site's line the Router takes."""
# ruff: noqa: D417 - the shared options --data and --json are explained in options.py

from typing import Annotated, Any

from cyclopts import App, Parameter

from isthmus.cli import show
from isthmus.cli.call import call
from isthmus.cli.options import AsJson, Data, Part

app = App(name="bandwidth", help="How much of the site's line the Router takes.")


@app.command(name="set")
def set_(
    *,
    up: Annotated[str | None, Parameter(metavar="RATE")] = None,
    down: Annotated[str | None, Parameter(metavar="RATE")] = None,
    start: Annotated[str | None, Parameter(name="--from", metavar="TIME")] = None,
    end: Annotated[str | None, Parameter(name="--to", metavar="TIME")] = None,
    data: Data = None,
) -> None:
    """Cap what the Router sends to the cloud, or takes from it: all day, or between two times of the day.

    Live associations go before queued ones, and what was put first before the rest. A cap for some hours goes before
    one for all day. A running Router keeps to it at once.

    ```
    isthmus bandwidth set --up 50Mbit/s --from 07:00 --to 19:00
    isthmus bandwidth set --up 400Mbit/s --down 400Mbit/s
    ```

    Args:
        up: to the cloud: a number and Mbit/s, kbit/s or MB/s.
        down: from the cloud.
        start: time of day from which on it holds, on this machine's clock.
        end: time of day at which it ends; if it is earlier, on the next day.
    """
    _say(call(data, Part.ROUTER, "bandwidth_set", up=up, down=down, start=start, end=end))


@app.command(name="show")
def show_(*, data: Data = None, as_json: AsJson = False) -> None:
    """Show the caps.

    ```
    isthmus bandwidth show
    ```
    """
    rows = call(data, Part.ROUTER, "bandwidth_show")
    if as_json:
        return show.as_json(rows)
    _say(rows)
    return None


@app.command
def clear(
    *,
    up: Annotated[bool, Parameter(negative="")] = False,
    down: Annotated[bool, Parameter(negative="")] = False,
    data: Data = None,
) -> None:
    """Lift the caps: those of one direction, or all.

    ```
    isthmus bandwidth clear
    isthmus bandwidth clear --down
    ```

    Args:
        up: only those on what goes to the cloud.
        down: only those on what comes from it.
    """
    _say(call(data, Part.ROUTER, "bandwidth_clear", up=up, down=down))


def _say(rows: list[dict[str, Any]]) -> None:
    show.table(
        rows,
        {"direction": "DIRECTION", "rate": "AT MOST", "when": "WHEN"},
        empty="No caps: the Router takes what it can get.",
    )
