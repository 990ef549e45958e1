"""T11, the codec's share: whatever bytes come, the answer is frames or RemoteMisuse, nothing else, and no memory."""

import random
from collections.abc import Callable

import pytest

from isthmus.dicom.associate import AssociateAccept, AssociateRequest
from isthmus.dicom.framing import Data, Framer, Pdu
from isthmus.dicom.items import ItemType, RoleSelection, make_item
from isthmus.dicom.rewrite import rewrite_commands
from isthmus.dicom.services import Service, allowed_contexts
from isthmus.errors import RemoteMisuse
from isthmus.testing import depth, dicom

RQ = dicom.associate_rq(
    contexts=[(f"1.2.840.10008.{n}", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"]) for n in range(4)],
    roles=[RoleSelection("1.2.840.10008.1", scu=True, scp=True)],
    user_items=[
        make_item(ItemType.EXTENDED, b"\x00\x0f1.2.840.10008.1\x01"),
        make_item(ItemType.ASYNC_OPERATIONS, b"\0\0\0\0"),
        make_item(ItemType.USER_IDENTITY_RQ, b"\x02\0\0\x01A\0\0"),
    ],
)
AC = dicom.associate_ac(RQ)
STREAM = (
    dicom.store_rq(bytes(300), max_pdu_length=128)
    + dicom.echo_rq()
    + dicom.pdata_of((1, 3, dicom.store_command()), (1, 0, b"abc"), (3, 2, b""))
    + dicom.release_rq()
)


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """Return the seed with a few bytes changed, a piece cut out, doubled, or moved, or a length made extreme."""
    raw = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        if not raw:
            break
        start = chance.randrange(len(raw))
        end = min(len(raw), start + chance.choice((1, 2, 4, 8, 40)))
        match chance.randrange(5):
            case 0:
                raw[start] = chance.randrange(256)
            case 1:
                del raw[start:end]
            case 2:
                raw[start:start] = raw[start:end]
            case 3:
                raw[start:end] = chance.choice((b"\0", b"\xff")) * (end - start)
            case _:
                raw[start:end] = chance.randbytes(end - start)
    return bytes(raw)


def fuzz_request(raw: bytes) -> None:
    """Parse a request, and if it is one, edit it in every way and parse it again."""
    body = raw[6:]
    request = AssociateRequest.parse(b"\x01\x00" + len(body).to_bytes(4, "big") + body)
    assert AssociateRequest.parse(request.raw) == request
    decision = allowed_contexts(request, {Service.STORE, Service.RETRIEVE})
    edited = request.without_contexts(decision.refused).without_async_operations()
    assert {context.id for context in edited.contexts} == decision.kept
    repr(request)


def fuzz_accept(raw: bytes) -> None:
    """Parse an answer, and if it is one, refuse contexts in it."""
    body = raw[6:]
    accept = AssociateAccept.parse(b"\x02\x00" + len(body).to_bytes(4, "big") + body)
    assert accept.with_refused_contexts([(1, "1.2"), (5, "1.2")]).accepted_ids == accept.accepted_ids - {1, 5}


def fuzz_framer(raw: bytes, *, held: bool = False) -> None:
    """Feed a stream in two pieces; all that surfaces is what was fed, and nothing much is kept."""
    framer = Framer(stream_threshold=256)
    if held:
        framer.hold_commands(200)
    out = b""
    for piece in (raw[: len(raw) // 2], raw[len(raw) // 2 :]):
        for frame in framer.frames(piece):
            out += bytes(frame.raw if isinstance(frame, Pdu) else frame.run)
            for command in frame.commands if isinstance(frame, Data) else ():
                command.parse()
            if held and isinstance(frame, Data) and frame.commands:
                assert rewrite_commands(frame.run, lambda _: None, max_pdu_length=0) is frame.run
                rewrite_commands(frame.run, lambda command: command.raw + b"x", max_pdu_length=64)
    assert out == raw[: len(out)]
    assert framer.buffered == len(raw) - len(out)


def fuzz_held(raw: bytes) -> None:
    """The same where command sets are held, so that each run that has some can be rewritten."""
    fuzz_framer(raw, held=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "seed"),
    [(fuzz_request, RQ), (fuzz_accept, AC), (fuzz_framer, STREAM), (fuzz_framer, RQ + STREAM), (fuzz_held, STREAM)],
    ids=["request", "accept", "stream", "association", "held"],
)
@pytest.mark.timeout(1800)
def test_mutations_end_in_values_or_remote_misuse(target: Callable[[bytes], None], seed: bytes) -> None:
    chance = random.Random(11)
    target(seed)
    passed = 0
    answers = set()
    tries = depth.count(push=2_000, nightly=200_000)
    for _ in range(tries):
        try:
            target(mutated(seed, chance))
            passed += 1
        except RemoteMisuse as misuse:
            answers.add((misuse.source, misuse.reason))
    assert answers <= {(2, 0), (2, 1), (2, 2), (2, 6)}
    assert 0 < passed < tries, "the mutations are all harmless, or all deadly: they prove nothing"
