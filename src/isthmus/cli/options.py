"""Options that many commands share, and the values that people type into them."""

import re
from datetime import datetime, time, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from isthmus.errors import OperatorError
from isthmus.kit import platform

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION: Final = re.compile(r"(\d+)([smhdw])")


class Part(StrEnum):
    """The two programs that keep a data folder."""

    ROUTER = "router"
    BRIDGE = "bridge"


Data = Annotated[
    Path | None,
    Parameter(
        name="--data",
        env_var="ISTHMUS_DATA",
        metavar="DIR",
        help="data folder of the Router or Bridge; without it, the usual place of this system",
    ),
]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="print JSON, for programs to read")]


def folder_of(part: Part, data: Path | None) -> Path:
    """Return the data folder of `part`: what --data or ISTHMUS_DATA named, or the usual place of this system."""
    return (data or platform.default_data_folder(part.value)).expanduser()


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
