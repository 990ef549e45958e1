"""What holds for all tests."""

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
