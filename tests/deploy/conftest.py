"""The image is built once for all tests."""

from collections.abc import Iterator

import pytest
from tests.deploy.image import Image, built_image


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    with built_image(tmp_path_factory.mktemp("image")) as built:
        yield built
