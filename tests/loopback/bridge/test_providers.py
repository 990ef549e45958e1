"""Cloud pairs: what an operator enters, what a Router is told and lent, and where the secrets do not go."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.loopback.bridge.clouds import SECRETS, FakeCloud, install

from isthmus.contract.rest import BlobUrlRequest, Heartbeat
from isthmus.errors import OperatorError, Problem, ProviderTrouble, Retry
from isthmus.testing.bridge import BridgeUnderTest, Member, running_bridge
from isthmus.testing.clock import FakeClock

ONE: dict[str, Any] = {
    "name": "one",
    "signalling": "fake://signalling.example/x",
    "blobstore": "fake://blobs.example/x",
    "secrets": SECRETS,
}


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> FakeCloud:
    return install(monkeypatch)


async def add(bridge: BridgeUnderTest, **fields: Any) -> dict[str, Any]:
    shown: dict[str, Any] = await bridge.administration.run("provider_add", ONE | fields)
    return shown


async def beat(member: Member, *pairs: str) -> str:
    body = Heartbeat(version="1", sessions=[], providers=list(pairs))
    return (await member.client.heartbeat([], pairs=body.providers)).revision


# the list


async def test_routers_are_told_of_pairs_the_best_first_and_at_once(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    member = await bridge.join("clinic")
    before = await member.client.network()
    assert [entry.name for entry in before.providers] == ["bridge"]
    await add(bridge, priority=5)
    await add(bridge, name="two", priority=0)
    after = await member.client.network()
    assert [entry.name for entry in after.providers] == ["bridge", "two", "one"]
    assert after.revision != before.revision
    await bridge.administration.run("provider_set", {"name": "one", "priority": 0})
    await bridge.administration.run("provider_set", {"name": "bridge", "priority": 7})
    assert [entry.name for entry in (await member.client.network()).providers] == ["one", "two", "bridge"]


async def test_the_list_is_still_there_after_a_restart(tmp_path: Path, cloud: FakeCloud) -> None:
    async with running_bridge(tmp_path / "b") as bridge:
        await add(bridge, priority=3)
        await bridge.administration.run("provider_set", {"name": "bridge", "off": True})
    async with running_bridge(tmp_path / "b") as bridge:
        rows = await bridge.administration.run("provider_list", {})
        assert [(row["name"], row["off"], row["priority"]) for row in rows] == [("bridge", True, 0), ("one", False, 3)]
        assert rows[1]["secrets"] == sorted(SECRETS)
        member = await bridge.join("clinic")
        assert [entry.name for entry in (await member.client.network()).providers] == ["one"]
        await member.client.loan("one")


async def test_the_last_pair_in_use_stays(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    with pytest.raises(OperatorError, match="only cloud pair that is in use"):
        await bridge.administration.run("provider_set", {"name": "bridge", "off": True})
    await add(bridge)
    await bridge.administration.run("provider_set", {"name": "bridge", "off": True})
    with pytest.raises(OperatorError, match="only cloud pair that is in use"):
        await bridge.administration.run("provider_remove", {"name": "one"})
    with pytest.raises(OperatorError, match="built-in pair cannot be removed"):
        await bridge.administration.run("provider_remove", {"name": "bridge"})
    await bridge.administration.run("provider_set", {"name": "bridge", "off": False})
    await bridge.administration.run("provider_remove", {"name": "one"})
    assert [row["name"] for row in await bridge.administration.run("provider_list", {})] == ["bridge"]


async def test_what_others_can_use_is_shown_and_changes_the_revision_only_when_it_changes(
    bridge: BridgeUnderTest, cloud: FakeCloud
) -> None:
    one, other = await bridge.pair()
    await add(bridge)
    before = (await one.client.network()).revision
    own = await beat(other, "one", "no-such-pair")
    seen = await one.client.network()
    assert seen.sites[0].providers == ["bridge", "one"]
    assert seen.revision != before
    assert await beat(other, "one") == own
    assert (await one.client.network()).revision == seen.revision
    await beat(other)
    assert (await one.client.network()).sites[0].providers == ["bridge"]
    await beat(other, "one")
    await bridge.administration.run("provider_remove", {"name": "one"})
    assert (await one.client.network()).sites[0].providers == ["bridge"]


# loans


async def test_each_router_is_lent_its_own_keys_again_and_again_until_a_quarter_of_their_time_is_left(
    tmp_path: Path, cloud: FakeCloud
) -> None:
    clock = FakeClock()
    async with running_bridge(tmp_path / "b", clock=clock) as bridge:
        one, other = await bridge.join("one"), await bridge.join("other")
        await add(bridge)
        cloud.expires = clock.now() + 1000
        first = await one.client.loan("one")
        assert first.signalling["for"].startswith(one.mailbox)
        assert (await other.client.loan("one")).blobstore["for"].startswith(other.mailbox)
        asked = len(cloud.lent)
        clock.advance(749)
        assert await one.client.loan("one") == first
        assert len(cloud.lent) == asked
        clock.advance(2)
        cloud.expires = clock.now() + 1000
        assert await one.client.loan("one") != first
        assert len(cloud.lent) == asked + 2


async def test_those_who_ask_at_once_share_one_loan(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    member = await bridge.join("clinic")
    await add(bridge)
    loans = await asyncio.gather(*(member.client.loan("one") for _ in range(8)))
    assert len(cloud.lent) == 2
    assert all(loan == loans[0] for loan in loans)


async def test_other_secrets_or_a_return_of_the_pair_make_a_new_loan(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    member = await bridge.join("clinic")
    await add(bridge)
    first = await member.client.loan("one")
    await bridge.administration.run("provider_set", {"name": "one", "secrets": {"blobstore.key": "another"}})
    second = await member.client.loan("one")
    assert second != first
    await bridge.administration.run("provider_remove", {"name": "one"})
    with pytest.raises(Problem) as gone:
        await member.client.loan("one")
    assert gone.value.status == 404
    await add(bridge)
    assert await member.client.loan("one") not in (first, second)


@pytest.mark.parametrize(
    ("trouble", "status", "title"),
    [
        (ProviderTrouble("the key was refused", retry=Retry.NEVER), 409, "Not lent"),
        (ProviderTrouble("busy", retry=Retry.LATER), 503, "Not lent now"),
        (OperatorError("the seed is mistyped"), 409, "Not lent"),
    ],
)
async def test_a_provider_that_does_not_lend_is_a_problem_with_its_reason(
    bridge: BridgeUnderTest, cloud: FakeCloud, trouble: Any, status: int, title: str
) -> None:
    member = await bridge.join("clinic")
    await add(bridge)
    cloud.trouble = trouble
    request = BlobUrlRequest(method="GET", names=["a"])
    for ask in (lambda: member.client.loan("one"), lambda: member.client.blob_urls("one", request)):
        with pytest.raises(Problem) as refused:
            await ask()
        assert (refused.value.status, refused.value.title) == (status, title)
        assert str(trouble) in refused.value.detail
        assert refused.value.hint.endswith("isthmus provider test one")
    cloud.trouble = None
    await member.client.loan("one")


@pytest.mark.parametrize(("name", "status"), [("bridge", 422), ("nobody", 404), ("A%20B", 422)])
async def test_what_is_no_pair_of_a_cloud_lends_nothing(bridge: BridgeUnderTest, name: str, status: int) -> None:
    member = await bridge.join("clinic")
    for ask in (
        lambda: member.client.loan(name),
        lambda: member.client.blob_urls(name, BlobUrlRequest(method="GET", names=["a"])),
    ):
        with pytest.raises(Problem) as refused:
            await ask()
        assert refused.value.status == status


async def test_urls_are_signed_for_blobs_and_for_nothing_else(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    member = await bridge.join("clinic")
    await add(bridge)
    signed = await member.client.blob_urls("one", BlobUrlRequest(method="PUT", names=["a/b", "c"]))
    assert signed.urls == [
        "fake://blobs.example/x/a/b?method=PUT&seconds=900",
        "fake://blobs.example/x/c?method=PUT&seconds=900",
    ]
    with pytest.raises(Problem) as refused:
        await member.client.blob_urls("one", BlobUrlRequest(method="GET", names=["a", "../other"]))
    assert refused.value.status == 422


async def test_a_session_says_over_which_pair_it_goes_in_the_audit(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    await one.open(other)
    assert [row["provider"] for row in await bridge.administration.run("audit", {})] == ["bridge"]
