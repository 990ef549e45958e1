"""The Bridge's certificate: self-made, endorsed by its identity, renewed by itself; or the operator's own files.

Routers trust the endorsement, so that renewing changes nothing for them.
"""

import contextlib
import datetime as dt
import hashlib
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from isthmus.bridge.config import BridgeConfig
from isthmus.envelope.certificates import endorse
from isthmus.envelope.identity import Identity
from isthmus.errors import OperatorError
from isthmus.kit.clock import Clock
from isthmus.kit.files import write_durably

_LIFETIME: Final = dt.timedelta(days=397)  # as long as a browser would still take one
RENEW_BEFORE: Final = dt.timedelta(days=60)
_BACKDATED: Final = dt.timedelta(days=1)  # for Routers whose clocks are behind


class Tls:
    """The certificate in use and the context that serves it."""

    def __init__(self, config: BridgeConfig, identity: Identity, clock: Clock, *, shared: bool = False) -> None:
        """Prepare the certificate. Raises OperatorError if the operator's files cannot be used.

        `shared`: all Bridges of the network have the same one, and it is not for this one alone to renew it.
        """
        if (config.certificate is None) is not (config.key is None):
            raise OperatorError("a certificate needs its key, and a key its certificate", hint="give both files")
        self._identity = identity
        self._clock = clock
        self._own = config.certificate is None and not shared
        self.certificate_file, self.key_file = certificate_files(config)
        self._names = names_for(config)
        if self._own:
            self._renew_if_due()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._load()

    def refresh(self) -> bool:
        """Renew a self-made certificate that is due, or load the operator's if it changed; True if either happened."""
        if self._own:
            self._renew_if_due()
        if self._digest_on_disk() == self.sha256:
            return False
        self._load()
        return True

    def _load(self) -> None:
        try:
            self.context.load_cert_chain(self.certificate_file, self.key_file)
            self.sha256 = self._digest_on_disk()
        except (OSError, ValueError) as error:
            raise OperatorError(
                f"cannot use the certificate {self.certificate_file}: {error}",
                hint="two PEM files are meant: the certificate chain, and its private key without a password",
            ) from error
        self.endorsement = endorse(self._identity, self.sha256)

    def _digest_on_disk(self) -> bytes:
        leaf = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        return hashlib.sha256(leaf.public_bytes(serialization.Encoding.DER)).digest()

    def _renew_if_due(self) -> None:
        now = dt.datetime.fromtimestamp(self._clock.now(), dt.UTC)
        with contextlib.suppress(FileNotFoundError, ValueError):
            leaf = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
            key = serialization.load_pem_private_key(self.key_file.read_bytes(), None)
            fits = key.public_key() == leaf.public_key() and _names_of(leaf) == self._names
            if fits and leaf.not_valid_after_utc - RENEW_BEFORE > now:
                return
        made, private = make_certificate(self._names, now)
        write_durably(self.key_file, private)
        write_durably(self.certificate_file, made)


def certificate_files(config: BridgeConfig) -> tuple[Path, Path]:
    """Return where certificate and key are: the operator's, or those in the data folder."""
    return config.certificate or config.data / "tls.crt", config.key or config.data / "tls.key"


def make_certificate(names: Sequence[str], now: dt.datetime) -> tuple[bytes, bytes]:
    """Return a new self-signed certificate for these host names and addresses, and its key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Isthmus Bridge")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def names_for(config: BridgeConfig) -> list[str]:
    """Return the host names and addresses by which a Bridge is reached."""
    names = {"localhost", "127.0.0.1", socket.gethostname(), config.listen.host}
    if config.public_url is not None:
        names.add(urlsplit(config.public_url).hostname or "localhost")
    return sorted(name for name in names if name and name.isascii())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names_of(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return sorted(str(name.value) for name in names)
