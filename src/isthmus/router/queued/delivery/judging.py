"""From what a device answered, or how it failed, to what the ledger says of the copy."""

from dataclasses import replace
from typing import Final

from isthmus.dicom.command import CommandSet, Tag
from isthmus.dicom.status import status_name
from isthmus.router.queued.delivery.statuses import Action, action, again_after
from isthmus.router.queued.ledger.deliveries import DueCopy, Outcome
from isthmus.router.queued.ledger.records import CopyState

_LONGEST_COMMENT: Final = 64  # characters of an Error Comment (0000,0902), VR LO
_BREAK_SECONDS: Final = (10.0, 60.0, 300.0)


def answered(copy: DueCopy, response: CommandSet, now: float) -> Outcome:
    """Return what a device's response means for the copy that it answers. The comment is not sealed yet."""
    status = response.status
    outcome = Outcome(
        copy,
        CopyState.HELD,
        now,
        status=status,
        comment=_comment(response),
        tries=copy.tries,
        first_failed=copy.first_failed,
        flagged=copy.flagged,
    )
    if status is None:
        return replace(outcome, reason="the device answered without a status")
    match action(status):
        case Action.DELIVERED:
            return replace(outcome, state=CopyState.DELIVERED)
        case Action.DELIVERED_FLAGGED:
            return replace(outcome, state=CopyState.DELIVERED, flagged=True)
        case Action.TRANSIENT:
            return _counted(outcome, status_name(status))
        case Action.HELD:
            return replace(outcome, reason=status_name(status))


def broken(copy: DueCopy, now: float, *, sent: bool, breaks: int, others_went: bool, why: str) -> Outcome:
    """Return what the end of the association under a copy means for it.

    It waits a little, so that others come before it. Only if the device took others since its last break
    (`others_went`) does this one count as an answer of its own: a device that ends the association each time one
    object comes would let it pass for an outage for ever. `sent`: the device may have all of it.
    """
    waits = _BREAK_SECONDS[min(breaks, len(_BREAK_SECONDS)) - 1]
    outcome = Outcome(
        copy,
        CopyState.WAITING,
        now,
        reason=why,
        tries=copy.tries,
        first_failed=copy.first_failed,
        next_try=now + waits,
        flagged=copy.flagged or sent,
    )
    return _counted(outcome, why) if others_went else outcome


def _counted(outcome: Outcome, reason: str) -> Outcome:
    tries = outcome.tries + 1
    first_failed = outcome.at if outcome.first_failed is None else outcome.first_failed
    wait = again_after(tries, first_failed, outcome.at)
    state = CopyState.HELD if wait is None else CopyState.WAITING
    next_try = 0.0 if wait is None else outcome.at + wait
    return replace(outcome, state=state, reason=reason, tries=tries, first_failed=first_failed, next_try=next_try)


def _comment(response: CommandSet) -> str:
    value = response.value(Tag.ERROR_COMMENT)
    return "" if value is None else value.rstrip(b"\0 ").decode("ascii", "replace")[:_LONGEST_COMMENT]
