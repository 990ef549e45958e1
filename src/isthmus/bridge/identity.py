"""The Bridge's own key, which every invite pins."""

from pathlib import Path
from typing import Final

from isthmus.envelope.identity import Identity, Random
from isthmus.kit.files import write_durably

_FILE: Final = "identity.key"


def load_identity(folder: Path, random: Random) -> Identity:
    """Return the identity of a data folder, made at first need. Raises OperatorError if its file is damaged."""
    path = folder / _FILE
    if not path.exists():
        identity = Identity.generate(random)
        write_durably(path, identity.private)
        return identity
    return Identity.from_private(path.read_bytes())
