"""Where a device may call from."""

import pytest

from isthmus.kit.names import AETitle, parse_network
from isthmus.router.routing.addresses import HostNames, comes_from, parse_address
from isthmus.router.routing.records import LocalDevice


def device(host: str, *ranges: str) -> LocalDevice:
    title = AETitle("CT1")
    return LocalDevice(1, title, title, "", host, None, tuple(parse_network(text) for text in ranges))


@pytest.mark.parametrize(
    ("host", "ranges", "address", "welcome"),
    [
        ("192.0.2.10", (), "192.0.2.10", True),
        ("192.0.2.10", (), "192.0.2.1", False),
        ("192.0.2.10", ("198.51.100.0/24",), "198.51.100.255", True),
        ("192.0.2.10", ("198.51.100.0/24",), "198.51.101.0", False),
        ("192.0.2.10", (), "::ffff:192.0.2.10", True),
        ("2001:db8::1", (), "2001:db8:0:0::1", True),
        ("fe80::1", (), "fe80::1%eth0", True),
        ("192.0.2.10", ("2001:db8::/32",), "2001:db8::7", True),
        ("192.0.2.10", ("0.0.0.0/0",), "2001:db8::7", False),
        ("192.0.2.10", (), "not an address", False),
        ("ct.example", (), "192.0.2.10", True),
        ("unknown.example", (), "192.0.2.10", False),
    ],
)
def test_a_device_calls_from_its_host_or_its_ranges(
    host: str, ranges: tuple[str, ...], address: str, welcome: bool
) -> None:
    hosts = HostNames(lambda name: ["192.0.2.10", "2001:db8::10"] if name == "ct.example" else [])
    assert comes_from(device(host, *ranges), address, hosts) is welcome


async def test_a_name_is_looked_up_once_and_then_in_the_background() -> None:
    asked: list[str] = []

    def lookup(name: str) -> list[str]:
        asked.append(name)
        return [f"192.0.2.{len(asked)}"]

    hosts = HostNames(lookup)
    for _ in range(3):
        assert hosts.addresses("ct.example") == {parse_address("192.0.2.1")}
    await hosts.refresh(["ct.example", "192.0.2.99", "other.example"])
    assert sorted(asked) == ["ct.example", "ct.example", "other.example"]
    assert hosts.addresses("ct.example") != {parse_address("192.0.2.1")}


async def test_a_name_server_that_is_down_shuts_nobody_out() -> None:
    answers = [["192.0.2.1"], []]
    hosts = HostNames(lambda _: answers.pop(0))
    hosts.addresses("ct.example")
    await hosts.refresh()
    assert hosts.addresses("ct.example") == {parse_address("192.0.2.1")}
