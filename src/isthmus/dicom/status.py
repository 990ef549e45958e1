"""DIMSE status codes (PS3.7 annex C, PS3.4 annexes B, C, K): their class and a name for people."""

from enum import Enum
from typing import Final

SUCCESS: Final = 0x0000
CANCEL: Final = 0xFE00
OUT_OF_RESOURCES: Final = 0xA700
MOVE_DESTINATION_UNKNOWN: Final = 0xA801
PROCESSING_FAILURE: Final = 0x0110
INVALID_SOP_INSTANCE: Final = 0x0117
MISSING_ATTRIBUTE: Final = 0x0120
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
NO_SUCH_ACTION: Final = 0x0123
UNRECOGNIZED_OPERATION: Final = 0x0211
DOES_NOT_MATCH_SOP_CLASS: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000


class StatusClass(Enum):
    """What a status says about its operation (PS3.7 section C.1)."""

    SUCCESS = "success"
    PENDING = "pending"
    CANCEL = "cancel"
    WARNING = "warning"
    FAILURE = "failure"


def status_class(code: int) -> StatusClass:
    """Return the class of a status. One that the standard does not know is a failure: nothing says it went well."""
    if code == SUCCESS:
        return StatusClass.SUCCESS
    if code in (0xFF00, 0xFF01):
        return StatusClass.PENDING
    if code == CANCEL:
        return StatusClass.CANCEL
    if code in (0x0001, 0x0107, 0x0116) or 0xB000 <= code <= 0xBFFF:
        return StatusClass.WARNING
    return StatusClass.FAILURE


def status_name(code: int) -> str:
    """Return the status for people: a name and the number, for example 'out of resources (A700)'."""
    name = _NAMES.get(code) or next((name for low, high, name in _RANGES if low <= code <= high), "unknown status")
    return f"{name} ({code:04X})"


_NAMES: Final = {
    0x0000: "success",
    0x0001: "requested optional attributes not supported",
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0107: "attribute list error",
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0112: "no such SOP instance",
    0x0113: "no such event type",
    0x0114: "no such argument",
    0x0115: "invalid argument value",
    0x0116: "attribute value out of range",
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0119: "class-instance conflict",
    0x0120: "missing attribute",
    0x0121: "missing attribute value",
    0x0122: "SOP class not supported",
    0x0123: "no such action type",
    0x0124: "not authorized",
    0x0210: "duplicate invocation",
    0x0211: "unrecognized operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xA700: "out of resources",
    0xA701: "out of resources, matches cannot be counted",
    0xA702: "out of resources, sub-operations cannot be performed",
    0xA801: "move destination unknown",
    0xA900: "identifier or data set does not match SOP class",
    0xAA00: "none of the frames requested were found",
    0xB000: "warning: coercion of data elements, or some sub-operations failed",
    0xB006: "warning: elements discarded",
    0xB007: "warning: data set does not match SOP class",
    0xFE00: "cancelled",
    0xFF00: "pending",
    0xFF01: "pending, optional keys not supported",
}
_RANGES: Final = (
    (0xA700, 0xA7FF, "out of resources"),
    (0xA900, 0xA9FF, "data set does not match SOP class"),
    (0xB000, 0xBFFF, "warning"),
    (0xC000, 0xCFFF, "cannot understand, or unable to process"),
)
