"""Under which title, and for what, the sender of a queued object reaches one of our devices now."""

from collections.abc import Iterable
from dataclasses import dataclass

from isthmus.dicom.services import Service, allowed_contexts
from isthmus.envelope.identity import RouterId
from isthmus.kit.names import AETitle
from isthmus.relay.titles import Titles
from isthmus.router.live.translation import titles_for
from isthmus.router.queued.delivery.sending import Pair, request_for
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.records import LocalDevice


@dataclass(frozen=True, slots=True)
class Sender:
    """A sender as the device is to see it.

    Attributes:
        calling: its network title.
        shown_as: the calling title on the wire.
        services: what it is granted; None: it is a device of ours too, which needs no grant.
        titles: how titles in its command sets become those that the device knows.
        far_router: the Router of its site, or nothing.
    """

    calling: AETitle
    shown_as: AETitle
    services: frozenset[Service] | None
    titles: Titles | None
    far_router: str

    def granted(self, device: LocalDevice, pairs: Iterable[Pair]) -> set[Pair]:
        """Return those of the pairs that it may send to `device`. Raises ValueError if one could not be proposed."""
        pairs = list(pairs)
        request = request_for(device, self.shown_as, pairs)
        if self.services is None:
            return set(pairs)
        kept = allowed_contexts(request, self.services).kept
        return {pair for number, pair in enumerate(pairs) if 2 * number + 1 in kept}


def find_device(directory: Directory, network_title: str) -> LocalDevice | None:
    """Return the device of ours with this network title."""
    wanted = directory.fold(network_title)
    return next((one for one in directory.devices if directory.fold(one.network_title) == wanted), None)


def find_sender(directory: Directory, device: LocalDevice, calling: str, far_router: str | None) -> Sender:
    """Return how the device sees a sender. Raises AssociationRefused: result 1 if it is granted no more, else 2."""
    if far_router is None:
        local = find_device(directory, calling)
        shown_as = AETitle(calling) if local is None else local.title
        return Sender(AETitle(calling), shown_as, None, titles_for(directory, device), "")
    admission = directory.admit(RouterId(far_router), calling, device.network_title)
    return Sender(
        AETitle(calling),
        admission.calling_as,
        frozenset(Service(name) for name in admission.services if name in Service._value2member_map_),
        titles_for(directory, device, requestor=AETitle(calling)),
        far_router,
    )
