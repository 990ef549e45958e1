"""PDU framing: what surfaces, when, and what is refused by its header alone."""

import itertools
import tomllib
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.dicom.framing import Data, Frame, Framer, Pdu, PduType
from isthmus.errors import RemoteMisuse
from isthmus.testing import depth, dicom

VECTORS = tomllib.loads((Path(__file__).parents[2] / "vectors/dicom/framing.toml").read_text())["vector"]


def in_words(frame: Frame) -> str:
    if isinstance(frame, Pdu):
        return f"{frame.type.name} {len(frame.raw)}"
    words = [f"DATA {len(frame.run)}", "boundary" * frame.boundary, "turn" * frame.turn]
    words.append(f"commands {len(frame.commands)}" * bool(frame.commands))
    return " ".join(word for word in words if word)


def hear(framer: Framer, chunks: list[bytes]) -> tuple[bytes, bool, list[tuple[int, bytes]]]:
    """Feed the chunks; return all bytes surfaced, whether a turn was among them, and the commands."""
    out, turn, commands = b"", False, []
    for chunk in chunks:
        for frame in framer.feed(chunk):
            if isinstance(frame, Pdu):
                out += frame.raw
            else:
                out += bytes(frame.run)
                turn = turn or frame.turn
                commands += [(command.context_id, command.raw) for command in frame.commands]
    return out, turn, commands


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["bytes"])
    if "misuse" in vector:
        with pytest.raises(RemoteMisuse) as caught:
            Framer().feed(raw)
        assert [caught.value.source, caught.value.reason] == vector["misuse"]
    else:
        frames = Framer().feed(raw)
        assert [in_words(frame) for frame in frames] == vector["frames"]
        assert b"".join(bytes(frame.run if isinstance(frame, Data) else frame.raw) for frame in frames) in (raw, b"")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors_byte_by_byte(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["bytes"])
    framer = Framer()
    chunks = [raw[at : at + 1] for at in range(len(raw))]
    if "misuse" in vector:
        with pytest.raises(RemoteMisuse) as caught:
            hear(framer, chunks)
        assert [caught.value.source, caught.value.reason] == vector["misuse"]
    else:
        out, turn, _ = hear(framer, chunks)
        assert out in (raw, b"")
        assert turn == any("turn" in frame for frame in vector["frames"])


def test_a_pdu_of_4_gib_is_refused_before_anything_is_allocated() -> None:
    tracemalloc.start()
    with pytest.raises(RemoteMisuse):
        Framer().feed(b"\x01\x00\xff\xff\xff\xff" + bytes(1000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 1024


def test_a_p_data_of_4_gib_streams_and_memory_does_not_grow_with_it() -> None:
    """pynetdicom#629: the length is legal; 64 MiB of it stand for the rest."""
    framer = Framer()
    frames = framer.feed(b"\x04\x00\xff\xff\xff\xff" + b"\xff\xff\xff\xfb\x03\x00" + bytes(100))
    assert [in_words(frame) for frame in frames] == ["DATA 112"]
    piece = bytes(1 << 20)
    tracemalloc.start()
    for _ in range(64):
        (frame,) = framer.feed(piece)
        assert isinstance(frame, Data)
        assert not frame.boundary
        assert framer.buffered == 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 1024
    assert framer.inside_pdu


def test_a_streamed_pdu_says_its_turn_and_boundary_with_its_last_piece() -> None:
    pdu = dicom.pdata(3, bytes(1000), last=True)
    framer = Framer(stream_threshold=100)
    frames = framer.feed(pdu[:4]) + framer.feed(pdu[4:8]) + framer.feed(pdu[8:500]) + framer.feed(pdu[500:])
    assert [in_words(frame) for frame in frames] == ["DATA 6", "DATA 2", "DATA 492", "DATA 512 boundary turn"]


def test_a_run_before_a_streamed_pdu_leaves_together_with_its_first_piece() -> None:
    framer = Framer(stream_threshold=100)
    (frame,) = framer.feed(dicom.echo_rq() + dicom.pdata(3, bytes(1000))[:50])
    assert isinstance(frame, Data)
    assert (frame.turn, frame.boundary, len(frame.commands)) == (True, False, 1)


def test_a_pdu_up_to_the_threshold_surfaces_only_whole() -> None:
    pdu = dicom.pdata(3, bytes(200_000))
    framer = Framer()
    assert framer.feed(pdu[:-1]) == []
    assert framer.buffered == len(pdu) - 1
    (frame,) = framer.feed(pdu[-1:])
    assert isinstance(frame, Data)
    assert frame.run == pdu
    assert framer.buffered == 0


def test_a_run_is_a_view_into_what_was_fed() -> None:
    data = bytearray(dicom.pdata(3, b"ab") * 3)
    (frame,) = Framer().feed(data)
    assert isinstance(frame, Data)
    data[-1] = 0
    assert frame.run[-1] == 0


def test_the_first_pdu_must_be_one_of_the_opening() -> None:
    framer = Framer(opening={PduType.ASSOCIATE_RQ})
    with pytest.raises(RemoteMisuse) as caught:
        framer.feed(b"\x04\x00\x00\x00\x01\x00")
    assert (caught.value.source, caught.value.reason) == (2, 2)
    assert framer.buffered == 0


def test_data_on_a_context_that_was_not_accepted_is_misuse_also_on_the_quick_path() -> None:
    framer = Framer(contexts={1})
    assert len(framer.feed(dicom.pdata(1, bytes(100)))) == 1
    with pytest.raises(RemoteMisuse) as caught:
        framer.feed(dicom.pdata(3, bytes(100)))
    assert (caught.value.source, caught.value.reason) == (2, 6)


def test_what_came_before_a_wrong_pdu_surfaces_from_frames() -> None:
    framer = Framer()
    good = dicom.echo_rq()
    frames = framer.frames(good + b"GET / HTTP/1.1")
    assert in_words(next(frames)) == f"DATA {len(good)} boundary turn commands 1"
    with pytest.raises(RemoteMisuse):
        next(frames)


def test_a_framer_that_met_misuse_stays_broken() -> None:
    framer = Framer()
    for _ in range(2):
        with pytest.raises(RemoteMisuse):
            framer.feed(b"\x00\x00\x00\x00\x00\x00")


def test_held_commands_surface_whole_and_in_one_run() -> None:
    command = dicom.move_command("WS1")
    cut = dicom.pdata(3, command[:20], command=True) + dicom.pdata(3, command[20:], command=True, last=True)
    before = dicom.pdata(1, b"xy")
    framer = Framer()
    framer.hold_commands(64 * 1024)
    assert framer.feed(before + cut[:40]) == []
    assert framer.feed(cut[40:60]) == []
    (frame,) = framer.feed(cut[60:])
    assert isinstance(frame, Data)
    assert frame.run == before + cut
    assert [command.raw for command in frame.commands] == [command]
    assert framer.buffered == 0


def test_held_commands_over_the_limit_or_in_a_streamed_pdu_are_misuse() -> None:
    framer = Framer()
    framer.hold_commands(100)
    with pytest.raises(RemoteMisuse):
        framer.feed(dicom.pdata(3, bytes(101), command=True))
    framer = Framer(stream_threshold=50)
    framer.hold_commands(100)
    with pytest.raises(RemoteMisuse):
        framer.feed(dicom.pdata(3, bytes(60), command=True)[:30])
    framer = Framer()
    framer.hold_commands(100)
    framer.feed(dicom.pdata(3, b"", command=True))
    with pytest.raises(RemoteMisuse):
        framer.feed(dicom.pdata(3, b"", command=True) * 100_000)


def test_what_holds_no_command_is_not_held() -> None:
    framer = Framer(stream_threshold=100)
    framer.hold_commands(100)
    run = dicom.pdata(3, b"ab")
    large = dicom.pdata(3, bytes(500))
    frames = framer.feed(run + large[:200]) + framer.feed(large[200:])
    assert [in_words(frame) for frame in frames] == [
        "DATA 14 boundary",
        "DATA 200",
        f"DATA {len(large) - 200} boundary",
    ]


def test_a_held_command_leaves_before_a_pdu_that_streams() -> None:
    framer = Framer(stream_threshold=300)
    framer.hold_commands(200)
    command = dicom.pdata(3, dicom.move_command("WS1"), command=True, last=True)
    frames = framer.feed(command + dicom.pdata(3, bytes(500))[:100])
    assert [in_words(frame) for frame in frames] == [f"DATA {len(command)} boundary commands 1", "DATA 100"]


@pytest.mark.parametrize("cut", [20, 200, 480])
def test_a_held_command_at_the_end_of_a_pdu_that_streams_is_misuse(cut: int) -> None:
    pdu = dicom.pdata_of((1, 0, bytes(400)), (3, 3, dicom.move_command("WS1")))
    framer = Framer(stream_threshold=100)
    framer.hold_commands(200)
    with pytest.raises(RemoteMisuse):
        hear(framer, [pdu[:cut], pdu[cut:]])


def test_a_pdu_inside_a_held_command_lets_what_was_held_go_first() -> None:
    framer = Framer()
    framer.hold_commands(100)
    begun = dicom.pdata(3, bytes(10), command=True)
    frames = framer.feed(begun + dicom.abort())
    assert [in_words(frame) for frame in frames] == [f"DATA {len(begun)} boundary", "ABORT 10"]


STREAM = (
    dicom.associate_rq()
    + dicom.echo_rq(1)
    + dicom.store_rq(bytes(5_000), 3, max_pdu_length=512)
    + dicom.pdata_of((1, 3, dicom.store_command()), (3, 0, b"abc"), (3, 2, b""), (1, 1, b""))
    + dicom.pdata(3, bytes(2_000), last=True)
    + dicom.release_rq()
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=depth.count(push=100, nightly=5_000), deadline=None)
@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=30), threshold=st.sampled_from([64, 600, 1 << 20]))
def test_however_the_bytes_are_cut_the_same_comes_out(cuts: list[int], threshold: int) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[start:end] for start, end in itertools.pairwise(edges)]
    framer = Framer(stream_threshold=threshold)
    assert hear(framer, chunks) == hear(Framer(), [STREAM])
    assert framer.buffered == 0
    assert not framer.inside_pdu


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=depth.count(push=100, nightly=5_000), deadline=None)
@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_boundaries_are_where_pdus_end(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    ends = set()
    at = 0
    while at < len(STREAM):
        at += 6 + int.from_bytes(STREAM[at + 2 : at + 6], "big")
        ends.add(at)
    framer = Framer(stream_threshold=300)
    seen = 0
    for start, end in itertools.pairwise(edges):
        for frame in framer.feed(STREAM[start:end]):
            seen += len(frame.raw if isinstance(frame, Pdu) else frame.run)
            assert (seen in ends) == (frame.boundary if isinstance(frame, Data) else True)
