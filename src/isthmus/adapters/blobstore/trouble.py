"""What a store's refusals mean, in our words. Nothing that a store says is shown but its error code."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from isthmus.errors import ContainerMissing, ProviderTrouble, Retry

MAX_NAME: Final = 512
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_CODE: Final = re.compile(r"<Code>([A-Za-z][A-Za-z0-9.]{0,63})</Code>")
_EXPIRED_WORDS: Final = re.compile(r"(?i)request has expired|token.{0,40}expired|not valid in the specified time frame")

_NO_CONTAINER: Final = frozenset({"NoSuchBucket", "ContainerNotFound"})
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_SKEWED: Final = frozenset({"RequestTimeTooSkewed"})
_WRONG_KEY: Final = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "InvalidToken",
        "AuthenticationFailed",
        "AuthorizationFailure",
        "InvalidClientTokenId",
    }
)
_FULL: Final = frozenset({"QuotaExceeded", "InsufficientStorage"})
_PASSING: Final = frozenset(
    {"RequestTimeout", "OperationAborted", "ConditionalRequestConflict", "SlowDown", "ServerBusy", "Throttling"}
)
_TOO_LARGE: Final = frozenset({"EntityTooLarge", "RequestBodyTooLarge"})
EXPIRED: Final = "ExpiredToken"


@dataclass(frozen=True, slots=True)
class Service:
    """How a store is called in messages.

    Attributes:
        title: what it is.
        at: where it is: HOST:PORT.
        container: what holds the blobs, for people: `bucket images`.
        needs: which permission each operation needs, in the store's own words.
    """

    title: str
    at: str
    container: str
    needs: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.title} at {self.at}"

    def refusal(self, operation: str, status: int, code: str = "") -> ProviderTrouble:
        """Return what an answer means that is not a success; `code` is the store's own word for it, or empty."""
        said = code or f"HTTP {status}"
        if code in _NO_CONTAINER:
            hint = f"isthmus provider setup makes the {self.container.partition(' ')[0]}"
            return ContainerMissing(f"{self}: there is no {self.container} ({said})", hint=hint)
        if code in _EXPIRED:
            return ProviderTrouble(f"{self}: the keys have expired ({said})", retry=Retry.LATER)
        if code in _SKEWED:
            hint = "set the clock of this machine by NTP"
            return ProviderTrouble(f"{self}: this machine's clock is wrong ({said})", retry=Retry.NEVER, hint=hint)
        if code in _FULL or status == 507:
            hint = f"raise the quota of the {self.container}"
            return ProviderTrouble(f"{self}: the store is full ({said})", retry=Retry.LATER, hint=hint)
        if code in _TOO_LARGE or status == 413:
            return ProviderTrouble(f"{self}: the blob is too large ({said})", retry=Retry.NEVER)
        if code in _PASSING or status == 429 or status in {408, 425} or status >= 500:
            return ProviderTrouble(f"{self} is busy or in trouble itself ({said})", retry=Retry.LATER)
        if code in _WRONG_KEY:
            hint = "check the keys; if they are right, the clock of this machine"
            return ProviderTrouble(f"{self} refuses the keys or their signature ({said})", retry=Retry.NEVER, hint=hint)
        if status in {401, 403}:
            return self._forbidden(operation, said)
        if status == 407:
            return ProviderTrouble(f"{self}: the proxy wants an account", retry=Retry.LATER, hint="set HTTPS_PROXY")
        return ProviderTrouble(f"{self} does not {operation} ({said})", retry=Retry.NEVER)

    def late(self, operation: str) -> ProviderTrouble:
        """Return what a time-out means."""
        return ProviderTrouble(f"{self}: no answer to a {operation} in time", retry=Retry.LATER)

    def unreachable(self, why: str = "") -> ProviderTrouble:
        """Return what a connection that failed or broke means."""
        return ProviderTrouble(
            f"{self} cannot be reached{f': {why}' if why else ''}",
            retry=Retry.LATER,
            hint=f"is {self.at} open in the firewall or proxy?",
        )

    def untrusted(self) -> ProviderTrouble:
        """Return what a certificate means that nobody here trusts."""
        return ProviderTrouble(
            f"{self}: nobody that is trusted here vouches for its certificate",
            retry=Retry.LATER,
            hint="if a proxy re-signs TLS, or the store has a CA of its own: give that CA",
        )

    def too_large(self, size: int, most: int) -> ProviderTrouble:
        """Return what a blob means that is larger than the store's traits say."""
        return ProviderTrouble(f"{self}: a blob of {size} bytes is too large, {most} is the most", retry=Retry.NEVER)

    def contested(self) -> ProviderTrouble:
        """Return what a name means that was taken a moment ago, and is free again."""
        return ProviderTrouble(f"{self}: another put of the same blob is under way", retry=Retry.LATER)

    def _forbidden(self, operation: str, said: str) -> ProviderTrouble:
        needed = self.needs.get(operation)
        return ProviderTrouble(
            f"{self}: the keys may not {operation} in the {self.container} ({said})",
            retry=Retry.NEVER,
            hint=f"the permission {needed} is needed" if needed else "check the keys",
        )


def was_closed() -> ProviderTrouble:
    """Return what is said to those who still use a store that was closed, as when there are other keys for it."""
    return ProviderTrouble("this blobstore was closed", retry=Retry.NEVER)


def code_of(text: str) -> str:
    """Return the error code in an answer's XML, or an empty text. What only its words call expired is so called."""
    if _EXPIRED_WORDS.search(text):
        return EXPIRED
    found = _CODE.search(text)
    return found[1] if found else ""


def is_about_container(code: str) -> bool:
    """Return whether a "not found" is about the bucket, rather than about a blob."""
    return code in _NO_CONTAINER


def check_name(name: str) -> str:
    """Return the name of a blob. Raises ProviderTrouble if it is none: it must not lead elsewhere."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ProviderTrouble("this is not the name of a blob", retry=Retry.NEVER)
    return name


def seconds_for(size: int) -> float:
    """Return how long a request may take that carries so many bytes: 64 kB a second is what a line must do at least."""
    return 20.0 + size / 64_000
