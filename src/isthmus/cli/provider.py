"""`isthmus provider ...`: the clouds that a Bridge's network may use besides the Bridge itself."""
# ruff: noqa: D417 - the shared options --data and --json are explained in options.py

import getpass
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from isthmus.cli import show
from isthmus.cli.call import call
from isthmus.cli.given import lines_of, read_text, split
from isthmus.cli.options import AsJson, Data, Part
from isthmus.errors import OperatorError

app = App(name="provider", help="Clouds that the sites may use besides the Bridge: pairs of signalling and blobstore.")

_STEPS: Final = (
    ("way", "the way there"),
    ("keys", "keys as a Router is lent them"),
    ("blobs", "blobs"),
    ("notices", "notices"),
    ("speed", "how quick it is"),
)
_WIDTH: Final = 28  # of what is looked at: HOST:PORT, as a rule
_NOT_TRIED: Final = "not tried against a real service"
Priority = Annotated[
    int | None, Parameter(help="the pair with the smallest number goes first; the built-in one has 0.")
]
SecretOption = Annotated[
    list[str] | None,
    Parameter(
        name="--secret",
        metavar="NAME=VALUE",
        negative="",
        help="a secret: signalling.KEY=VALUE or blobstore.KEY=VALUE, =@FILE for what is in a file; can be given "
        "several times. Whoever lists this machine's processes sees it: rather use --secret-file or the prompts.",
    ),
]
SecretFile = Annotated[
    Path | None,
    Parameter(
        name="--secret-file",
        metavar="FILE",
        help="file with secrets, one NAME=VALUE a line, or JSON: an object with objects signalling and blobstore.",
    ),
]
Prices = Annotated[
    list[str] | None,
    Parameter(
        name="--price",
        metavar="KIND=NUMBER",
        negative="",
        help="what you pay: put, get, delete, list, publish, receive for 1,000 requests; up, out for a GB; stored for "
        "a GB and 30 days. Can be given several times.",
    ),
]
CaFile = Annotated[
    Path | None,
    Parameter(
        name="--ca", metavar="FILE", help="PEM file of a CA that this Bridge trusts for the pair, as a private one."
    ),
]


@app.command
def add(
    name: str,
    /,
    *,
    signalling: Annotated[str, Parameter(metavar="URL")] = "bridge:",
    blobstore: Annotated[str, Parameter(metavar="URL")] = "bridge:",
    priority: Priority = None,
    secret: SecretOption = None,
    secret_file: SecretFile = None,
    price: Prices = None,
    ca: CaFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Add a pair of cloud services. Routers use it as soon as their sites have accepted its hosts.

    Secrets that are not given are asked for, and not shown. They stay at the Bridge, encrypted; Routers are lent keys
    of their own for an hour at a time. docs/how-to/cloud-providers.md names the URLs and secrets of each provider.

    ```
    isthmus provider add aws --signalling sqs://eu-west-1 --blobstore s3://isthmus-hospitals --priority 5
    isthmus provider add house --signalling nats+tls://nats.example.org --secret-file house.secrets
    ```

    Args:
        name: by which sessions and audits name the pair.
        signalling: of the signalling service; without it, the Bridge's own.
        blobstore: of the blobstore; without it, the Bridge's own.
    """
    asked = call(data, Part.BRIDGE, "provider_asks", signalling=signalling, blobstore=blobstore)
    secrets = _given(secret, secret_file)
    if sys.stdin.isatty():
        secrets |= _prompted([row for row in asked if row["secret"] not in secrets])
    row = call(
        data,
        Part.BRIDGE,
        "provider_add",
        name=name,
        signalling=signalling,
        blobstore=blobstore,
        priority=priority,
        secrets=secrets,
        prices=_prices(price) or None,
        ca=None if ca is None else read_text(ca),
    )
    if as_json:
        return show.as_json(row)
    print(f"{name} is listed. Sessions choose in this order: {row['order']}")
    print(f"See whether it works: isthmus provider test {name}; make what it lacks: isthmus provider setup {name}")
    print(f"Each site lets its Router use it: isthmus egress allow {name}")
    return None


@app.command(name="list")
def list_(*, data: Data = None, as_json: AsJson = False) -> None:
    """List the pairs, the one that goes first on top: how many sites can use each, and what it lacks.

    ```
    isthmus provider list
    ```
    """
    rows = call(data, Part.BRIDGE, "provider_list")
    if as_json:
        return show.as_json(rows)
    columns = {
        "name": "NAME",
        "priority": "PRIORITY",
        "state": "STATE",
        "can": "SITES",
        "sessions": "SESSIONS",
        "signalling": "SIGNALLING",
        "blobstore": "BLOBSTORE",
    }
    show.table([_line(row) for row in rows], columns, empty="None.")
    for row in rows:
        for service in ("signalling", "blobstore"):
            if row["lacks"][service]:
                print(f"{row['name']}: {service}: {row['lacks'][service]}")
            elif not row["built_in"] and row["titles"][service]:
                print(f"{row['name']}: {service}: {row['titles'][service]}: {_tried(row['tried'][service])}")
    return None


@app.command(name="set")
def set_(
    name: str,
    /,
    *,
    priority: Priority = None,
    off: Annotated[bool | None, Parameter(name="--off", negative="--on")] = None,
    secret: SecretOption = None,
    secret_file: SecretFile = None,
    ask: Annotated[bool, Parameter(negative="")] = False,
    price: Prices = None,
    ca: CaFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Change a pair: its place in the order, its secrets or prices, or whether new sessions use it at all.

    The built-in pair is named bridge. Routers go on with the keys that they were lent until these end.

    ```
    isthmus provider set aws --priority 1
    isthmus provider set bridge --off
    isthmus provider set aws --ask
    isthmus provider set aws --price put=0.0054 --price out=0.09
    ```

    Args:
        name: the pair.
        off: --off lets it be used no more, --on again.
        ask: ask for all its secrets anew.
    """
    secrets = _given(secret, secret_file)
    if ask:
        if not sys.stdin.isatty():
            raise OperatorError("--ask needs a terminal", hint="--secret-file FILE does not")
        secrets |= _prompted(call(data, Part.BRIDGE, "provider_asks", name=name))
    changes: dict[str, Any] = {
        "priority": priority,
        "off": off,
        "secrets": secrets or None,
        "prices": _prices(price) or None,
        "ca": None if ca is None else read_text(ca),
    }
    if all(value is None for value in changes.values()):
        raise OperatorError("nothing is to be changed", hint="--priority, --off, --on, --secret, --price or --ca")
    row = call(data, Part.BRIDGE, "provider_set", name=name, **changes)
    if as_json:
        return show.as_json(row)
    print(f"Sessions choose in this order: {row['order']}")
    return None


@app.command
def remove(
    name: str, /, *, force: Annotated[bool, Parameter(negative="")] = False, data: Data = None, as_json: AsJson = False
) -> None:
    """Remove a pair and forget its secrets. What it holds is left there; what was used stays in `usage`.

    ```
    isthmus provider remove aws
    ```

    Args:
        name: the pair.
        force: remove it although sessions use it: they are lost.
    """
    row = call(data, Part.BRIDGE, "provider_remove", name=name, force=force)
    if as_json:
        return show.as_json(row)
    print(f"{name} is removed. Sessions choose in this order: {row['order']}")
    print(
        "Routers keep what they were lent until it ends, within an hour; delete the keys at the provider to end it now."
    )
    return None


@app.command(name="test")
def try_(name: str, /, *, data: Data = None, as_json: AsJson = False) -> int | None:
    """Try a pair as a Router would use it, with keys as a Router is lent them, and say what is wrong.

    It is tried from the Bridge. Whether a site's own network lets its Router through is in `isthmus egress list` there.

    ```
    isthmus provider test aws
    ```

    Args:
        name: the pair.
    """
    found: list[dict[str, Any]] = []
    useless: set[str] = set()  # steps that would only say again what is said already
    for step, words in _STEPS:
        if step in useless:
            continue
        rows = _found_in(step, words, name, data, quiet=as_json)
        found += rows
        if any(row["level"] == "bad" for row in rows):
            useless |= {"keys": {"blobs", "notices", "speed"}, "blobs": {"speed"}}.get(step, set())
    well = all(row["level"] != "bad" for row in found)
    if as_json:
        show.as_json({"name": name, "ok": well, "findings": found})
    else:
        print(f"{name} works." if well else f"{name} does not work yet.")
    return 0 if well else 1


@app.command
def setup(
    name: str,
    /,
    *,
    keep_days: Annotated[int, Parameter(metavar="DAYS")] = 30,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make what a pair lacks at its providers: buckets, rules that let go of what was forgotten, accounts, queues.

    It can be run again at any time.

    ```
    isthmus provider setup aws
    isthmus provider setup aws --keep-days 14
    ```

    Args:
        name: the pair.
        keep_days: after how many days the provider deletes what nobody fetched; queued objects need as long.
    """
    answer = call(data, Part.BRIDGE, "provider_setup", name=name, keep_days=keep_days)
    if as_json:
        return show.as_json(answer)
    for service, lines in answer["done"].items():
        for line in lines or ["nothing had to be done"]:
            print(line if "\n" in line else f"{service}: {line}")
    print(f"Now see whether it works: isthmus provider test {name}")
    return None


@app.command
def usage(
    *,
    month: Annotated[str | None, Parameter(metavar="YYYY-MM")] = None,
    price: Prices = None,
    prices: Annotated[Path | None, Parameter(name="--prices", metavar="FILE")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Say what each site asked of the clouds in a month, and what it comes to with your prices.

    Prices that are kept with a pair (`isthmus provider set`) hold unless others are given here. What lies in a
    blobstore is estimated: from when a blob was put until it was got.

    ```
    isthmus provider usage
    isthmus provider usage --month 2026-11 --price aws.put=0.0054 --price aws.out=0.09
    isthmus provider usage --prices prices.txt --json
    ```

    Args:
        month: the month, in UTC; without it, this one.
        prices: file with one KIND=NUMBER or PAIR.KIND=NUMBER a line.
    """
    given = _prices([*lines_of(prices), *(price or [])])
    answer = call(data, Part.BRIDGE, "provider_usage", month=month, prices=given or None)
    if as_json:
        return show.as_json(answer)
    columns = {
        "site": "SITE",
        "provider": "PAIR",
        **{kind: kind.upper() for kind in ("put", "get", "delete", "list", "publish", "receive")},
        "in": "UP",
        "gone": "OUT",
        "stored": "STORED",
        "money": "COST",
    }
    show.table([_usage_line(row) for row in answer["rows"]], columns, empty=f"Nothing was asked in {answer['month']}.")
    if answer["rows"]:
        print(f"\n{answer['month']} (UTC). STORED is estimated, in GB for 30 days.", end=" ")
        print(f"In all: {answer['cost']:.2f}" if answer["cost"] is not None else "No prices are known.")
    return None


def _found_in(step: str, words: str, name: str, data: Path | None, *, quiet: bool) -> list[dict[str, Any]]:
    shows = sys.stderr.isatty() and not quiet
    if shows:
        print(f"trying {words} ...", end="\r", file=sys.stderr, flush=True)
    rows: list[dict[str, Any]] = call(data, Part.BRIDGE, "provider_test", name=name, step=step)
    if shows:
        print("\033[K", end="", file=sys.stderr, flush=True)
    if not quiet:
        show.findings(rows, width=_WIDTH)
    return rows


def _line(row: dict[str, Any]) -> dict[str, Any]:
    lacks = any(row["lacks"].values())
    return {
        **row,
        "state": "off" if row["off"] else "lacks something" if lacks else "listed",
        "can": f"{len(row['sites'])} of {row['all_sites']}",
    }


def _tried(against: str) -> str:
    """Return what an adapter was tried against, in words; what only imitates a service is not that service."""
    if not against:
        return _NOT_TRIED
    imitated = any(word in against for word in ("simulator", "emulator"))
    return f"{_NOT_TRIED}, but {against}" if imitated else f"tried against {against}"


def _usage_line(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row["requests"],
        "site": row["site"],
        "provider": row["provider"],
        "in": show.size(row["up"]),
        "gone": show.size(row["out"]),
        "stored": f"{row['byte_days'] / 30e9:.3f}",
        "money": None if row["cost"] is None else f"{row['cost']:.2f}",
    }


def _given(secrets: list[str] | None, file: Path | None) -> dict[str, str]:
    """Return the secrets of a file and of the command line; the latter win."""
    found: dict[str, str] = {}
    text = "" if file is None else read_text(file)
    if text.lstrip().startswith("{"):
        found = _from_json(text)
    elif file is not None:
        found = dict(split(line, "--secret-file") for line in lines_of(file))
    for given in secrets or []:
        name, value = split(given, "--secret")
        found[name] = read_text(Path(value[1:])) if value.startswith("@") else value
    return found


def _from_json(text: str) -> dict[str, str]:
    meant = 'an object such as {"blobstore": {"KEY": "VALUE"}} is meant'
    try:
        services = json.loads(text)
        found = {f"{service}.{name}": value for service, fields in services.items() for name, value in fields.items()}
    except (ValueError, AttributeError) as error:
        raise OperatorError("--secret-file: this is no JSON of secrets", hint=meant) from error
    if not all(isinstance(value, str) for value in found.values()):
        raise OperatorError("--secret-file: a secret is a text", hint=meant)
    return found


def _prompted(asked: list[dict[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in asked:
        words = f"{row['secret']}: {row['meaning']}{'' if row['required'] else ' (Enter for none)'}: "
        try:
            value = getpass.getpass(words)
        except EOFError:
            value = ""
        if value:
            found[row["secret"]] = value
    return found


def _prices(given: list[str] | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in given or []:
        kind, value = split(text, "--price")
        try:
            found[kind] = float(value)
        except ValueError as error:
            raise OperatorError(f"--price: '{value}' is not a number", hint=f"--price {kind}=0.005") from error
    return found
