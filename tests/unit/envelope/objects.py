"""Records and manifests for the tests of queued delivery."""

import io
import random
from collections.abc import Iterator

from isthmus.contract.letters import Manifest, ManifestObject, ObjectKind
from isthmus.envelope.records import ObjectMeta, RecordSealer, RecordSpan, object_secret, open_record_in

SPOOL_SECRET = bytes(range(32))


def make_meta(**change: object) -> ObjectMeta:
    said = {
        "kind": ObjectKind.STORE,
        "calling": "CT1",
        "called": "ARCHIVE",
        "association": b"\7" * 16,
        "command": b"a command set",
        "sop_class": "1.2.840.10008.5.1.4.1.1.2",
        "sop_instance": "1.2.3.4",
        "transfer_syntax": "1.2.840.10008.1.2.1",
        "received": 1_790_000_000.5,
    }
    return ObjectMeta.model_validate(said | change)


def object_id(number: int) -> bytes:
    return b"id of obj" + number.to_bytes(7, "big")


def secret_of(id_: bytes) -> bytes:
    return object_secret(SPOOL_SECRET, id_)


def record_pieces(number: int, payloads: list[bytes], meta: ObjectMeta | None = None) -> list[bytes]:
    """Return the record as its segments, the prefix on the first."""
    id_ = object_id(number)
    sealer = RecordSealer(id_, secret_of(id_), meta or make_meta())
    return [sealer.begin(), *(sealer.data(payload) for payload in payloads), sealer.finish()]


def make_record(number: int, payloads: list[bytes], meta: ObjectMeta | None = None) -> bytes:
    return b"".join(record_pieces(number, payloads, meta))


def open_record(
    record: bytes, id_: bytes, secret: bytes, *, hashing: bool = True
) -> tuple[ObjectMeta, Iterator[bytes]]:
    """Open a record that is a file of its own."""
    return open_record_in(io.BytesIO(record), RecordSpan(id_, 0, len(record)), secret, hashing=hashing)


def random_payloads(seed: int) -> list[bytes]:
    chance = random.Random(seed)
    return [chance.randbytes(chance.choice((0, 1, 40, 3_000))) for _ in range(chance.randrange(4))]


def manifest_object(number: int, offset: int, length: int, digest: bytes) -> ManifestObject:
    id_ = object_id(number)
    return ManifestObject(
        object_id=id_, secret=secret_of(id_), offset=offset, length=length, digest=digest, kind=ObjectKind.STORE
    )


def make_manifest(size: int, objects: list[ManifestObject], blobs: list[int] | None = None) -> Manifest:
    return Manifest(
        envelope_id=b"\5" * 16,
        calling="CT1",
        called="ARCHIVE",
        sent=1_790_000_000.5,
        size=size,
        blobs=[size] if blobs is None else blobs,
        name_key=b"\6" * 32,
        objects=objects,
    )
