"""When Python looks through all objects for those that only refer to each other: rarely, since everything waits."""

import gc
from typing import Final

_YOUNG: Final = 2_000  # more objects than at the last look: a new look at these; 700 by default
_OLDER: Final = 10  # looks until those are looked at again that were alive
_ALL: Final = 50  # of these until all are


def take_all_as_lasting() -> None:
    """Never look again at what there is now, and seldom at the rest. For a process that has read its state and serves.

    A Bridge with 5,000 sites stood still for a third of a second, several times a minute (bench.bridge). What is freed
    because nothing refers to it is freed at once, as always.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _OLDER, _ALL)
