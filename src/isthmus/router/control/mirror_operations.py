"""What an operator can ask and say about what a device takes."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from isthmus.dicom.storage_classes import STORAGE_CLASSES
from isthmus.dicom.transfer_syntaxes import syntax_name
from isthmus.errors import OperatorError
from isthmus.kit.names import AETitle
from isthmus.router.audit import Audit
from isthmus.router.control.device_administration import DeviceAdministration, in_field
from isthmus.router.queued.delivery.sending import Pair
from isthmus.router.queued.mirror import Mirror, Probing
from isthmus.router.routing.records import LocalDevice

WAIT_SECONDS: Final = 50.0
"""How long one call waits for a probe; who asks again waits for the same one."""
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)+")
_LONGEST_UID: Final = 64


class MirrorOperations:
    """The operations of the control API about what devices take."""

    def __init__(self, mirror: Mirror, administration: DeviceAdministration, audit: Audit) -> None:
        self._mirror = mirror
        self._administration = administration
        self._audit = audit

    def table(self) -> Mapping[str, Callable[..., Awaitable[Any]]]:
        """Return the operations by name."""
        return {"device_probe": self.device_probe}

    async def device_probe(
        self,
        device: str,
        *,
        calling: str | None = None,
        everything: bool = False,
        declare: Sequence[str] = (),
        forget: bool = False,
    ) -> dict[str, Any]:
        """Ask a device what it takes, and return what is known; `done` is False if that takes longer: ask again.

        `forget` drops all that was known first. With `declare` (ABSTRACT:TRANSFER) nothing is asked, but noted.
        """
        found = self._administration.find(device)
        pairs = [_pair(text) for text in declare]
        if forget:
            self._mirror.forget(found)
            self._audit.changed("device_probe", f"{found.network_title}: what it takes is forgotten")
        if pairs:
            self._mirror.declare(found, pairs)
            self._audit.changed("device_probe", f"{found.network_title}: {len(pairs)} pairs declared")
        if pairs or forget:
            return self._answer(found, None)
        title = None if calling is None else in_field("calling", AETitle.parse, calling)
        probing = self._mirror.probe(found, title, everything=everything)
        await probing.wait(WAIT_SECONDS)
        if probing.done and probing.refused is not None:
            raise OperatorError(str(probing.refused), hint=probing.refused.hint)
        return self._answer(found, probing)

    def _answer(self, device: LocalDevice, probing: Probing | None) -> dict[str, Any]:
        rows = self._mirror.pairs(device)
        return {
            "device": device.title,
            "as": None if probing is None else probing.calling,
            "done": probing is None or probing.done,
            "left": 0 if probing is None else probing.left,
            "classes": len({abstract for abstract, _, _ in rows}),
            "pairs": [
                {
                    "abstract": abstract,
                    "class": STORAGE_CLASSES.get(abstract, abstract),
                    "transfer": transfer,
                    "syntax": syntax_name(transfer),
                    "source": source.value,
                }
                for abstract, transfer, source in rows
            ],
        }


def _pair(text: str) -> Pair:
    abstract, colon, transfer = text.partition(":")
    if not colon or not all(_UID.fullmatch(uid) and len(uid) <= _LONGEST_UID for uid in (abstract, transfer)):
        raise OperatorError(
            f"'{text}' is not ABSTRACT:TRANSFER, two UIDs",
            hint="CT images in Explicit VR Little Endian: 1.2.840.10008.5.1.4.1.1.2:1.2.840.10008.1.2.1",
        )
    return abstract, transfer
