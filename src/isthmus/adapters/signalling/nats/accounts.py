"""NATS' own keys and statements: who may do what at a server, signed by an account that the server knows.

Keys are Ed25519 in NATS' spelling (base32 of a prefix, the key and a CRC-16); statements are JWTs of version 2, signed
with them. A server in operator mode trusts an operator, who signs accounts, which sign users. All of it is offline: no
call to the server makes a user, and so a Bridge can lend a Router its own in microseconds.
"""

import base64
import binascii
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from isthmus.errors import OperatorError

_SEED: Final = 18 << 3
_KEY_BYTES: Final = 32
_NO_LIMIT: Final = -1
_USER_SUBSCRIPTIONS: Final = 8
_TEXT_WIDTH: Final = 2


class Role(IntEnum):
    """Whose key it is: the prefix byte of its public spelling."""

    ACCOUNT = 0
    OPERATOR = 14 << 3
    USER = 20 << 3


@dataclass(frozen=True, slots=True)
class Nkey:
    """A key pair in NATS' spelling; `public` may be shown, `seed` is the secret."""

    role: Role
    raw: bytes

    def __repr__(self) -> str:
        return f"<Nkey {self.public}>"

    @classmethod
    def make(cls, role: Role) -> Self:
        """Return a new key."""
        return cls(role, secrets.token_bytes(_KEY_BYTES))

    @classmethod
    def parse(cls, seed: str, role: Role) -> Self:
        """Return the key of a seed. Raises OperatorError if it is none, or of another role."""
        text = seed.strip()
        try:
            decoded = base64.b32decode(text + "=" * (-len(text) % 8))
        except binascii.Error as error:
            raise _mistyped(role) from error
        body, check = decoded[:-2], decoded[-2:]
        if len(body) != 2 + _KEY_BYTES or binascii.crc_hqx(body, 0) != int.from_bytes(check, "little"):
            raise _mistyped(role)
        prefix = (body[0] & 7) << 5 | body[1] >> 3
        if body[0] & 0xF8 != _SEED or prefix != role:
            raise _mistyped(role)
        return cls(role, body[2:])

    @property
    def public(self) -> str:
        """What others know it by."""
        return _spell(bytes((self.role,)) + self._private().public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        """The secret itself."""
        return _spell(bytes((_SEED | self.role >> 5, (self.role & 31) << 3)) + self.raw)

    def sign(self, content: bytes) -> bytes:
        """Return an Ed25519 signature."""
        return self._private().sign(content)

    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.raw)


def operator_of(account: Nkey) -> Nkey:
    """Return the operator that goes with an account: made of its seed, so that one secret is all there is to keep."""
    return Nkey(Role.OPERATOR, hashlib.sha256(b"isthmus nats operator 1" + account.raw).digest())


def user_statement(
    signer: Nkey, user: Nkey, name: str, *, publish: str, subscribe: str, account: str, now: float, expires: float
) -> str:
    """Return the JWT of a user who may publish to `publish` and listen at `subscribe`, and nothing else.

    Args:
        signer: the account's key, or a signing key of it.
        user: whom it is about.
        name: who that is, for people.
        publish: the one pattern of subjects that may be published to.
        subscribe: the one subject that may be listened at.
        account: public key of the account, if `signer` is only a signing key of it; else empty.
        now: Unix seconds.
        expires: Unix seconds; the server ends the connection then.
    """
    nats: dict[str, Any] = {
        "type": "user",
        "version": 2,
        "pub": {"allow": [publish]},
        "sub": {"allow": [subscribe]},
        "subs": _USER_SUBSCRIPTIONS,
        "data": _NO_LIMIT,
        "payload": _NO_LIMIT,
    }
    if account and account != signer.public:
        nats["issuer_account"] = account
    return _statement(signer, user.public, name, nats, now=now, expires=expires)


def account_statement(operator: Nkey, account: Nkey, *, now: float) -> str:
    """Return the JWT by which an operator vouches for an account, without limits."""
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), _NO_LIMIT)
    nats = {"type": "account", "version": 2, "limits": {**limits, "wildcards": True}, "default_permissions": {}}
    return _statement(operator, account.public, "isthmus", nats, now=now)


def operator_statement(operator: Nkey, *, now: float) -> str:
    """Return the JWT by which an operator vouches for himself."""
    return _statement(operator, operator.public, "isthmus", {"type": "operator", "version": 2}, now=now)


def server_configuration(account: Nkey, *, now: float) -> str:
    """Return a configuration file for nats-server that trusts this account and nobody else. It holds no secret."""
    operator = operator_of(account)
    return f"""\
# nats-server -c isthmus.conf
listen: "0.0.0.0:4222"
max_payload: 1MB
max_pending: 32MB
write_deadline: "10s"  # a site that takes nothing for so long is cut off; longer where lines are slow
ping_interval: "30s"

# who may come in: users whose statements this account signed, which the Bridge does for an hour at a time
operator: {operator_statement(operator, now=now)}
resolver: MEMORY
resolver_preload: {{
  {account.public}: {account_statement(operator, account, now=now)}
}}

# for Routers behind proxies; with a certificate here, or "no_tls: true" behind something that has one
# websocket {{
#   listen: "0.0.0.0:443"
#   tls {{ cert_file: "/etc/isthmus/nats.pem", key_file: "/etc/isthmus/nats.key" }}
# }}
# for nats+tls: the same block as above, outside of websocket
"""


def _statement(
    signer: Nkey, subject: str, name: str, nats: Mapping[str, Any], *, now: float, expires: float | None = None
) -> str:
    claims: dict[str, Any] = {"iat": int(now), "iss": signer.public, "name": name, "sub": subject, "nats": nats}
    if expires is not None:
        claims["exp"] = int(expires)
    digest = hashlib.sha256(json.dumps(claims, sort_keys=True).encode()).digest()
    claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    signed = f"{_part(json.dumps(head).encode())}.{_part(json.dumps(claims).encode())}"
    return f"{signed}.{_part(signer.sign(signed.encode()))}"


def _part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _spell(body: bytes) -> str:
    return base64.b32encode(body + binascii.crc_hqx(body, 0).to_bytes(2, "little")).decode().rstrip("=")


def _mistyped(role: Role) -> OperatorError:
    letters = _spell(bytes((_SEED | role >> 5, (role & 31) << 3)) + bytes(_KEY_BYTES))[:_TEXT_WIDTH]
    return OperatorError(
        f"this is no seed of a NATS {role.name.lower()}", hint=f"it begins with {letters} and has 58 characters"
    )
