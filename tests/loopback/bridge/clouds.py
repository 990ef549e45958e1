"""A provider in memory, looked up in place of those that are installed: its secrets are canaries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import pytest

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.adapters.signalling.memory import MemorySignalling
from isthmus.cloudio import providers
from isthmus.errors import IsthmusError, OperatorError
from isthmus.kit.names import HostPort
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.provider import Loan, Secret, Surroundings, Way
from isthmus.ports.signalling import Signalling

SIGNALLING_CANARY: Final = "CANARY-d0a3c1-signalling"
BLOBSTORE_CANARY: Final = "CANARY-77be42-blobstore"
SECRETS: Final = {"signalling.seed": SIGNALLING_CANARY, "blobstore.key": BLOBSTORE_CANARY}


@dataclass
class FakeCloud:
    """One cloud of both kinds; what it is asked is kept, and what it shall answer can be set."""

    trouble: IsthmusError | None = None
    expires: float | None = None
    lent: list[tuple[str, str]] = field(default_factory=list)
    ways: list[Way] = field(default_factory=list)
    set_up: list[tuple[str, int]] = field(default_factory=list)
    store: Blobstore = field(default_factory=MemoryBlobstore)
    service: Signalling | None = None
    at: list[HostPort] = field(default_factory=list)


class _Provider:
    title = "A cloud for tests"
    tried = ""
    secrets: Sequence[Secret] = ()

    def __init__(self, cloud: FakeCloud) -> None:
        self.cloud = cloud

    def hosts(self, url: str) -> list[HostPort]:
        parts = urlsplit(url)
        if not parts.netloc:
            raise OperatorError(f"'{url}' names no place", hint="fake://HOST/NAME is meant")
        return self.cloud.at

    async def lend(self, url: str, secrets: Mapping[str, str], router_id: str, way: Way) -> Loan:
        self.cloud.ways.append(way)
        self.cloud.lent.append((url, router_id))
        if self.cloud.trouble is not None:
            raise self.cloud.trouble
        assert set(secrets) >= {secret.name for secret in self.secrets if secret.required}
        return Loan({"for": f"{router_id} {len(self.cloud.lent)}"}, self.cloud.expires)

    async def set_up(self, url: str, secrets: Mapping[str, str], way: Way, *, keep_days: int) -> list[str]:
        if self.cloud.trouble is not None:
            raise self.cloud.trouble
        self.cloud.set_up.append((url, keep_days))
        return [f"{urlsplit(url).scheme}: made, and kept for {keep_days} days"]


class FakeSignalling(_Provider):
    tried = "a list in memory"
    secrets = (Secret("seed", "the seed that signs users"), Secret("note", "a word that nobody needs", required=False))

    def open(self, url: str, surroundings: Surroundings) -> Signalling:
        return self.cloud.service or MemorySignalling()


class FakeBlobstore(_Provider):
    secrets = (Secret("key", "the key of the bucket"),)

    def open(self, url: str, surroundings: Surroundings) -> Blobstore:
        if urlsplit(url).scheme == "lacking":
            raise OperatorError("this needs the Python package lacking", hint="pip install 'isthmus[lacking]'")
        return self.cloud.store

    async def sign(
        self, url: str, secrets: Mapping[str, str], method: str, names: Sequence[str], *, seconds: float
    ) -> list[str]:
        if self.cloud.trouble is not None:
            raise self.cloud.trouble
        return [f"{url}/{name}?method={method}&seconds={seconds:g}" for name in names]


def install(monkeypatch: pytest.MonkeyPatch) -> FakeCloud:
    """Have the schemes `fake`, `other` and `lacking` found, and return the cloud behind them."""
    cloud = FakeCloud()
    found = {providers.SIGNALLING: FakeSignalling(cloud), providers.BLOBSTORE: FakeBlobstore(cloud)}
    real = providers._provider

    def look_up(group: str, url: str) -> object:
        return found[group] if urlsplit(url).scheme in {"fake", "other", "lacking"} else real(group, url)

    monkeypatch.setattr(providers, "_provider", look_up)
    return cloud
