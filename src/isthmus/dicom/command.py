"""DIMSE command sets (PS3.7 section 6.3 and annex E): group 0000, implicit VR, little endian.

Every element may be missing, since devices leave out what they should not. Only the framing of the elements is
demanded. Values may name a patient (an Error Comment, an attribute list): nothing of them belongs in a log.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Self

from isthmus.errors import RemoteMisuse
from isthmus.kit.names import AETitle

NO_DATA_SET: Final = 0x0101
"""Command Data Set Type that says that no data set follows; any other value says that one does."""


class Tag(IntEnum):
    """Element numbers of group 0000 (PS3.7 table E.1-1)."""

    GROUP_LENGTH = 0x0000
    AFFECTED_SOP_CLASS_UID = 0x0002
    REQUESTED_SOP_CLASS_UID = 0x0003
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
    MOVE_DESTINATION = 0x0600
    PRIORITY = 0x0700
    DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    OFFENDING_ELEMENT = 0x0901
    ERROR_COMMENT = 0x0902
    ERROR_ID = 0x0903
    AFFECTED_SOP_INSTANCE_UID = 0x1000
    REQUESTED_SOP_INSTANCE_UID = 0x1001
    EVENT_TYPE_ID = 0x1002
    ATTRIBUTE_IDENTIFIER_LIST = 0x1005
    ACTION_TYPE_ID = 0x1008
    REMAINING_SUB_OPERATIONS = 0x1020
    COMPLETED_SUB_OPERATIONS = 0x1021
    FAILED_SUB_OPERATIONS = 0x1022
    WARNING_SUB_OPERATIONS = 0x1023
    MOVE_ORIGINATOR_TITLE = 0x1030
    MOVE_ORIGINATOR_MESSAGE_ID = 0x1031


class CommandField(IntEnum):
    """What a message asks or answers (PS3.7 table E.1-1). A response is its request with bit 15 set."""

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    C_GET_RQ = 0x0010
    C_GET_RSP = 0x8010
    C_FIND_RQ = 0x0020
    C_FIND_RSP = 0x8020
    C_MOVE_RQ = 0x0021
    C_MOVE_RSP = 0x8021
    C_ECHO_RQ = 0x0030
    C_ECHO_RSP = 0x8030
    N_EVENT_REPORT_RQ = 0x0100
    N_EVENT_REPORT_RSP = 0x8100
    N_GET_RQ = 0x0110
    N_GET_RSP = 0x8110
    N_SET_RQ = 0x0120
    N_SET_RSP = 0x8120
    N_ACTION_RQ = 0x0130
    N_ACTION_RSP = 0x8130
    N_CREATE_RQ = 0x0140
    N_CREATE_RSP = 0x8140
    N_DELETE_RQ = 0x0150
    N_DELETE_RSP = 0x8150
    C_CANCEL_RQ = 0x0FFF


_ELEMENT = struct.Struct("<HHI")
_GROUP: Final = 0x0000
_TAKES_TWO_BYTES: Final = frozenset(
    {
        Tag.COMMAND_FIELD, Tag.MESSAGE_ID, Tag.MESSAGE_ID_BEING_RESPONDED_TO, Tag.PRIORITY, Tag.DATA_SET_TYPE,
        Tag.STATUS, Tag.ERROR_ID, Tag.EVENT_TYPE_ID, Tag.ACTION_TYPE_ID, Tag.REMAINING_SUB_OPERATIONS,
        Tag.COMPLETED_SUB_OPERATIONS, Tag.FAILED_SUB_OPERATIONS, Tag.WARNING_SUB_OPERATIONS,
        Tag.MOVE_ORIGINATOR_MESSAGE_ID,
    }
)  # fmt: skip
_UIDS: Final = frozenset(
    {
        Tag.AFFECTED_SOP_CLASS_UID, Tag.REQUESTED_SOP_CLASS_UID, Tag.AFFECTED_SOP_INSTANCE_UID,
        Tag.REQUESTED_SOP_INSTANCE_UID,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CommandSet:
    """A view of one command set. A missing or senseless value reads as None; `raw` stays what it was."""

    raw: bytes = field(repr=False)
    _elements: Mapping[int, tuple[int, int]] = field(repr=False, compare=False)
    """Element number of group 0000 -> where its value starts and how long it is, in bytes."""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the view. Raises RemoteMisuse (2/6) if the elements do not fill the bytes, or one comes twice."""
        elements: dict[int, tuple[int, int]] = {}
        position, size = 0, len(raw)
        while position < size:
            if size - position < _ELEMENT.size:
                raise RemoteMisuse("a command set ends inside an element", reason=6)
            group, element, length = _ELEMENT.unpack_from(raw, position)
            position += _ELEMENT.size
            if length > size - position:
                raise RemoteMisuse("an element is longer than its command set", reason=6)
            if group == _GROUP:
                if element in elements:
                    raise RemoteMisuse(f"a command set has (0000,{element:04x}) twice", reason=6)
                elements[element] = (position, length)
            position += length
        return cls(raw, elements)

    def value(self, tag: Tag) -> bytes | None:
        """Return an element's value as it travelled, padding included."""
        place = self._elements.get(tag)
        return None if place is None else self.raw[place[0] : place[0] + place[1]]

    def number(self, tag: Tag) -> int | None:
        """Return an unsigned short. None if it is missing or not two bytes long."""
        value = self.value(tag)
        return int.from_bytes(value, "little") if value is not None and len(value) == 2 else None

    def uid(self, tag: Tag) -> str | None:
        """Return a UID without its padding; of any length, unchecked."""
        value = self.value(tag)
        return None if value is None else value.rstrip(b"\0 ").decode("ascii", "replace")

    def title(self, tag: Tag) -> AETitle | None:
        """Return an AE title without its padding."""
        value = self.value(tag)
        return None if value is None else AETitle.from_wire(value)

    @property
    def command_field(self) -> CommandField | int | None:
        """What is asked or answered; a number that the standard does not know stays a number."""
        number = self.number(Tag.COMMAND_FIELD)
        return _COMMAND_FIELDS.get(number, number) if number is not None else None

    @property
    def is_response(self) -> bool:
        """Whether this answers a request. A C-CANCEL-RQ does not."""
        number = self.number(Tag.COMMAND_FIELD)
        return number is not None and bool(number & 0x8000)

    @property
    def message_id(self) -> int | None:
        """Message ID of a request."""
        return self.number(Tag.MESSAGE_ID)

    @property
    def responds_to(self) -> int | None:
        """Message ID of the request that this answers or cancels."""
        return self.number(Tag.MESSAGE_ID_BEING_RESPONDED_TO)

    @property
    def data_set_present(self) -> bool:
        """Whether a data set follows; not if the element is missing."""
        return self.number(Tag.DATA_SET_TYPE) not in (None, NO_DATA_SET)

    @property
    def priority(self) -> int | None:
        """0 medium, 1 high, 2 low."""
        return self.number(Tag.PRIORITY)

    @property
    def status(self) -> int | None:
        """Status of a response (`isthmus.dicom.status`)."""
        return self.number(Tag.STATUS)

    @property
    def affected_sop_class(self) -> str | None:
        """Affected SOP Class UID."""
        return self.uid(Tag.AFFECTED_SOP_CLASS_UID)

    @property
    def requested_sop_class(self) -> str | None:
        """Requested SOP Class UID (N-GET, N-SET, N-ACTION, N-DELETE)."""
        return self.uid(Tag.REQUESTED_SOP_CLASS_UID)

    @property
    def affected_sop_instance(self) -> str | None:
        """Affected SOP Instance UID."""
        return self.uid(Tag.AFFECTED_SOP_INSTANCE_UID)

    @property
    def move_destination(self) -> AETitle | None:
        """Move Destination (0000,0600) of a C-MOVE-RQ."""
        return self.title(Tag.MOVE_DESTINATION)

    @property
    def move_originator_title(self) -> AETitle | None:
        """Move Originator Application Entity Title (0000,1030) of a C-STORE-RQ."""
        return self.title(Tag.MOVE_ORIGINATOR_TITLE)

    def with_title(self, tag: Tag, title: AETitle) -> Self:
        """Return the command set with another AE title in an element it has; only that and the group length change.

        Raises KeyError if the element is missing: that is for the caller to ask first.
        """
        start, length = self._elements[tag]
        value = title.encode("ascii", "replace")
        value += b" " * (len(value) % 2)
        raw = bytearray(self.raw)
        raw[start : start + length] = value
        raw[start - 4 : start] = len(value).to_bytes(4, "little")
        group_length = self._elements.get(Tag.GROUP_LENGTH)
        if group_length is not None and group_length[1] == 4:
            at = group_length[0] + (len(value) - length if group_length[0] > start else 0)
            old = int.from_bytes(raw[at : at + 4], "little")
            raw[at : at + 4] = ((old + len(value) - length) & 0xFFFFFFFF).to_bytes(4, "little")
        return self.parse(bytes(raw))

    def with_number(self, tag: Tag, number: int) -> Self:
        """Return the command set with another unsigned short in an element it has; nothing else changes.

        Raises KeyError if the element is missing, and ValueError if it is not two bytes long.
        """
        start, length = self._elements[tag]
        if length != 2:
            raise ValueError(f"{tag.name} is {length} bytes long")
        return self.parse(self.raw[:start] + number.to_bytes(2, "little") + self.raw[start + 2 :])

    def __str__(self) -> str:
        kind = self.command_field
        name = kind.name.replace("_", "-") if isinstance(kind, CommandField) else f"command {kind}"
        return f"{name} ({len(self.raw)} bytes)"


def announces_data_set(raw: bytes) -> bool:
    """Return whether a data set follows this command set, without failing: a malformed one announces nothing."""
    position, size = 0, len(raw)
    while size - position >= _ELEMENT.size:
        group, element, length = _ELEMENT.unpack_from(raw, position)
        position += _ELEMENT.size
        if group == _GROUP and element == Tag.DATA_SET_TYPE:
            return length == 2 and raw[position : position + 2] not in (b"\x01\x01", b"")
        position += length
    return False


def encode(elements: Mapping[Tag, int | str | bytes]) -> bytes:
    """Return a command set with its group length, elements ascending.

    Numbers are unsigned shorts; text is padded to even length, UIDs with a NUL, the rest with a space.
    """
    body = bytearray()
    for tag in sorted(elements):
        value = elements[tag]
        if isinstance(value, int):
            if tag not in _TAKES_TWO_BYTES:
                raise ValueError(f"{tag.name} is not a number")
            value = value.to_bytes(2, "little")
        elif isinstance(value, str):
            value = value.encode("ascii", "replace")
            if len(value) % 2:
                value += b"\0" if tag in _UIDS else b" "
        body += _ELEMENT.pack(_GROUP, tag, len(value)) + value
    return _ELEMENT.pack(_GROUP, Tag.GROUP_LENGTH, 4) + len(body).to_bytes(4, "little") + bytes(body)


def c_echo_rq(message_id: int) -> bytes:
    """Return a C-ECHO-RQ (PS3.7 section 9.3.5.1)."""
    return encode(
        {
            Tag.AFFECTED_SOP_CLASS_UID: "1.2.840.10008.1.1",
            Tag.COMMAND_FIELD: CommandField.C_ECHO_RQ,
            Tag.MESSAGE_ID: message_id,
            Tag.DATA_SET_TYPE: NO_DATA_SET,
        }
    )


def c_echo_rsp(message_id: int, status: int = 0) -> bytes:
    """Return a C-ECHO-RSP to the request with this Message ID (PS3.7 section 9.3.5.2)."""
    return encode(
        {
            Tag.AFFECTED_SOP_CLASS_UID: "1.2.840.10008.1.1",
            Tag.COMMAND_FIELD: CommandField.C_ECHO_RSP,
            Tag.MESSAGE_ID_BEING_RESPONDED_TO: message_id,
            Tag.DATA_SET_TYPE: NO_DATA_SET,
            Tag.STATUS: status,
        }
    )


def response(request: CommandSet, status: int, *, comment: str = "") -> bytes:
    """Return the final response without a data set to any request but C-CANCEL: the same class and instance, a status.

    `comment` (0000,0902) is cut at 64 characters (VR LO). Raises RemoteMisuse if the request has no command field or
    no Message ID, since then nothing can answer it.
    """
    kind, message_id = request.number(Tag.COMMAND_FIELD), request.message_id
    if kind is None or message_id is None:
        raise RemoteMisuse("a request without a command field or a Message ID", reason=6)
    elements: dict[Tag, int | str | bytes] = {
        Tag.COMMAND_FIELD: kind | 0x8000,
        Tag.MESSAGE_ID_BEING_RESPONDED_TO: message_id,
        Tag.DATA_SET_TYPE: NO_DATA_SET,
        Tag.STATUS: status,
    }
    for own, asked in (
        (Tag.AFFECTED_SOP_CLASS_UID, Tag.REQUESTED_SOP_CLASS_UID),
        (Tag.AFFECTED_SOP_INSTANCE_UID, Tag.REQUESTED_SOP_INSTANCE_UID),
    ):
        value = request.value(own) or request.value(asked)
        if value:
            elements[own] = value
    for tag in (Tag.EVENT_TYPE_ID, Tag.ACTION_TYPE_ID):
        if number := request.value(tag):
            elements[tag] = number
    if comment:
        elements[Tag.ERROR_COMMENT] = comment[:64]
    return encode(elements)


_COMMAND_FIELDS: Final = {member.value: member for member in CommandField}
