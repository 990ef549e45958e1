"""A spool in a folder of its own."""

from pathlib import Path

import pytest
from tests.unit.router.queued.spool.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    folder = tmp_path / "home"
    folder.mkdir()
    return Home(folder)
