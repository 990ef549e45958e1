"""Tests with sockets run on the event loop that the product runs on, uvloop where there is one."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from isthmus.kit.platform import new_event_loop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"product": new_event_loop}
