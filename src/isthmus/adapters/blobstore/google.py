"""What is asked of Google besides blobs: tokens, narrower tokens, buckets."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import urlencode, urlsplit

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from isthmus.adapters.blobstore.trouble import Service
from isthmus.adapters.blobstore.web import Web
from isthmus.errors import ProviderTrouble, Retry
from isthmus.kit.clock import Clock, SystemClock
from isthmus.ports.provider import LOAN_SECONDS, Way

_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.full_control"
_ACCESS: Final = "urn:ietf:params:oauth:token-type:access_token"
_MOST_ANSWER: Final = 1024 * 1024
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A key of a service account, as Google writes it into a file."""

    email: str
    project: str
    token_uri: str
    private_key: rsa.RSAPrivateKey = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the file. Raises ProviderTrouble."""
        try:
            fields = json.loads(text)
            private_key = load_pem_private_key(fields["private_key"].encode(), None)
            token_uri = str(fields["token_uri"])
            if not isinstance(private_key, rsa.RSAPrivateKey) or urlsplit(token_uri).scheme not in {"https", "http"}:
                raise TypeError
            return cls(str(fields["client_email"]), str(fields.get("project_id", "")), token_uri, private_key)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ProviderTrouble(
                "service_account_key is no key of a service account",
                retry=Retry.NEVER,
                hint="give the whole JSON file that Google made: --secret-file",
            ) from None

    def assertion(self, now: float) -> str:
        """Return what a token is got for (RFC 7523 section 3)."""
        claims = {
            "iss": self.email,
            "scope": _SCOPE,
            "aud": self.token_uri,
            "iat": int(now),
            "exp": int(now + LOAN_SECONDS),
        }
        head = _base64url(json.dumps({"alg": "RS256", "typ": "JWT"}).encode())
        signed = f"{head}.{_base64url(json.dumps(claims).encode())}"
        return f"{signed}.{_base64url(self.private_key.sign(signed.encode(), padding.PKCS1v15(), SHA256()))}"


class Google:
    """Asks with a service account's key, or with a token that was got for it."""

    def __init__(self, service: Service, way: Way, *, clock: Clock | None = None) -> None:
        self._service = service
        self._web = Web(service, way)
        self._clock = clock or SystemClock()

    def __repr__(self) -> str:
        return f"<Google for {self._service}>"

    async def token(self, account: ServiceAccount) -> tuple[str, float]:
        """Return a token of the account, and until when it is good. Raises ProviderTrouble."""
        grant = {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": account.assertion(self._clock.now()),
        }
        return await self._get(account.token_uri, grant)

    async def narrowed(self, sts: str, token: str, boundary: Mapping[str, Any]) -> tuple[str, float]:
        """Return a token that may do no more than `boundary` says (RFC 8693). Raises ProviderTrouble."""
        exchange = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token_type": _ACCESS,
            "requested_token_type": _ACCESS,
            "subject_token": token,
            "options": json.dumps(boundary),
        }
        return await self._get(f"{sts}/v1/token", exchange)

    async def api(
        self, method: str, url: str, token: str, purpose: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """Ask the store's JSON API; None if what is asked for is not there. Raises ProviderTrouble."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        sent = None if body is None else json.dumps(body).encode()
        answer = await self._web.ask(purpose, method, url, headers=headers, body=sent, most=_MOST_ANSWER)
        if answer.status == 404 and method == "GET":
            return None
        if answer.status >= 300:
            raise self._service.refusal(purpose, answer.status)
        return self._read(answer.body)

    async def close(self) -> None:
        """Let go of connections."""
        await self._web.close()

    async def _get(self, url: str, form: Mapping[str, str]) -> tuple[str, float]:
        body = urlencode(form).encode()
        answer = await self._web.ask("get a token", "POST", url, headers=_FORM, body=body, most=_MOST_ANSWER)
        if answer.status in {400, 401}:
            hint = "has the key been deleted at Google? is the clock of this machine right?"
            raise ProviderTrouble(f"{self._service}: Google refuses the key", retry=Retry.NEVER, hint=hint)
        if answer.status >= 300:
            raise self._service.refusal("get a token", answer.status)
        fields = self._read(answer.body)
        if not isinstance(fields.get("access_token"), str):
            raise self._service.unreachable("what answers is not Google")
        return fields["access_token"], self._clock.now() + float(fields.get("expires_in", LOAN_SECONDS))

    def _read(self, body: bytes) -> dict[str, Any]:
        try:
            fields = json.loads(body)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise self._service.unreachable("what answers is not Google")
        return fields


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
