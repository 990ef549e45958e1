"""`python -m bench.providers`: set-up time, live and queued throughput of each pair of clouds, in one run.

Each pair has a network of its own, a Bridge and two Routers, which prefer that pair; the services are real ones on this
machine (NATS, Ceph's gateway for S3, azurite) but for SQS, which moto plays. Rounds are interleaved. Queued time runs
from the sender's start to the archive's last answer, which `bench.witness` sees on the wire (root).
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.backends.servers.azurite import running_azurite
from tests.backends.servers.ceph import OWNER, ROLE, running_ceph
from tests.backends.servers.moto import running_moto
from tests.backends.servers.nats import running_nats

from bench import images
from bench.devices import ECHOSCU, STORESCP, STORESCU, Door, Nagle, Receiver, receiver, send
from bench.isthmus_network import IsthmusNetwork, Part, open_network, queue_for
from bench.latency import echo
from bench.machine import HERE, BenchFailed, clean_up_when_terminated, load, require, until
from bench.report import machine, say
from bench.witness import witnessed

_LIVE, _QUEUED = "BENCH_LIVE", "BENCH_QUEUE"
_PATIENCE_SECONDS = 300.0
_PAIR = "cloud"
_BUILT_IN = "bridge:"
_ANYBODY = {"access_key_id": "AKBENCH", "secret_access_key": "SKBENCH"}  # moto asks nobody
_SQS_ROLE = "arn:aws:iam::123456789012:role/lent"


@dataclass(frozen=True)
class Clouds:
    """A pair: where it is, and the operator's keys."""

    signalling: str = _BUILT_IN
    blobstore: str = _BUILT_IN
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Services:
    """The services of this run; each is started when a pair first needs it."""

    stack: contextlib.ExitStack
    _running: dict[str, Any] = field(default_factory=dict)

    def of(self, run: Callable[[], contextlib.AbstractContextManager[Any]]) -> Any:
        """Return the one service that `run` runs."""
        name = run.__name__
        if name not in self._running:
            say(f"starting {name.removeprefix('running_')}")
            self._running[name] = self.stack.enter_context(run())
        return self._running[name]

    def nats(self) -> Clouds:
        """Return NATS, with the Bridge's own blobstore."""
        running = self.of(running_nats)
        return Clouds(signalling=running.url, secrets={"signalling.account_seed": running.account.seed})

    def nats_s3(self) -> Clouds:
        """Return NATS with S3."""
        return _joined(self.nats(), self._s3("bench-nats"))

    def sqs_s3(self) -> Clouds:
        """Return SQS with S3."""
        sqs = Clouds(
            signalling=self.of(running_moto).url("bench"),
            secrets={f"signalling.{name}": value for name, value in {**_ANYBODY, "role": _SQS_ROLE}.items()},
        )
        return _joined(sqs, self._s3("bench-sqs"))

    def azure(self) -> Clouds:
        """Return Azure's queues and blobs."""
        running = self.of(running_azurite)
        keys = running.secrets
        queues = f"azqueue://127.0.0.1:{running.queue_port}/devstoreaccount1/bench?tls=no"
        secrets = {f"{side}.{name}": value for side in ("signalling", "blobstore") for name, value in keys.items()}
        return Clouds(queues, running.blobs("bench"), secrets)

    def _s3(self, bucket: str) -> Clouds:
        secrets = {f"blobstore.{name}": value for name, value in {**OWNER.s3, "role": ROLE}.items()}
        return Clouds(blobstore=self.of(running_ceph).s3(bucket), secrets=secrets)


PAIRS: dict[str, Callable[[Services], Clouds]] = {
    "bridge": lambda _: Clouds(),
    "nats+bridge": Services.nats,
    "nats+s3": Services.nats_s3,
    "sqs+s3": Services.sqs_s3,
    "azqueue+azblob": Services.azure,
}


@dataclass(frozen=True)
class Measured:
    """All rounds over one pair."""

    echo_seconds: list[float] = field(default_factory=list)
    live: list[float] = field(default_factory=list)
    """MB/s (10^6 bytes)."""
    queued: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Carrier:
    """A network that prefers one pair."""

    name: str
    network: IsthmusNetwork
    measured: Measured = field(default_factory=Measured)

    def door(self, title: str) -> Door:
        """Return where a device of the sending site finds the archive of this title."""
        return Door(*self.network.door, title)

    def usage(self) -> dict[str, dict[str, int]]:
        """Return what was asked of the pair so far, by site and kind."""
        rows = self.network.bridge.ask("provider", "usage")["rows"]
        return {row["site"]: row["requests"] for row in rows if row["provider"] == _PAIR}


def _joined(signalling: Clouds, blobstore: Clouds) -> Clouds:
    return Clouds(signalling.signalling, blobstore.blobstore, {**signalling.secrets, **blobstore.secrets})


@contextlib.contextmanager
def carrier(name: str, clouds: Clouds, archives: Sequence[Receiver], folder: Path) -> Iterator[Carrier]:
    """Run a network whose sessions and envelopes go over a pair.

    Raises:
        BenchFailed: it did not come into use.
    """
    doors = [archive.door for archive in archives]
    with open_network(doors) as network:
        if clouds != Clouds():
            _prefer(network, clouds, folder / f"{name}.secrets")
        queue_for(network, [door for door in doors if door.called == _QUEUED])
        yield Carrier(name, network)


def _prefer(network: IsthmusNetwork, clouds: Clouds, secrets: Path) -> None:
    secrets.touch(mode=0o600)
    secrets.write_text("".join(f"{name}={value}\n" for name, value in clouds.secrets.items()))
    where = ["--signalling", clouds.signalling, "--blobstore", clouds.blobstore]
    network.bridge.call("provider", "set", "bridge", "--priority", "1000")
    network.bridge.call("provider", "add", _PAIR, *where, "--priority", "1", "--secret-file", str(secrets))
    network.bridge.call("provider", "setup", _PAIR)
    for router in (network.sending, network.receiving):
        for host in until(partial(_hosts, router), "word of the pair", router.process):
            router.call("egress", "allow", "--host", host)
    until(partial(_in_use, network), "both Routers to use the pair", network.sending.process)


def _row(router: Part) -> dict[str, Any]:
    rows: list[dict[str, Any]] = router.ask("egress", "list")["pairs"]
    return next((row for row in rows if row["name"] == _PAIR), {})


def _hosts(router: Part) -> list[str] | None:
    return _row(router).get("hosts") or None


def _in_use(network: IsthmusNetwork) -> bool | None:
    listed = network.bridge.ask("provider", "list")
    row = next(row for row in listed if row["name"] == _PAIR)
    works = all(_row(router).get("state") == "works" for router in (network.sending, network.receiving))
    return True if works and len(row["sites"]) == 2 else None


def measure(options: argparse.Namespace, folder: Path) -> list[Carrier]:
    """Run every pair's network and the rounds; return what was measured."""
    few, many = images.ct_images(options.live_images), images.ct_images(options.images)
    images.warm(few)
    images.warm(many)
    with contextlib.ExitStack() as stack:
        archives = [stack.enter_context(receiver(title, Nagle.OFF, fork=True)) for title in (_LIVE, _QUEUED)]
        queue_port = archives[1].door.port
        services = Services(stack)
        carriers = []
        for name in options.pair or list(PAIRS):
            carriers.append(stack.enter_context(carrier(name, PAIRS[name](services), archives, folder)))
            say(f"{name} is ready")
        for each in carriers:  # neither a session's first use of a pair nor what it left to learn is counted
            say(f"warming {each.name}")
            for _ in range(3):
                echo(each.door(_LIVE), HERE)
            send(few, each.door(_LIVE), Nagle.OFF, [])
        for number in range(1, options.rounds + 1):
            for each in carriers:
                measured = each.measured
                measured.loads.append(load())
                measured.echo_seconds.extend(echo(each.door(_LIVE), HERE) for _ in range(options.echoes))
                measured.live.append(send(few, each.door(_LIVE), Nagle.OFF, []).megabytes_per_second)
                with witnessed(queue_port, many.objects, place=HERE, within=_PATIENCE_SECONDS) as testimony:
                    began = time.monotonic()
                    send(many, each.door(_QUEUED), Nagle.OFF, [])
                measured.queued.append(many.size / (testimony.at - began) / 1e6)
                say(
                    f"round {number}/{options.rounds}  {each.name}: C-ECHO "
                    f"{statistics.median(measured.echo_seconds[-options.echoes :]) * 1e3:.1f} ms, "
                    f"live {measured.live[-1]:.1f} MB/s, queued {measured.queued[-1]:.1f} MB/s"
                )
        for each in carriers:
            if each.name != "bridge":
                say(f"{each.name}: asked of it: {json.dumps(each.usage())}")
        return carriers


def _table(carriers: Sequence[Carrier]) -> str:
    lines = ["| Pair | C-ECHO, ms | range | live, MB/s | queued, MB/s | load before |", "|---|---|---|---|---|---|"]
    for each in carriers:
        measured = each.measured
        echoes = [seconds * 1e3 for seconds in measured.echo_seconds]
        lines.append(
            f"| {each.name} | {statistics.median(echoes):.1f} | {min(echoes):.1f}-{max(echoes):.1f} "
            f"| {statistics.median(measured.live):.1f} | {statistics.median(measured.queued):.1f} "
            f"| {max(measured.loads):.1f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.providers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--echoes", type=int, default=11, help="C-ECHOs in each round (default 11)")
    parser.add_argument("--images", type=int, default=400, help="CT images that are queued in a round (default 400)")
    parser.add_argument("--live-images", type=int, default=100, help="CT images that go live (default 100)")
    parser.add_argument("--pair", action="append", choices=list(PAIRS), help="may be repeated (default: all)")
    parser.add_argument("--json", type=Path, help="also write every round to this file")
    options = parser.parse_args(arguments)
    clean_up_when_terminated()
    try:
        require(STORESCU, STORESCP, ECHOSCU)
        with tempfile.TemporaryDirectory(prefix="bench-providers-") as folder:
            carriers = measure(options, Path(folder))
    except BenchFailed as failure:
        print(f"bench.providers: {failure}", file=sys.stderr)
        return 1
    say("\n" + "\n".join(f"{name}: {value}" for name, value in machine().items()) + "\n")
    say(_table(carriers))
    if options.json:
        rows = {each.name: vars(each.measured) for each in carriers}
        options.json.write_text(json.dumps({"machine": machine(), "pairs": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
