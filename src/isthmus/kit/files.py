"""Files that survive a power cut, and the lock that makes a data folder one process's own."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from isthmus.errors import OperatorError
from isthmus.kit import platform

_DAMAGED = "put it back from a backup; if it is control.json, start what runs there again"


def write_durably(path: Path, content: bytes, *, private: bool = True) -> None:
    """Replace `path` by `content`, all or nothing, durable when this returns. `private`: readable by its owner only.

    Raises OSError if it could not be made durable; the old file is then still whole.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    platform.fsync_folder(path.parent)


def make_private_folder(folder: Path) -> Path:
    """Make `folder` and its parents, readable by their owner only; return it. Raises OperatorError if it may not."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(
            f"cannot make the data folder {folder}: {error.strerror}", hint="choose another with --data DIR"
        ) from error
    return folder


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process. Raises OperatorError if another one has it."""
    with (folder / "lock").open("a+b") as file:
        if not platform.try_lock(file.fileno()):
            raise OperatorError(
                f"{folder} is in use by another Isthmus process", hint="stop it first, or choose another --data DIR"
            )
        yield


def read_json(path: Path) -> dict[str, object] | None:
    """Return the JSON object in `path`, or None if there is no such file. Raises OperatorError if it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise OperatorError(f"{path} is damaged: {error}", hint=_DAMAGED) from error
    if not isinstance(value, dict):
        raise OperatorError(f"{path} is damaged: not a JSON object", hint=_DAMAGED)
    return value
