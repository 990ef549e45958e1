"""The roads an institution could take instead: nothing at all, a pair of stunnels, an SSH tunnel."""

import contextlib
import getpass
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.devices import Door, Nagle
from bench.machine import HERE, Place, Started, require, running, wait_listening
from isthmus.testing.free_ports import free_port

STUNNEL = "/usr/bin/stunnel4"
SSH = "/usr/bin/ssh"
SSHD = "/usr/sbin/sshd"
SSH_KEYGEN = "/usr/bin/ssh-keygen"
OPENSSL = "/usr/bin/openssl"


@dataclass(frozen=True)
class Road:
    """A way from the sending device to each of the receiving ones, kept open for a whole benchmark."""

    name: str
    doors: Mapping[Nagle, Door]
    """Where the sender knocks to reach the receiver of that kind."""
    processes: tuple[Started, ...] = ()


OpenRoad = Callable[[Mapping[Nagle, Door]], AbstractContextManager[Road]]


@contextlib.contextmanager
def direct(receivers: Mapping[Nagle, Door]) -> Iterator[Road]:
    """No road at all: the sender connects to the receiver."""
    yield Road("direct", receivers)


@contextlib.contextmanager
def stunnel_pair(receivers: Mapping[Nagle, Door], *, sending: Place = HERE, receiving: Place = HERE) -> Iterator[Road]:
    """Two stunnels with TLS 1.3 between them and a certificate made for this run."""
    require(STUNNEL, OPENSSL)
    with tempfile.TemporaryDirectory(prefix="bench-stunnel-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        _make_certificate(folder)
        middle = {nagle: free_port() for nagle in receivers}
        near = {nagle: free_port() for nagle in receivers}
        common = "foreground = yes\npid =\nsyslog = no\ndebug = err\nsslVersionMin = TLSv1.3\n"
        far_side = common + f"cert = {folder}/cert.pem\nkey = {folder}/key.pem\n"
        near_side = common + f"client = yes\nCAfile = {folder}/cert.pem\nverifyChain = yes\ncheckHost = localhost\n"
        for nagle, door in receivers.items():
            far_side += (
                f"[{nagle.name}]\naccept = {receiving.address}:{middle[nagle]}\nconnect = {door.host}:{door.port}\n"
            )
            entry, onward = f"{sending.address}:{near[nagle]}", f"{receiving.address}:{middle[nagle]}"
            near_side += f"[{nagle.name}]\naccept = {entry}\nconnect = {onward}\n"
        (folder / "far.conf").write_text(far_side)
        (folder / "near.conf").write_text(near_side)
        far = stack.enter_context(running("stunnel-far", [*receiving.prefix, STUNNEL, f"{folder}/far.conf"]))
        for port in middle.values():
            wait_listening(far, port)
        close = stack.enter_context(running("stunnel-near", [*sending.prefix, STUNNEL, f"{folder}/near.conf"]))
        for port in near.values():
            wait_listening(close, port)
        yield Road("stunnel pair", _through(near, receivers, sending), (close, far))


@contextlib.contextmanager
def ssh_tunnel(receivers: Mapping[Nagle, Door]) -> Iterator[Road]:
    """An `ssh -L` to an sshd of our own on loopback, with the ciphers OpenSSH agrees on by itself."""
    require(SSH, SSHD, SSH_KEYGEN)
    with tempfile.TemporaryDirectory(prefix="bench-ssh-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        for key in ("host", "user"):
            make_key = [SSH_KEYGEN, "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", f"{folder}/{key}"]
            subprocess.run(make_key, check=True)
        port = free_port()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
        (folder / "sshd.conf").write_text(
            f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
            "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
            "AllowTcpForwarding local\nLogLevel ERROR\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's empty folder, made at boot elsewhere
        daemon = stack.enter_context(running("sshd", [SSHD, "-D", "-e", "-f", f"{folder}/sshd.conf"]))
        wait_listening(daemon, port)
        near = {nagle: free_port() for nagle in receivers}
        command = [SSH, "-N", "-F", "/dev/null", "-i", f"{folder}/user", "-p", str(port), "-l", getpass.getuser()]
        for option in (
            f"UserKnownHostsFile={folder}/known_hosts",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "ExitOnForwardFailure=yes",
        ):
            command += ["-o", option]
        for nagle, door in receivers.items():
            command += ["-L", f"127.0.0.1:{near[nagle]}:{door.host}:{door.port}"]
        tunnel = stack.enter_context(running("ssh", [*command, "127.0.0.1"]))
        for port in near.values():
            wait_listening(tunnel, port)
        yield Road("SSH tunnel", _through(near, receivers, HERE), (tunnel, daemon))


def _through(ports: Mapping[Nagle, int], receivers: Mapping[Nagle, Door], place: Place) -> dict[Nagle, Door]:
    return {nagle: Door(place.address, ports[nagle], door.called) for nagle, door in receivers.items()}


def _make_certificate(folder: Path) -> None:
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    kind = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    files = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run([OPENSSL, *kind, *names, *files], check=True, capture_output=True)
