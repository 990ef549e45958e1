"""Secrets as people give them: in a file, in the environment, one NAME=VALUE a line."""

import os
from pathlib import Path
from typing import Final

from isthmus.errors import OperatorError
from isthmus.kit import platform

_KEYS_FILE: Final = "ISTHMUS_BLOBS_KEYS"
_KEY: Final = "ISTHMUS_BLOBS_"


def blobs_keys(file: Path | None) -> dict[str, str]:
    """Return the keys for the store of a Bridge's blobs: those of a file, and those of the environment. The file wins.

    Raises OperatorError, also if others than its owner may read the file.
    """
    found = {
        name.removeprefix(_KEY).lower(): value
        for name, value in os.environ.items()
        if name.startswith(_KEY) and name != _KEYS_FILE and value
    }
    if file is None:
        return found
    pairs = [split(line, "--blobs-keys") for line in lines_of(file)]
    if not platform.is_private(file):
        raise OperatorError(f"--blobs-keys: others than its owner may read {file}", hint=f"chmod 600 {file}")
    return found | dict(pairs)


def split(text: str, option: str) -> tuple[str, str]:
    """Return name and value of NAME=VALUE. Raises OperatorError, which does not quote it: it may be a secret."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise OperatorError(f"{option}: NAME=VALUE is meant")
    return name.strip(), value.strip()


def lines_of(file: Path | None) -> list[str]:
    """Return the lines of a file that say something; `#` begins a comment. Raises OperatorError."""
    lines = [] if file is None else [line.strip() for line in read_text(file).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def read_text(file: Path) -> str:
    """Return what is in a file. Raises OperatorError."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise OperatorError(f"cannot read {file}: {reason}") from error
