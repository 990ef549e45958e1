"""What holds for all tests."""

import faulthandler
import os
from typing import Final

import pytest

from isthmus.testing import depth

_NIGHTLY_SECONDS: Final = 6 * 3600.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what digs deeper at night as `slow`, and at night give it the night's time."""
    for item in items:
        module = item.getparent(pytest.Module)
        names = vars(module.obj) if module is not None else {}
        if names.get("depth") is depth or names.get("count") is depth.count:
            item.add_marker(pytest.mark.slow)
            if os.environ.get("ISTHMUS_TEST_DEPTH") == "nightly":
                item.add_marker(pytest.mark.timeout(_NIGHTLY_SECONDS), append=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let a test that has more time of its own than `faulthandler_timeout` have it: the run is not ended in it."""
    own = item.get_closest_marker("timeout")
    if own is not None and own.args[0] >= float(item.config.getini("faulthandler_timeout")):
        faulthandler.cancel_dump_traceback_later()
