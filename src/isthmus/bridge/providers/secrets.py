"""The secrets of a pair, sealed for the Bridge's database: whoever copies that has nothing of them.

The key comes from the Bridge's identity, so that nobody has another key to keep. Name and URLs of the pair are bound
in: who can write to the database cannot have the secrets sent to another place.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from isthmus.contract.notices import pack_fields
from isthmus.envelope.identity import Identity, Random
from isthmus.envelope.keys import expand, extract
from isthmus.errors import OperatorError

_SALT: Final = b"isthmus/provider-secrets/v1"
_NONCE_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class PairSecrets:
    """What an operator entered for the two services of a pair, by the names that their providers give."""

    signalling: Mapping[str, str] = field(default_factory=dict, repr=False)
    blobstore: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Label:
    """What a sealed box belongs to: the pair's name, and where its secrets are sent."""

    name: str
    signalling: str
    blobstore: str

    def to_bytes(self) -> bytes:
        """Return the label as it is bound in."""
        return pack_fields((self.name.encode(), self.signalling.encode(), self.blobstore.encode()))


class Safe:
    """Seals and opens (AES-256-GCM; HKDF-SHA256 from the Bridge's identity key and the pair's name)."""

    def __init__(self, identity: Identity, random: Random) -> None:
        self._secret = extract(_SALT, identity.private)
        self._random = random

    def __repr__(self) -> str:
        return "<Safe>"

    def seal(self, label: Label, secrets: PairSecrets) -> bytes:
        """Return the secrets, encrypted."""
        content = json.dumps({"signalling": dict(secrets.signalling), "blobstore": dict(secrets.blobstore)})
        nonce = self._random(_NONCE_BYTES)
        return nonce + self._cipher(label).encrypt(nonce, content.encode(), label.to_bytes())

    def open(self, label: Label, sealed: bytes) -> PairSecrets:
        """Return what was sealed. Raises OperatorError if it was sealed under another identity, name or URL."""
        try:
            content = self._cipher(label).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], label.to_bytes())
        except (InvalidTag, ValueError) as error:
            raise OperatorError(
                f"the secrets of {label.name} in the database cannot be opened with this Bridge's identity key",
                hint=f"isthmus provider set {label.name} --ask enters them anew",
            ) from error
        fields = json.loads(content)
        return PairSecrets(fields["signalling"], fields["blobstore"])

    def _cipher(self, label: Label) -> AESGCM:
        return AESGCM(expand(self._secret, label.name.encode(), 32))
