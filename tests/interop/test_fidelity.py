"""The P-DATA bytes that enter one Router leave the other bit for bit, and only a rule touches anything else."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from tests.interop.sites import joined, new_title

from isthmus.dicom.items import Item
from isthmus.dicom.pdus import message, p_data
from isthmus.testing.depth import count
from isthmus.testing.devices import Wire, calling
from isthmus.testing.dicom import associate_ac, associate_rq, echo_rq, move_command, pdata_of, store_command
from isthmus.testing.network import Network, until

pytestmark = [pytest.mark.interop, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    async with Network.running(tmp_path_factory.mktemp("network")) as network:
        yield network


def random_pdus(dice: random.Random, size: int) -> bytes:
    """Return P-DATA-TFs of all sizes, together about `size` bytes: tiny, odd, with several PDVs, streamed ones too."""
    pdus = bytearray()
    while len(pdus) < size:
        match dice.randrange(8):
            case 0:  # the least that a PDV can be, and some more of that kind
                pdus += pdata_of(*((3, 0, dice.randbytes(dice.randrange(3))) for _ in range(dice.randrange(1, 40))))
            case 1:  # a command set in one PDU with the beginning of its data set
                pdus += pdata_of((3, 3, store_command(dice.randrange(65536))), (3, 0, dice.randbytes(999)))
            case 2:  # a command set in fragments
                command = store_command(7, sop_instance="1.2.3" + ".4" * dice.randrange(20))
                cut = dice.randrange(1, len(command))
                pdus += pdata_of((1, 1, command[:cut])) + pdata_of((1, 3, command[cut:]))
            case 3:
                pdus += p_data(3, dice.randbytes(128 * 1024 - 6), command=False, last=False)
            case 4:  # more than 256 KiB: it streams
                pdus += p_data(3, dice.randbytes(dice.randrange(262_000, 900_000)), command=False, last=False)
            case 5:
                pdus += p_data(3, dice.randbytes(65_533), command=False, last=True)
            case _:
                pdus += p_data(3, dice.randbytes(dice.randrange(1, 40_000)), command=False, last=dice.random() < 0.2)
    return bytes(pdus)


async def send_in_pieces(wire: Wire, data: bytes, dice: random.Random) -> None:
    at = 0
    while at < len(data):
        piece = dice.choice((1, 5, 6, 7, 1460, 16_384, 300_000))
        await wire.send(data[at : at + piece])
        at += piece


async def digest_of(wire: Wire, size: int) -> str:
    digest, left = hashlib.sha256(), size
    while left:
        piece = await wire.read_some(min(left, 1 << 18))
        assert piece, f"{left} bytes are missing"
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest()


@pytest.mark.parametrize("seed", range(count(push=3, nightly=50)))
async def test_p_data_of_every_size_leaves_bit_for_bit_in_both_directions(network: Network, seed: int) -> None:
    dice = random.Random(seed)
    onward, back = random_pdus(dice, 6_000_000), random_pdus(dice, 6_000_000)
    async with joined(network) as pair:
        at_far, at_near, _, _ = await asyncio.gather(
            digest_of(pair.far, len(onward)),
            digest_of(pair.near, len(back)),
            send_in_pieces(pair.near, onward, random.Random(seed)),
            send_in_pieces(pair.far, back, random.Random(seed + 1)),
        )
        assert at_far == hashlib.sha256(onward).hexdigest()
        assert at_near == hashlib.sha256(back).hexdigest()
        await pair.near.send(echo_rq())
        assert await pair.far.pdu() == echo_rq()


async def test_a_slow_device_holds_its_sender_back_and_loses_nothing(network: Network) -> None:
    """pynetdicom#629, mercure#49: what is on the way is bounded, however much is to come."""
    total = 48 * 1024 * 1024
    data = p_data(3, bytes(range(256)) * 480, command=False, last=False)
    many = data * (total // len(data))
    async with joined(network) as pair:
        sending = asyncio.ensure_future(pair.near.send(many))  # noqa: TID251 - awaited below, in this very test
        session = next(one for one in network.sites["north"].live.sessions.values() if one.parties is not None)
        await until(lambda: session.connection is not None and session.connection._paused)
        assert session.bytes_out < 40 * 1024 * 1024
        assert network.sites["north"].live.core.pool.used < 40 * 1024 * 1024
        assert await digest_of(pair.far, len(many)) == hashlib.sha256(many).hexdigest()
        await sending


def item(kind: int, value: bytes) -> Item:
    return Item(kind, bytes((kind, 0)) + len(value).to_bytes(2, "big") + value)


UNKNOWN = [
    item(0x53, b"\0\7\0\5"),
    item(0x56, b"\0\x05" + b"1.2.3" + b"\1\0\1"),
    item(0x57, b"\0\x05" + b"1.2.3" + b"\0\x05" + b"1.2.4" + b"\0\0"),
    item(0x58, b"\2\1" + b"\0\4USER" + b"\0\4PASS"),
    item(0x5A, b"not yet in the standard"),
    item(0xF1, b""),
    item(0x53 | 0x80, b"\xff" * 300),
]


async def test_user_items_that_nobody_knows_survive_in_both_directions(network: Network) -> None:
    """fo-dicom#740, #900; the async window, identities and extended items of dcm4che#1120 and fo-dicom#1110."""
    answers = [item(0x53, b"\0\3\0\2"), item(0x56, b"\0\x05" + b"1.2.3" + b"\0"), item(0x59, b"\0\4SEEN"), UNKNOWN[4]]
    async with joined(
        network,
        lambda called, calling: associate_rq(called, calling, user_items=UNKNOWN),
        lambda request: associate_ac(request, [1], user_items=answers, max_pdu_length=0),
    ) as pair:
        assert pair.far.request == pair.near.request
        assert pair.near.accept == pair.far.accept


def with_top_item(raw: bytes) -> bytes:
    """Return an A-ASSOCIATE PDU with one more top-level item, of a kind that nobody knows, and odd reserved bytes."""
    body = raw[6:] + b"\x60\x00\x00\x03abc"
    changed = bytearray(raw[:2] + len(body).to_bytes(4, "big") + body)
    changed[1] = 0xAA
    changed[42:74] = bytes(range(32))
    return bytes(changed)


async def test_reserved_bytes_and_unknown_items_survive(network: Network) -> None:
    async with joined(
        network,
        lambda called, calling: with_top_item(associate_rq(called, calling)),
        lambda request: with_top_item(associate_ac(request)),
    ) as pair:
        assert pair.far.request == pair.near.request
        assert pair.near.accept == pair.far.accept


Cut = Callable[[bytes], bytes]


def without(*fields: slice) -> Cut:
    def cut(raw: bytes) -> bytes:
        kept = bytearray(raw)
        for field in fields:
            kept[field] = bytes(16)
        return bytes(kept)

    return cut


CALLED, CALLING = slice(10, 26), slice(26, 42)


async def test_with_callers_as_only_the_calling_title_differs(network: Network) -> None:
    """Vendors charge per AE title: an archive may see many foreign callers under one."""
    async with joined(network, callers_as="ISTHMUS") as pair:
        assert pair.far.request[CALLING] == b"ISTHMUS".ljust(16)
        assert without(CALLING)(pair.far.request) == without(CALLING)(pair.near.request)
        assert pair.near.accept[CALLING] == pair.near.request[CALLING]
        assert without(CALLING)(pair.near.accept) == without(CALLING)(pair.far.accept)
        for one, other in ((pair.near, pair.far), (pair.far, pair.near)):
            await one.send(echo_rq())
            assert await other.pdu() == echo_rq()


async def test_a_title_that_is_not_translated_keeps_its_padding(network: Network) -> None:
    def request(called: str, calling: str) -> bytes:
        raw = bytearray(associate_rq(called, calling))
        raw[CALLED] = called.encode().ljust(16, b"\0")
        return bytes(raw)

    async with joined(network, request, callers_as="ISTHMUS") as pair:
        assert without(CALLING)(pair.far.request) == without(CALLING)(pair.near.request)
        assert without(CALLING)(pair.near.accept) == without(CALLING)(pair.far.accept)


async def test_with_an_alias_only_the_move_destination_differs_in_a_c_move(network: Network) -> None:
    """The requestor names a third site's device by its alias; the archive hears the network title."""
    async with joined(network) as third, joined(network) as pair:
        alias = new_title("ALIAS_OF_")
        await network.sites["north"].control("alias_add", title=third.called, shown_as=alias)
        identifier = p_data(1, bytes(300_000), command=False, last=True)
        async with calling(network.sites["north"].port) as near:
            await near.associate(pair.called, pair.caller)
            await pair.device.until(lambda: len(pair.device.wires) == 2)
            far = pair.device.wires[1]
            for named, expected in ((alias, third.called), ("STRANGER", "STRANGER")):
                await near.send(message(1, move_command(named)) + identifier + echo_rq())
                wanted = message(1, move_command(expected)) + identifier + echo_rq()
                assert await far.reader.readexactly(len(wanted)) == wanted
            await far.send(echo_rq() + identifier)
            assert await near.reader.readexactly(len(echo_rq() + identifier)) == echo_rq() + identifier


async def test_streams_stay_bit_for_bit_while_command_sets_are_looked_into_for_titles(network: Network) -> None:
    dice = random.Random(4)
    onward, back = random_pdus(dice, 3_000_000), random_pdus(dice, 3_000_000)
    async with joined(network, callers_as="ISTHMUS") as pair:
        at_far, at_near, _, _ = await asyncio.gather(
            digest_of(pair.far, len(onward)),
            digest_of(pair.near, len(back)),
            send_in_pieces(pair.near, onward, random.Random(5)),
            send_in_pieces(pair.far, back, random.Random(6)),
        )
        assert at_far == hashlib.sha256(onward).hexdigest()
        assert at_near == hashlib.sha256(back).hexdigest()


async def test_with_a_network_title_of_its_own_only_the_called_title_differs(network: Network) -> None:
    title = new_title("NET")
    async with joined(network, lambda _called, calling: associate_rq(title, calling), title=title) as pair:
        assert pair.far.request[CALLED] == pair.called.encode().ljust(16)
        assert without(CALLED)(pair.far.request) == without(CALLED)(pair.near.request)
        assert pair.near.accept[CALLED] == pair.near.request[CALLED]
        assert without(CALLED)(pair.near.accept) == without(CALLED)(pair.far.accept)


async def test_with_an_alias_at_the_callers_site_only_the_called_title_differs(network: Network) -> None:
    async with joined(network) as first:
        alias = new_title("ALIAS")
        await network.sites["north"].control("alias_add", title=first.called, shown_as=alias)
        async with calling(network.sites["north"].port) as near:
            accept = await near.associate(alias, first.caller)
            await first.device.until(lambda: len(first.device.wires) == 2)
            far = first.device.wires[1]
            await first.device.until(lambda: bool(far.accept))
            assert far.request[CALLED] == first.called.encode().ljust(16)
            assert without(CALLED)(far.request) == without(CALLED)(near.request)
            assert accept[CALLED] == alias.encode().ljust(16)
            assert without(CALLED)(accept) == without(CALLED)(far.accept)
