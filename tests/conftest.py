"""What holds for all tests."""

import faulthandler
import os
from typing import Final

import pytest

from isthmus.testing import depth

_NIGHTLY_SECONDS: Final = 6 * 3600.0
_STDERR: Final = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep a way to the real standard error, which is not captured yet."""
    config.stash[_STDERR] = os.dup(2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what digs deeper at night as `slow`, and at night give it the night's time."""
    for item in items:
        module = item.getparent(pytest.Module)
        names = vars(module.obj) if module is not None else {}
        if names.get("depth") is depth or names.get("count") is depth.count:
            item.add_marker(pytest.mark.slow)
            if os.environ.get("ISTHMUS_TEST_DEPTH") == "nightly":
                item.add_marker(pytest.mark.timeout(_NIGHTLY_SECONDS), append=False)


def _has_more_time(item: pytest.Item) -> bool:
    own = item.get_closest_marker("timeout")
    return own is not None and bool(own.args[0] >= _limit(item))


def _limit(item: pytest.Item) -> float:
    return float(item.config.getini("faulthandler_timeout"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let a test that has more time of its own than `faulthandler_timeout` have it: the run is not ended in it."""
    if _has_more_time(item):
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Limit what clears up behind a test that failed, too: with its failure pytest has let go of the limit."""
    if not _has_more_time(item):
        faulthandler.dump_traceback_later(_limit(item), exit=True, file=item.config.stash[_STDERR])
