"""Measuring the way to a Bridge: open to everybody, and so bounded in every direction."""

import asyncio
import io
from collections.abc import AsyncIterator

import aiohttp
import pytest

from isthmus.bridge.gate import MAX_PROBE_BYTES
from isthmus.bridge.probe.service import BUDGET_BYTES, MOST_AT_ONCE
from isthmus.contract.rest import API
from isthmus.router.control.check import Level, check
from isthmus.testing.bridge import BridgeUnderTest
from isthmus.testing.network import until


@pytest.fixture
async def http(bridge: BridgeUnderTest) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(bridge.address.url) as session:
        yield session


async def test_router_check_says_how_many_megabytes_a_second_the_way_carries(bridge: BridgeUnderTest) -> None:
    report = await asyncio.to_thread(check, bridge.address.url)
    (speed,) = [finding for finding in report.findings if finding.what == "speed"]
    assert speed.level is Level.OK
    assert "MB/s down" in speed.found
    assert "MB/s up" in speed.found


async def test_a_probe_sends_as_much_as_it_is_asked_for_and_never_the_same_twice_in_a_window(
    http: aiohttp.ClientSession,
) -> None:
    async with http.get(f"{API}/probe?bytes=100000") as answer:
        body = await answer.read()
    assert len(body) == 100_000
    assert len({body[start : start + 16] for start in range(0, 60_000, 16)}) == 60_000 // 16


@pytest.mark.parametrize("size", [0, -1, MAX_PROBE_BYTES + 1, "x"])
async def test_a_probe_sends_no_more_than_8_mib(http: aiohttp.ClientSession, size: object) -> None:
    async with http.get(f"{API}/probe?bytes={size}") as answer:
        assert answer.status == 422


async def test_a_probe_takes_8_mib_and_not_a_byte_more(http: aiohttp.ClientSession) -> None:
    async with http.post(f"{API}/probe", data=io.BytesIO(bytes(MAX_PROBE_BYTES))) as answer:
        assert (answer.status, await answer.json()) == (200, {"bytes": MAX_PROBE_BYTES})
    async with http.post(f"{API}/probe", data=b"x", headers={"Content-Length": str(MAX_PROBE_BYTES + 1)}) as answer:
        assert answer.status == 413


async def test_a_probe_without_a_length_is_refused(http: aiohttp.ClientSession) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"x"

    async with http.post(f"{API}/probe", data=parts()) as answer:
        assert answer.status == 411


async def test_few_probes_run_at_once_and_the_next_one_may_again(
    bridge: BridgeUnderTest, http: aiohttp.ClientSession
) -> None:
    go_on = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"x"
        await go_on.wait()
        yield b"x"

    async def upload() -> int:
        async with http.post(f"{API}/probe", data=slowly(), headers={"Content-Length": "2"}) as answer:
            return answer.status

    async with asyncio.TaskGroup() as group:
        uploads = [group.create_task(upload()) for _ in range(MOST_AT_ONCE)]
        await until(lambda: bridge.parts.probe.running == MOST_AT_ONCE)
        for method in ("GET", "POST"):
            async with http.request(method, f"{API}/probe", data=b"x" if method == "POST" else None) as answer:
                assert answer.status == 429
        go_on.set()
    assert [task.result() for task in uploads] == [200] * MOST_AT_ONCE
    async with http.get(f"{API}/probe?bytes=1") as answer:
        assert answer.status == 200


async def test_probes_use_up_a_budget_that_fills_again_with_time(
    bridge: BridgeUnderTest, http: aiohttp.ClientSession
) -> None:
    bridge.parts.probe.take(BUDGET_BYTES)
    async with http.get(f"{API}/probe") as answer:
        assert (answer.status, (await answer.json(content_type=None))["title"]) == (429, "Too many probes")
    report = await asyncio.to_thread(check, bridge.address.url)
    assert report.ok
