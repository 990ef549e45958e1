"""Wheels and image are built once for all tests."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.deploy.image import ROOT, Image, built_image


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels") / "dist"
    done = subprocess.run([ROOT / "scripts/build-wheels", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[Image]:
    with built_image(tmp_path_factory.mktemp("image"), wheels) as built:
        yield built
