"""Packets between Bridges: sealed, numbered, and full of words.

Whoever reaches the bus could otherwise revoke Routers or read who calls whom. The key comes from the identity that all
Bridges of a network have, and from the names of the two, which each Bridge makes anew when it starts: so nothing that
was said to a Bridge before can be said to it again.

Layout: sender (8 bytes), number (8), sealed words; each word is its length (4 bytes), its kind (1) and its body.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from isthmus.envelope.identity import Identity
from isthmus.envelope.keys import expand, extract

NAME_BYTES: Final = 8
_SALT: Final = b"isthmus/bridge-bus/v1"
_HEAD_BYTES: Final = NAME_BYTES + 8
_WORD_HEAD: Final = 5


class Kind(IntEnum):
    """What a word between two Bridges is about. One that is not known here is ignored: a newer Bridge may say more."""

    HERE = 1  # to everybody; body: empty
    HELLO = 2  # body: empty; please say all that you know
    STATE = 3  # body: all that the sender knows, JSON
    BEAT = 4  # body: version of the network that the sender has (8 bytes)
    LEAVING = 5  # body: empty; my Routers are about to connect elsewhere
    PRESENCE = 6  # body: stamp (8 bytes, 0: gone), mailbox
    NOTICE = 7  # body: length of the mailbox (1 byte), mailbox, notice
    TOUCHED = 8  # body: JSON
    OPENED = 9  # body: a session, JSON
    ENDED = 10  # body: JSON
    COUNTED = 11  # body: JSON
    HEARD = 12  # body: JSON; a Router's release, and which cloud pairs it can use
    PROVIDERS = 13  # body: empty; the list of cloud pairs is another
    NONCE = 14  # body: nonce of a request that was taken, Router ID
    RENEWED = 15  # body: empty; a file that the Bridges share is another
    BLOB = 16  # body: JSON; a blob was put
    NO_BLOBS = 17  # body: JSON; names of blobs that were deleted


Word = tuple[bytes | memoryview, ...]


def make_word(kind: Kind, *body: bytes | memoryview) -> Word:
    """Return a word in parts, so that a long body is copied once only."""
    size = 1 + sum(len(part) for part in body)
    return (size.to_bytes(4, "big") + bytes((kind,)), *body)


def words_of(content: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield kind and body of each word; what is cut off at the end is left out."""
    view = memoryview(content)
    start = 0
    while start + _WORD_HEAD <= len(view):
        end = start + 4 + int.from_bytes(view[start : start + 4], "big")
        if end > len(view):
            return
        yield view[start + 4], view[start + _WORD_HEAD : end]
        start = end


class Seals:
    """Seals what one Bridge says, and opens what is said to it."""

    def __init__(self, identity: Identity, name: str) -> None:
        """Prepare the keys of the Bridge `name` (16 hexadecimal digits, new in each run)."""
        self._secret = extract(_SALT, identity.private)
        self._name = name
        self._ciphers: dict[tuple[str, str], AESGCM] = {}
        self._numbers: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Seals of {self._name}>"

    def seal(self, to: str, words: Iterable[Word]) -> bytes:
        """Return the next packet to a Bridge, or to everybody."""
        number = self._numbers[to] = self._numbers.get(to, 0) + 1
        head = bytes.fromhex(self._name) + number.to_bytes(8, "big")
        content = b"".join([part for word in words for part in word])
        return head + self._cipher(self._name, to).encrypt(head[NAME_BYTES:].rjust(12, b"\0"), content, None)

    def open(self, to: str, packet: bytes) -> tuple[str, int, bytes] | None:
        """Return sender, number and words of a packet to `to`, or None if nobody of this network sealed it."""
        sender = packet[:NAME_BYTES].hex()
        number = packet[NAME_BYTES:_HEAD_BYTES]
        try:
            content = self._cipher(sender, to).decrypt(number.rjust(12, b"\0"), packet[_HEAD_BYTES:], None)
        except (InvalidTag, ValueError):
            return None
        finally:
            if len(self._ciphers) > 1000:
                self._ciphers.clear()
        return sender, int.from_bytes(number, "big"), content

    def _cipher(self, sender: str, to: str) -> AESGCM:
        cipher = self._ciphers.get((sender, to))
        if cipher is None:
            cipher = self._ciphers[sender, to] = AESGCM(expand(self._secret, f"{sender} {to}".encode(), 32))
        return cipher
