"""Which hosts a Router connects to: what a person accepted, and private addresses only where a person typed them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.errors import OperatorError
from isthmus.kit.names import HostPort
from isthmus.router.providers.egress import Egress, folder, shown
from isthmus.router.routing.store import Store
from isthmus.testing.clock import FakeClock

STORE = HostPort("s3.example.org", 443)


@pytest.fixture
def addresses() -> dict[str, list[str]]:
    return {"s3.example.org": ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"]}


@pytest.fixture
def egress(tmp_path: Path, addresses: dict[str, list[str]]) -> Iterator[Egress]:
    async def resolve(host: str) -> list[str]:
        return addresses.get(host, [])

    store = Store.open(tmp_path / "router.db")
    yield Egress(store, FakeClock(), resolve=resolve)
    store.close()


async def test_nothing_is_allowed_at_first(egress: Egress) -> None:
    assert "not in the egress list" in await egress.objection(STORE)


async def test_a_proposed_host_on_the_internet_is_accepted_by_the_proposals_name(egress: Egress) -> None:
    assert await egress.allow_proposed([STORE]) == [STORE]
    assert await egress.allow_proposed([STORE]) == []
    assert await egress.objection(STORE) == ""
    assert await egress.objection(HostPort("S3.Example.ORG.", 443)) == ""


async def test_another_port_is_another_host(egress: Egress) -> None:
    await egress.allow_proposed([STORE])
    assert await egress.objection(HostPort(STORE.host, 8443))


@pytest.mark.parametrize(
    "host", ["10.1.2.3", "192.168.0.7", "127.0.0.1", "169.254.169.254", "::1", "fd00::1", "inside.example.org"]
)
async def test_a_proposal_cannot_turn_a_router_inwards(
    egress: Egress, addresses: dict[str, list[str]], host: str
) -> None:
    addresses["inside.example.org"] = ["93.184.216.34", "172.16.0.9"]
    with pytest.raises(OperatorError, match="private address") as refused:
        await egress.allow_proposed([STORE, HostPort(host, 443)])
    assert "--host" in refused.value.hint
    assert egress.rows == []


async def test_a_private_host_that_a_person_typed_is_allowed(egress: Egress) -> None:
    at = HostPort("10.1.2.3", 7480)
    egress.allow_typed(at)
    assert await egress.objection(at) == ""
    assert [(row.at, row.typed) for row in egress.rows] == [(at, True)]


async def test_a_name_that_moves_inwards_after_it_was_accepted_is_not_followed(
    egress: Egress, addresses: dict[str, list[str]]
) -> None:
    await egress.allow_proposed([STORE])
    addresses[STORE.host] = ["10.0.0.1"]
    assert "private address now" in await egress.objection(STORE)
    egress.allow_typed(STORE)
    assert await egress.objection(STORE) == ""


async def test_a_name_that_only_a_proxy_knows_can_be_accepted(egress: Egress) -> None:
    at = HostPort("unknown.example.org", 443)
    await egress.allow_proposed([at])
    assert await egress.objection(at) == ""


async def test_a_folder_is_nobodys_to_propose_and_its_path_keeps_its_case(egress: Egress) -> None:
    at = folder("/mnt/Share/isthmus/")
    assert "/mnt/Share/isthmus is not in the egress list" in await egress.objection(at)
    with pytest.raises(OperatorError, match="folder of this machine") as refused:
        await egress.allow_proposed([at])
    assert "--folder /mnt/Share/isthmus" in refused.value.hint
    egress.allow_typed(at)
    assert await egress.objection(at) == ""
    assert shown(egress.rows[0].at) == "/mnt/Share/isthmus"
    for path in ("share", "", "/mnt/../etc"):
        with pytest.raises(OperatorError, match="whole path"):
            folder(path)


async def test_what_is_forbidden_again_is_off(egress: Egress) -> None:
    egress.allow_typed(STORE)
    assert egress.forbid(STORE)
    assert not egress.forbid(STORE)
    assert await egress.objection(STORE)
