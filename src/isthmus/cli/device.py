"""`isthmus device ...`: the devices of this site."""
# ruff: noqa: D417 - the shared options --data and --json are explained in options.py

import shlex
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from isthmus.cli import show
from isthmus.cli.call import call, call_running
from isthmus.cli.options import AsJson, Data, Part
from isthmus.errors import OperatorError

app = App(name="device", help="Devices of this site: add, list, test, remove.")

_COLUMNS = {
    "title": "AE TITLE",
    "address": "ADDRESS",
    "network_title": "NETWORK TITLE",
    "name": "NAME",
    "calls_from": "CALLS FROM",
    "disabled": "DISABLED",
}


@app.command
def add(
    address: str,
    /,
    *,
    name: str = "",
    title: Annotated[str | None, Parameter(metavar="NETWORK_AET")] = None,
    from_address: Annotated[list[str] | None, Parameter(metavar="CIDR", negative="")] = None,
    associate_timeout: float | None = None,
    max_associations: int | None = None,
    strip_async: Annotated[bool, Parameter(negative="")] = False,
    callers_as: Annotated[str | None, Parameter(metavar="AET")] = None,
    tls: Annotated[bool, Parameter(negative="")] = False,
    tls_from: Annotated[bool, Parameter(negative="")] = False,
    tls_ca: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    tls_certificate: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    tls_key: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    tls_any_host: Annotated[bool, Parameter(negative="")] = False,
    modes: Annotated[str | None, Parameter(metavar="live,queued")] = None,
    data: Data = None,
) -> None:
    """Register a device of this site, and print what to enter in it. Nobody may reach it until it is granted.

    ```
    isthmus device add PACS@192.0.2.20:104 --name "Main archive"
    isthmus device add CT1@192.0.2.10
    isthmus device add WS@192.0.2.30:104 --from-address 192.0.2.0/24
    ```

    Args:
        address: AET@HOST[:PORT]; without a port, the device only calls and is never called.
        name: what people call it.
        title: AE title under which other sites know it, if its own is taken in the network.
        from_address: where its calls may come from besides HOST; may be given several times.
        associate_timeout: seconds to wait for its answer to an A-ASSOCIATE-RQ (30).
        max_associations: how many associations it takes at once; 0 is no limit.
        strip_async: leave the asynchronous operations window out of what it is sent, if it stumbles over that.
        callers_as: the one calling title under which it sees every device of other sites.
        tls: call the device with DICOM TLS.
        tls_from: insist on DICOM TLS when the device calls.
        tls_ca: PEM file with the certificates that may sign the device's; without it, the system's.
        tls_certificate: PEM file that the Router presents to the device.
        tls_key: PEM file with the private key of that certificate.
        tls_any_host: do not insist that the device's certificate names HOST.
        modes: how other devices may send to it: live, queued, or both, which is what holds without this.
    """
    device = call(
        data,
        Part.ROUTER,
        "device_add",
        address=address,
        name=name,
        title=title,
        from_address=from_address,
        associate_timeout=associate_timeout,
        max_associations=max_associations,
        strip_async=strip_async or None,
        callers_as=callers_as,
        tls=_tls(tls, tls_from, tls_ca, tls_certificate, tls_key, tls_any_host),
        modes=_modes(modes),
    )
    print(f"Added {device['title']}; other sites will know it as {device['network_title']}.")
    _print_notes(device)
    _print_what_to_enter(device)


@app.command(name="set")
def set_(
    device: str,
    /,
    *,
    address: Annotated[str | None, Parameter(metavar="AET@HOST[:PORT]")] = None,
    host: str | None = None,
    port: int | None = None,
    name: str | None = None,
    title: Annotated[str | None, Parameter(metavar="NETWORK_AET")] = None,
    from_address: Annotated[list[str] | None, Parameter(metavar="CIDR", negative="")] = None,
    associate_timeout: float | None = None,
    max_associations: int | None = None,
    strip_async: bool | None = None,
    callers_as: Annotated[str | None, Parameter(metavar="AET")] = None,
    tls: Annotated[bool, Parameter(negative="")] = False,
    tls_from: Annotated[bool, Parameter(negative="")] = False,
    tls_ca: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    tls_certificate: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    tls_key: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    tls_any_host: Annotated[bool, Parameter(negative="")] = False,
    plain: Annotated[bool, Parameter(negative="")] = False,
    modes: Annotated[str | None, Parameter(metavar="live,queued")] = None,
    data: Data = None,
) -> None:
    """Change what is given of a device; all else stays as it is.

    ```
    isthmus device set PACS --host 192.0.2.21
    isthmus device set PACS --tls --tls-ca hospital-ca.pem
    ```

    Args:
        device: its AE title.
        address: a new AE title, host and port in one.
        host: where it is now.
        port: where it listens now; 0 means that it only calls.
        name: what people call it.
        title: AE title under which other sites know it.
        from_address: one more range that its calls may come from.
        associate_timeout: seconds to wait for its answer to an A-ASSOCIATE-RQ.
        max_associations: how many associations it takes at once; 0 is no limit.
        strip_async: leave the asynchronous operations window out of what it is sent.
        callers_as: the one calling title under which it sees other sites' devices; empty for their own ones.
        tls: call the device with DICOM TLS.
        tls_from: insist on DICOM TLS when the device calls.
        tls_ca: PEM file with the certificates that may sign the device's; without it, the system's.
        tls_certificate: PEM file that the Router presents to the device.
        tls_key: PEM file with the private key of that certificate.
        tls_any_host: do not insist that the device's certificate names its host.
        plain: no TLS in either direction any more.
        modes: how other devices may send to it from now on: live, queued, or both.
    """
    given = {
        "address": address,
        "host": host,
        "port": port,
        "name": name,
        "title": title,
        "from_address": from_address,
        "associate_timeout": associate_timeout,
        "max_associations": max_associations,
        "strip_async": strip_async,
        "callers_as": callers_as,
        "tls": _tls(tls, tls_from, tls_ca, tls_certificate, tls_key, tls_any_host),
        "plain": plain or None,
        "modes": _modes(modes),
    }
    if all(value is None for value in given.values()):
        raise OperatorError("nothing to change was given", hint="isthmus device set --help")
    if plain and given["tls"] is not None:
        raise OperatorError("--plain is the opposite of the other TLS options", hint="leave out one or the other")
    changed = call(data, Part.ROUTER, "device_set", device=device, **given)
    print(f"Changed {changed['title']}; other sites know it as {changed['network_title']}.")
    _print_notes(changed)


@app.command(name="list")
def list_(*, data: Data = None, as_json: AsJson = False) -> None:
    """List the devices of this site.

    ```
    isthmus device list
    ```
    """
    rows = call(data, Part.ROUTER, "device_list")
    if as_json:
        return show.as_json(rows)
    show.table([_line(row) for row in rows], _COLUMNS, empty="No devices yet: isthmus device add AET@HOST:PORT")
    return None


@app.command(name="show")
def show_(device: str, /, *, data: Data = None, as_json: AsJson = False) -> None:
    """Show one device with its options and grants, and what to enter in it.

    ```
    isthmus device show PACS
    ```

    Args:
        device: its AE title.
    """
    answer = call(data, Part.ROUTER, "device_show", device=device)
    if as_json:
        return show.as_json(answer)
    show.facts(show.flat({name: value for name, value in answer.items() if name not in {"grants", "enter"}}))
    print("\nGrants:")
    for grant in answer["grants"]:
        print(f"  {grant['grant_id']}: {grant['caller'] or 'all'} of {grant['site']}, {show.words(grant['services'])}")
    if not answer["grants"]:
        print("  none: no other site reaches it")
    print()
    _print_what_to_enter(answer)
    return None


@app.command
def remove(device: str, /, *, data: Data = None) -> None:
    """Remove a device and its grants.

    ```
    isthmus device remove CT1
    ```

    Args:
        device: its AE title.
    """
    call(data, Part.ROUTER, "device_remove", device=device)
    print(f"{device} and its grants are removed.")


@app.command
def disable(device: str, /, *, data: Data = None) -> None:
    """Let nobody reach a device, and take no call of it, until it is enabled again. Its grants are kept.

    ```
    isthmus device disable PACS
    ```

    Args:
        device: its AE title.
    """
    call(data, Part.ROUTER, "device_disable", device=device)
    print(f"{device} is disabled.")


@app.command
def enable(device: str, /, *, data: Data = None) -> None:
    """Enable a device again.

    ```
    isthmus device enable PACS
    ```

    Args:
        device: its AE title.
    """
    call(data, Part.ROUTER, "device_enable", device=device)
    print(f"{device} is enabled.")


@app.command(name="test")
def call_device(
    device: str,
    /,
    *,
    calling: Annotated[str | None, Parameter(name="--as", metavar="AET")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Send a C-ECHO from the Router straight to a device of this site, and show the time of each leg.

    ```
    isthmus device test PACS
    isthmus device test PACS --as NORTH_CT
    ```

    Args:
        device: its AE title.
        calling: calling AE title to use, for a device that takes only those it knows; without it, ISTHMUS.
    """
    answer = call_running(data, Part.ROUTER, "device_test", device=device, calling=calling)
    if as_json:
        return show.as_json(answer)
    show.legs(answer)
    return None


@app.command
def probe(
    device: str,
    /,
    *,
    calling: Annotated[str | None, Parameter(name="--as", metavar="AET")] = None,
    everything: Annotated[bool, Parameter(name="--all", negative="")] = False,
    declare: Annotated[list[str] | None, Parameter(metavar="ABSTRACT:TRANSFER", negative="")] = None,
    forget: Annotated[bool, Parameter(negative="")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Ask a device of this site what it takes, so that objects for it can be queued; it happens by itself, too.

    ```
    isthmus device probe PACS
    isthmus device probe PACS --as NORTH_CT
    isthmus device probe PACS --declare 1.2.840.10008.5.1.4.1.1.2:1.2.840.10008.1.2.1
    ```

    Args:
        device: its AE title.
        calling: calling AE title to use, for a device that takes only those it knows.
        everything: ask for all Storage classes, not only if an accepted site may send them.
        declare: note that it takes this, and do not ask; two UIDs, may be given several times.
        forget: forget what is known of it.
    """
    while True:
        answer = call_running(
            data,
            Part.ROUTER,
            "device_probe",
            device=device,
            calling=calling,
            everything=everything,
            declare=declare or [],
            forget=forget,
        )
        if answer["done"]:
            break
    if as_json:
        return show.as_json(answer)
    rows: dict[str, dict[str, Any]] = {}
    for pair in answer["pairs"]:
        row = rows.setdefault(pair["abstract"], {"class": pair["class"], "syntaxes": []})
        if pair["syntax"] not in row["syntaxes"]:
            row["syntaxes"].append(pair["syntax"])
    columns = {"class": "TAKES", "syntaxes": "AS"}
    show.table(list(rows.values()), columns, empty="Nothing is known of what it takes: nothing can be queued for it.")
    return None


@app.command
def unknown(*, data: Data = None, as_json: AsJson = False) -> None:
    """List who called without being registered: title, address, how often, and when last.

    ```
    isthmus device unknown
    ```
    """
    rows = call(data, Part.ROUTER, "unknown_callers")
    if as_json:
        return show.as_json(rows)
    columns = {"title": "AE TITLE", "address": "ADDRESS", "called": "CALLED", "count": "TIMES", "last": "LAST"}
    lines = [{**row, "last": show.moment(row["last"])} for row in rows]
    show.table(lines, columns, empty="Nobody.")
    for row in rows:
        if row["device"] is None:
            device = f"{row['title']}@{row['address']}"
            print(f"To add it: isthmus device add {shlex.quote(device)}")
        else:
            known = shlex.quote(row["device"])
            print(f"{row['device']} is registered at {row['host']}.")
            print(f"  if it moved:            isthmus device set {known} --host {row['address']}")
            print(f"  if it calls from both:  isthmus device set {known} --from-address {row['address']}")
    return None


def _line(row: dict[str, Any]) -> dict[str, Any]:
    where = row["host"] if row["port"] is None else f"{row['host']}:{row['port']}"
    return {**row, "address": where, "calls_from": [row["host"], *row["from_addresses"]]}


def _modes(text: str | None) -> list[str] | None:
    return None if text is None else [mode.strip() for mode in text.split(",") if mode.strip()]


def _tls(
    to_device: bool, from_device: bool, ca: Path | None, certificate: Path | None, key: Path | None, any_host: bool
) -> dict[str, Any] | None:
    if not (to_device or from_device):
        given = {"--tls-ca": ca, "--tls-certificate": certificate, "--tls-key": key, "--tls-any-host": any_host or None}
        for option, value in given.items():
            if value is not None:
                raise OperatorError(
                    f"{option} means nothing without --tls or --tls-from", hint="give all TLS options together"
                )
        return None
    return {
        "to_device": to_device,
        "from_device": from_device,
        "ca": _absolute(ca),
        "certificate": _absolute(certificate),
        "key": _absolute(key),
        "check_host_name": not any_host,
    }


def _absolute(file: Path | None) -> str | None:
    return None if file is None else str(file.expanduser().resolve())


def _print_notes(answer: dict[str, Any]) -> None:
    for note in answer.get("notes", []):
        print(f"Note: {note}")


def _print_what_to_enter(device: dict[str, Any]) -> None:
    where = device["enter"]
    print("Enter in the device, for each remote one that `isthmus directory` shows:")
    print(f"  AE title  as shown there\n  host      {where['host']}\n  port      {where['port']}")
