"""Cloud services that are closed while somebody uses them: other keys came for a pair, and its sessions go on."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from isthmus.adapters.blobstore import folder
from isthmus.adapters.blobstore.folder import FolderBlobstore
from isthmus.adapters.blobstore.lent import LentBlobstore
from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.adapters.blobstore.signed import SignedBlobstore
from isthmus.adapters.blobstore.trouble import Service
from isthmus.adapters.signalling.azure import PROVIDER as AZURE
from isthmus.adapters.signalling.azure.service import AzureQueueSignalling
from isthmus.errors import ProviderTrouble, Retry
from isthmus.kit.tasks import Tasks
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.provider import Loan, Surroundings, Unmetered, Way

ROUTER = "A2" * 18


class KeysToCome:
    """Keys that the Bridge lends only once `lent` is set."""

    def __init__(self) -> None:
        self.asked, self.lent = asyncio.Event(), asyncio.Event()

    async def loan(self) -> Loan:
        self.asked.set()
        await self.lent.wait()
        return Loan({"account_key": "QUJD"})

    async def urls(self, method: str, names: Sequence[str]) -> list[str]:
        del method
        self.asked.set()
        await self.lent.wait()
        return [f"http://127.0.0.1:9/{name}" for name in names]


@asynccontextmanager
async def tasks_of_test() -> AsyncIterator[Tasks]:
    tasks = Tasks("test")
    async with asyncio.timeout(20):
        yield tasks
    await tasks.close()


async def test_a_store_that_is_closed_while_keys_are_lent_for_it_is_not_opened_any_more() -> None:
    keys, opened = KeysToCome(), list[Blobstore]()

    def opener(_: Mapping[str, str]) -> Blobstore:
        opened.append(MemoryBlobstore())
        return opened[-1]

    store = LentBlobstore(keys, opener, MemoryBlobstore().traits)
    async with tasks_of_test() as tasks:
        putting = tasks.spawn(store.put("a", b"x"), name="put", awaited=True)
        await keys.asked.wait()
        await store.close()
        keys.lent.set()
        with pytest.raises(ProviderTrouble, match="closed") as refused:
            await putting
    assert refused.value.retry is Retry.NEVER
    assert opened == []


async def test_a_store_by_signed_urls_that_is_closed_meanwhile_makes_no_connection_any_more() -> None:
    keys = KeysToCome()
    store = SignedBlobstore(Service("S3", "at", "bucket", {}), keys, Way(), MemoryBlobstore().traits, Unmetered())
    async with tasks_of_test() as tasks:
        putting = tasks.spawn(store.put("a", b"x"), name="put", awaited=True)
        await keys.asked.wait()
        await store.close()
        keys.lent.set()
        with pytest.raises(ProviderTrouble, match="closed"):
            await putting
    assert store._web._session is None


async def test_an_azure_queue_that_is_closed_while_somebody_publishes_makes_no_connection_any_more() -> None:
    keys = KeysToCome()
    service = AZURE.open("azqueue://127.0.0.1:9/account/relay?tls=no", Surroundings(keys, Way(), Unmetered()))
    assert isinstance(service, AzureQueueSignalling)
    async with tasks_of_test() as tasks:
        publishing = tasks.spawn(service.publish(ROUTER, b"x"), name="publish", awaited=True)
        await keys.asked.wait()
        await service.close()
        keys.lent.set()
        with pytest.raises(ProviderTrouble, match="closed"):
            await publishing


async def test_a_folder_that_is_closed_answers_those_whose_turn_does_not_come_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, let_go = threading.Semaphore(0), threading.Event()

    def slow(_store: FolderBlobstore, _path: Path) -> bytes:
        begun.release()
        let_go.wait()
        return b"x"

    monkeypatch.setattr(FolderBlobstore, "_get", slow)
    store = FolderBlobstore(tmp_path, Unmetered())
    async with tasks_of_test() as tasks:
        try:
            first = [tasks.spawn(store.get("a"), name="get") for _ in range(folder._LANES)]
            for _ in first:
                await asyncio.to_thread(begun.acquire)
            late = tasks.spawn(store.get("a"), name="get", awaited=True)
            await asyncio.sleep(0)
            await store.close()
            with pytest.raises(ProviderTrouble, match="closed"):
                await late
            with pytest.raises(ProviderTrouble, match="closed"):
                await store.get("a")
        finally:
            let_go.set()
        assert await asyncio.gather(*first) == [b"x"] * len(first)
