"""Which pairs of cloud services sessions may use; the built-in one is always there."""

from typing import Final

from isthmus.contract.rest import ProviderEntry

_BUILT_IN: Final = ProviderEntry(name="bridge", signalling="bridge:", blobstore="bridge:", priority=0)


class Providers:
    """The list that every Router gets, best first."""

    def __init__(self, others: tuple[ProviderEntry, ...] = ()) -> None:
        self._entries = sorted((*others, _BUILT_IN), key=lambda entry: entry.priority)

    @property
    def all(self) -> list[ProviderEntry]:
        """Every pair, by priority."""
        return list(self._entries)
