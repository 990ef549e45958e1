"""Cloud pairs: what an operator enters, what a Router is told and lent, and where the secrets do not go."""

import asyncio
import base64
import contextlib
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from tests.loopback.bridge.clouds import (
    BLOBSTORE_CANARY,
    SECRETS,
    SIGNALLING_CANARY,
    FakeCloud,
    FakeSignalling,
    install,
)

from isthmus.bridge.providers.trial import Step
from isthmus.cli import logs
from isthmus.contract.rest import BlobUrlRequest, Heartbeat, Usage
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


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    before = logging.getLogger().handlers[:]
    stream = io.StringIO()
    logs.configure(stream, verbose=True)
    yield stream
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = before


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


# usage


def used(run: str, count: int, pair: str = "one") -> Usage:
    row = {"provider": pair, "kind": "put", "requests": count, "up": count * 1000, "down": 0}
    return Usage.model_validate({"run": run * 16, "counts": [row]})


async def usage_of(bridge: BridgeUnderTest, **arguments: Any) -> dict[str, Any]:
    answer: dict[str, Any] = await bridge.administration.run("provider_usage", arguments)
    return answer


async def test_what_a_router_reports_is_in_the_months_usage_also_after_a_restart_and_a_removal(
    tmp_path: Path, cloud: FakeCloud
) -> None:
    async with running_bridge(tmp_path / "b") as bridge:
        member = await bridge.join("clinic")
        await add(bridge, prices={"put": 2.0})
        for count in (4, 4, 9, 3):
            await member.client.heartbeat([], usage=used("a", count))
        await member.client.heartbeat([], usage=used("a", 9, "invented"))
        answer = await usage_of(bridge)
        assert [(row["site"], row["provider"], row["requests"], row["up"]) for row in answer["rows"]] == [
            ("clinic", "one", {"put": 9}, 9000)
        ]
        assert answer["cost"] == pytest.approx(0.018)
        assert (await usage_of(bridge, prices={"one.put": 1000.0, "up": 1000.0}))["cost"] == pytest.approx(9.009)
        await bridge.administration.run("provider_remove", {"name": "one"})
        await member.client.heartbeat([], usage=used("a", 10))
        identity, url = member.identity, bridge.address.listen
    async with running_bridge(tmp_path / "b", listen=url) as bridge:
        back = bridge.member("clinic")
        back.client._identity = identity
        await back.client.heartbeat([], usage=used("a", 10))
        await back.client.heartbeat([], usage=used("b", 1))
        answer = await usage_of(bridge)
        assert [row["requests"] for row in answer["rows"]] == [{"put": 11}]
        assert answer["cost"] is None
        assert (await usage_of(bridge, month="2026-01"))["rows"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"month": "2026-13"}, "month: '2026-13' is not a month"),
        ({"month": "yesterday"}, "is not a month"),
        ({"prices": {"puts": 1.0}}, "no price of 'puts'"),
        ({"prices": {"one.putt": 1.0}}, "no cloud pair one"),
        ({"prices": {"put": -1.0}}, "a number from 0"),
    ],
)
async def test_a_wrong_month_or_price_is_said_in_one_line(
    bridge: BridgeUnderTest, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(OperatorError, match=words):
        await usage_of(bridge, **arguments)


# what an operator mistypes


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "Two"}, "name: 'Two' is not a name"),
        ({"name": "bridge"}, "name: 'bridge' is the built-in pair"),
        ({"signalling": "gopher://x"}, "signalling: no provider for gopher"),
        ({"blobstore": "nothing"}, "blobstore: no provider"),
        ({"blobstore": "fake:nothing"}, "blobstore: 'fake:nothing' names no place"),
        ({"blobstore": "lacking://x/y"}, "blobstore: this needs the Python package lacking"),
        ({"signalling": "bridge:", "blobstore": "bridge:"}, "both are the Bridge's own"),
        ({"signalling": "fake://u:hush@host/x"}, "signalling: the URL holds a password"),
        ({"blobstore": "fake://host/x?secret_key=hush"}, "blobstore: the URL holds something secret: secret_key"),
        ({"blobstore": "fake://host:port/x"}, "blobstore: this is not a URL"),
        ({"priority": -1}, "priority: a number from 0"),
        ({"priority": "first"}, "priority: Input should be a valid integer"),
        ({"secrets": {}}, "secrets: signalling.seed is missing: the seed that signs users"),
        ({"secrets": {"signalling.seed": "x"}}, "secrets: blobstore.key is missing: the key of the bucket"),
        ({"secrets": SECRETS | {"blobstore.seed": "x"}}, "secrets: two has no secret 'blobstore.seed'"),
        ({"secrets": SECRETS | {"key": "x"}}, "no secret 'key'"),
        ({"ca": "-----BEGIN CERTIFICATE-----"}, "ca: this is no PEM file"),
        ({"prices": {"put": float("inf")}}, "prices: put: a number from 0"),
        ({"name": "one"}, "name: there is a cloud pair one already"),
    ],
)
async def test_what_is_wrong_with_a_pair_is_said_in_one_line_that_names_the_field(
    bridge: BridgeUnderTest, cloud: FakeCloud, fields: dict[str, Any], words: str
) -> None:
    await add(bridge)
    with pytest.raises(OperatorError) as refused:
        await add(bridge, **({"name": "two"} | fields))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "hush" not in f"{refused.value} {refused.value.hint}"
    assert [row["name"] for row in await bridge.administration.run("provider_list", {})] == ["bridge", "one"]


async def test_a_pair_may_take_one_service_from_the_bridge(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    member = await bridge.join("clinic")
    await add(bridge, signalling="bridge:", secrets={"blobstore.key": "x"})
    loan = await member.client.loan("one")
    assert loan.signalling == {}
    assert loan.blobstore != {}


async def test_a_pair_in_use_is_removed_only_by_force(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    one, other = await bridge.pair()
    await add(bridge)
    await one.open(other)
    next(iter(bridge.parts.sessions.live)).provider = "one"
    with pytest.raises(OperatorError, match="1 sessions use one now") as refused:
        await bridge.administration.run("provider_remove", {"name": "one"})
    assert "--off" in refused.value.hint
    answer = await bridge.administration.run("provider_remove", {"name": "one", "force": True})
    assert answer["sessions"] == 1


async def test_a_pair_that_was_removed_can_come_back_with_nothing_of_its_old_secrets(
    bridge: BridgeUnderTest, cloud: FakeCloud
) -> None:
    await add(bridge)
    await bridge.administration.run("provider_remove", {"name": "one"})
    with pytest.raises(OperatorError, match="is missing"):
        await add(bridge, secrets={})


async def test_setting_up_says_what_was_done_at_both_services(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    await add(bridge, blobstore="other://x/y")
    answer = await bridge.administration.run("provider_setup", {"name": "one", "keep_days": 12})
    assert answer["done"] == {
        "signalling": ["fake: made, and kept for 12 days"],
        "blobstore": ["other: made, and kept for 12 days"],
    }
    cloud.trouble = ProviderTrouble("no permission", retry=Retry.NEVER, hint="s3:CreateBucket is needed")
    with pytest.raises(ProviderTrouble, match="signalling: no permission") as refused:
        await bridge.administration.run("provider_setup", {"name": "one"})
    assert refused.value.hint == "s3:CreateBucket is needed"


# secrets


async def test_secrets_are_nowhere_but_at_the_provider(
    tmp_path: Path, cloud: FakeCloud, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    async with running_bridge(tmp_path / "b") as bridge:
        note = json.loads((bridge.config.data / "control.json").read_text())
        member = await bridge.join("clinic")
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {note['token']}"}) as http:

            async def control(operation: str, **arguments: Any) -> int:
                async with http.post(f"{note['url']}/control/{operation}", json=arguments) as answer:
                    said.append(await answer.text() + str(answer.headers))
                    return answer.status

            assert await control("provider_add", **ONE) == 200
            assert await control("provider_add", **ONE) == 400
            assert await control("provider_add", **(ONE | {"name": "two", "priority": "x"})) == 400
            assert await control("provider_add", **(ONE | {"name": "two", "secrets": SECRETS | {"x": "y"}})) == 400
            for operation in ("provider_list", "status", "audit", "provider_usage"):
                assert await control(operation) == 200
            assert await control("provider_asks", name="one") == 200
            assert await control("provider_set", name="one", secrets=SECRETS) == 200
            for step in Step:
                assert await control("provider_test", name="one", step=step.value) == 200
            assert await control("provider_setup", name="one") == 200
            said.append((await member.client.network()).model_dump_json())
            said.append((await member.client.loan("one")).model_dump_json())

            async def breaks(*_: object) -> None:
                raise RuntimeError("a bug in an adapter")

            with monkeypatch.context() as patched:
                patched.setattr(FakeSignalling, "lend", breaks)
                bridge.parts.lender.forget(member.identity.router_id)
                with pytest.raises(Problem):
                    await member.client.loan("one")
                with contextlib.suppress(aiohttp.ClientError):
                    await control("provider_test", name="one", step="keys")
        await bridge.administration.run("provider_remove", {"name": "one"})
        await add(bridge)
        said.append(bridge.parts.metrics.text().decode())
    said.append(log.getvalue())
    assert "a bug in an adapter" in log.getvalue()
    said += [path.read_bytes().decode("latin-1") for path in (tmp_path / "b").rglob("*") if path.is_file()]
    everything = "".join(said)
    for canary in (SIGNALLING_CANARY, BLOBSTORE_CANARY):
        assert canary not in everything
        assert canary.encode().hex() not in everything
        assert base64.b64encode(canary.encode()).decode()[:20] not in everything


async def test_secrets_are_sealed_for_their_pair_and_its_urls(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    await add(bridge)
    await add(bridge, name="two")
    pair, two = bridge.parts.providers.demand("one"), bridge.parts.providers.demand("two")
    assert bridge.parts.providers.secrets_of(pair).blobstore == {"key": BLOBSTORE_CANARY}
    elsewhere = replace(pair, entry=pair.entry.model_copy(update={"blobstore": "fake://attacker.example/x"}))
    for stolen in (elsewhere, replace(two, sealed=pair.sealed), replace(pair, sealed=(pair.sealed or b"")[:-1])):
        with pytest.raises(OperatorError, match="cannot be opened"):
            bridge.parts.providers.secrets_of(stolen)


async def test_a_bridge_with_another_identity_says_that_secrets_are_to_be_entered_anew(
    tmp_path: Path, cloud: FakeCloud
) -> None:
    async with running_bridge(tmp_path / "b") as bridge:
        await add(bridge)
    (tmp_path / "b" / "identity.key").unlink()
    async with running_bridge(tmp_path / "b") as bridge:
        member = await bridge.join("clinic")
        with pytest.raises(Problem, match="cannot be opened"):
            await member.client.loan("one")
        with pytest.raises(OperatorError, match="is missing"):
            await bridge.administration.run("provider_set", {"name": "one", "secrets": {"blobstore.key": "x"}})
        await bridge.administration.run("provider_set", {"name": "one", "secrets": SECRETS})
        await member.client.loan("one")
