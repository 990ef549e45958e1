"""The few families of error. An error carries the answer that it causes, so that no driver has to translate.

A hint is for the operator who reads the log: it names what is wrong and the command that would mend it. It never
goes on the wire.
"""

from enum import Enum
from typing import Final


class IsthmusError(Exception):
    """Something went wrong that has a name; `hint` says what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint: Final = hint


class Misuse(IsthmusError):
    """The bytes or the call break the protocol."""


class LocalMisuse(Misuse):
    """Our own code asked for what the state does not allow: a bug here."""


class RemoteMisuse(Misuse):
    """The other side broke the protocol. Carries the A-ABORT that answers it (PS3.8 section 9.3.8)."""

    def __init__(self, message: str, *, source: int = 2, reason: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.source: Final = source
        self.reason: Final = reason


class AssociationRefused(IsthmusError):
    """An association that is not to be: the A-ASSOCIATE-RJ to send (PS3.8 table 9-21)."""

    def __init__(self, message: str, *, result: int, source: int, reason: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.result: Final = result
        self.source: Final = source
        self.reason: Final = reason


class AssociationAborted(IsthmusError):
    """An association that ends now: the A-ABORT to send (PS3.8 section 9.3.8)."""

    def __init__(self, message: str, *, source: int = 2, reason: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.source: Final = source
        self.reason: Final = reason


class SealBroken(IsthmusError):
    """Sealed bytes that do not verify: tampered, truncated, replayed, or for somebody else. Nothing of them is used."""


class Untrusted(IsthmusError):
    """A signature, a key or an identity that nobody here has accepted."""


class Retry(Enum):
    """When the same call may be made again."""

    NEVER = "never"
    LATER = "later"
    NOW = "now"


class ProviderTrouble(IsthmusError):
    """A provider did not do what it was asked. `retry` answers the only question a caller has."""

    def __init__(self, message: str, *, retry: Retry, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry: Final = retry


class BlobMissing(ProviderTrouble):
    """No blob of that name, or not yet: an answer, not a failure."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no blob {name}", retry=Retry.LATER)


class BlobExists(ProviderTrouble):
    """A blob of that name with other content is there already; it was not touched."""

    def __init__(self, name: str) -> None:
        super().__init__(f"blob {name} exists with other content", retry=Retry.NEVER)


class ContainerMissing(ProviderTrouble):
    """There is no such bucket or container, in which blobs could be."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, retry=Retry.NEVER, hint=hint)


class Problem(IsthmusError):
    """An HTTP answer as problem+json (RFC 9457).

    `field` names the input it is about, if it is about one; `retry_after` is Retry-After in seconds, if above 0.
    """

    def __init__(
        self, status: int, title: str, *, detail: str = "", field: str = "", hint: str = "", retry_after: int = 0
    ) -> None:
        super().__init__(detail or title, hint=hint)
        self.status: Final = status
        self.title: Final = title
        self.detail: Final = detail
        self.field: Final = field
        self.retry_after: Final = retry_after


class OperatorError(IsthmusError):
    """What an operator asked for cannot be done: the message is the line they read, the hint the next thing to try."""
