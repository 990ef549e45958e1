"""Packets between Bridges: whole, for whom they are meant, from whom they say."""

import secrets

from hypothesis import given
from hypothesis import strategies as st

from isthmus.bridge.cluster.packets import Kind, Seals, make_word, words_of
from isthmus.envelope.identity import Identity

IDENTITY, STRANGER = Identity.generate(secrets.token_bytes), Identity.generate(secrets.token_bytes)
ONE, OTHER, THIRD = ("01" * 8, "02" * 8, "03" * 8)


@given(st.lists(st.tuples(st.sampled_from(list(Kind)), st.binary(max_size=300)), max_size=5))
def test_words_come_out_as_they_went_in(said: list[tuple[Kind, bytes]]) -> None:
    packet = Seals(IDENTITY, ONE).seal(OTHER, [make_word(kind, body[:3], memoryview(body)[3:]) for kind, body in said])
    opened = Seals(IDENTITY, OTHER).open(OTHER, packet)
    assert opened is not None
    sender, number, content = opened
    assert (sender, number) == (ONE, 1)
    assert [(kind, bytes(body)) for kind, body in words_of(content)] == said


def test_packets_to_each_bridge_are_numbered_apart() -> None:
    seals = Seals(IDENTITY, ONE)
    packets = [(to, seals.seal(to, [])) for to in (OTHER, THIRD, OTHER)]
    numbers = [opened[1] for to, packet in packets if (opened := Seals(IDENTITY, to).open(to, packet)) is not None]
    assert numbers == [1, 1, 2]


@given(st.data())
def test_what_was_changed_is_not_opened(data: st.DataObject) -> None:
    packet = bytearray(Seals(IDENTITY, ONE).seal(OTHER, [make_word(Kind.BEAT, bytes(8))]))
    packet[data.draw(st.integers(0, len(packet) - 1))] ^= data.draw(st.integers(1, 255))
    assert Seals(IDENTITY, OTHER).open(OTHER, bytes(packet)) is None


@given(st.binary(max_size=100))
def test_noise_is_not_opened(noise: bytes) -> None:
    assert Seals(IDENTITY, OTHER).open(OTHER, noise) is None


def test_what_is_meant_for_another_bridge_or_comes_from_another_network_is_not_opened() -> None:
    seals = Seals(IDENTITY, OTHER)
    assert seals.open(OTHER, Seals(IDENTITY, ONE).seal(THIRD, [])) is None
    assert seals.open(OTHER, Seals(STRANGER, ONE).seal(OTHER, [])) is None


@given(st.binary(max_size=60))
def test_words_that_are_cut_off_are_left_out(content: bytes) -> None:
    assert sum(len(body) + 5 for _, body in words_of(content)) <= len(content)
