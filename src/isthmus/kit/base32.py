"""Identifiers that people read to each other over a phone: base32 in groups, with check characters."""

import hashlib

from isthmus.errors import OperatorError

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"  # RFC 4648 section 6
_GROUP = 5
_CHECK_CHARACTERS = 4  # 20 bits: one misheard identifier in a million passes


def spell(value: bytes) -> str:
    """Return `value` as base32 with check characters at the end, in groups of five joined by hyphens."""
    plain = _encode(value)
    marked = plain + _check(plain)
    return "-".join(marked[start : start + _GROUP] for start in range(0, len(marked), _GROUP))


def unspell(text: str, *, what: str = "identifier") -> bytes:
    """Return the bytes that `spell` was given; case, spaces and hyphens do not matter.

    Raises OperatorError, naming `what`, if a character is not base32 or the check characters do not agree.
    """
    marked = "".join(text.upper().split()).replace("-", "")
    plain, check = marked[:-_CHECK_CHARACTERS], marked[-_CHECK_CHARACTERS:]
    if not plain or any(character not in _ALPHABET for character in marked) or _check(plain) != check:
        raise OperatorError(f"this {what} was mistyped: its check characters do not agree", hint="compare it again")
    number = 0
    for character in plain:
        number = number << 5 | _ALPHABET.index(character)
    length = len(plain) * 5 // 8
    return (number >> (len(plain) * 5 - length * 8)).to_bytes(length, "big")


def _encode(value: bytes) -> str:
    bits = len(value) * 8
    characters = -(-bits // 5)
    number = int.from_bytes(value, "big") << (characters * 5 - bits)
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(characters)))


def _check(plain: str) -> str:
    return _encode(hashlib.sha256(b"isthmus/check/v1" + plain.encode()).digest())[:_CHECK_CHARACTERS]
