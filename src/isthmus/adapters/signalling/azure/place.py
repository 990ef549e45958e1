"""Where the queues are, and what they are called."""

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qs, urlsplit

from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.kit.names import HostPort

_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}")
_NAMESPACE: Final = re.compile(r"[a-z0-9]{1,16}")
_SUFFIX: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
_MAILBOX: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLAIN_MAILBOX: Final = re.compile(r"[A-Z0-9]{1,40}")  # which a Router ID is
_USUAL_SUFFIX: Final = "core.windows.net"
_HTTPS_PORT: Final = 443
_HASH_BYTES: Final = 20


@dataclass(frozen=True, slots=True)
class Place:
    """What a URL says.

    Attributes:
        account: the storage account.
        namespace: what the name of every queue begins with.
        host: where it is.
        tls: whether by HTTPS.
        by_path: whether the account is named by the path and not by the host.
    """

    account: str
    namespace: str
    host: HostPort
    tls: bool = True
    by_path: bool = False

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `azqueue://ACCOUNT/NAMESPACE` or `azqueue://HOST:PORT/ACCOUNT/NAMESPACE`. Raises OperatorError."""
        try:
            parts = urlsplit(url)
            port = parts.port
            query = {name: found[-1] for name, found in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
        except ValueError as error:
            raise _misread(url) from error
        host, path = parts.hostname or "", parts.path.strip("/").split("/")
        if port is None:
            suffix, tls = query.pop("suffix", _USUAL_SUFFIX), "yes"
            account, at, by_path = host, HostPort(f"{host}.queue.{suffix}", _HTTPS_PORT), False
        else:
            suffix, tls = _USUAL_SUFFIX, query.pop("tls", "yes")
            account, at, by_path = path.pop(0), HostPort(host, port), True
        namespace = path[0] if len(path) == 1 else ""
        legal = _ACCOUNT.fullmatch(account) and _NAMESPACE.fullmatch(namespace) and _SUFFIX.fullmatch(suffix)
        if parts.scheme != "azqueue" or parts.username is not None or query or tls not in {"yes", "no"} or not legal:
            raise _misread(url)
        return cls(account, namespace, at, tls == "yes", by_path)

    @property
    def url(self) -> str:
        """By which the account is called."""
        if not self.by_path:
            return f"https://{self.host.host}"
        return f"{'https' if self.tls else 'http'}://{self.host}/{self.account}"

    def queue(self, mailbox: str) -> str:
        """Return the name of a mailbox's queue, which knows no capital letters. Raises ProviderTrouble.

        That of a Router can be recognised; any other is a hash.
        """
        if _PLAIN_MAILBOX.fullmatch(mailbox):
            return f"{self.namespace}-{mailbox.lower()}"
        if not _MAILBOX.fullmatch(mailbox):
            raise ProviderTrouble("a mailbox has a name of 1 to 64 letters, digits, - and _", retry=Retry.NEVER)
        digest = hashlib.sha256(mailbox.encode("ascii")).digest()[:_HASH_BYTES]
        return f"{self.namespace}-h-{base64.b32encode(digest).decode('ascii').lower()}"


def _misread(url: str) -> OperatorError:
    scheme = url.partition("://")[0][:20]
    return OperatorError(
        f"this is not the URL of queues at Azure (it begins with '{scheme}')",
        hint="azqueue://ACCOUNT/NAMESPACE, with a namespace of 1 to 16 small letters and digits; in another cloud of "
        "Azure's ?suffix=core.chinacloudapi.cn; for what is like it, azqueue://HOST:PORT/ACCOUNT/NAMESPACE[?tls=no]",
    )
