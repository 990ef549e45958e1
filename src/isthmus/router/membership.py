"""Joining a network: spend an invite, and remember whose it was."""

from pathlib import Path

from isthmus.adapters.bridge_http import BridgeConnection, usable_ca
from isthmus.contract.invites import Invite
from isthmus.envelope.identity import RouterId
from isthmus.errors import OperatorError
from isthmus.kit.clock import SystemClock
from isthmus.kit.files import folder_lock, make_private_folder
from isthmus.router.keys import Keys, Membership


async def join(folder: Path, invite: Invite, *, ca: Path | None = None) -> RouterId:
    """Make the Router's keys in `folder`, enrol it, and return its ID; repeating it with the same invite is harmless.

    `ca` is a PEM file of a CA to trust beside those of the machine, now and whenever the Router runs.

    Raises OperatorError if this Router belongs to another network already or `ca` cannot be used, Problem if the
    Bridge refuses the invite, ProviderTrouble if it is out of reach, Untrusted if what answers is not the Bridge of
    the invite.
    """
    ca = None if ca is None else usable_ca(ca)
    clock = SystemClock()
    make_private_folder(folder)
    with folder_lock(folder):
        keys = Keys.open(folder, now=clock.now())
        if keys.membership is not None and (keys.membership.url, keys.membership.site) != (invite.url, invite.site):
            raise OperatorError(
                f"the Router in {folder} is site {keys.membership.site} of {keys.membership.url} already",
                hint="--data DIR with another folder makes another Router",
            )
        async with BridgeConnection(invite.url, invite.identity, keys.identity, ca=ca, clock=clock) as bridge:
            await bridge.enrol(invite, keys.prekey_document())
        keys.join(Membership(invite.url, invite.identity, invite.site, ca))
    return keys.router_id
