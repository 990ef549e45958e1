"""`provider test` and `provider setup` against real servers: what works, and in what words the rest is said."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.backends.servers.azurite import ACCOUNT, ACCOUNT_KEY, AzuriteServer
from tests.backends.servers.ceph import OWNER, ROLE, STRANGER, Account, CephServer
from tests.backends.servers.gcs_double import GcsDouble
from tests.backends.servers.moto import MotoServer, moto
from tests.backends.servers.nats import NatsServer, nats_server, running_nats
from tests.interop.certificates import Authority

from isthmus.adapters.signalling.nats.accounts import Nkey, Role
from isthmus.bridge.providers.trial import Step
from isthmus.testing.bridge import BridgeUnderTest, running_bridge
from isthmus.testing.free_ports import free_port

__all__ = ["moto", "nats_server"]  # fixtures


@pytest.fixture
async def bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BridgeUnderTest]:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with running_bridge(tmp_path / "bridge") as running:
        yield running


async def add(bridge: BridgeUnderTest, **fields: Any) -> None:
    await bridge.administration.run(
        "provider_add", {"name": "one", "signalling": "bridge:", "blobstore": "bridge:"} | fields
    )


async def tried(bridge: BridgeUnderTest, *steps: Step) -> list[str]:
    """Return each finding as one line; the steps after refused keys are left out, as the command does."""
    found: list[str] = []
    for step in steps or Step:
        rows = await bridge.administration.run("provider_test", {"name": "one", "step": step})
        found += [f"{row['level']} {row['what']}: {row['found']} -> {row['advice']}" for row in rows]
        if step is Step.KEYS and any(row["level"] == "bad" for row in rows):
            break
    return found


def bad(found: list[str]) -> list[str]:
    return [line for line in found if line.startswith("bad")]


async def set_up(bridge: BridgeUnderTest, keep_days: int = 30) -> str:
    answer = await bridge.administration.run("provider_setup", {"name": "one", "keep_days": keep_days})
    return " | ".join(line for lines in answer["done"].values() for line in lines)


def secrets_of(account: Account, *, role: bool = False) -> dict[str, str]:
    fields = account.s3 | ({"role": ROLE} if role else {})
    return {f"blobstore.{name}": value for name, value in fields.items()}


# S3, as Ceph's gateway speaks it


@pytest.mark.parametrize("role", [False, True], ids=["signed URLs", "session keys"])
async def test_a_bucket_is_made_and_then_works(bridge: BridgeUnderTest, ceph: CephServer, role: bool) -> None:
    await add(bridge, blobstore=ceph.s3(f"made-{'r' if role else 'u'}"), secrets=secrets_of(OWNER, role=role))
    before = bad(await tried(bridge))
    assert before
    assert "there is no bucket made-" in before[0]
    assert "isthmus provider setup" in before[0]
    done = await set_up(bridge, keep_days=9)
    assert "made-" in done
    assert "9 days" in done
    assert await set_up(bridge, keep_days=9)
    found = await tried(bridge)
    assert bad(found) == []
    words = " | ".join(found)
    for part in ("connects in", "clock goes as its clock", "put ", "MB/s up"):
        assert part in words
    assert ("lent for 60 min" if role else "signs a URL for each blob") in words
    assert "show the names" not in words


async def test_keys_that_are_refused_are_said_to_be(bridge: BridgeUnderTest, ceph: CephServer) -> None:
    wrong = secrets_of(OWNER) | {"blobstore.secret_access_key": "SKwrong"}
    await add(bridge, blobstore=ceph.s3("any"), secrets=wrong)
    found = bad(await tried(bridge))
    assert "AccessDenied" in found[0]  # all that a Ceph with STS says of a wrong signature
    assert "SKwrong" not in str(found)


async def test_a_key_that_may_not_is_told_from_a_wrong_one(bridge: BridgeUnderTest, ceph: CephServer) -> None:
    await add(bridge, blobstore=ceph.s3("owned"), secrets=secrets_of(OWNER))
    await set_up(bridge)
    await bridge.administration.run("provider_set", {"name": "one", "secrets": secrets_of(STRANGER)})
    found = bad(await tried(bridge))
    assert "may not put" in found[0]
    assert "s3:PutObject is needed" in found[0]


async def test_a_role_that_is_not_ours_lends_nothing(bridge: BridgeUnderTest, ceph: CephServer) -> None:
    await add(bridge, blobstore=ceph.s3("any"), secrets=secrets_of(STRANGER, role=True))
    found = bad(await tried(bridge))
    assert len(found) == 1
    assert found[0].startswith("bad keys: blobstore: ")


async def test_a_store_that_is_away_is_said_to_be(bridge: BridgeUnderTest) -> None:
    await add(bridge, blobstore=f"s3://127.0.0.1:{free_port()}/any?tls=no", secrets=secrets_of(OWNER))
    found = bad(await tried(bridge))
    assert "no connection: Connection refused" in found[0]
    assert "firewall" in found[0]
    assert any("cannot be reached" in line for line in found[1:])


async def test_a_name_that_nobody_knows_is_said_to_be(bridge: BridgeUnderTest) -> None:
    await add(bridge, blobstore="s3://store.invalid:443/any", secrets=secrets_of(OWNER))
    found = bad(await tried(bridge, Step.WAY))
    assert "the name store.invalid is not known here" in found[0]


# the others


async def works(bridge: BridgeUnderTest, *parts: str, **fields: Any) -> None:
    await add(bridge, **fields)
    await set_up(bridge)
    found = await tried(bridge)
    assert bad(found) == []
    for part in parts:
        assert part in " | ".join(found)


async def test_swift_works_once_it_is_set_up(bridge: BridgeUnderTest, ceph: CephServer) -> None:
    secrets = {f"blobstore.{name}": value for name, value in OWNER.swift.items()}
    await works(bridge, "signs a URL", "MB/s up", blobstore=ceph.swift("tried"), secrets=secrets)


async def test_azures_two_services_work_once_they_are_set_up(bridge: BridgeUnderTest, azurite: AzuriteServer) -> None:
    await works(
        bridge,
        "signalling keys: lent for 60 min",
        "blobstore keys: lent for 60 min",
        "there and back",
        "MB/s up",
        signalling=f"azqueue://127.0.0.1:{azurite.queue_port}/{ACCOUNT}/tried?tls=no",
        blobstore=azurite.blobs("tried"),
        secrets={f"{service}.account_key": ACCOUNT_KEY for service in ("signalling", "blobstore")},
    )


async def test_a_wrong_key_for_azure_is_called_that(bridge: BridgeUnderTest, azurite: AzuriteServer) -> None:
    wrong = base64.b64encode(bytes(64)).decode()
    await add(bridge, blobstore=azurite.blobs("tried"), secrets={"blobstore.account_key": wrong})
    found = bad(await tried(bridge))
    assert "refuses the keys" in found[0]
    assert wrong not in str(found)


async def test_sqs_works_once_it_is_set_up(bridge: BridgeUnderTest, moto: MotoServer) -> None:
    secrets = {"signalling.access_key_id": "AKIATESTTESTTEST", "signalling.secret_access_key": "test"}
    await works(bridge, "lent for 60 min", "there and back", signalling=moto.url("tried"), secrets=secrets)


async def test_googles_double_works_once_it_is_set_up(bridge: BridgeUnderTest, gcs_double: GcsDouble) -> None:
    secrets = {f"blobstore.{name}": value for name, value in gcs_double.secrets.items()}
    await works(bridge, "MB/s up", blobstore=gcs_double.url("tried"), secrets=secrets)


async def test_a_folder_works_once_it_is_set_up(bridge: BridgeUnderTest, tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    await works(bridge, "none are needed", "MB/s up", blobstore=f"file://{tmp_path}/share")


# NATS


def seed(key: Nkey) -> dict[str, str]:
    return {"signalling.account_seed": key.seed}


async def test_a_nats_server_that_knows_the_account_works(bridge: BridgeUnderTest, nats_server: NatsServer) -> None:
    await add(bridge, signalling=nats_server.url, secrets=seed(nats_server.account))
    assert "the server knows the account" in await set_up(bridge)
    found = await tried(bridge)
    assert bad(found) == []
    words = " | ".join(found)
    for part in ("connects in", "lent for 60 min", "there and back in"):
        assert part in words


async def test_a_nats_server_that_does_not_know_the_account_is_to_be_configured(
    bridge: BridgeUnderTest, nats_server: NatsServer
) -> None:
    await add(bridge, signalling=nats_server.url, secrets=seed(Nkey.make(Role.ACCOUNT)))
    found = bad(await tried(bridge))
    assert found
    assert found[0].startswith("bad notices: ")
    assert "resolver_preload" in await set_up(bridge)


async def test_a_mistyped_seed_is_called_that_and_not_shown(bridge: BridgeUnderTest, nats_server: NatsServer) -> None:
    typed = Nkey.make(Role.ACCOUNT).seed[:-1] + "_"
    await add(bridge, signalling=nats_server.url, secrets={"signalling.account_seed": typed})
    found = bad(await tried(bridge))
    assert "no seed of a NATS account" in found[0]
    assert typed not in str(found)


async def test_a_nats_server_that_is_away_is_said_to_be(bridge: BridgeUnderTest) -> None:
    await add(bridge, signalling=f"nats://127.0.0.1:{free_port()}", secrets=seed(Nkey.make(Role.ACCOUNT)))
    found = bad(await tried(bridge, Step.WAY, Step.NOTICES))
    assert "no connection: Connection refused" in found[0]
    assert found[1].startswith("bad notices: ")


@pytest.mark.parametrize("framed", [False, True], ids=["TLS", "WebSocket"])
async def test_a_certificate_that_nobody_trusts_is_named_until_its_ca_is_given(
    bridge: BridgeUnderTest, tmp_path: Path, framed: bool
) -> None:
    authority = Authority(tmp_path / "ca")
    issued = authority.issue("nats")
    with running_nats(certificate=(issued.certificate, issued.key)) as server:
        await add(bridge, signalling=server.websocket_url if framed else server.url, secrets=seed(server.account))
        found = bad(await tried(bridge))
        assert any("trust" in line for line in found), found
        await bridge.administration.run("provider_set", {"name": "one", "ca": authority.certificate.read_text()})
        assert bad(await tried(bridge)) == []
