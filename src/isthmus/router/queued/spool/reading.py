"""How objects are read from a bundle: by place, each under its own secret. For one thread at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self

from isthmus.envelope.records import ObjectMeta, RecordOpener, RecordSpan, open_record_in
from isthmus.errors import SealBroken
from isthmus.router.queued.spool import header as headers
from isthmus.router.queued.spool.header import BundleHeader, Inbound
from isthmus.router.queued.spool.indexing import HEAD_BYTES, StoredObject
from isthmus.router.queued.spool.secrets import SpoolSecrets
from isthmus.router.queued.trouble import SpoolFailed

_READ_BYTES: Final = 1024 * 1024


class WholeRecord(NamedTuple):
    """A record of which every byte verified; `head` is the start of its data set, `pieces` all of it if it was kept."""

    span: RecordSpan
    meta: ObjectMeta
    payload: int
    digest: bytes
    head: bytes
    pieces: list[bytes]

    def stored(self, bundle_id: int, ordinal: int, looked: object | None) -> StoredObject:
        """Return it as an object of a bundle."""
        return StoredObject(
            object_id=self.span.object_id,
            bundle_id=bundle_id,
            position=self.span.offset,
            length=self.span.length,
            digest=self.digest,
            payload=self.payload,
            ordinal=ordinal,
            meta=self.meta,
            looked=looked,
        )


def verify_record(
    file: BinaryIO, span: RecordSpan, secret: bytes, *, hashing: bool = True, keep: bool = False
) -> WholeRecord:
    """Read all of a record and return what it says. Raises SealBroken if any of it is damaged or missing.

    `hashing`: whether the data set is hashed too, or its digest taken from the authenticated end of the record.
    `keep`: whether the data set is returned, too.
    """
    head = bytearray()
    pieces: list[bytes] = []

    def take(payload: bytes) -> None:
        if len(head) < HEAD_BYTES:
            head.extend(payload[: HEAD_BYTES - len(head)])
        if keep:
            pieces.append(payload)

    opener = RecordOpener(span.object_id, secret, on_payload=take, hashing=hashing)
    file.seek(span.offset)
    left = span.length
    while left and not opener.whole and (chunk := file.read(min(left, _READ_BYTES))):
        left -= len(chunk)
        opener.feed(chunk)
    if not opener.whole or opener.verified != span.length or opener.meta is None:
        raise SealBroken("a record is not whole, or not as long as it should be")
    return WholeRecord(span, opener.meta, opener.payload_bytes, opener.digest, bytes(head), pieces)


class BundleReader:
    """A bundle's file, open for reading.

    Attributes:
        name: of the file.
        header: where its objects come from and go to.
        start: where its first record starts.
    """

    def __init__(self, file: BinaryIO, name: str, header: BundleHeader, start: int, secrets: SpoolSecrets) -> None:
        self.name: Final = name
        self.header: Final = header
        self.start: Final = start
        self._file = file
        self._secrets = secrets
        content = header.content
        self._inbound: dict[bytes, bytes] | None = None
        if isinstance(content, Inbound):
            self._inbound = {item.object_id: item.secret for item in content.manifest.objects}

    @classmethod
    def open(cls, path: Path, secrets: SpoolSecrets) -> Self:
        """Open a bundle. Raises OSError, SpoolFailed if it has no header, and SealBroken if that does not verify."""
        file = path.open("rb", buffering=0)
        try:
            found = headers.unpack(file, path.name, secrets)
            if found is None:
                raise SpoolFailed(f"bundle {path.name} has no header")
        except BaseException:
            file.close()
            raise
        return cls(file, path.name, *found, secrets)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.seek(0, 2)

    @property
    def file(self) -> BinaryIO:
        """The file itself, wherever it stands."""
        return self._file

    def secret(self, object_id: bytes) -> bytes | None:
        """Return what opens an object of this bundle; None for one that came without a secret for us."""
        if self._inbound is not None:
            return self._inbound.get(object_id)
        return self._secrets.object_secret(object_id)

    def open_object(
        self, object_id: bytes, position: int, length: int, *, hashing: bool = True
    ) -> tuple[ObjectMeta, Iterator[bytes]]:
        """Return what is known of an object and its data set, a segment at a time, read as it is asked for.

        Raises SealBroken if it is damaged; the iterator raises it where the damage is. One object at a time.
        """
        secret = self.secret(object_id)
        if secret is None:
            raise SealBroken("there is no secret for this object")
        return open_record_in(self._file, RecordSpan(object_id, position, length), secret, hashing=hashing)

    def read(self, start: int, end: int) -> bytes:
        """Return bytes of the file; fewer if it ends before."""
        self._file.seek(start)
        return self._file.read(end - start)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
