"""Where letters and the blobs of envelopes are found: nobody but the two sides can guess (docs/protocol/queued.md)."""

import hmac
import re
from typing import Final

from isthmus.contract.documents import MailboxPrefix
from isthmus.envelope.identity import Random
from isthmus.errors import LocalMisuse

QUEUED_PREFIX: Final = "q/"  # of all names of queued delivery
MAX_COUNTER: Final = 10**12 - 1
_PREFIX_BYTES: Final = 20  # nobody finds a mailbox by trying names
_NAME_CHARACTERS: Final = 40
_PREFIX: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)


def new_prefix(random: Random) -> MailboxPrefix:
    """Return the prefix of a new mailbox: 40 hex digits."""
    return random(_PREFIX_BYTES).hex()


def letter_name(prefix: MailboxPrefix, counter: int) -> str:
    """Return the name of letter `counter`, from 1, in the mailbox. Raises LocalMisuse for what can be neither."""
    if not _PREFIX.fullmatch(prefix) or not 0 < counter <= MAX_COUNTER:
        raise LocalMisuse("there is no such mailbox, or no such letter in it")
    return f"{QUEUED_PREFIX}{prefix}/{counter:012}"


def envelope_blob_names(name_key: bytes, count: int) -> list[str]:
    """Return the names of all `count` blobs of the envelope with this name key."""
    return [envelope_blob_name(name_key, index) for index in range(count)]


def envelope_blob_name(name_key: bytes, index: int) -> str:
    """Return the name of blob `index`, from 0, of the envelope with this name key."""
    return QUEUED_PREFIX + hmac.digest(name_key, index.to_bytes(8, "big"), "sha256").hex()[:_NAME_CHARACTERS]
