"""How one gets to a store: TLS by a CA of the site's own, and a proxy that wants an account."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import pytest
from tests.backends.blobstores.opening import Signing, opened
from tests.backends.servers.azurite import AzuriteServer
from tests.backends.servers.ceph import OWNER, ROLE, CephServer
from tests.backends.servers.connect_proxy import connect_proxy
from tests.backends.servers.gcs_double import GcsDouble
from tests.interop.certificates import Authority

from isthmus.adapters.blobstore import azure, gcs, s3, swift
from isthmus.errors import ProviderTrouble, Retry
from isthmus.ports.provider import BlobstoreProvider, Keys, Loan, Way

PASSWORD = "CANARYPASSWORD"
STORES = ["s3", "s3 signed", "swift", "azure", "gcs"]


@dataclass(frozen=True)
class Case:
    provider: BlobstoreProvider
    url: str
    secrets: Mapping[str, str]
    keys: Keys | Mapping[str, str]
    port: int


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@contextlib.asynccontextmanager
async def in_tls(authority: Authority, port: int) -> AsyncIterator[int]:
    """Speak TLS in front of a server; yield the port."""
    made = authority.issue("store")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.certificate, made.key)
    writers: set[asyncio.StreamWriter] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far = await asyncio.open_connection("127.0.0.1", port)
        writers.update((writer, far))
        await asyncio.gather(carry(reader, far), carry(far_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


def case_of(name: str, ports: Mapping[str, int], ceph: CephServer, azurite: AzuriteServer, double: GcsDouble) -> Case:
    kind, _, signed = name.partition(" ")
    if kind == "s3":
        url = ceph.s3("ways", port=ports["ceph"]).replace("tls=no", "tls=yes")
        keys = Signing(s3.PROVIDER, url, OWNER.s3, Loan({"presigned": "yes"})) if signed else OWNER.s3
        return Case(s3.PROVIDER, url, OWNER.s3, keys, ports["ceph"])
    if kind == "swift":
        url = ceph.swift("swiftways", port=ports["ceph"]).replace("tls=no", "tls=yes")
        return Case(swift.PROVIDER, url, OWNER.swift, OWNER.swift, ports["ceph"])
    if kind == "azure":
        url = azurite.blobs("ways", port=ports["azure"]).replace("tls=no", "tls=yes")
        return Case(azure.PROVIDER, url, azurite.secrets, azurite.secrets, ports["azure"])
    url = double.url("ways", port=ports["gcs"]).replace("tls=no", "tls=yes")
    return Case(gcs.PROVIDER, url, double.secrets, double.secrets, ports["gcs"])


@pytest.fixture(params=STORES)
async def case(
    request: pytest.FixtureRequest, authority: Authority, ceph: CephServer, azurite: AzuriteServer,
    gcs_double: GcsDouble,
) -> AsyncIterator[Case]:  # fmt: skip
    async with (
        in_tls(authority, ceph.port) as ceph_port,
        in_tls(authority, azurite.blob_port) as azure_port,
        in_tls(authority, gcs_double.port) as gcs_port,
    ):
        ports = {"ceph": ceph_port, "azure": azure_port, "gcs": gcs_port}
        yield case_of(request.param, ports, ceph, azurite, gcs_double)


@pytest.mark.parametrize("by_proxy", [False, True], ids=["directly", "by a proxy"])
async def test_a_store_is_set_up_and_used_with_the_sites_ca_and_through_its_proxy(
    case: Case, authority: Authority, by_proxy: bool
) -> None:
    async with connect_proxy(f"site:{PASSWORD}") as proxy:
        at = f"http://site:{PASSWORD}@127.0.0.1:{proxy.port}" if by_proxy else None
        way = Way(at, authority.certificate)
        if case.provider is gcs.PROVIDER and by_proxy:
            pytest.skip("tokens of the double are got by plain HTTP, which this proxy does not carry")
        await case.provider.set_up(case.url, case.secrets, way, keep_days=3)
        store = opened(case.provider, case.url, case.keys, way=way)
        await store.put("way/a", b"body")
        assert await store.get("way/a") == b"body"
        await store.delete("way/a")
        await store.close()
    assert {*proxy.asked} == ({f"127.0.0.1:{case.port}"} if by_proxy else set())


async def test_keys_are_lent_through_the_sites_proxy(case: Case, authority: Authority) -> None:
    if case.provider is not s3.PROVIDER:
        pytest.skip("nobody is asked for these keys")
    async with connect_proxy(f"site:{PASSWORD}") as proxy:
        way = Way(f"http://site:{PASSWORD}@127.0.0.1:{proxy.port}", authority.certificate)
        loan = await case.provider.lend(case.url, {**OWNER.s3, "role": ROLE}, "R" * 36, way)
    assert loan.fields["session_token"]
    assert proxy.asked == [f"127.0.0.1:{case.port}"]


async def test_a_store_that_nobody_vouches_for_is_refused_and_the_hint_says_so(case: Case) -> None:
    store = opened(case.provider, case.url, case.keys)
    with pytest.raises(ProviderTrouble, match="vouches") as refused:
        await store.get("way/a")
    assert refused.value.retry is Retry.LATER
    assert "CA" in refused.value.hint
    await store.close()


async def test_a_proxy_that_refuses_is_said_without_its_password(case: Case, authority: Authority) -> None:
    async with connect_proxy("site:another") as proxy:
        way = Way(f"http://site:{PASSWORD}@127.0.0.1:{proxy.port}", authority.certificate)
        store = opened(case.provider, case.url, case.keys, way=way)
        with pytest.raises(ProviderTrouble) as refused:
            await store.get("way/a")
        await store.close()
    assert refused.value.retry is Retry.LATER
    assert PASSWORD not in f"{refused.value} {refused.value.hint}"
    assert not proxy.asked
