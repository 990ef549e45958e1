"""Rewriting command sets in a run: nothing else moves."""

import pytest

from isthmus.dicom.command import CommandSet, Tag
from isthmus.dicom.framing import Data, Framer
from isthmus.dicom.pdv import Command
from isthmus.dicom.rewrite import rewrite_commands
from isthmus.errors import LocalMisuse
from isthmus.kit.names import AETitle
from isthmus.testing import dicom

MOVE = dicom.move_command("WS1")
LONGER = dicom.move_command("WORKSTATION_0001")


def rename(command: Command) -> bytes | None:
    fields = command.parse()
    if fields.move_destination is None:
        return None
    return fields.with_title(Tag.MOVE_DESTINATION, AETitle("WORKSTATION_0001")).raw


def test_a_run_without_such_a_command_is_the_very_same_run() -> None:
    run = dicom.store_rq(bytes(1000)) + dicom.echo_rq()
    assert rewrite_commands(run, rename, max_pdu_length=0) is run


def test_a_command_in_a_pdu_of_its_own_is_replaced() -> None:
    before, after = dicom.echo_rq(), dicom.pdata(3, b"identifier", last=True)
    run = before + dicom.pdata(3, MOVE, command=True, last=True) + after
    out = rewrite_commands(memoryview(run), rename, max_pdu_length=0)
    assert out == before + dicom.pdata(3, LONGER, command=True, last=True) + after


def test_a_command_that_shares_its_pdu_is_replaced_and_the_other_pdvs_keep_their_bytes() -> None:
    run = dicom.pdata_of((1, 0, b"other"), (3, 1, MOVE[:10]), (1, 2, b"end"), (3, 3, MOVE[10:]), (3, 2, b"identifier"))
    out = rewrite_commands(run, rename, max_pdu_length=0)
    assert out == (
        dicom.pdata_of((1, 0, b"other"))
        + dicom.pdata_of((3, 3, LONGER))
        + dicom.pdata_of((1, 2, b"end"), (3, 2, b"identifier"))
    )


def test_a_command_over_several_pdus_is_replaced_within_the_receivers_limit() -> None:
    run = dicom.pdata(3, MOVE[:10], command=True) + dicom.pdata(3, MOVE[10:], command=True, last=True)
    out = bytes(rewrite_commands(run, rename, max_pdu_length=26))
    frames = Framer().feed(out)
    assert [frame.commands[0].raw for frame in frames if isinstance(frame, Data)] == [LONGER]
    assert max(int.from_bytes(out[at + 2 : at + 6], "big") for at in range(0, len(out), 32)) <= 26
    assert CommandSet.parse(LONGER).move_destination == "WORKSTATION_0001"


def test_a_command_that_an_abort_cut_short_stays_as_it_is() -> None:
    cut_short = dicom.pdata(1, MOVE[:20], command=True)
    framer = Framer()
    framer.hold_commands(1000)
    data, _ = framer.feed(dicom.pdata(3, MOVE, command=True, last=True) + cut_short + dicom.abort())
    assert isinstance(data, Data)
    out = rewrite_commands(data.run, rename, max_pdu_length=0)
    assert out == dicom.pdata(3, LONGER, command=True, last=True) + cut_short


@pytest.mark.parametrize(
    "run",
    [
        dicom.pdata(3, MOVE, command=True, last=True)[:-1],
        b"\x04\x00\x00",
        b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x01\x03\x03",
    ],
)
def test_a_run_that_is_not_whole_is_our_mistake(run: bytes) -> None:
    with pytest.raises(LocalMisuse):
        rewrite_commands(run, rename, max_pdu_length=0)
