"""Where the queues are: regions, endpoints and names."""

import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qs, urlsplit

from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.kit.names import HostPort

_REGION: Final = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d+")
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9]{1,15}")  # of the 80 characters of a queue's name, a mailbox may need 64
_MAILBOX: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HTTPS_PORT: Final = 443
_USUAL_REGION: Final = "us-east-1"


@dataclass(frozen=True, slots=True)
class Place:
    """What a URL says.

    Attributes:
        region: as AWS calls it.
        namespace: what the name of every queue begins with.
        like: where something else is that speaks the protocol, keys included; None for AWS itself.
        tls: whether that is reached by HTTPS.
    """

    region: str
    namespace: str
    like: HostPort | None = None
    tls: bool = True

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `sqs://REGION/NAMESPACE` or `sqs://HOST:PORT/NAMESPACE?region=..&tls=no`. Raises OperatorError."""
        try:
            parts = urlsplit(url)
            port = parts.port
            query = {
                name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
            }
        except ValueError as error:
            raise _misread(url) from error
        namespace, host = parts.path.strip("/"), parts.hostname or ""
        if parts.scheme != "sqs" or parts.username is not None or not _NAMESPACE.fullmatch(namespace) or not host:
            raise _misread(url)
        if port is None:
            if query or not _REGION.fullmatch(host):
                raise _misread(url)
            return cls(host, namespace)
        region, tls = query.pop("region", _USUAL_REGION), query.pop("tls", "yes")
        if query or tls not in {"yes", "no"} or not _REGION.fullmatch(region):
            raise _misread(url)
        return cls(region, namespace, HostPort(host, port), tls == "yes")

    @property
    def host(self) -> HostPort:
        """What a Router connects to."""
        return self.like or HostPort(f"sqs.{self.region}.{self._domain}", _HTTPS_PORT)

    @property
    def endpoint(self) -> str:
        """Where SQS is spoken."""
        if self.like is not None:
            return f"{'https' if self.tls else 'http'}://{self.like}"
        return f"https://sqs.{self.region}.{self._domain}"

    @property
    def sts_endpoint(self) -> str:
        """Where keys are lent; only the Bridge goes there."""
        return self.endpoint if self.like is not None else f"https://sts.{self.region}.{self._domain}"

    def queue(self, mailbox: str) -> str:
        """Return the name of a mailbox's queue. Raises ProviderTrouble if it is no mailbox."""
        if not _MAILBOX.fullmatch(mailbox):
            raise ProviderTrouble("a mailbox has a name of 1 to 64 letters, digits, - and _", retry=Retry.NEVER)
        return f"{self.namespace}-{mailbox}"

    def queue_url(self, account: str, mailbox: str) -> str:
        """Return by which URL a mailbox's queue is called; it is always at this endpoint, whatever `account` is."""
        return f"{self.endpoint}/{account}/{self.queue(mailbox)}"

    def queue_arn(self, account: str, mailbox: str) -> str:
        """Return how policies name a mailbox's queue; `*` stands for all of the namespace."""
        name = f"{self.namespace}-*" if mailbox == "*" else self.queue(mailbox)
        return f"arn:{self._partition}:sqs:{self.region}:{account}:{name}"

    @property
    def _partition(self) -> str:
        if self.region.startswith("cn-"):
            return "aws-cn"
        return "aws-us-gov" if self.region.startswith("us-gov-") else "aws"

    @property
    def _domain(self) -> str:
        return "amazonaws.com.cn" if self._partition == "aws-cn" else "amazonaws.com"


def _misread(url: str) -> OperatorError:
    scheme = url.partition("://")[0][:20]
    return OperatorError(
        f"this is not the URL of queues at Amazon SQS (it begins with '{scheme}')",
        hint="sqs://REGION/NAMESPACE, with a namespace of 1 to 15 letters and digits; "
        "for what is like SQS, sqs://HOST:PORT/NAMESPACE[?region=REGION][&tls=no]",
    )
