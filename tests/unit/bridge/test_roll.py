"""The list of sites as one Router sees it: strangers are looked at now and then, acquaintances each time."""

import json

from isthmus.bridge.directory.roll import FRESH_SECONDS
from isthmus.contract.documents import GrantedDevice
from isthmus.contract.rest import Network
from isthmus.testing.bridge import Bench, DeafLane, Member


def _seen(bench: Bench, member: Member) -> dict[str, bool]:
    empty = Network(revision="1", site=member.site, sites=[], providers=[], own_counter=0, time=0.0)
    said = json.loads(bench.parts.roll.write(bench.account(member), empty))
    return {entry["site"]: entry["online"] for entry in said["sites"]}


async def test_a_stranger_is_looked_at_again_after_a_second_and_an_acquaintance_at_once(bench: Bench) -> None:
    one, other, stranger = [await bench.join(site) for site in ("one", "other", "stranger")]
    await bench.parts.directory.publish(
        bench.account(one), [one.statement(other, GrantedDevice(title="A", services=["store"]))]
    )
    assert _seen(bench, stranger) == {"one": False, "other": False}
    bench.parts.hub.attach(other.mailbox.encode(), DeafLane())
    assert _seen(bench, one) == {"other": True, "stranger": False}
    assert _seen(bench, stranger) == {"one": False, "other": False}
    bench.clock.advance(FRESH_SECONDS)
    assert _seen(bench, stranger) == {"one": False, "other": True}


async def test_who_joins_or_leaves_is_seen_at_once(bench: Bench) -> None:
    one, other = [await bench.join(site) for site in ("one", "other")]
    assert set(_seen(bench, one)) == {"other"}
    await bench.join("aaa")
    assert set(_seen(bench, one)) == {"aaa", "other"}
    await bench.parts.revoke(bench.account(other).site)
    assert set(_seen(bench, one)) == {"aaa"}


async def test_a_router_that_says_its_release_keeps_its_place(bench: Bench) -> None:
    members = [await bench.join(site) for site in ("b", "a", "c")]
    assert [account.site for account in bench.parts.accounts.all] == ["a", "b", "c"]
    for member in members:
        assert bench.parts.accounts.heard_version(bench.account(member), f"2 of {member.site}")
    assert [account.version for account in bench.parts.accounts.all] == ["2 of a", "2 of b", "2 of c"]
