"""Command sets: tolerant reading, exact editing."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.dicom.command import (
    CommandField,
    CommandSet,
    Tag,
    announces_data_set,
    c_echo_rq,
    c_echo_rsp,
    encode,
    response,
)
from isthmus.errors import RemoteMisuse
from isthmus.kit.names import AETitle
from isthmus.testing import dicom

VECTORS = tomllib.loads((Path(__file__).parents[2] / "vectors/dicom/commands.toml").read_text())["vector"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["bytes"])
    if "misuse" in vector:
        with pytest.raises(RemoteMisuse) as caught:
            CommandSet.parse(raw)
        assert [caught.value.source, caught.value.reason] == vector["misuse"]
        return
    command = CommandSet.parse(raw)
    names = (
        "command_field",
        "message_id",
        "responds_to",
        "affected_sop_class",
        "move_destination",
        "priority",
        "status",
    )
    fields = {name: getattr(command, name) for name in names}
    fields = {name: value for name, value in fields.items() if value is not None}
    expected = dict(vector["fields"])
    assert command.data_set_present == expected.pop("data_set_present", False)
    assert fields == expected
    assert announces_data_set(raw) == command.data_set_present


def test_echo_is_the_vector() -> None:
    assert c_echo_rq(7) == bytes.fromhex(VECTORS[0]["bytes"])
    rsp = CommandSet.parse(c_echo_rsp(7))
    assert (rsp.command_field, rsp.responds_to, rsp.status) == (CommandField.C_ECHO_RSP, 7, 0)
    assert rsp.is_response


@given(title=st.text("ABCDEFGHIJ_", min_size=1, max_size=16), before=st.text("abc", max_size=16))
def test_another_title_changes_its_element_and_the_group_length_only(title: str, before: str) -> None:
    old = CommandSet.parse(dicom.move_command(before))
    new = old.with_title(Tag.MOVE_DESTINATION, AETitle(title))
    assert new.move_destination == title
    assert new.raw == dicom.move_command(title)
    assert int.from_bytes(new.value(Tag.GROUP_LENGTH) or b"", "little") == len(new.raw) - 12


def test_a_group_length_that_is_missing_stays_missing() -> None:
    old = CommandSet.parse(dicom.store_command(originator="PACS")[12:])
    new = old.with_title(Tag.MOVE_ORIGINATOR_TITLE, AETitle("ARCHIVE"))
    assert new.raw == dicom.store_command(originator="ARCHIVE")[12:]
    assert new.move_originator_title == "ARCHIVE"


def test_a_group_length_that_comes_late_is_corrected_where_it_is() -> None:
    whole = dicom.move_command("WS1")
    new = CommandSet.parse(whole[12:] + whole[:12]).with_title(Tag.MOVE_DESTINATION, AETitle("LONGER"))
    longer = dicom.move_command("LONGER")
    assert new.raw == longer[12:] + longer[:12]


def test_a_title_that_is_not_there_cannot_be_changed() -> None:
    with pytest.raises(KeyError):
        CommandSet.parse(c_echo_rq(1)).with_title(Tag.MOVE_DESTINATION, AETitle("X"))


def test_a_response_repeats_what_it_answers() -> None:
    request = CommandSet.parse(dicom.store_command(9, sop_instance="1.2.3"))
    answer = CommandSet.parse(response(request, 0xA700, comment="x" * 100))
    assert (answer.command_field, answer.responds_to, answer.status) == (CommandField.C_STORE_RSP, 9, 0xA700)
    assert (answer.affected_sop_class, answer.affected_sop_instance) == (dicom.CT_IMAGE_STORAGE, "1.2.3")
    assert len(answer.value(Tag.ERROR_COMMENT) or b"") == 64
    assert not answer.data_set_present


def test_a_response_to_an_n_action_names_the_class_and_instance_that_were_requested() -> None:
    request = CommandSet.parse(
        encode(
            {
                Tag.REQUESTED_SOP_CLASS_UID: "1.2.840.10008.1.20.1",
                Tag.COMMAND_FIELD: CommandField.N_ACTION_RQ,
                Tag.MESSAGE_ID: 3,
                Tag.DATA_SET_TYPE: 1,
                Tag.REQUESTED_SOP_INSTANCE_UID: "1.2.840.10008.1.20.1.1",
                Tag.ACTION_TYPE_ID: 1,
            }
        )
    )
    assert request.requested_sop_class == "1.2.840.10008.1.20.1"
    answer = CommandSet.parse(response(request, 0))
    assert answer.command_field is CommandField.N_ACTION_RSP
    assert (answer.affected_sop_class, answer.number(Tag.ACTION_TYPE_ID)) == ("1.2.840.10008.1.20.1", 1)
    assert answer.affected_sop_instance == "1.2.840.10008.1.20.1.1"


def test_what_nothing_can_answer_is_misuse() -> None:
    with pytest.raises(RemoteMisuse):
        response(CommandSet.parse(b""), 0)


def test_text_is_no_number_and_numbers_no_text() -> None:
    with pytest.raises(ValueError, match="MOVE_DESTINATION"):
        encode({Tag.MOVE_DESTINATION: 1})


def test_a_command_set_reads_as_kind_and_size() -> None:
    command = CommandSet.parse(dicom.store_command(sop_instance="1.2.3.4.5"))
    assert str(command) == f"C-STORE-RQ ({len(command.raw)} bytes)"
    assert "1.2.3.4.5" not in repr(command)
    assert str(CommandSet.parse(encode({Tag.COMMAND_FIELD: 0x7777}))).startswith("command 30583")


@given(st.binary(max_size=200))
def test_anything_parses_or_is_misuse(raw: bytes) -> None:
    announces_data_set(raw)
    try:
        command = CommandSet.parse(raw)
    except RemoteMisuse:
        return
    assert command.raw == raw
    for name in ("command_field", "move_destination", "affected_sop_class", "is_response", "data_set_present"):
        getattr(command, name)


def test_another_message_id_changes_two_bytes_and_no_more() -> None:
    raw = encode({Tag.COMMAND_FIELD: CommandField.C_STORE_RQ, Tag.MESSAGE_ID: 7, Tag.DATA_SET_TYPE: 1})
    changed = CommandSet.parse(raw).with_number(Tag.MESSAGE_ID, 0x1234)
    assert changed.message_id == 0x1234
    assert changed.raw == encode({Tag.COMMAND_FIELD: 1, Tag.MESSAGE_ID: 0x1234, Tag.DATA_SET_TYPE: 1})
    with pytest.raises(KeyError):
        changed.with_number(Tag.STATUS, 0)
