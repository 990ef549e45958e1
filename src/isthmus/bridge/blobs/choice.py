"""Where a Bridge keeps the built-in blobs: a folder of its own, one that Bridges share, or an object store by URL."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from isthmus.bridge.blobs.book import BlobBook
from isthmus.bridge.blobs.objects import KEYS_HINT, ObjectBlobStore
from isthmus.bridge.blobs.shared import SharedBlobStore
from isthmus.bridge.blobs.store import Allowance, BlobStore
from isthmus.bridge.config import BridgeConfig
from isthmus.bridge.database import Database
from isthmus.cloudio.providers import blobstore_provider
from isthmus.cloudio.retry import RetryingBlobstore
from isthmus.cloudio.way import way_to
from isthmus.errors import OperatorError
from isthmus.kit.clock import Clock
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.provider import GivenKeys, Loan, Surroundings, Unmetered

_TRIES: Final = 2  # a single 503 is no trouble yet


def is_url(blobs: str) -> bool:
    """Return whether --blobs names an object store, rather than a folder."""
    return "://" in blobs


def blob_store(config: BridgeConfig, database: Database, clock: Clock) -> BlobStore:
    """Return the built-in blobstore; nothing is read or asked yet. Raises OperatorError if the URL or keys are none."""
    live = Allowance(config.blob_quota, config.blob_seconds)
    queued = Allowance(config.queue_quota, config.queue_seconds)
    folder = config.data / "blobs"
    if config.blobs is not None and is_url(config.blobs):
        store = RetryingBlobstore(_opened(config.blobs, config.blobs_keys), tries=_TRIES)
        return ObjectBlobStore(store, BlobBook(database), folder, clock, live=live, queued=queued)
    kind = SharedBlobStore if database.is_shared else BlobStore
    return kind(Path(config.blobs) if config.blobs else folder, clock, live=live, queued=queued)


def _opened(url: str, keys: Mapping[str, str]) -> Blobstore:
    provider = blobstore_provider(url)
    hosts = provider.hosts(url)
    for secret in provider.secrets:
        if secret.required and not keys.get(secret.name):
            raise OperatorError(f"--blobs: {secret.name} is missing: {secret.meaning}", hint=KEYS_HINT)
    known = [secret.name for secret in provider.secrets]
    for name in keys:
        if name not in known:
            raise OperatorError(f"--blobs: there is no key '{name}'", hint=f"known: {', '.join(known) or 'none'}")
    return provider.open(url, Surroundings(GivenKeys(Loan(keys)), way_to(hosts, None), Unmetered()))
