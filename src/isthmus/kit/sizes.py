"""Sizes as people type them."""

import re
from typing import Final

from isthmus.errors import OperatorError

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.ASCII | re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Return the bytes in a size such as 200GB, 1.5TB or 2GiB. Raises OperatorError."""
    match = _SIZE.fullmatch(text.strip())
    if not match or (match[3] and not match[2]):
        raise OperatorError(f"'{text}' is no size", hint="a number and a unit: 500MB, 200GB, 1.5TB, 2GiB")
    power = _POWERS[match[2].lower()]
    return round(float(match[1]) * (1024.0 if match[3] else 1000.0) ** power)
