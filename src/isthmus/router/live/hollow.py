"""The far half of an association of which the grant left no presentation context: no device is called.

The Router has answered the A-ASSOCIATE-RQ itself, every context refused. All that can follow is the end of it.
"""

from collections.abc import Callable

from isthmus.contract.notices import SESSION_ID_BYTES
from isthmus.dicom.framing import Framer, Pdu, PduType
from isthmus.dicom.pdus import RELEASE_RP
from isthmus.errors import IsthmusError, RemoteMisuse
from isthmus.relay.ending import Ending, EndKind
from isthmus.router.live.link import Link

_INVALID_PARAMETER = 6  # PS3.8 table 9-26: P-DATA on a context that was not accepted


class HollowSession:
    """Answers a release, aborts on anything else."""

    def __init__(self) -> None:
        self.session_id = bytes(SESSION_ID_BYTES)
        self.link: Link | None = None
        self.on_heard: Callable[[], object] | None = None
        self._framer = Framer()
        self._finished = False

    def on_data(self, payload: bytes) -> None:
        """Take stream bytes: only an A-RELEASE-RQ is right here."""
        self._heard()
        if self.link is None:
            return
        self.link.consumed(len(payload))
        if self._finished:
            return
        try:
            frames = self._framer.feed(payload)
        except RemoteMisuse:
            frames = []
        if any(isinstance(frame, Pdu) and frame.type is PduType.RELEASE_RQ for frame in frames):
            self.link.write(RELEASE_RP, flush=True)
        else:
            self.link.signal(Ending(EndKind.LET_GO, 2, _INVALID_PARAMETER, 0).encode())
        self._finish()

    def on_final(self) -> None:
        """The caller's side has written its last."""
        self._finish()

    def on_signal(self, payload: bytes) -> None:
        """The caller's association ended another way."""
        del payload
        self._finish()

    def on_writable(self) -> None:
        """There is never much to write."""
        self._heard()

    def on_broken(self, error: IsthmusError) -> None:
        """The path is gone; nothing here holds on to it."""
        del error
        self._heard()

    def _finish(self) -> None:
        self._heard()
        if self.link is not None and not self._finished:
            self._finished = True
            self.link.finish()

    def _heard(self) -> None:
        if self.on_heard is not None:
            heard, self.on_heard = self.on_heard, None
            heard()
