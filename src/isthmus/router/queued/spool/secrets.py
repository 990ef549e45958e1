"""The spool's secret, and what is sealed under it: objects of this site's devices, headers, columns of the ledger."""

import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from isthmus.envelope.keys import expand
from isthmus.envelope.records import SECRET_BYTES, object_secret
from isthmus.errors import OperatorError, SealBroken
from isthmus.kit.files import write_durably

_NONCE_BYTES: Final = 12
_LOCAL_LABEL: Final = b"isthmus/local/v1"
_INSTANCE_LABEL: Final = b"isthmus/instance/v1"
_NAME_LABEL: Final = b"isthmus/inbound-name/v1"


def load_secret(path: Path, random: Callable[[int], bytes], *, needed: bool) -> bytes:
    """Return the secret in `path`, which is made if it is not there.

    `needed`: something is sealed under it already. Raises OperatorError if it is then missing, or damaged.
    """
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        if needed:
            raise OperatorError(
                f"{path} is missing, and queued objects are sealed under it", hint="put it back from a backup"
            ) from None
        secret = random(SECRET_BYTES)
        write_durably(path, secret)
    if len(secret) != SECRET_BYTES:
        raise OperatorError(f"{path} is damaged: {len(secret)} bytes", hint="put it back from a backup")
    return secret


class SpoolSecrets:
    """All that is derived from the spool's secret (32 bytes). Safe from any thread."""

    def __init__(self, secret: bytes, random: Callable[[int], bytes]) -> None:
        self._secret = secret
        self._random = random
        self._local = AESGCM(expand(secret, _LOCAL_LABEL, 32))
        self._instance = expand(secret, _INSTANCE_LABEL, 32)
        self._name = expand(secret, _NAME_LABEL, 32)

    def object_secret(self, object_id: bytes) -> bytes:
        """Return the secret of an object that was sealed here."""
        return object_secret(self._secret, object_id)

    def seal_local(self, label: str, content: bytes) -> bytes:
        """Return `content` sealed for this spool only; `label` says what it is and where it stands."""
        nonce = self._random(_NONCE_BYTES)
        return nonce + self._local.encrypt(nonce, content, label.encode())

    def open_local(self, label: str, sealed: bytes) -> bytes:
        """Return what was sealed under the same label. Raises SealBroken."""
        try:
            return self._local.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], label.encode())
        except (InvalidTag, ValueError) as error:
            raise SealBroken(f"{label} was not sealed here, or is damaged") from error

    def instance_mac(self, sop_instance: str) -> bytes:
        """Return 16 bytes that are the same for the same SOP Instance UID, and say nothing about it."""
        return hmac.digest(self._instance, sop_instance.encode(), "sha256")[:16]

    def inbound_name(self, far_router: str, envelope_id: bytes) -> str:
        """Return the name of the file for an envelope: no sender can choose that of another's."""
        return hmac.digest(self._name, far_router.encode() + b"\0" + envelope_id, "sha256").hex()[:32]
