"""Whatever the middle does to a stream, no reader takes it for whole, and what was released before is a true prefix.

The reader here is the simplest one there can be: segments in the order of arrival, each the next or refused. An
attack may therefore also rewrite headers, so that a segment claims the place where it was put.
"""

import random
from collections.abc import Callable

import pytest

from isthmus.envelope.keys import SessionKeys, StreamKey
from isthmus.envelope.segments import Opener, Sealer, SegmentType, pack_final, peek_sequence, unpack_final
from isthmus.errors import RemoteMisuse, SealBroken
from isthmus.testing.depth import count

Stream = list[bytes]
Attack = Callable[[random.Random, Stream, list[Stream]], Stream]
HEADER_BYTES = 16


class _Reader:
    """Takes segments of one stream in order; `done` after a FINAL whose counts agree."""

    def __init__(self, key: StreamKey) -> None:
        self.opener = Opener(key)
        self.expected = 0
        self.released = bytearray()
        self.done = False

    def take(self, segment: bytes) -> None:
        if self.done or peek_sequence(segment) != self.expected:
            raise SealBroken("not the next segment")
        opened = self.opener.open(segment)
        if opened.type is SegmentType.FINAL:
            if unpack_final(opened.payload) != (len(self.released), self.expected):
                raise SealBroken("FINAL counts otherwise")
            self.done = True
        self.released += opened.payload if opened.type is SegmentType.DATA else b""
        self.expected += 1


def _sealed(key: StreamKey, seed: int) -> tuple[Stream, bytes]:
    chance = random.Random(seed)
    payloads = [chance.randbytes(chance.choice((0, 1, 12, 68))) for _ in range(6)]
    sealer = Sealer(key)
    stream = [sealer.seal(SegmentType.DATA, payload) for payload in payloads]
    content = b"".join(payloads)
    stream.append(sealer.seal(SegmentType.FINAL, pack_final(len(content), len(payloads))))
    return stream, content


def _at(stream: Stream, place: int, segment: bytes, chance: random.Random) -> Stream:
    """Put `segment` at `place`; half the time its header then claims that place."""
    if chance.random() < 0.5 and len(segment) >= HEADER_BYTES:
        segment = segment[:4] + place.to_bytes(8, "big") + segment[12:]
    return [*stream[:place], segment, *stream[place:]]


def _cut(chance: random.Random, stream: Stream, others: list[Stream]) -> Stream:
    place = chance.randrange(len(stream))
    stream[place] = stream[place][: chance.randrange(len(stream[place]))]
    return stream


def _lengthen(chance: random.Random, stream: Stream, others: list[Stream]) -> Stream:
    place = chance.randrange(len(stream))
    stream[place] += chance.randbytes(chance.randint(1, 40))
    return stream


def _end_early(chance: random.Random, stream: Stream, others: list[Stream]) -> Stream:
    return stream[: chance.randrange(len(stream))]


def _drop(chance: random.Random, stream: Stream, others: list[Stream]) -> Stream:
    place = chance.randrange(len(stream))
    rest = stream[place + 1 :]
    if chance.random() < 0.5:  # close the gap
        rest = [part[:4] + (place + n).to_bytes(8, "big") + part[12:] for n, part in enumerate(rest)]
    return [*stream[:place], *rest]


def _duplicate(chance: random.Random, stream: Stream, others: list[Stream]) -> Stream:
    return _at(stream, chance.randint(0, len(stream)), chance.choice(stream), chance)


def _swap(chance: random.Random, stream: Stream, others: list[Stream]) -> Stream:
    left, right = sorted(chance.sample(range(len(stream)), 2))
    first, second = stream[left], stream[right]
    if chance.random() < 0.5:
        first, second = second[:4] + first[4:12] + second[12:], first[:4] + second[4:12] + first[12:]
    else:
        first, second = second, first
    stream[left], stream[right] = first, second
    return stream


def _splice(chance: random.Random, stream: Stream, others: list[Stream]) -> Stream:
    other, place = chance.choice(others), chance.randrange(len(stream))
    count_ = chance.randint(1, len(stream) - place)
    return stream[:place] + other[place : place + count_] + stream[place + count_ :]


def _insert(chance: random.Random, stream: Stream, others: list[Stream]) -> Stream:
    return _at(stream, chance.randint(0, len(stream)), chance.choice(chance.choice(others)), chance)


def _graft(chance: random.Random, stream: Stream, others: list[Stream]) -> Stream:
    """Our header and commitment over another stream's ciphertext."""
    place, other = chance.randrange(len(stream)), chance.choice(others)
    kept = HEADER_BYTES + (32 if place == 0 else 0)
    stream[place] = stream[place][:kept] + other[place][kept:]
    return stream


def _flip(chance: random.Random, stream: Stream, others: list[Stream]) -> Stream:
    place = chance.randrange(len(stream))
    segment = bytearray(stream[place])
    segment[chance.randrange(len(segment))] ^= 1 << chance.randrange(8)
    stream[place] = bytes(segment)
    return stream


def _retype(chance: random.Random, stream: Stream, others: list[Stream]) -> Stream:
    place = chance.randrange(len(stream))
    segment = stream[place]
    type_ = chance.choice([value for value in (0, 1, 2, 3, 255) if value != segment[1]])
    stream[place] = segment[:1] + bytes((type_,)) + segment[2:]
    return stream


def _final_early(chance: random.Random, stream: Stream, others: list[Stream]) -> Stream:
    place = chance.randrange(len(stream) - 1)
    return _at(stream[:place], place, stream[-1], chance)


def _after_final(chance: random.Random, stream: Stream, others: list[Stream]) -> Stream:
    return _at(stream, len(stream), chance.choice([*stream, *others[0]]), chance)


def _noise(chance: random.Random, stream: Stream, others: list[Stream]) -> Stream:
    return _at(stream, chance.randint(0, len(stream)), chance.randbytes(chance.randrange(120)), chance)


ATTACKS: tuple[Attack, ...] = (
    _cut,
    _lengthen,
    _end_early,
    _drop,
    _duplicate,
    _swap,
    _splice,
    _insert,
    _graft,
    _flip,
    _retype,
    _final_early,
    _after_final,
    _noise,
)


def _targets() -> list[tuple[StreamKey, Stream, bytes, list[Stream]]]:
    """Four data streams, of two directions and two sessions, each with the others to borrow from."""
    keys: list[StreamKey] = []
    for session in (1, 2):
        both = SessionKeys.derive(bytes((session,)) * 32, initiator=True)
        keys += [both.data_out, both.data_in]
    sealed = [_sealed(key, seed) for seed, key in enumerate(keys)]
    control = Sealer(SessionKeys.derive(b"\1" * 32, initiator=True).control_out)
    controls = [control.seal(SegmentType.CONTROL, bytes(n)) for n in range(7)]
    return [
        (key, stream, content, [*(other for other, _ in sealed if other is not stream), controls])
        for key, (stream, content) in zip(keys, sealed, strict=True)
    ]


def test_an_untouched_stream_is_taken_for_whole() -> None:
    for key, stream, content, _ in _targets():
        reader = _Reader(key)
        for segment in stream:
            reader.take(segment)
        assert reader.done
        assert reader.released == content


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.__name__.strip("_") for attack in ATTACKS])
def test_no_tampered_stream_is_taken_for_whole(attack: Attack) -> None:
    chance = random.Random(attack.__name__)
    targets = _targets()
    tried = 0
    for _ in range(count(push=100_000, nightly=1_000_000) // len(ATTACKS) + 1):
        key, stream, content, others = chance.choice(targets)
        tampered = attack(chance, list(stream), others)
        if tampered == stream:
            continue
        tried += 1
        reader = _Reader(key)
        refused = False
        for segment in tampered:
            try:
                reader.take(segment)
            except (SealBroken, RemoteMisuse):
                refused = True
                break
        assert refused or not reader.done, f"{attack.__name__}: accepted"
        assert content.startswith(reader.released)
    assert tried > 1000
