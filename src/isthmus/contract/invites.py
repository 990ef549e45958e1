"""Invites: one line that carries where the Bridge is, who it is, for which site, and a one-use secret."""

import base64
import json
from dataclasses import dataclass
from typing import Final, Self

from isthmus.errors import OperatorError
from isthmus.kit.names import SiteName

_PREFIX: Final = "isthmus-invite-1."
SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Invite:
    """What a Router needs to join: `identity` is the Bridge's Ed25519 public key, which pins it for good."""

    url: str
    identity: bytes
    site: SiteName
    secret: bytes

    def __str__(self) -> str:
        fields = {
            "url": self.url,
            "id": base64.urlsafe_b64encode(self.identity).decode(),
            "site": self.site,
            "key": base64.urlsafe_b64encode(self.secret).decode(),
        }
        return _PREFIX + base64.urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode().rstrip(
            "="
        )

    def __repr__(self) -> str:
        return f"<Invite for {self.site} at {self.url}>"  # never the secret

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the invite in a line of text. Raises OperatorError if it is not a whole one."""
        line = "".join(text.split())
        if not line.startswith(_PREFIX):
            raise OperatorError(f"this is not an invite: it should start with {_PREFIX}", hint="copy the whole line")
        try:
            encoded = line.removeprefix(_PREFIX)
            fields = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
            invite = cls(
                str(fields["url"]),
                base64.urlsafe_b64decode(fields["id"]),
                SiteName.parse(fields["site"]),
                base64.urlsafe_b64decode(fields["key"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise OperatorError("this invite is damaged", hint="copy the whole line") from error
        if len(invite.identity) != 32 or len(invite.secret) != SECRET_BYTES:
            raise OperatorError("this invite is damaged", hint="copy the whole line")
        return invite
