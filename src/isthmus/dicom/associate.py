"""Views over A-ASSOCIATE-RQ and A-ASSOCIATE-AC (PS3.8 sections 9.3.2 and 9.3.3, annex D; PS3.7 annex D.3.3).

Fixed fields (74 bytes with the header), then items of type (1 byte), reserved (1), length (2), value. A view holds the
PDU's own bytes and cuts them into items, so that an edit moves whole items, corrects the lengths round them, and leaves
every other byte alone, also of items that nobody here understands.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Self

from isthmus.dicom.framing import PduType
from isthmus.dicom.items import (
    Item,
    ItemType,
    RoleSelection,
    UserInformation,
    invalid,
    join_items,
    make_item,
    split_items,
    uid_text,
)
from isthmus.dicom.uids import APPLICATION_CONTEXT, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from isthmus.kit.names import AETitle

_FIXED: Final = 74
_MAX_CONTEXTS: Final = 128  # ids are odd and fit a byte
_ABSTRACT_SYNTAX: Final = int(ItemType.ABSTRACT_SYNTAX)  # plain integers compare quicker
_TRANSFER_SYNTAX: Final = int(ItemType.TRANSFER_SYNTAX)


class ContextResult(IntEnum):
    """Result/Reason of a presentation context in the A-ASSOCIATE-AC (PS3.8 table 9-18)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


@dataclass(frozen=True, slots=True)
class PresentationContext:
    """A proposed presentation context (PS3.8 section 9.3.2.2)."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnsweredContext:
    """An answered presentation context (PS3.8 section 9.3.3.2). `result` may be a number the standard lacks."""

    id: int
    result: int
    transfer_syntax: str

    @property
    def accepted(self) -> bool:
        """Whether data may flow on it."""
        return self.result == ContextResult.ACCEPTANCE


@dataclass(frozen=True, slots=True)
class _Associate(ABC):
    """What both PDUs have in common."""

    raw: bytes = field(repr=False)
    items: tuple[Item, ...] = field(repr=False, compare=False)
    application_context: str = field(compare=False)
    user: UserInformation = field(repr=False, compare=False)

    @property
    def protocol_version(self) -> int:
        """Bit field of the versions offered; bit 0 is version 1, the only one there is."""
        return int.from_bytes(self.raw[6:8], "big")

    @property
    def called(self) -> AETitle:
        """Called AE title, without padding."""
        return AETitle.from_wire(self.raw[10:26])

    @property
    def calling(self) -> AETitle:
        """Calling AE title, without padding."""
        return AETitle.from_wire(self.raw[26:42])

    @property
    def max_pdu_length(self) -> int:
        """Largest P-DATA-TF, in bytes without its header, that the sender of this PDU takes; 0 is no limit."""
        return self.user.max_pdu_length

    @property
    def roles(self) -> tuple[RoleSelection, ...]:
        """SCP/SCU role selections (54H), in order."""
        return self.user.roles

    def with_titles(self, called: AETitle | None = None, calling: AETitle | None = None) -> Self:
        """Return the PDU with other AE titles; a title left out keeps its bytes, padding included."""
        raw = bytearray(self.raw)
        if called is not None:
            raw[10:26] = called.to_wire()
        if calling is not None:
            raw[26:42] = calling.to_wire()
        return self.parse(bytes(raw))

    @classmethod
    @abstractmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the view of a whole PDU. Raises RemoteMisuse (2/6)."""

    def _with_items(self, items: Iterable[Item]) -> Self:
        body = join_items(items)
        length = _FIXED - 6 + len(body)
        return self.parse(self.raw[:2] + length.to_bytes(4, "big") + self.raw[6:_FIXED] + body)


@dataclass(frozen=True, slots=True)
class AssociateRequest(_Associate):
    """An A-ASSOCIATE-RQ. `raw` is exactly what came."""

    contexts: tuple[PresentationContext, ...] = field(compare=False)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the view of a whole PDU. Raises RemoteMisuse (2/6), also for contexts that share an id."""
        items, application_context, user = _read(raw, PduType.ASSOCIATE_RQ)
        proposed = [item for item in items if item.type == ItemType.CONTEXT_RQ]
        known: dict[bytes, str] = {}
        contexts = tuple(_proposed(item.value, known) for item in proposed)
        ids = {context.id for context in contexts}
        if len(contexts) > _MAX_CONTEXTS or len(ids) != len(contexts) or any(id_ % 2 == 0 for id_ in ids):
            raise invalid("presentation context ids are not odd and unique")
        return cls(raw, items, application_context, user, contexts)

    def without_contexts(self, ids: AbstractSet[int]) -> Self:
        """Return the request without these presentation contexts.

        The role, extended and common extended negotiation items (54H, 56H, 57H) of an abstract syntax that nothing
        else proposes go with them.
        """
        gone = {context.abstract_syntax for context in self.contexts if context.id in ids}
        if not gone:
            return self
        gone -= {context.abstract_syntax for context in self.contexts if context.id not in ids}
        items = (item for item in self.items if not (item.type == ItemType.CONTEXT_RQ and item.value[0] in ids))
        return self._with_items(
            _edit_user(items, lambda sub: sub.type in _ABOUT_A_SYNTAX and uid_text(sub.leading_uid()) in gone)
        )

    def without_async_operations(self) -> Self:
        """Return the request without the asynchronous operations window (53H): some devices drop the line on one."""
        if self.user.async_operations is None:
            return self
        return self._with_items(_edit_user(self.items, lambda sub: sub.type == ItemType.ASYNC_OPERATIONS))


@dataclass(frozen=True, slots=True)
class AssociateAccept(_Associate):
    """An A-ASSOCIATE-AC. `raw` is exactly what came."""

    contexts: tuple[AnsweredContext, ...] = field(compare=False)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the view of a whole PDU. Raises RemoteMisuse (2/6), also for two answers to one context."""
        items, application_context, user = _read(raw, PduType.ASSOCIATE_AC)
        contexts = tuple(_answered(item.value) for item in items if item.type == ItemType.CONTEXT_AC)
        if len({context.id for context in contexts}) != len(contexts):
            raise invalid("two answers to one presentation context")
        return cls(raw, items, application_context, user, contexts)

    @property
    def accepted_ids(self) -> frozenset[int]:
        """Ids of the contexts on which data may flow, as far as this PDU says."""
        return frozenset(context.id for context in self.contexts if context.accepted)

    def with_refused_contexts(self, refused: Sequence[tuple[int, str]]) -> Self:
        """Return the answer with these contexts (id, first proposed transfer syntax) refused as by the user.

        Ids ascend if they did. An answer that is there already for one of these ids, which the device was never asked
        about, is replaced.
        """
        if not refused:
            return self
        ids = {id_ for id_, _ in refused}
        waiting = sorted(refused)
        kept = [item for item in self.items if not (item.type == ItemType.CONTEXT_AC and item.value[0] in ids)]
        items: list[Item] = []
        last = max((at for at, item in enumerate(kept) if item.type == ItemType.CONTEXT_AC), default=-1)
        if last < 0:
            last = max((at for at, item in enumerate(kept) if item.type == ItemType.APPLICATION_CONTEXT), default=-1)
        for at, item in enumerate(kept):
            if item.type == ItemType.CONTEXT_AC:
                while waiting and waiting[0][0] < item.value[0]:
                    items.append(_refusal(*waiting.pop(0)))
            items.append(item)
            if at == last:
                items += [_refusal(*one) for one in waiting]
                waiting = []
        return self._with_items([_refusal(*one) for one in waiting] + items)


Decide = Callable[[PresentationContext], str | ContextResult]
"""Answers one proposed context: the transfer syntax that is accepted, or why none is."""


def build_request(
    called: AETitle,
    calling: AETitle,
    contexts: Sequence[tuple[str, Sequence[str]]],
    *,
    max_pdu_length: int = 0,
    roles: Sequence[RoleSelection] = (),
    user_items: Sequence[Item] = (),
) -> AssociateRequest:
    """Return a request of our own: contexts are (abstract syntax, transfer syntaxes), numbered 1, 3, 5 ..."""
    items = [_application_context(APPLICATION_CONTEXT)]
    for number, (abstract_syntax, transfer_syntaxes) in enumerate(contexts):
        subs = [make_item(ItemType.ABSTRACT_SYNTAX, abstract_syntax.encode("ascii"))]
        subs += [make_item(ItemType.TRANSFER_SYNTAX, uid.encode("ascii")) for uid in transfer_syntaxes]
        items.append(make_item(ItemType.CONTEXT_RQ, bytes((2 * number + 1, 0, 0, 0)) + join_items(subs)))
    items.append(_user_information(max_pdu_length, [*(role.to_item() for role in roles), *user_items]))
    return AssociateRequest.parse(_assemble(PduType.ASSOCIATE_RQ, called.to_wire(), calling.to_wire(), items))


def build_accept(
    request: AssociateRequest, decide: Decide, *, max_pdu_length: int = 0, user_items: Sequence[Item] = ()
) -> AssociateAccept:
    """Return an answer of our own: each context as `decide` says, the titles as they came (PS3.8 table 9-17)."""
    items = [_application_context(request.application_context)]
    for context in request.contexts:
        answer = decide(context)
        if isinstance(answer, ContextResult):
            result, transfer_syntax = answer, next(iter(context.transfer_syntaxes), "")
        else:
            result, transfer_syntax = ContextResult.ACCEPTANCE, answer
        items.append(_answer(context.id, result, transfer_syntax))
    items.append(_user_information(max_pdu_length, user_items))
    return AssociateAccept.parse(_assemble(PduType.ASSOCIATE_AC, request.raw[10:26], request.raw[26:42], items))


def build_all_refused_accept(request: AssociateRequest, *, max_pdu_length: int = 0) -> AssociateAccept:
    """Return the answer when not one context is left: every one refused by the user."""
    return build_accept(request, lambda _: ContextResult.USER_REJECTION, max_pdu_length=max_pdu_length)


_ABOUT_A_SYNTAX: Final = frozenset((ItemType.ROLE_SELECTION, ItemType.EXTENDED, ItemType.COMMON_EXTENDED))


def _read(raw: bytes, expected: PduType) -> tuple[tuple[Item, ...], str, UserInformation]:
    if len(raw) < _FIXED or raw[0] != expected or int.from_bytes(raw[2:6], "big") != len(raw) - 6:
        raise invalid(f"malformed {expected.name}")
    items = split_items(raw, _FIXED)
    names = [item for item in items if item.type == ItemType.APPLICATION_CONTEXT]
    users = [item for item in items if item.type == ItemType.USER_INFORMATION]
    if len(names) > 1 or len(users) > 1:
        raise invalid("an item of the association that must be single comes twice")
    user = UserInformation.parse(users[0].value) if users else UserInformation.parse(b"")
    return items, uid_text(names[0].value) if names else "", user


def _proposed(value: bytes, known: dict[bytes, str]) -> PresentationContext:
    """Read one proposed context. `known` remembers UIDs already read: 128 contexts can list 5,000, most alike."""
    size = len(value)
    if size < 4:
        raise invalid("a presentation context is too short")
    abstract: str | None = None
    syntaxes = []
    start = 4
    while start < size:  # split_items without the items, which would cost more than all else here
        if size - start < 4:
            raise invalid("a presentation context ends inside an item's header")
        end = start + 4 + (value[start + 2] << 8 | value[start + 3])
        if end > size:
            raise invalid("an item is longer than its presentation context")
        content = value[start + 4 : end]
        uid = known.get(content)
        if uid is None:
            uid = known[content] = uid_text(content)
        if value[start] == _TRANSFER_SYNTAX:
            syntaxes.append(uid)
        elif value[start] == _ABSTRACT_SYNTAX:
            if abstract is not None:
                raise invalid("a presentation context has two abstract syntaxes")
            abstract = uid
        start = end
    if abstract is None:
        raise invalid("a presentation context has no abstract syntax")
    return PresentationContext(value[0], abstract, tuple(syntaxes))


def _answered(value: bytes) -> AnsweredContext:
    if len(value) < 4:
        raise invalid("an answered presentation context is too short")
    syntaxes = [uid_text(sub.value) for sub in split_items(value, 4) if sub.type == ItemType.TRANSFER_SYNTAX]
    return AnsweredContext(value[0], value[2], syntaxes[0] if syntaxes else "")


def _edit_user(items: Iterable[Item], drop: Callable[[Item], bool]) -> Iterable[Item]:
    """Yield the items, the user information without the sub-items to drop."""
    for item in items:
        if item.type == ItemType.USER_INFORMATION:
            subs = split_items(item.value, 0)
            kept = [sub for sub in subs if not drop(sub)]
            yield item if len(kept) == len(subs) else item.with_value(join_items(kept))
        else:
            yield item


def _answer(context_id: int, result: int, transfer_syntax: str) -> Item:
    syntax = make_item(ItemType.TRANSFER_SYNTAX, transfer_syntax.encode("ascii", "replace"))
    return make_item(ItemType.CONTEXT_AC, bytes((context_id, 0, result, 0)) + syntax.raw)


def _refusal(context_id: int, transfer_syntax: str) -> Item:
    return _answer(context_id, ContextResult.USER_REJECTION, transfer_syntax)


def _application_context(uid: str) -> Item:
    return make_item(ItemType.APPLICATION_CONTEXT, uid.encode("ascii", "replace"))


def _user_information(max_pdu_length: int, more: Iterable[Item]) -> Item:
    subs = [
        make_item(ItemType.MAX_LENGTH, max_pdu_length.to_bytes(4, "big")),
        make_item(ItemType.IMPLEMENTATION_UID, IMPLEMENTATION_CLASS_UID.encode("ascii")),
        *more,
        make_item(ItemType.IMPLEMENTATION_VERSION, IMPLEMENTATION_VERSION_NAME.encode("ascii")),
    ]
    return make_item(ItemType.USER_INFORMATION, join_items(subs))


def _assemble(kind: PduType, called: bytes, calling: bytes, items: Iterable[Item]) -> bytes:
    body = b"\0\1\0\0" + called + calling + bytes(32) + join_items(items)
    return bytes((kind, 0)) + len(body).to_bytes(4, "big") + body
