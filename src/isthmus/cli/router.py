"""`isthmus router ...`: join a network, run and administer this site's Router."""
# ruff: noqa: D417 - the shared options --data and --json are explained in options.py

import asyncio
import contextlib
import dataclasses
import sys
import textwrap
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from isthmus.cli import show
from isthmus.cli.call import call, call_running
from isthmus.cli.options import AsJson, Data, Part, folder_of
from isthmus.contract.invites import Invite
from isthmus.errors import OperatorError
from isthmus.kit.names import HostPort

app = App(name="router", help="Join a network, run and administer this site's Router.")


@app.command
def check(
    url: Annotated[str | None, Parameter(metavar="URL")] = None,
    /,
    *,
    ca: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    long: Annotated[bool, Parameter(negative="")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> int:
    """Find out, also before any invite, whether a Bridge can be reached from here: proxy, TLS, push, speed, clock.

    Ends with a paragraph to send to the firewall team. The exit status is 1 if something is in the way.

    ```
    isthmus router check https://bridge.example.org:8443
    isthmus router check https://bridge.example.org:8443 --ca inspection-ca.pem --long
    isthmus router check
    ```

    Args:
        url: the Bridge's address, from its operator; without it, that of the network which this Router has joined, and
            the hosts of the clouds that the Bridge lists, if the Router runs.
        ca: PEM file of a CA that may open TLS on the way, as for `isthmus router join`.
        long: also measure when idle connections are cut, which takes a minute and a half.
    """
    from isthmus.router.control.check import as_rows
    from isthmus.router.control.check import check as look
    from isthmus.router.control.clouds import cloud_findings
    from isthmus.router.keys import read_membership

    clouds = None
    if url is None:
        folder = folder_of(Part.ROUTER, data)
        membership = read_membership(folder)
        if membership is None:
            raise OperatorError(f"the Router in {folder} has not joined a network", hint="isthmus router check URL")
        url, ca = membership.url, ca or membership.ca
        with contextlib.suppress(OperatorError):  # it does not run
            clouds = call_running(data, Part.ROUTER, "egress_list")
    report = look(url, ca=ca, long=long)
    if clouds is not None:
        report = dataclasses.replace(report, findings=(*report.findings, *cloud_findings(clouds)))
    if as_json:
        show.as_json({"url": report.url, "findings": as_rows(report.findings), "firewall": report.firewall})
    else:
        show.findings(as_rows(report.findings))
        print("\nFor the firewall team:\n")
        print(textwrap.fill(report.firewall, 100))
    return 0 if report.ok else 1


@app.command
def join(
    invite: Annotated[str | None, Parameter(metavar="INVITE")] = None,
    /,
    *,
    ca: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    data: Data = None,
) -> None:
    """Join a network with an invite: make this Router's keys and enrol at the Bridge that the invite names.

    ```
    isthmus router join isthmus-invite-1.eyJ1...
    isthmus router join < invite.txt
    isthmus router join --ca hospital-ca.pem < invite.txt
    ```

    Args:
        invite: the line that the Bridge's operator sent; without it, it is read from standard input.
        ca: PEM file of the CA that signed the certificate of the reverse proxy in front of the Bridge, if this machine
            does not know that CA; or of the one by which a proxy of this site opens TLS, which is refused otherwise.
            The Router reads it at each start. To give or change it later, join again with the same invite.
    """
    from isthmus.router.membership import join as enrol

    if invite is None or invite == "-":
        if sys.stdin.isatty():
            print("Paste the invite and press Enter:", file=sys.stderr)
        invite = sys.stdin.readline()
    given = Invite.parse(invite)
    router_id = asyncio.run(enrol(folder_of(Part.ROUTER, data), given, ca=ca))
    print(f"This Router is site {given.site} of the network at {given.url}.", end=" ")
    print("Its Router ID, to read to other sites by phone:")
    print(f"\n    {router_id.spoken}\n")
    print("Next: isthmus router run")


@app.command
def run(
    *,
    dicom: str = "0.0.0.0:11112",
    dicom_tls: Annotated[str | None, Parameter(metavar="HOST:PORT")] = None,
    console: str = "127.0.0.1:0",
    verbose: Annotated[bool, Parameter(negative="")] = False,
    data: Data = None,
) -> None:
    """Run this site's Router until SIGTERM or Ctrl-C; then it takes nothing new and lets associations end first.

    ```
    isthmus router run
    isthmus router run --dicom 192.0.2.5:104
    ```

    Args:
        dicom: HOST:PORT where this site's devices reach all remote ones.
        dicom_tls: HOST:PORT for devices that speak DICOM TLS; certificates are in the folder tls of --data.
        console: HOST:PORT of the control API and metrics; keep it on loopback. Port 0 takes any free one.
        verbose: log details too.
    """
    from isthmus.cli.serve import run_until_stopped
    from isthmus.kit.garbage import take_all_as_lasting
    from isthmus.router.app import RouterAddress, run_router
    from isthmus.router.config import RouterConfig

    config = RouterConfig(
        data=folder_of(Part.ROUTER, data),
        dicom=HostPort.parse(dicom),
        dicom_tls=None if dicom_tls is None else HostPort.parse(dicom_tls),
        console=HostPort.parse(console),
    )

    def ready(address: RouterAddress) -> None:
        take_all_as_lasting()
        secure = f", DICOM TLS at {address.dicom_tls}" if address.dicom_tls else ""
        print(f"Router ready: DICOM at {address.dicom}{secure}, console at {address.console}", flush=True)

    async def part(stop: asyncio.Event) -> None:
        await run_router(config, stop, ready)

    run_until_stopped(part, verbose=verbose)


@app.command
def pause(*, off: Annotated[bool, Parameter(negative="")] = False, data: Data = None) -> None:
    """Take no new associations (devices hear "try again later"); those that are open go on.

    ```
    isthmus router pause
    isthmus router pause --off
    ```

    Args:
        off: take associations again.
    """
    call_running(data, Part.ROUTER, "pause", paused=not off)
    print("Taking associations again." if off else "Paused. isthmus router pause --off takes associations again.")


@app.command
def status(*, data: Data = None, as_json: AsJson = False) -> None:
    """Show this Router's site and ID (to read over the phone), its Bridge, its addresses and what it does.

    ```
    isthmus router status
    ```
    """
    answer = call(data, Part.ROUTER, "status")
    if as_json:
        return show.as_json(answer)
    if not answer.pop("running"):
        print("This Router is stopped: isthmus router run starts it.\n")
    alerts = answer.pop("alerts", {})
    if spool := answer.pop("spool", None):
        answer["spool"] = {name: show.size(spool[name]) for name in ("used", "free", "floor")}
        answer["spool"] |= {"quota": _quota(spool["quota"]), "full": spool["lack"] or None}
    answer["router_id"] = answer.pop("spoken")
    show.facts(show.flat(answer))
    for site, texts in alerts.items():
        for text in texts:
            print(f"{site}: {text}")
    return None


@app.command
def settings(
    *,
    ignore_title_case: bool | None = None,
    open_returns: bool | None = None,
    audit_days: int | None = None,
    idle_minutes: int | None = None,
    spool_quota: Annotated[str | None, Parameter(metavar="SIZE")] = None,
    spool_floor: Annotated[str | None, Parameter(metavar="SIZE")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show the settings of this Router, or change those that are given.

    ```
    isthmus router settings
    isthmus router settings --audit-days 3650
    isthmus router settings --spool-quota 200GB --spool-floor 5GB
    ```

    Args:
        ignore_title_case: compare AE titles without regard to case; the standard says otherwise.
        open_returns: whether a C-MOVE or N-ACTION of this site lets its answers in for seven days.
        audit_days: how long audit rows are kept.
        idle_minutes: how long nothing may pass in an association, either way, before it is aborted; 0 for ever. Holds
            for associations that begin from then on.
        spool_quota: most that queued objects may fill: 1GB or more, or 0 for what the disk has. Beyond it senders hear
            a passing trouble, and nothing is fetched. A running Router keeps to it at once; what is there stays.
        spool_floor: what queued objects leave free of their disk, 500MB at the least.
    """
    given = {
        "ignore_title_case": ignore_title_case,
        "open_returns": open_returns,
        "audit_days": audit_days,
        "idle_minutes": idle_minutes,
        "spool_quota": spool_quota,
        "spool_floor": spool_floor,
    }
    if any(value is not None for value in given.values()):
        answer = call(data, Part.ROUTER, "setting_set", **given)
    else:
        answer = call(data, Part.ROUTER, "setting_list")
    if as_json:
        return show.as_json(answer)
    answer |= {"spool_quota": _quota(answer["spool_quota"]), "spool_floor": show.size(answer["spool_floor"])}
    show.facts(show.flat(answer))
    return None


def _quota(size: int | None) -> str:
    return show.size(size) if size else "what the disk has"
