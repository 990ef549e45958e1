"""Titles that differ between a device and the network: in A-ASSOCIATE PDUs, and in command sets (`relay.titles`)."""

from isthmus.dicom.associate import AssociateAccept, AssociateRequest
from isthmus.kit.names import AETitle
from isthmus.relay.titles import Titles
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.records import LocalDevice


def titles_for(
    directory: Directory, device: LocalDevice, *, requestor: AETitle | None = None, originator: AETitle | None = None
) -> Titles | None:
    """Return the translation for an association of `device` with another site; None if every title is the network's.

    `requestor` is the network title of the other site's device that asks, if one does: to a device with `callers_as`
    it goes by that title, like every other device of another site. `originator` is the network title of the device
    whose C-MOVE causes an association that such a device opens.
    """
    callers_as = device.options.callers_as
    own = {one.title: one.network_title for one in directory.devices if one.title != one.network_title}
    if not own and not directory.aliases and callers_as is None:
        return None
    fold = directory.fold
    to_network = {fold(title): network_title for title, network_title in own.items()}
    to_device = {fold(network_title): title for title, network_title in own.items()}
    for alias in directory.aliases:
        to_network[fold(alias.shown_as)] = alias.title
        to_device[fold(alias.title)] = alias.shown_as
    if callers_as is not None:
        if originator is not None:
            to_network[fold(callers_as)] = originator
        remote = {fold(title) for title in directory.owners} | ({fold(requestor)} if requestor is not None else set())
        to_device |= dict.fromkeys(remote, callers_as)
    return Titles(
        to_network=lambda title: to_network.get(fold(title), title),
        to_device=lambda title: to_device.get(fold(title), title),
    )


def retitled(request: AssociateRequest, *, called: AETitle, calling: AETitle) -> AssociateRequest:
    """Return the request under these titles; one that is the same already keeps its bytes, padding included."""
    if request.called == called and request.calling == calling:
        return request
    return request.with_titles(
        called=None if request.called == called else called,
        calling=None if request.calling == calling else calling,
    )


def put_back(accept: AssociateAccept, *, asked: AssociateRequest, sent: AssociateRequest) -> AssociateAccept:
    """Return the answer to `sent`, a request that was retitled on its way, as the answer to `asked`."""
    if sent.called == asked.called and sent.calling == asked.calling:
        return accept
    return accept.with_titles(
        called=None if sent.called == asked.called else asked.called,
        calling=None if sent.calling == asked.calling else asked.calling,
    )
