"""How many Routers one Bridge holds, and how fast it sets up sessions between them: a curve over their number.

python -m bench.bridge [--postgres] [--bridges 2] [--nats] [--routers 2 10 100 1000 5000] [--rate 200] [--seconds 15]

The Routers are `bench.crowd`, a process of its own, whose processor time is shown apart. Everything is on loopback,
with a Bridge that leaves TLS to a proxy (`--no-tls`). All sites are in the database before the Bridge starts: it is as
large for two connected Routers as for all.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import insert, update
from tests.backends.servers.nats import running_nats

from bench.crowd import documents_of, identity_of, site_of
from bench.isthmus_network import ISTHMUS
from bench.machine import HERE, BenchFailed, IdleMeter, Started, clean_up_when_terminated, load, running, until
from bench.report import machine, say
from isthmus.bridge.accounts.models import SiteRow
from isthmus.bridge.database import Database, to_micros
from isthmus.bridge.directory.models import DocumentRow
from isthmus.bridge.identity import load_identity
from isthmus.bridge.register import NetworkRow
from isthmus.envelope.prekeys import PrekeyPair
from isthmus.kit.files import make_private_folder

_ROWS_AT_ONCE = 1000
_REST_SECONDS = 5.0
_QUIET_SECONDS = 60.0


@dataclass(frozen=True)
class Step:
    """What was measured with so many Routers connected; times in seconds."""

    routers: int
    connecting: float
    connect_each: list[float]
    connect_cpu: float
    quiet_counts: dict[str, int]
    quiet_cpu_share: float
    memory: int
    asked: int
    seconds: float
    offered: list[float]
    accepted: list[float]
    counts: dict[str, int]
    cpu_share: float
    crowd_cpu_share: float
    idle_share: float
    load_before: float


class CrowdProcess:
    """The process of the Routers, spoken to line by line."""

    def __init__(self, ports: Sequence[int], identity: bytes) -> None:
        command = [sys.executable, "-m", "bench.crowd", "127.0.0.1", ",".join(map(str, ports)), identity.hex()]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, what: str, **how: Any) -> dict[str, Any]:
        """Have it do something, and return what it says of it.

        Raises:
            BenchFailed: it ended; what it said is on standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **how}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BenchFailed("the crowd of Routers ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


async def _fill(database: Database, sites: int) -> None:
    """Write sites and their documents as if they had enrolled, accepted each other in pairs, and published."""
    await database.open()
    now = time.time()
    prekey = PrekeyPair.generate(secrets.token_bytes, now).published()
    common = {"version": "0", "enrolled": to_micros(now), "revoked": None, "changed": 1}
    for first in range(0, sites, _ROWS_AT_ONCE):
        numbers = range(first, min(first + _ROWS_AT_ONCE, sites))
        rows = [
            {"router_id": who.router_id, "site": site_of(number), "public_key": who.public, **common}
            for number in numbers
            for who in (identity_of(number),)
        ]
        documents = [
            {
                "router_id": document.router_id, "kind": document.kind.value, "to_site": to_site, "changed": 1,
                "payload": document.payload, "signature": document.signature, "published": to_micros(now),
            }
            for number in numbers
            for document, to_site in documents_of(number, prekey, now)
        ]  # fmt: skip
        async with database.transaction() as session:
            await session.execute(insert(SiteRow), rows)
            await session.execute(insert(DocumentRow), documents)
            await session.execute(update(NetworkRow).values(version=1))
    await database.close()


@contextlib.contextmanager
def running_postgres(folder: Path) -> Iterator[tuple[str, Started]]:
    """Run a PostgreSQL of its own, as it is shipped; yield the URL of its database, and the process."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not programs:
        raise BenchFailed("there is no PostgreSQL server here: run `make tools`")
    somebody = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []
    folder.mkdir()
    if somebody:
        folder.parent.chmod(0o711)
        shutil.chown(folder, "postgres", "postgres")
    data = str(folder / "data")
    initdb = [str(programs[-1]), "-D", data, "--username", "isthmus", "--auth=trust", "--encoding=UTF8", "--locale=C"]
    subprocess.run([*somebody, *initdb], check=True, capture_output=True, cwd=folder)
    command = [*somebody, str(programs[-1].with_name("postgres")), "-D", data, "-k", str(folder)]
    with running("postgres", [*command, "-c", "listen_addresses="]) as process:
        until(lambda: True if (folder / ".s.PGSQL.5432").exists() else None, "PostgreSQL", process)
        yield f"postgresql://isthmus@/postgres?host={folder}", process


@contextlib.contextmanager
def running_bridges(
    folder: Path, sites: int, *, count: int, url: str | None, bus: str | None
) -> Iterator[tuple[list[Started], list[int], bytes]]:
    """Run Bridges that know all sites; yield their processes, their ports, and their identity."""
    folders = [folder / f"bridge{number}" for number in range(count)]
    for data in folders:
        make_private_folder(data)
    identity = load_identity(folders[0], secrets.token_bytes)
    asyncio.run(_fill(Database(url) if url is not None else Database.in_folder(folders[0]), sites))
    with contextlib.ExitStack() as stack:
        processes, ports = [], []
        for data in folders:
            if data != folders[0]:
                shutil.copy(folders[0] / "identity.key", data)
            command = [ISTHMUS, "bridge", "run", "--listen", f"{HERE.address}:0", "--no-tls", "--data", str(data)]
            if url is not None:
                command += ["--database-url", url, "--blobs", str(folder / "blobs")]
            if bus is not None:
                command += ["--bus", bus]
            process = stack.enter_context(running(data.name, command))
            until(lambda data=data: True if (data / "control.json").exists() else None, "Bridge", process)  # type: ignore[misc]  # called at once
            asked = [ISTHMUS, "bridge", "status", "--json", "--data", str(data)]
            status = json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
            processes.append(process)
            ports.append(int(status["url"].rsplit(":", 1)[1]))
        yield processes, ports, identity.public


def measure(options: argparse.Namespace, processes: Sequence[Started], crowd: CrowdProcess) -> Iterator[Step]:
    """Connect more and more Routers, and set up sessions between them."""

    def cpu() -> float:
        return sum(process.cpu_seconds() for process in processes)

    def memory() -> int:
        return sum(process.memory_bytes() for process in processes)

    empty = memory()
    for routers in options.routers:
        load_before, before = load(), cpu()
        connecting = crowd.tell("connect", wanted=routers)
        connect_cpu = cpu() - before
        _settle(crowd)
        quiet = cpu()
        rested = crowd.tell("rest", seconds=_REST_SECONDS)
        quiet = (cpu() - quiet) / _REST_SECONDS
        held, idle, before = memory() - empty, IdleMeter(), cpu()
        said = crowd.tell("set_up", count=round(options.rate * options.seconds), per_second=options.rate)
        yield Step(
            routers, connecting["seconds"], connecting["each"], connect_cpu, rested["counts"], quiet, held,
            said["asked"], said["seconds"], said["offered"], said["accepted"], said["counts"],
            (cpu() - before) / said["seconds"], said["cpu_share"], idle.share(), load_before,
        )  # fmt: skip


def _settle(crowd: CrowdProcess) -> None:
    """Wait until nobody is told of changes any more, or so long that this is a finding of its own."""
    deadline = time.monotonic() + _QUIET_SECONDS
    while crowd.tell("rest", seconds=1.0)["counts"].get("networks fetched", 0) and time.monotonic() < deadline:
        pass


def print_step(step: Step) -> None:
    """Print a block of lines."""
    say(
        f"{step.routers} Routers: connected in {step.connecting:.1f} s, each {_percentiles(step.connect_each)};"
        f" Bridge CPU {step.connect_cpu:.1f} s, {step.connect_cpu / max(len(step.connect_each), 1) * 1000:.1f} ms each;"
        f" holds {step.memory / 1e6:.0f} MB, {step.memory / step.routers / 1000:.0f} kB each"
    )
    say(f"  at rest: Bridge {step.quiet_cpu_share:.0%} of a core; {_short(step.quiet_counts)}")
    say(
        f"  {step.asked} set-ups asked, {len(step.offered) / step.seconds:.0f} a second done;"
        f" offer there after {_percentiles(step.offered)}; accept back after {_percentiles(step.accepted)}"
    )
    each = step.cpu_share * step.seconds / max(len(step.offered), 1) * 1000
    say(
        f"  meanwhile Bridge {step.cpu_share:.0%} of a core ({each:.2f} ms a set-up), the Routers"
        f" {step.crowd_cpu_share:.0%}, machine idle {step.idle_share:.0%}, load before {step.load_before:.1f};"
        f" {_short(step.counts)}"
    )


def _percentiles(values: Sequence[float]) -> str:
    if not values:
        return "never"
    ranked = sorted(values)
    p50, p99 = ranked[len(ranked) // 2], ranked[min(len(ranked) - 1, int(len(ranked) * 0.99))]
    return f"p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, worst {ranked[-1] * 1000:.0f} ms"


def _short(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nothing"


def main() -> None:
    """Run Bridge and Routers, and print what each number of them costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routers", type=int, nargs="+", default=[2, 10, 100, 1000, 5000], help="even numbers, rising")
    parser.add_argument("--sites", type=int, help="in the network; as many as Routers, if not given")
    parser.add_argument("--rate", type=float, default=200.0, help="set-ups a second that are asked for")
    parser.add_argument("--seconds", type=float, default=15.0, help="of set-ups with each number of Routers")
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL of its own, not SQLite")
    parser.add_argument("--bridges", type=int, default=1, help="several need --postgres")
    parser.add_argument("--nats", action="store_true", help="several Bridges speak by a NATS of its own, not by NOTIFY")
    parser.add_argument("--json", type=Path, help="keep every single time there")
    options = parser.parse_args()
    clean_up_when_terminated()
    steps = []
    with tempfile.TemporaryDirectory(prefix="bench-bridge-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        url, servers = None, []
        if options.postgres:
            url, server = stack.enter_context(running_postgres(folder / "postgres"))
            servers = [server]
        sites = options.sites or max(options.routers)
        bus = None
        if options.nats:
            keys = 'authorization { user: bridges, password: "of the bench" }'
            nats = stack.enter_context(running_nats(in_operator_mode=False, options=keys))
            bus = nats.url.replace("//", "//bridges:of%20the%20bench@")
        say(
            f"{machine()['processor']}; {options.bridges} Bridge(s), {'PostgreSQL' if url else 'SQLite'}"
            f"{', NATS' if bus else ''}, {sites} sites"
        )
        opened = running_bridges(folder, sites, count=options.bridges, url=url, bus=bus)
        processes, ports, identity = stack.enter_context(opened)
        crowd = CrowdProcess(ports, identity)
        stack.callback(crowd.stop)
        for step in measure(options, processes, crowd):
            print_step(step)
            steps.append(step)
        for server in servers:
            say(f"PostgreSQL took {server.cpu_seconds():.1f} CPU seconds in all")
    if options.json is not None:
        options.json.write_text(json.dumps([step.__dict__ for step in steps], indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except BenchFailed as error:
        sys.exit(f"bench.bridge: {error}")
