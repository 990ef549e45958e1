"""A Router whose stream missed the last word of the other one learns quickly that the session is over there."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

from isthmus.cloudio.stream import Cloud
from isthmus.contract.notices import NoticeKind
from isthmus.dicom.framing import PduType
from isthmus.ports.signalling import Signalling, SignallingTraits
from isthmus.testing.devices import Archive, calling, listening
from isthmus.testing.network import Network, NetworkOptions, until


class Counting:
    """A signalling service that remembers what kinds of notices its Router sent, and when, and the last status."""

    def __init__(self, inner: Signalling) -> None:
        self._inner = inner
        self.gone_at: list[float] = []
        self.status: tuple[str, bytes] = ("", b"")

    @property
    def traits(self) -> SignallingTraits:
        return self._inner.traits

    async def publish(self, to: str, notice: bytes) -> None:
        if notice[0] == NoticeKind.GONE:
            self.gone_at.append(asyncio.get_running_loop().time())
        if notice[0] == NoticeKind.CONTROL:
            self.status = to, notice
        await self._inner.publish(to, notice)

    def listen(self, at: str) -> AsyncIterator[bytes]:
        return self._inner.listen(at)

    async def close(self) -> None:
        await self._inner.close()


class Counted:
    """What `around` of a network makes of each site's signalling."""

    def __init__(self) -> None:
        self.sites: dict[str, Counting] = {}

    def __call__(self, site: str, cloud: Cloud) -> Cloud:
        self.sites[site] = Counting(cloud.signalling)
        return dataclasses.replace(cloud, signalling=self.sites[site])


async def test_a_router_whose_partner_forgot_the_session_lets_its_device_go_long_before_it_gives_up(
    tmp_path: Path,
) -> None:
    counted = Counted()
    async with (
        Network.running(tmp_path, options=NetworkOptions(around=counted)) as network,
        listening(Archive()) as device,
    ):
        await network.pair(device)
        async with calling(network.sites["north"].port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == PduType.ASSOCIATE_AC
            (link,) = network.sites["south"].live.links.values()
            link.close()
            async with asyncio.timeout(10):  # a stream gives up after 25 s
                assert (await wire.pdu())[0] == PduType.ABORT
        assert counted.sites["south"].gone_at
        await network.quiet()


async def test_a_status_that_comes_late_is_answered_once_a_second_and_the_answer_is_not_answered(
    tmp_path: Path,
) -> None:
    counted = Counted()
    async with (
        Network.running(tmp_path, options=NetworkOptions(around=counted)) as network,
        listening(Archive()) as device,
    ):
        await network.pair(device)
        async with calling(network.sites["north"].port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == PduType.ASSOCIATE_AC
        await network.quiet()
        north, south = counted.sites["north"], counted.sites["south"]
        before = len(north.gone_at), len(south.gone_at)

        async def asked_on() -> bool:
            await north.publish(*north.status)
            return len(south.gone_at) >= before[1] + 2

        await until(asked_on, 10.0)
        assert south.gone_at[-1] - south.gone_at[-2] >= 0.95
        assert len(north.gone_at) == before[0]
