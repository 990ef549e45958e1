"""What the operator pays at a provider, and what a month comes to."""

import math
from collections.abc import Mapping
from typing import Final

from isthmus.errors import OperatorError

REQUESTS: Final = ("put", "get", "delete", "list", "publish", "receive")
"""Kinds of request; a price is that of 1,000."""
VOLUMES: Final = ("up", "out", "stored")
"""A price is that of 10^9 bytes that came in, of as many that went out, or of as many that lay there for 30 days."""
_GB: Final = 1e9
_DAYS: Final = 30.0


def check_prices(prices: Mapping[str, float]) -> dict[str, float]:
    """Return prices that can be reckoned with. Raises OperatorError naming the one that cannot."""
    for kind, price in prices.items():
        if kind not in (*REQUESTS, *VOLUMES):
            raise OperatorError(
                f"prices: there is no price of '{kind}'",
                hint=f"{', '.join(REQUESTS)} (of 1,000 requests), {', '.join(VOLUMES)} (of a GB; stored: for 30 days)",
            )
        if not math.isfinite(price) or price < 0:
            raise OperatorError(f"prices: {kind}: a number from 0 is meant, not {price}")
    return dict(prices)


def cost(prices: Mapping[str, float], counts: Mapping[str, float]) -> float | None:
    """Return what `counts` (requests by kind, bytes `up` and `out`, `byte_days`) cost; None if no price is known."""
    if not prices:
        return None
    total = sum(prices.get(kind, 0.0) * counts.get(kind, 0) / 1000 for kind in REQUESTS)
    total += sum(prices.get(kind, 0.0) * counts.get(kind, 0) / _GB for kind in ("up", "out"))
    return total + prices.get("stored", 0.0) * counts.get("byte_days", 0.0) / _GB / _DAYS
