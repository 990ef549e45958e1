"""What an operator knows a study by, read from the beginning of an object, and how it is kept: sealed, and findable.

Only the two sites that own the data read this, and it stays in their ledgers: never in a log, a metric, the audit, or
anything that leaves the site. An object of which nothing can be read is delivered like any other; it has no study.
"""

import hashlib
import hmac
import json
import os
import re
import struct
import unicodedata
import zlib
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydicom.charset import decode_bytes, python_encoding
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset

from isthmus.dicom import uids
from isthmus.envelope.keys import expand
from isthmus.errors import SealBroken

FIRST_BYTES: Final = 64 * 1024
"""How much of a data set is looked at; what an operator asks for stands long before."""

_STUDY_UID: Final = 0x0020000D
_CHARACTER_SETS: Final = 0x00080005
_TAGS: Final = {
    "study_uid": _STUDY_UID,
    "accession": 0x00080050,
    "patient_id": 0x00100020,
    "patient_name": 0x00100010,
    "description": 0x00081030,
    "study_date": 0x00080020,
    "modality": 0x00080060,
}
_MOST_TEXT: Final = 1024  # characters of one attribute: a person name in three alphabets has 3 x 64
_LATIN: Final = "iso8859"
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_LONG_VRS: Final = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_STUDY_GROUP, _STUDY_ELEMENT = divmod(_STUDY_UID, 1 << 16)
_HEADER: Final = struct.Struct("<HH2sH")  # tag, VR, short length: explicit VR, little endian
_MOST_KNOWN: Final = 16
_UNDEFINED: Final = 0xFFFFFFFF
_DELIMITERS: Final = set(b"\\^=")  # after each of these a text is in its first character set again (PS3.5 6.1.2.5.3)
_NONCE_BYTES: Final = 12
_WORD: Final = re.compile(r"[^\s^=,;.]+")


@dataclass(frozen=True, slots=True, repr=False)
class StudyFields:
    """A study as people ask for it. Text as the object has it; "" where it has none. Its repr says nothing.

    Attributes:
        study_uid: Study Instance UID (0020,000D); never empty.
        study_date: YYYYMMDD.
        modality: of the first object that was seen.
    """

    study_uid: str
    accession: str = ""
    patient_id: str = ""
    patient_name: str = ""
    description: str = ""
    study_date: str = ""
    modality: str = ""

    def to_json(self) -> bytes:
        """Return all of it as JSON, for the sealed row."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Return what `to_json` wrote; fields that a newer release added are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in json.loads(raw).items() if name in known})


class StudyReader:
    """Reads the study of one object after another, in any thread. Remembers a few: scanners send a study in one go."""

    def __init__(self) -> None:
        self._known: dict[bytes, StudyFields] = {}

    def read(self, first_bytes: bytes, transfer_syntax: str) -> StudyFields | None:
        """Do as `study_fields`, and in a tenth of its time where the study was met lately."""
        uid = _quick_study_uid(first_bytes, implicit=transfer_syntax == uids.IMPLICIT_VR_LITTLE_ENDIAN)
        known = self._known.get(uid)
        if known is not None:
            return known
        found = study_fields(first_bytes, transfer_syntax)
        if found is not None and uid.rstrip(b"\0 ") == found.study_uid.encode("ascii", "replace"):
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[uid] = found
        return found


class StudySealer:
    """Keeps studies so that the ledger's file alone tells nothing of them: sealed, and found by keyed hashes."""

    def __init__(self, spool_secret: bytes) -> None:
        """Take the 32 bytes of the spool; the keys of this use are derived from it."""
        self._box = AESGCM(expand(spool_secret, b"isthmus/studies/box/v1", 32))
        self._index_key = expand(spool_secret, b"isthmus/studies/index/v1", 32)

    def mac(self, study_uid: str) -> bytes:
        """Return 32 bytes under which the study is kept."""
        return self._token("study", study_uid)

    def seal(self, fields: StudyFields) -> bytes:
        """Return the fields, encrypted for the row of their study and no other."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._box.encrypt(nonce, fields.to_json(), self.mac(fields.study_uid))

    def open(self, sealed: bytes, study_mac: bytes) -> StudyFields:
        """Return what `seal` was given. Raises SealBroken if the row is another's, or damaged."""
        try:
            return StudyFields.from_json(self._box.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], study_mac))
        except (InvalidTag, ValueError, TypeError) as error:
            raise SealBroken("the row of a study does not open") from error

    def tokens(self, fields: StudyFields) -> set[bytes]:
        """Return what the study is found by: its accession number, patient ID, and each word of the name."""
        return (
            set(self.search(accession=fields.accession))
            | set(self.search(patient_id=fields.patient_id))
            | set(self.search(name=fields.patient_name))
        )

    def search(self, *, accession: str = "", patient_id: str = "", name: str = "") -> list[bytes]:
        """Return the tokens that a study has if it has all of these; case does not count, the order of names neither.

        Only whole values and whole words of a name are found: a hash knows nothing of a beginning.
        """
        wanted = [self._token("accession", accession)] if accession.strip() else []
        if patient_id.strip():
            wanted.append(self._token("patient id", patient_id))
        return wanted + [self._token("name", word) for word in _WORD.findall(name)]

    def _token(self, what: str, value: str) -> bytes:
        text = f"{what}\0{unicodedata.normalize('NFKC', value).strip().casefold()}"
        return hmac.digest(self._index_key, text.encode(), hashlib.sha256)


def study_fields(first_bytes: bytes, transfer_syntax: str) -> StudyFields | None:
    """Return what the beginning of a data set says of its study, or None if it cannot be read or has no Study UID."""
    try:
        raw = _elements(first_bytes[:FIRST_BYTES], transfer_syntax)
        encodings = _encodings(raw.get(_CHARACTER_SETS, b""))
        found = {name: _text(raw.get(tag, b""), encodings) for name, tag in _TAGS.items()}
    except Exception:  # noqa: BLE001 - foreign bytes in a foreign parser; whatever it raises, the object is delivered
        return None
    return StudyFields(**found) if found["study_uid"] else None


def _elements(data: bytes, transfer_syntax: str) -> dict[int, bytes]:
    if transfer_syntax == _DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, FIRST_BYTES)
    dataset = read_dataset(
        BytesIO(data),
        transfer_syntax == uids.IMPLICIT_VR_LITTLE_ENDIAN,
        transfer_syntax != _BIG_ENDIAN,
        stop_when=lambda tag, _vr, _length: tag > _STUDY_UID,
        specific_tags=[_CHARACTER_SETS, *_TAGS.values()],
        defer_size=_MOST_TEXT * 4,
    )
    found: dict[int, bytes] = {}
    for tag in (_CHARACTER_SETS, *_TAGS.values()):
        element = dataset.get_item(tag)  # raw: to convert a value may complain of it aloud, and it is a person's name
        if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
            found[tag] = element.value
        elif element is not None and tag == _CHARACTER_SETS:
            value = element.value
            found[tag] = (value if isinstance(value, str) else "\\".join(value or ())).encode()
    return found


def _encodings(character_sets: bytes) -> list[str]:
    names = [name.strip() for name in character_sets.decode("ascii", "replace").split("\\")]
    return [python_encoding.get(name, _LATIN) for name in names]


def _text(raw: bytes, encodings: list[str]) -> str:
    text = raw.decode(encodings[0], "replace") if len(encodings) == 1 else decode_bytes(raw, encodings, _DELIMITERS)
    return text.strip(" \0")[:_MOST_TEXT]


def _quick_study_uid(data: bytes, *, implicit: bool) -> bytes:
    """Return the value of the Study UID as it stands there; b"" where that takes more than a walk along lengths."""
    at, end = 0, min(len(data), FIRST_BYTES)
    last = end - 12
    while at <= last:
        group, element, vr, length = _HEADER.unpack_from(data, at)
        header = 8
        if implicit:
            length = int.from_bytes(data[at + 4 : at + 8], "little")
        elif vr in _LONG_VRS:
            length, header = int.from_bytes(data[at + 8 : at + 12], "little"), 12
        elif not vr.isalpha():
            return b""
        if length == _UNDEFINED:
            return b""
        at += header + length
        if group >= _STUDY_GROUP and (group > _STUDY_GROUP or element >= _STUDY_ELEMENT):
            found = (group, element) == (_STUDY_GROUP, _STUDY_ELEMENT) and at <= end
            return data[at - length : at] if found else b""
    return b""
