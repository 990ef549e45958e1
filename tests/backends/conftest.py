"""One server of a kind for a whole run, started by the first test that asks for it; on the product's event loop."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
from tests.backends.servers.azurite import azurite as azurite
from tests.backends.servers.ceph import ceph as ceph
from tests.backends.servers.gcs_double import gcs_double as gcs_double
from tests.backends.servers.nats import nats_bus as nats_bus
from tests.backends.servers.postgres import server as server

from isthmus.kit.platform import new_event_loop

_ON_EITHER_LOOP = {"test_nats.py", "test_nats_keys.py"}  # own code on transports, which the loops treat differently


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"product": new_event_loop}
    if item.path.name in _ON_EITHER_LOOP:
        factories["asyncio"] = asyncio.new_event_loop
    return factories
