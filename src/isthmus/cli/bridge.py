"""`isthmus bridge ...`: run and administer a Bridge."""
# ruff: noqa: D417 - the shared options --data and --json are explained in options.py

import asyncio
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from isthmus.cli import given, show
from isthmus.cli.call import call
from isthmus.cli.options import AsJson, Data, Limit, Part, folder_of, parse_duration, parse_url
from isthmus.errors import OperatorError
from isthmus.kit.names import HostPort

app = App(name="bridge", help="Run and administer a Bridge, the meeting point of the sites.")

_SESSION_COLUMNS = {
    "started": "SINCE",
    "from_site": "FROM",
    "calling": "CALLING",
    "to_site": "TO",
    "called": "CALLED",
    "provider": "OVER",
    "out": "OUT",
    "in": "IN",
}


@app.command
def run(
    *,
    listen: str = "0.0.0.0:8443",
    public_url: Annotated[str | None, Parameter(metavar="URL")] = None,
    tls: Annotated[bool, Parameter(name="--tls", negative="--no-tls")] = True,
    certificate: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    key: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    database_url: Annotated[str | None, Parameter(metavar="URL", env_var="ISTHMUS_DATABASE_URL")] = None,
    blobs: Annotated[str | None, Parameter(metavar="DIR|URL", env_var="ISTHMUS_BLOBS")] = None,
    blobs_keys: Annotated[Path | None, Parameter(metavar="FILE", env_var="ISTHMUS_BLOBS_KEYS")] = None,
    bus: Annotated[str | None, Parameter(metavar="URL", env_var="ISTHMUS_BUS")] = None,
    verbose: Annotated[bool, Parameter(negative="")] = False,
    data: Data = None,
) -> None:
    """Run the Bridge until SIGTERM or Ctrl-C. The first start makes its identity and a TLS certificate.

    ```
    isthmus bridge run --public-url https://bridge.example.org:8443
    isthmus bridge run --no-tls --public-url https://bridge.example.org
    ```

    Args:
        listen: HOST:PORT to listen on; port 0 takes any free one.
        public_url: how the sites reach it; without it, the address it listens on.
        tls: --no-tls speaks plain HTTP, behind a reverse proxy or in a trusted network.
        certificate: PEM file with the certificate chain to use instead of the self-made one.
        key: PEM file with the private key of that certificate.
        database_url: postgresql://USER:PASSWORD@HOST/NAME to use instead of a file in --data; given once, it is kept.
            Bridges that share one, and have the same identity.key, are one network's.
        blobs: folder of the built-in blobstore, instead of one in --data, or URL of an object store, such as
            s3://HOST:PORT/BUCKET; Bridges on one database share it. Given once, it is kept.
        blobs_keys: file with the keys for that store, one NAME=VALUE a line, readable by its owner only. A key may come
            from the environment too, as ISTHMUS_BLOBS_NAME. Given once, they are kept.
        bus: nats://[USER:PASSWORD@]HOST:PORT by which Bridges on one database speak to each other, instead of the
            database itself; given once, it is kept.
        verbose: log details too.
    """
    from isthmus.bridge.app import BridgeAddress, BridgeConfig, run_bridge
    from isthmus.cli.serve import run_until_stopped
    from isthmus.kit.garbage import take_all_as_lasting

    if not tls and (certificate is not None or key is not None):
        raise OperatorError("--certificate and --key mean nothing with --no-tls", hint="leave out one or the other")
    config = BridgeConfig(
        data=folder_of(Part.BRIDGE, data),
        listen=HostPort.parse(listen),
        public_url=None if public_url is None else parse_url(public_url),
        tls=tls,
        certificate=certificate,
        key=key,
        database_url=database_url,
        blobs=blobs,
        blobs_keys=given.blobs_keys(blobs_keys),
        bus=bus,
    )

    def ready(address: BridgeAddress) -> None:
        take_all_as_lasting()
        print(f"Bridge ready at {address.url}", flush=True)

    async def part(stop: asyncio.Event) -> None:
        await run_bridge(config, stop, ready)

    run_until_stopped(part, verbose=verbose)


@app.command
def migrate(
    *,
    to: Annotated[str, Parameter(metavar="URL", env_var="ISTHMUS_DATABASE_URL")],
    data: Data = None,
) -> None:
    """Move the Bridge's tables from its data folder to PostgreSQL. The Bridge is stopped first, and run again after.

    ```
    isthmus bridge migrate --to postgresql://isthmus:secret@db.example.org/isthmus
    ```

    All rows are copied in one transaction and compared. The next `isthmus bridge run` uses the new database; the old
    file is kept as bridge.db.moved.

    Args:
        to: the empty database, as for `bridge run --database-url`.
    """
    import secrets

    from isthmus.bridge.moving import move_database

    def progress(table: str, rows: int) -> None:
        print(f"\r{table}: {rows}", end="", flush=True)

    count = asyncio.run(move_database(folder_of(Part.BRIDGE, data), to, secrets.token_bytes, progress))
    print(f"\rRows copied and compared: {count}. isthmus bridge run uses the new database.")


@app.command
def invite(site: str, /, *, valid: str = "24h", data: Data = None) -> None:
    """Print an invite for a site: one line for its administrator, a secret until it is used, good once.

    ```
    isthmus bridge invite north
    isthmus bridge invite north --valid 14d
    ```

    Args:
        site: name of the site: lower-case letters, digits and hyphens.
        valid: how long the invite is good, up to 30d.
    """
    answer = call(data, Part.BRIDGE, "invite", site=site, valid_days=parse_duration(valid) / 86400)
    print(answer["invite"])


@app.command(name="list")
def list_(*, data: Data = None, as_json: AsJson = False) -> None:
    """List the invites and what became of them. The secrets are not in it: the Bridge keeps only a hash.

    ```
    isthmus bridge list
    ```
    """
    rows = call(data, Part.BRIDGE, "invites")
    if as_json:
        return show.as_json(rows)
    columns = {"site": "SITE", "state": "STATE", "created": "MADE", "expires": "GOOD UNTIL"}
    lines = [
        {
            "site": row["site"],
            "state": _state_of_invite(row),
            "created": show.moment(row["created"]),
            "expires": show.moment(row["expires"]),
        }
        for row in rows
    ]
    show.table(lines, columns, empty="No invites yet: isthmus bridge invite SITE")
    return None


@app.command
def withdraw(site: str, /, *, data: Data = None) -> None:
    """Withdraw the open invites of a site.

    ```
    isthmus bridge withdraw north
    ```

    Args:
        site: the site that was invited.
    """
    count = call(data, Part.BRIDGE, "withdraw", site=site)["withdrawn"]
    print(f"Open invites of {site} that are withdrawn: {count}")


@app.command
def revoke(site: str, /, *, data: Data = None) -> None:
    """Revoke a site: from now on its Router gets nothing here, and live associations end within a minute.

    ```
    isthmus bridge revoke north
    ```

    Args:
        site: the site to revoke.
    """
    call(data, Part.BRIDGE, "revoke", site=site)
    print(f"{site} is revoked. To let it in again, invite it again; the others then compare its new Router ID.")


@app.command
def sites(*, data: Data = None, as_json: AsJson = False) -> None:
    """List the enrolled sites.

    ```
    isthmus bridge sites
    ```
    """
    rows = call(data, Part.BRIDGE, "sites")
    if as_json:
        return show.as_json(rows)
    columns = {"site": "SITE", "router_id": "ROUTER ID", "online": "ONLINE", "version": "VERSION", "since": "SINCE"}
    lines = [{**row, "since": show.moment(row["enrolled"])} for row in rows]
    show.table(lines, columns, empty="No sites yet: isthmus bridge invite SITE")
    return None


@app.command
def sessions(*, data: Data = None, as_json: AsJson = False) -> None:
    """List the associations that are relayed through this Bridge now: who with whom, and how much.

    ```
    isthmus bridge sessions
    ```
    """
    rows = call(data, Part.BRIDGE, "sessions")
    if as_json:
        return show.as_json(rows)
    show.table([_session_line(row) for row in rows], _SESSION_COLUMNS, empty="No live sessions.")
    return None


@app.command
def audit(*, limit: Limit = 100, data: Data = None, as_json: AsJson = False) -> None:
    """List sessions, the newest first: who with whom, when, how it ended. No content ever comes here.

    ```
    isthmus bridge audit --limit 20
    ```
    """
    rows = call(data, Part.BRIDGE, "audit", limit=limit)
    if as_json:
        return show.as_json(rows)
    columns = {**_SESSION_COLUMNS, "ended": "ENDED", "outcome": "OUTCOME"}
    show.table([_session_line(row) for row in rows], columns, empty="Nothing yet.")
    return None


@app.command
def status(*, data: Data = None, as_json: AsJson = False) -> None:
    """Show who this Bridge is, where it listens and who is connected.

    ```
    isthmus bridge status
    ```
    """
    answer = call(data, Part.BRIDGE, "status")
    if as_json:
        return show.as_json(answer)
    show.facts(show.flat(answer))
    return None


def _state_of_invite(row: dict[str, Any]) -> str:
    if row["used"] is not None:
        return f"used {show.moment(row['used'])}"
    if row["withdrawn"] is not None:
        return f"withdrawn {show.moment(row['withdrawn'])}"
    return "open" if row["open"] else "expired"


def _session_line(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "started": show.moment(row["started"]),
        "ended": show.moment(row["ended"]),
        "out": show.size(row["bytes_out"]),
        "in": show.size(row["bytes_in"]),
    }
