"""One server of a kind for a whole test run. Each is started by the first test that asks for it."""

from tests.backends.servers.azurite import azurite as azurite
from tests.backends.servers.ceph import ceph as ceph
