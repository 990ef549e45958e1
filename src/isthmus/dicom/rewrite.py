"""Rewriting a command set inside a run of P-DATA-TF PDUs: the only edit that a relay ever makes in data transfer."""

from collections.abc import Callable
from dataclasses import dataclass

from isthmus.dicom.framing import HEADER_LENGTH
from isthmus.dicom.pdus import message
from isthmus.dicom.pdv import COMMAND, LAST, Command
from isthmus.errors import LocalMisuse

_PDV_OVERHEAD = 6

Edit = Callable[[Command], bytes | None]
"""Returns another command set, or None to leave this one as it is."""


@dataclass(slots=True)
class _Pdv:
    context_id: int
    flags: int
    whole: memoryview  # with its header
    touched: bool = False
    replacement: bytes = b""

    @property
    def fragment(self) -> memoryview:
        return self.whole[_PDV_OVERHEAD:]


def rewrite_commands(
    run: bytes | bytearray | memoryview, edit: Edit, *, max_pdu_length: int
) -> bytes | bytearray | memoryview:
    """Return the run with its command sets edited; the very same run if nothing changes.

    The run is whole PDUs, as `Framer.hold_commands` lets them out: a command set that begins in it also ends in it,
    unless the association ended first, and then it stays as it is. A changed one travels in P-DATA-TFs of its own,
    within the receiver's `max_pdu_length` (0 is no limit), in the place of its first fragment; all other PDVs keep
    their bytes and their order. Raises LocalMisuse if the run is not whole PDUs.
    """
    pdus = _split(memoryview(run))
    open_: dict[int, list[_Pdv]] = {}
    changed = False
    for pdv in (pdv for _, pdvs in pdus for pdv in pdvs if pdv.flags & COMMAND):
        parts = open_.setdefault(pdv.context_id, [])
        parts.append(pdv)
        if not pdv.flags & LAST:
            continue
        del open_[pdv.context_id]
        raw = b"".join(part.fragment for part in parts)
        edited = edit(Command(pdv.context_id, raw))
        if edited is not None and edited != raw:
            changed = True
            parts[0].replacement = message(pdv.context_id, edited, max_pdu_length=max_pdu_length)
            for part in parts:
                part.touched = True
    if not changed:
        return run
    out: list[bytes | memoryview] = []
    for whole, pdvs in pdus:
        if any(pdv.touched for pdv in pdvs):
            _emit(pdvs, out)
        else:
            out.append(whole)
    return b"".join(out)


def _split(view: memoryview) -> list[tuple[memoryview, list[_Pdv]]]:
    pdus = []
    position = 0
    while position < len(view):
        end = position + HEADER_LENGTH + int.from_bytes(view[position + 2 : position + 6], "big")
        if end > len(view) or len(view) - position < HEADER_LENGTH:
            raise LocalMisuse("the run ends inside a PDU")
        pdvs = []
        start = position + HEADER_LENGTH
        while start < end:
            pdv_end = start + 4 + int.from_bytes(view[start : start + 4], "big")
            if pdv_end > end or pdv_end - start < _PDV_OVERHEAD:
                raise LocalMisuse("the run holds a malformed PDV")
            pdvs.append(_Pdv(view[start + 4], view[start + 5], view[start:pdv_end]))
            start = pdv_end
        pdus.append((view[position:end], pdvs))
        position = end
    return pdus


def _emit(pdvs: list[_Pdv], out: list[bytes | memoryview]) -> None:
    """Write the PDVs of one PDU: a changed command set apart, what stands before and after it in PDUs of their own."""
    group: list[memoryview] = []
    for pdv in pdvs:
        if not pdv.touched:
            group.append(pdv.whole)
        elif pdv.replacement:
            _emit_group(group, out)
            group = []
            out.append(pdv.replacement)
    _emit_group(group, out)


def _emit_group(group: list[memoryview], out: list[bytes | memoryview]) -> None:
    if group:
        payload = b"".join(group)
        out.append(b"\x04\x00" + len(payload).to_bytes(4, "big") + payload)
