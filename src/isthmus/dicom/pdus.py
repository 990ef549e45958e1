"""The small PDUs (PS3.8 section 9.3), P-DATA-TF for our own messages, and how a PDU reads in a log."""

import struct
from dataclasses import dataclass
from typing import Final, Self

from isthmus.dicom.framing import PduType
from isthmus.dicom.pdv import COMMAND, LAST
from isthmus.errors import RemoteMisuse

_SMALL = struct.Struct(">BxIxBBB")
_DATA = struct.Struct(">BxIIBB")
_DEFAULT_FRAGMENT: Final = 16_372  # with its headers a PDU of 16 KiB, what toolkits send by default


@dataclass(frozen=True, slots=True)
class Reject:
    """A-ASSOCIATE-RJ (PS3.8 table 9-21). Values that the standard does not know are kept."""

    result: int
    source: int
    reason: int

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the PDU's values. Raises RemoteMisuse (2/6)."""
        return cls(*_parse(raw, PduType.ASSOCIATE_RJ))

    def to_bytes(self) -> bytes:
        """Return the PDU."""
        return _SMALL.pack(PduType.ASSOCIATE_RJ, 4, self.result, self.source, self.reason)

    @property
    def permanent(self) -> bool:
        """Whether the other side means: not again like this."""
        return self.result == 1

    def __str__(self) -> str:
        result = {1: "rejected permanently", 2: "rejected transiently"}.get(self.result, f"result {self.result}")
        why = _REJECT_REASONS.get((self.source, self.reason), "no reason known")
        return f"{result}: {why} ({self.result}/{self.source}/{self.reason})"


@dataclass(frozen=True, slots=True)
class Abort:
    """A-ABORT (PS3.8 table 9-26). Values that the standard does not know are kept."""

    source: int
    reason: int

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the PDU's values. Raises RemoteMisuse (2/6)."""
        _, source, reason = _parse(raw, PduType.ABORT)
        return cls(source, reason)

    def to_bytes(self) -> bytes:
        """Return the PDU."""
        return _SMALL.pack(PduType.ABORT, 4, 0, self.source, self.reason)

    def __str__(self) -> str:
        by = {0: "by the service-user", 2: "by the service-provider"}.get(self.source, f"by source {self.source}")
        why = _ABORT_REASONS.get(self.reason, "reason unknown") if self.source == 2 else "no reason given"
        return f"aborted {by}: {why} ({self.source}/{self.reason})"


RELEASE_RQ: Final = _SMALL.pack(PduType.RELEASE_RQ, 4, 0, 0, 0)
"""A-RELEASE-RQ (PS3.8 section 9.3.6)."""
RELEASE_RP: Final = _SMALL.pack(PduType.RELEASE_RP, 4, 0, 0, 0)
"""A-RELEASE-RP (PS3.8 section 9.3.7)."""

_REJECT_REASONS: Final = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given (ACSE)",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
_ABORT_REASONS: Final = {
    0: "reason not specified",
    1: "unrecognized PDU",
    2: "unexpected PDU",
    4: "unrecognized PDU parameter",
    5: "unexpected PDU parameter",
    6: "invalid PDU parameter value",
}
_NAMES: Final = {
    1: "A-ASSOCIATE-RQ",
    2: "A-ASSOCIATE-AC",
    3: "A-ASSOCIATE-RJ",
    4: "P-DATA-TF",
    5: "A-RELEASE-RQ",
    6: "A-RELEASE-RP",
    7: "A-ABORT",
}


def p_data(context_id: int, fragment: bytes, *, command: bool, last: bool) -> bytes:
    """Return one P-DATA-TF with one PDV."""
    flags = (COMMAND if command else 0) | (LAST if last else 0)
    return _DATA.pack(PduType.P_DATA_TF, len(fragment) + 6, len(fragment) + 2, context_id, flags) + fragment


def message(context_id: int, command: bytes, data_set: bytes = b"", *, max_pdu_length: int = 0) -> bytes:
    """Return the P-DATA-TF PDUs of one message: its command set, then its data set if there is one.

    `max_pdu_length` is the receiver's, in bytes as negotiated (counts a PDU without its header); 0 is no limit, which
    still does not make a PDU over 16 KiB. Fragments are of even length (PS3.8 annex E).
    """
    room = min(max_pdu_length - 6, _DEFAULT_FRAGMENT) if max_pdu_length else _DEFAULT_FRAGMENT
    room = max(room & ~1, 2)
    pdus = []
    for part, is_command in ((command, True), (data_set, False)):
        for start in range(0, len(part), room):
            fragment = part[start : start + room]
            pdus.append(p_data(context_id, fragment, command=is_command, last=start + room >= len(part)))
    return b"".join(pdus)


def short_description(raw: bytes | memoryview) -> str:
    """Return the kind and size of a PDU, nothing of its content: the only way a PDU reaches a log."""
    if len(raw) < 6:
        return f"part of a PDU header ({len(raw)} bytes)"
    kind, length = raw[0], int.from_bytes(raw[2:6], "big")
    name = _NAMES.get(kind, f"PDU type {kind:#04x}")
    return f"{name} ({length + 6} bytes)"


def _parse(raw: bytes, expected: PduType) -> tuple[int, int, int]:
    if len(raw) != _SMALL.size or raw[0] != expected or raw[2:6] != b"\0\0\0\4":
        raise RemoteMisuse(f"malformed {expected.name}", reason=6)
    return raw[7], raw[8], raw[9]
