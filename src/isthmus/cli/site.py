"""`isthmus site ...`: other sites of the network."""
# ruff: noqa: D417 - the shared options --data and --json are explained in options.py

import sys
from typing import Annotated

from cyclopts import App, Parameter

from isthmus.cli import show
from isthmus.cli.call import call, call_running
from isthmus.cli.options import AsJson, Data, Part
from isthmus.errors import OperatorError

app = App(name="site", help="Other sites of the network: see, accept, remove.")


@app.command(name="list")
def list_(*, data: Data = None, as_json: AsJson = False) -> None:
    """List the sites of the network: their Router IDs, whether each accepted the other, and who is online.

    ```
    isthmus site list
    ```
    """
    rows = call(data, Part.ROUTER, "site_list")
    if as_json:
        return show.as_json(rows)
    columns = {
        "site": "SITE",
        "spoken": "ROUTER ID",
        "accepted_here": "ACCEPTED HERE",
        "accepted_there": "ACCEPTED THERE",
        "online": "ONLINE",
    }
    show.table(rows, columns, empty="No other site yet. The Bridge's operator invites them.")
    for row in rows:
        if row["key_changed"]:
            print(f"{row['site']} has another key than the accepted one; nothing flows. Compare Router IDs again.")
        for alert in row["alerts"]:
            print(f"{row['site']}: {alert}")
    return None


@app.command
def accept(
    site: str,
    /,
    *,
    router_id: Annotated[str | None, Parameter(name="--id", metavar="ROUTER_ID")] = None,
    data: Data = None,
) -> None:
    """Accept a site after comparing its Router ID by phone. Nothing flows before both sites did.

    Without --id it shows the ID that the Bridge reports and asks. Call the other site on a number that you
    know already, and let them read the ID that `isthmus router status` shows there.

    ```
    isthmus site accept north
    isthmus site accept north --id ABCDE-FGHIJ-KLMNO-PQRST-UVWXY-Z2345-67ABC-D
    ```

    Args:
        site: the site to accept.
        router_id: the Router ID that they read to you; then nothing is asked.
    """
    if router_id is None:
        router_id = _compare(site, data)
    answer = call(data, Part.ROUTER, "site_accept", site=site, router_id=router_id)
    print(f"{site} is accepted here, with Router ID {answer['spoken']}.")
    if not answer.get("accepted_there"):
        print("Nothing flows until they accept this site too: isthmus site list shows it.")


@app.command
def remove(site: str, /, *, data: Data = None) -> None:
    """Withdraw the acceptance of a site: its devices reach nothing here, and ours nothing there, from now on.

    ```
    isthmus site remove north
    ```

    Args:
        site: the site that is no longer accepted.
    """
    call(data, Part.ROUTER, "site_remove", site=site)
    print(f"{site} is no longer accepted here. Its grants are kept, and hold again if it is accepted again.")


@app.command(name="renew-mailbox")
def renew_mailbox(site: str, /, *, data: Data = None, as_json: AsJson = False) -> None:
    """Have a site leave its letters in a new mailbox: after one of them could not be believed, or a ledger was lost.

    An alert says so: a letter is not read, nor any after it. Nothing is lost: what was not acknowledged is
    sealed anew, and read from the first letter on. The Router must run.

    ```
    isthmus site renew-mailbox north
    ```

    Args:
        site: the site whose letters are not read here.
    """
    row = call_running(data, Part.ROUTER, "site_renew_mailbox", site=site)
    if as_json:
        return show.as_json(row)
    print(f"{site} leaves its letters in a new mailbox as soon as its Router has heard of it.")
    if not row["online"]:
        print("It is offline now.")
    for alert in row["alerts"]:
        print(f"{site}: {alert}")
    return None


@app.command
def release(title: Annotated[str, Parameter(metavar="AET")], /, *, data: Data = None) -> None:
    """Let another site have an AE title that was bound to one when it was first seen: the device has moved.

    ```
    isthmus site release MOVED_CT
    ```

    Args:
        title: the network AE title.
    """
    call(data, Part.ROUTER, "title_release", title=title)
    print(f"{title} belongs to the next accepted site that shows it.")


def _compare(site: str, data: Data) -> str:
    if not sys.stdin.isatty():
        raise OperatorError("somebody has to compare the Router ID", hint=f"isthmus site accept {site} --id ROUTER_ID")
    spoken = call(data, Part.ROUTER, "site_accept", site=site)["spoken"]
    print(f"The Bridge says that the Router ID of {site} is\n\n    {spoken}\n")
    print("Call them on a number that you know already and let them read theirs: isthmus router status")
    try:
        answer = input("Is it the same, character by character? Type yes to accept: ")
    except EOFError:
        answer = ""
    if answer.strip().lower() != "yes":
        raise OperatorError("not accepted: nothing was changed", hint="if the IDs differ, tell the Bridge's operator")
    return str(spoken)
