"""What is found when something is looked at for an operator."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, and what to do about it (nothing, if it is well)."""

    level: Level
    what: str
    found: str
    advice: str = ""
