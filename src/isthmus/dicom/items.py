"""The items of A-ASSOCIATE PDUs and of their user information (PS3.8 annex D, PS3.7 annex D.3.3)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

from isthmus.errors import RemoteMisuse


class ItemType(IntEnum):
    """First byte of an item or sub-item."""

    APPLICATION_CONTEXT = 0x10
    CONTEXT_RQ = 0x20
    CONTEXT_AC = 0x21
    ABSTRACT_SYNTAX = 0x30
    TRANSFER_SYNTAX = 0x40
    USER_INFORMATION = 0x50
    MAX_LENGTH = 0x51
    IMPLEMENTATION_UID = 0x52
    ASYNC_OPERATIONS = 0x53
    ROLE_SELECTION = 0x54
    IMPLEMENTATION_VERSION = 0x55
    EXTENDED = 0x56
    COMMON_EXTENDED = 0x57
    USER_IDENTITY_RQ = 0x58
    USER_IDENTITY_AC = 0x59


def invalid(message: str) -> RemoteMisuse:
    """Return the error for a malformed PDU: A-ABORT, invalid PDU parameter value (PS3.8 table 9-26)."""
    return RemoteMisuse(message, source=2, reason=6)


def uid_text(value: bytes) -> str:
    """Return a UID as text, trailing NULs and spaces cut; of any length, unchecked, never failing."""
    return value.rstrip(b"\0 ").decode("ascii", "replace")


@dataclass(frozen=True, slots=True)
class Item:
    """One item with its header, as it travelled. `type` need not be one that we know."""

    type: int
    raw: bytes = field(repr=False)

    @property
    def value(self) -> bytes:
        """The bytes after the header."""
        return self.raw[4:]

    def with_value(self, value: bytes) -> Self:
        """Return the item with another value: type and reserved byte stay, the length follows."""
        return type(self)(self.type, self.raw[:2] + len(value).to_bytes(2, "big") + value)

    def leading_uid(self) -> bytes:
        """Return the UID that role, extended and common extended items begin with. Raises RemoteMisuse (2/6)."""
        value = self.value
        length = int.from_bytes(value[:2], "big")
        if len(value) < 2 + length or len(value) < 2:
            raise invalid("a negotiation item is too short for its UID")
        return value[2 : 2 + length]


def make_item(kind: ItemType, value: bytes) -> Item:
    """Return an item of our own."""
    return Item(kind, bytes((kind, 0)) + len(value).to_bytes(2, "big") + value)


def split_items(raw: bytes, start: int) -> tuple[Item, ...]:
    """Cut the bytes from `start` on into items. Raises RemoteMisuse (2/6) unless they fill the bytes exactly."""
    items = []
    size = len(raw)
    while start < size:
        if size - start < 4:
            raise invalid("an item ends inside its header")
        end = start + 4 + (raw[start + 2] << 8 | raw[start + 3])
        if end > size:
            raise invalid("an item is longer than what holds it")
        items.append(Item(raw[start], raw[start:end]))
        start = end
    return tuple(items)


def join_items(items: Iterable[Item]) -> bytes:
    """Return the items' bytes, one after the other."""
    return b"".join(item.raw for item in items)


@dataclass(frozen=True, slots=True)
class RoleSelection:
    """SCP/SCU role selection (54H, PS3.7 D.3.3.4): what the requestor proposes to be, or the acceptor lets it be."""

    sop_class: str
    scu: bool
    scp: bool

    def to_item(self) -> Item:
        """Return the sub-item."""
        uid = self.sop_class.encode("ascii", "replace")
        return make_item(ItemType.ROLE_SELECTION, len(uid).to_bytes(2, "big") + uid + bytes((self.scu, self.scp)))


@dataclass(frozen=True, slots=True)
class AsyncOperations:
    """Asynchronous operations window (53H, PS3.7 D.3.3.3); 0 is unlimited."""

    invoked: int
    performed: int


@dataclass(frozen=True, slots=True)
class UserInformation:
    """What the user information item (50H) says, as far as a relay cares; unknown sub-items are in `items`."""

    items: tuple[Item, ...] = field(repr=False)
    max_pdu_length: int
    """Bytes of a P-DATA-TF without its header; 0 is no limit, also when the sub-item is missing."""
    implementation_uid: str
    implementation_version: str
    roles: tuple[RoleSelection, ...]
    async_operations: AsyncOperations | None
    extended: tuple[str, ...]
    """SOP classes with extended negotiation (56H)."""
    common_extended: tuple[str, ...]
    """SOP classes with common extended negotiation (57H)."""
    user_identity_type: int | None
    """User Identity Type of a 58H, or 0 for the server response 59H; what it says is nobody's business here."""

    @classmethod
    def parse(cls, value: bytes) -> Self:
        """Return the view. Raises RemoteMisuse (2/6)."""
        items = split_items(value, 0)
        max_pdu_length, implementation_uid, implementation_version = 0, "", ""
        roles: list[RoleSelection] = []
        async_operations: AsyncOperations | None = None
        extended: list[str] = []
        common_extended: list[str] = []
        user_identity_type: int | None = None
        for item in items:
            content = item.value
            if item.type == ItemType.MAX_LENGTH:
                max_pdu_length = int.from_bytes(_exactly(content, 4), "big")
            elif item.type == ItemType.IMPLEMENTATION_UID:
                implementation_uid = uid_text(content)
            elif item.type == ItemType.IMPLEMENTATION_VERSION:
                implementation_version = uid_text(content)
            elif item.type == ItemType.ASYNC_OPERATIONS:
                _exactly(content, 4)
                async_operations = AsyncOperations(
                    int.from_bytes(content[:2], "big"), int.from_bytes(content[2:], "big")
                )
            elif item.type == ItemType.ROLE_SELECTION:
                uid = item.leading_uid()
                scu, scp = _exactly(content[2 + len(uid) :], 2)
                roles.append(RoleSelection(uid_text(uid), scu == 1, scp == 1))
            elif item.type == ItemType.EXTENDED:
                extended.append(uid_text(item.leading_uid()))
            elif item.type == ItemType.COMMON_EXTENDED:
                common_extended.append(uid_text(item.leading_uid()))
            elif item.type == ItemType.USER_IDENTITY_RQ:
                user_identity_type = content[0] if content else 0
            elif item.type == ItemType.USER_IDENTITY_AC:
                user_identity_type = 0
        return cls(
            items,
            max_pdu_length,
            implementation_uid,
            implementation_version,
            tuple(roles),
            async_operations,
            tuple(extended),
            tuple(common_extended),
            user_identity_type,
        )


def _exactly(value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise invalid(f"a negotiation item of {len(value)} bytes, not {length}")
    return value
