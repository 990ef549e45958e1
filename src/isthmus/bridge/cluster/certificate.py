"""The self-made certificate that all Bridges of a network show, so that a Router meets the same one at each of them.

It lies in the database, its key sealed under the identity that the Bridges have in common.
"""

import datetime as dt
import json
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import LargeBinary, String, select
from sqlalchemy.orm import Mapped, mapped_column

from isthmus.bridge.config import BridgeConfig
from isthmus.bridge.database import Base, Database
from isthmus.bridge.register import NetworkRow
from isthmus.bridge.tls import RENEW_BEFORE, certificate_files, make_certificate, names_for
from isthmus.envelope.identity import Identity, Random
from isthmus.envelope.keys import expand, extract
from isthmus.errors import OperatorError
from isthmus.kit.clock import Clock
from isthmus.kit.files import write_durably

_NAME: Final = "tls"
_SALT: Final = b"isthmus/shared-files/v1"
_NONCE_BYTES: Final = 12


class SharedFileRow(Base):
    """A file that all Bridges have, sealed."""

    __tablename__ = "shared_files"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)


class SharedCertificate:
    """Certificate and key of all Bridges, copied to this one's folder."""

    def __init__(self, database: Database, config: BridgeConfig, identity: Identity, clock: Clock, random: Random):
        self._database = database
        self._config = config
        self._clock = clock
        self._random = random
        self._cipher = AESGCM(expand(extract(_SALT, identity.private), _NAME.encode(), 32))

    def __repr__(self) -> str:
        return "<SharedCertificate>"

    async def refresh(self) -> bool:
        """Have the certificate that the others have in the folder; return whether it was made here, being due.

        Raises OperatorError if it was sealed under another identity, ProviderTrouble if the database is away.
        """
        now = dt.datetime.fromtimestamp(self._clock.now(), dt.UTC)
        async with self._database.transaction() as session:
            await session.scalars(select(NetworkRow).with_for_update())  # one at a time
            row = await session.get(SharedFileRow, _NAME)
            pair = None if row is None else self._open(row.sealed)
            made = pair is None or _expires(pair[0]) - RENEW_BEFORE < now
            if pair is None or made:
                pair = make_certificate(names_for(self._config), now)
                await session.merge(SharedFileRow(name=_NAME, sealed=self._seal(*pair)))
        for path, content in zip(certificate_files(self._config), pair, strict=True):
            if not path.exists() or path.read_bytes() != content:
                write_durably(path, content)
        return made

    def _seal(self, certificate: bytes, key: bytes) -> bytes:
        nonce = self._random(_NONCE_BYTES)
        content = json.dumps([certificate.decode(), key.decode()]).encode()
        return nonce + self._cipher.encrypt(nonce, content, _NAME.encode())

    def _open(self, sealed: bytes) -> tuple[bytes, bytes]:
        try:
            content = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _NAME.encode())
        except InvalidTag as error:
            raise OperatorError("the certificate in the database was sealed under another identity key") from error
        certificate, key = json.loads(content)
        return certificate.encode(), key.encode()


def _expires(certificate: bytes) -> dt.datetime:
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc
