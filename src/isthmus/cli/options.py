"""Options that many commands share, and the values that people type into them."""

import re
from datetime import datetime, time, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from cyclopts import Parameter, validators

from isthmus.errors import OperatorError
from isthmus.kit import platform

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION: Final = re.compile(r"(\d+)([smhdw])")


class Part(StrEnum):
    """The two programs that keep a data folder."""

    ROUTER = "router"
    BRIDGE = "bridge"


_MARKS: Final = {Part.ROUTER: "prekeys", Part.BRIDGE: "address.json"}  # what only the data folder of that part has


Data = Annotated[
    Path | None,
    Parameter(
        name="--data",
        env_var="ISTHMUS_DATA",
        metavar="DIR",
        help="data folder of the Router or Bridge; without it, the usual place of this system",
    ),
]
Limit = Annotated[int, Parameter(name="--limit", validator=validators.Number(gte=1), help="how many rows.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="print JSON, for programs to read")]


def folder_of(part: Part, data: Path | None) -> Path:
    """Return the data folder of `part`: what --data or ISTHMUS_DATA named, or the usual place of this system.

    Raises OperatorError if that is a file, or holds the other part: one ISTHMUS_DATA is easily set for both.
    """
    folder = (data or platform.default_data_folder(part.value)).expanduser()
    if folder.exists() and not folder.is_dir():
        raise OperatorError(f"{folder} is not a folder", hint="--data DIR names the data folder")
    for other, mark in _MARKS.items():
        if other is not part and (folder / mark).exists() and not (folder / _MARKS[part]).exists():
            raise OperatorError(
                f"{folder} is the data folder of a {other.value.capitalize()}, not of a {part.value.capitalize()}",
                hint="--data DIR names another; is ISTHMUS_DATA set?",
            )
    return folder


def parse_url(text: str) -> str:
    """Return the URL of a Bridge without a slash at its end. Raises OperatorError if Routers could not use it."""
    hint = "https://HOST or https://HOST:PORT is meant"
    parts = urlsplit(text)
    try:
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise OperatorError(f"'{text}' is not a Bridge's URL", hint=hint)
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise OperatorError(f"'{text}' has more than host and port, which a Bridge's URL has not", hint=hint)
    return text.rstrip("/")


def parse_duration(text: str) -> float:
    """Return the seconds in a duration such as 30m, 24h or 14d. Raises OperatorError."""
    match = _DURATION.fullmatch(text.strip().lower())
    if not match:
        raise OperatorError(f"'{text}' is not a duration", hint="a number and one of s, m, h, d, w: 30m, 24h, 14d")
    return float(int(match[1]) * _UNITS[match[2]])


def parse_end_of_day(text: str) -> float:
    """Return the Unix time at which the day named by a date such as 2027-03-31 ends here. Raises OperatorError."""
    try:
        day = datetime.fromisoformat(text).date()
    except ValueError as error:
        raise OperatorError(f"'{text}' is not a date", hint="year, month, day: 2027-03-31") from error
    return datetime.combine(day + timedelta(days=1), time.min).astimezone().timestamp()
