"""How long to wait before the next try: doubling, bounded, with jitter so that many sites do not return at once."""

import random
from collections.abc import Iterator


def delays(first: float = 1.0, most: float = 60.0) -> Iterator[float]:
    """Yield waits in seconds for ever: each between half and the whole of a bound that doubles up to `most`."""
    bound = first
    while True:
        yield bound * random.uniform(0.5, 1.0)  # noqa: S311 - spreading load is no secret
        bound = min(bound * 2, most)
