"""`isthmus egress ...`: which clouds this Router connects to, and with whose keys."""
# ruff: noqa: D417 - the shared options --data and --json are explained in options.py

import getpass
import sys
from typing import Annotated, Any

from cyclopts import App, Parameter

from isthmus.cli import show
from isthmus.cli.call import call_running
from isthmus.cli.options import AsJson, Data, Part
from isthmus.errors import OperatorError

app = App(name="egress", help="Which clouds this Router connects to: nothing but what was accepted here.")


@app.command(name="list")
def list_(*, data: Data = None, as_json: AsJson = False) -> None:
    """List the pairs of cloud services that the Bridge proposes, how they do here, and the accepted hosts.

    ```
    isthmus egress list
    ```
    """
    answer = call_running(data, Part.ROUTER, "egress_list")
    if as_json:
        return show.as_json(answer)
    _say(answer)
    return None


@app.command
def allow(
    pair: str | None = None,
    /,
    *,
    host: Annotated[list[str] | None, Parameter(name="--host", metavar="HOST:PORT", negative="")] = None,
    folder: Annotated[list[str] | None, Parameter(name="--folder", metavar="DIR", negative="")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Let this Router connect to the hosts of a proposed pair, or to a host that you name.

    A pair that needs a host at a private address, or a folder of this machine, is taken only if you name that: a Bridge
    cannot send a Router into its own network.

    ```
    isthmus egress allow aws
    isthmus egress allow --host ceph.hospital.example:7480 --host 10.1.2.3:4222
    ```

    Args:
        pair: name of a pair, as `isthmus egress list` shows it.
        host: a host and port; can be given several times.
        folder: a folder that several sites share; can be given several times.
    """
    answer = call_running(data, Part.ROUTER, "egress_allow", pair=pair, hosts=host, folders=folder)
    if as_json:
        return show.as_json(answer)
    _say(answer)
    return None


@app.command
def forbid(host: str, /, *, data: Data = None, as_json: AsJson = False) -> None:
    """Take a host off the list. Sessions over pairs that need it end.

    ```
    isthmus egress forbid s3.eu-west-1.amazonaws.com:443
    ```

    Args:
        host: HOST:PORT, or a folder.
    """
    answer = call_running(data, Part.ROUTER, "egress_forbid", host=host)
    if as_json:
        return show.as_json(answer)
    _say(answer)
    return None


@app.command
def keys(
    pair: str,
    /,
    *names: str,
    clear: Annotated[bool, Parameter(negative="")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Use keys of this site's own for a pair, instead of what the Bridge lends. They stay in this Router's folder.

    Values are asked for, and not shown; from a pipe, one a line. Without names: which are set.

    ```
    isthmus egress keys aws blobstore.access_key_id blobstore.secret_access_key
    isthmus egress keys aws --clear
    ```

    Args:
        pair: name of a pair, as `isthmus egress list` shows it.
        names: signalling.NAME or blobstore.NAME; docs/how-to/cloud-providers.md names them.
        clear: forget them, and use what the Bridge lends.
    """
    given = {name: _secret(name) for name in names} or None
    answer = call_running(data, Part.ROUTER, "egress_keys", pair=pair, keys=given, clear=clear or None)
    if as_json:
        return show.as_json(answer)
    print(f"{pair}: {', '.join(answer['set'])}" if answer["set"] else f"{pair}: the Bridge lends the keys")
    return None


def _secret(name: str) -> str:
    value = getpass.getpass(f"{name}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not value:
        raise OperatorError(f"no value was given for {name}")
    return value


def _say(answer: dict[str, Any]) -> None:
    show.table(
        [row | {"needs": " ".join(row.get("hosts", ()))} for row in answer["pairs"]],
        {"name": "PAIR", "priority": "PRIORITY", "state": "STATE", "needs": "CONNECTS TO", "reason": "WHY"},
        empty="The Bridge proposes no clouds.",
    )
    for row in answer["pairs"]:
        if row.get("hint"):
            print(f"  {row['name']}: {row['hint']}")
    print()
    show.table(
        answer["hosts"],
        {"host": "ACCEPTED HOST", "accepted": "HOW", "since": "SINCE"},
        empty="No hosts are accepted: this Router connects to its Bridge only.",
    )
