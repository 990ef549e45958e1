"""A Router's keys on disk: its identity, its prekeys, and the network it is a member of. All 0600, none ever leaves."""

import base64
import json
import secrets
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from isthmus.contract.documents import DocumentKind, SignedDocument
from isthmus.envelope.documents import sign_document
from isthmus.envelope.identity import Identity, Random, RouterId
from isthmus.envelope.prekeys import PrekeyPair
from isthmus.errors import OperatorError
from isthmus.kit.files import make_private_folder, read_json, write_durably
from isthmus.kit.names import SiteName
from isthmus.router.routing.records import DAY

PREKEY_LIFETIME: Final = 30 * DAY  # others may seal to it for so long
PREKEY_KEPT: Final = 30 * DAY  # and it opens for so long after that
PREKEY_RENEWAL: Final = DAY


@dataclass(frozen=True, slots=True)
class Membership:
    """The network that this Router joined: where its Bridge is, the key that pins it, and our name there.

    `ca`: PEM file of a CA to trust for the Bridge's certificate, beside those of the machine.
    """

    url: str
    identity: bytes
    site: SiteName
    ca: Path | None = None


class Keys:
    """The identity and prekeys of one Router. `prekeys` maps prekey ids to pairs, those of the past two months too."""

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        prekeys: dict[bytes, PrekeyPair],
        membership: Membership | None,
        random: Random,
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.membership = membership
        self._prekeys = prekeys
        self._random = random

    @classmethod
    def open(cls, folder: Path, *, now: float, random: Random = secrets.token_bytes) -> Self:
        """Load the keys in `folder`, making what is not there yet.

        Raises OperatorError if a key file is damaged or may be read by others than its owner.
        """
        make_private_folder(folder)
        make_private_folder(folder / "prekeys")
        identity_file = folder / "identity.key"
        if identity_file.exists():
            identity = Identity.from_private(_read_private(identity_file))
        elif any((folder / "prekeys").glob("*.key")) or (folder / "membership.json").exists():
            raise OperatorError(
                f"{identity_file} is missing, though this Router has been in use",
                hint="put it back from a backup; without it the other sites must accept this site anew",
            )
        else:
            identity = Identity.generate(random)
            write_durably(identity_file, identity.private)
        pairs = [PrekeyPair.load(_read_private(file)) for file in sorted((folder / "prekeys").glob("*.key"))]
        keys = cls(folder, identity, {pair.prekey_id: pair for pair in pairs}, read_membership(folder), random)
        keys.rotate(now)
        return keys

    def __repr__(self) -> str:
        return f"<Keys of {self.router_id.spoken}: {len(self._prekeys)} prekeys>"

    @property
    def router_id(self) -> RouterId:
        """This Router's ID."""
        return self.identity.router_id

    @property
    def prekeys(self) -> Mapping[bytes, PrekeyPair]:
        """Every prekey that may still open something, by its id."""
        return self._prekeys

    @property
    def newest(self) -> PrekeyPair:
        """The prekey that others should seal to now."""
        return max(self._prekeys.values(), key=lambda pair: pair.not_after)

    def newest_age(self, now: float) -> float:
        """Return the age of the newest prekey in seconds."""
        return now - (self.newest.not_after - PREKEY_LIFETIME)

    def rotate(self, now: float) -> bool:
        """Make today's prekey if there is none yet, and destroy those that open nothing any more.

        Return whether there is a new one to publish.
        """
        for pair in list(self._prekeys.values()):
            if pair.not_after + PREKEY_KEPT < now:
                self._file(pair).unlink(missing_ok=True)
                del self._prekeys[pair.prekey_id]
        if self._prekeys and self.newest_age(now) < PREKEY_RENEWAL:
            return False
        pair = PrekeyPair.generate(self._random, now, PREKEY_LIFETIME)
        write_durably(self._file(pair), pair.export())
        self._prekeys[pair.prekey_id] = pair
        return True

    def prekey_document(self) -> SignedDocument:
        """Return the newest prekey, signed, as other sites get it."""
        return sign_document(self.identity, DocumentKind.PREKEY, self.newest.published().to_payload())

    def join(self, membership: Membership) -> None:
        """Remember the network that took this Router in."""
        fields = {
            "url": membership.url,
            "identity": base64.b64encode(membership.identity).decode(),
            "site": membership.site,
        }
        if membership.ca is not None:
            fields["ca"] = str(membership.ca)
        write_durably(self.folder / "membership.json", json.dumps(fields, indent=1).encode())
        self.membership = membership

    def _file(self, pair: PrekeyPair) -> Path:
        return self.folder / "prekeys" / f"{pair.prekey_id.hex()}.key"


def too_open(path: Path) -> bool:
    """Return whether others than its owner may read a file. Windows says so in another way, and is not asked."""
    return sys.platform != "win32" and bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def _read_private(path: Path) -> bytes:
    if too_open(path):
        raise OperatorError(f"the key file {path} may be read by others", hint=f"run: chmod 600 {path}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise OperatorError(f"cannot read the key file {path}: {error.strerror}") from error


def read_membership(folder: Path) -> Membership | None:
    """Return the network that the Router in `folder` joined, None if it has not. Raises OperatorError if damaged."""
    path = folder / "membership.json"
    fields = read_json(path)
    if fields is None:
        return None
    try:
        return Membership(
            str(fields["url"]),
            base64.b64decode(str(fields["identity"])),
            SiteName.parse(str(fields["site"])),
            Path(str(fields["ca"])) if "ca" in fields else None,
        )
    except (KeyError, ValueError, OperatorError) as error:
        raise OperatorError(f"{path} is damaged", hint="join the network again with a new invite") from error
