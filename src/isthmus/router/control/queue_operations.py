"""What an operator sees of the queue, and does to it: by the study, since that is what people ask for.

A study is named by the first digits of its mac, which are the same every time and tell nothing. Names and numbers of
patients leave the ledger here and nowhere else: in an answer to whoever may use the control API. The audit has who
looked when at which mac.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isthmus.errors import OperatorError, SealBroken
from isthmus.kit.clock import Clock
from isthmus.router.audit import Audit
from isthmus.router.queued.export import Exported, export, to_export
from isthmus.router.queued.ledger import acts, studies, views
from isthmus.router.queued.ledger.records import COMMENT_LABEL, CopyState
from isthmus.router.queued.spool.bundles import Spool
from isthmus.router.queued.studies import StudyFields, StudySealer
from isthmus.router.routing.directory import Directory

Operation = Callable[..., Awaitable[Any]]
Act = Callable[[sqlite3.Connection, int | None, str | None, float], acts.Acted]

OTHER: Final = "other"
"""Names the objects whose study could not be read, all together."""

_SHOWN_DIGITS: Final = 8
_LEAST_DIGITS: Final = 4
_MOST_ROWS: Final = 10_000
_MOST_FOUND: Final = 100


@dataclass(frozen=True, slots=True)
class Bells:
    """Who is told that something waits again: delivery to a device of ours, by title; the post to other sites."""

    deliver: Callable[[str], None]
    post: Callable[[], None]


class QueueOperations:
    """The operations `queue_*` of the control API. They need a running Router, whose ledger it is."""

    def __init__(
        self, spool: Spool, sealer: StudySealer, directory: Directory, audit: Audit, clock: Clock, bells: Bells
    ) -> None:
        self._spool = spool
        self._ledger = spool.ledger
        self._sealer = sealer
        self._directory = directory
        self._audit = audit
        self._clock = clock
        self._bells = bells

    def table(self) -> Mapping[str, Operation]:
        """Return the operations by name."""
        return {
            "queue_list": self.queue_list,
            "queue_show": self.queue_show,
            "queue_find": self.queue_find,
            "queue_first": self.queue_first,
            "queue_retry": self.queue_retry,
            "queue_hold": self.queue_hold,
            "queue_release": self.queue_release,
            "queue_cancel": self.queue_cancel,
            "queue_export": self.queue_export,
        }

    # -- looking

    async def queue_list(self, limit: int = 100, done: bool = False, again: bool = False) -> dict[str, Any]:
        """Return a row for each study and destination, the newest study first.

        `done`: also those that are delivered and not erased yet. `again`: the caller goes on with a look that is in
        the audit already.
        """
        most = max(1, min(limit, _MOST_ROWS))

        def read(connection: sqlite3.Connection) -> tuple[list[int | None], int]:
            found = (views.recent if done else views.active)(connection, most=most)
            return [*found, None], views.how_many(connection, done=done)

        chosen, count = await self._ledger.read(read)
        rows = await self._rows(chosen, done=done)
        if not again:
            self._audit.looked("queue_list", f"{min(count, most)} studies")
        return {"studies": count, "more": max(0, count - most), "rows": rows}

    async def queue_find(
        self, accession: str | None = None, patient_id: str | None = None, name: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the studies that have all that is given: whole values, or whole words of a name."""
        tokens = self._sealer.search(accession=accession or "", patient_id=patient_id or "", name=name or "")
        if not tokens:
            raise OperatorError("nothing to find", hint="--accession, --patient-id or --name")
        found = await self._ledger.read(lambda connection: studies.find(connection, tokens, most=_MOST_FOUND))
        rows = await self._rows(list(found), done=True, private=True)
        self._audit.looked("queue_find", " ".join(dict.fromkeys(row["study"] for row in rows)) or "nothing found")
        return rows

    async def queue_show(self, study: str) -> dict[str, Any]:
        """Return all that is known of a study: whose it is, where its objects are, and what devices said of them."""
        study_id = await self._study(study)
        rows = await self._rows([study_id], done=True, private=True)
        held = await self._ledger.read(lambda connection: views.held(connection, study_id, most=100))
        repeats = await self._ledger.read(lambda connection: views.repeats(connection, study_id))
        self._audit.looked("queue_show", rows[0]["study"] if rows else study)
        shown = [
            {
                "destination": row.destination,
                "count": row.count,
                "reason": row.reason,
                "status": None if row.status is None else f"{row.status:04X}H",
                "comment": self._comment(row.comment),
                "since": row.since,
            }
            for row in held
        ]
        return {"rows": rows, "held": shown, "repeats": repeats}

    # -- doing

    async def queue_first(self, study: str, destination: str | None = None) -> dict[str, Any]:
        """Let a study go before all others."""
        return await self._act("queue_first", acts.first, study, destination)

    async def queue_retry(self, study: str, destination: str | None = None, lost_there: bool = False) -> dict[str, Any]:
        """Send again what is held, and at once what waits for its next try.

        `lost_there`: also what the other site has already, or should fetch: its Router was lost.
        """
        return await self._act("queue_retry", acts.send_anew if lost_there else acts.retry, study, destination)

    async def queue_hold(self, study: str, destination: str | None = None) -> dict[str, Any]:
        """Keep back what has not left."""
        return await self._act("queue_hold", acts.hold, study, destination)

    async def queue_release(self, study: str, destination: str | None = None) -> dict[str, Any]:
        """Let go on what was held by hand."""
        return await self._act("queue_release", acts.release, study, destination)

    async def queue_cancel(self, study: str, destination: str | None = None) -> dict[str, Any]:
        """Give up what waits here or is held."""
        return await self._act("queue_cancel", acts.cancel, study, destination)

    async def queue_export(
        self, study: str, folder: str, destination: str | None = None, after: list[int] | None = None, number: int = 1
    ) -> dict[str, Any]:
        """Write objects that are not delivered yet as DICOM files into a folder on the Router's machine, in parts.

        `after` and `number`: where the answer before said to go on.
        """
        path = Path(folder)
        if not path.is_absolute():
            raise OperatorError(f"{folder} is no absolute path", hint="name the folder from the root on")
        study_id = await self._study(study)
        start = (after[0], after[1]) if after else (-1, -1)
        found = await self._ledger.read(lambda connection: to_export(connection, study_id, destination, start))
        done = Exported(number=number, after=start)
        if found:
            if after is None:
                self._audit.changed("queue_export", f"study {await self._name(study_id)} to {path}")
            try:
                done = await export(self._spool, found, path, number)
            except OSError as error:
                raise OperatorError(f"cannot write into {path}: {error.strerror}") from error
        return {
            "written": done.number - number,
            "damaged": done.damaged,
            "after": list(done.after) if found else None,
            "number": done.number,
        }

    async def _act(self, operation: str, act: Act, study: str, destination: str | None) -> dict[str, Any]:
        study_id = await self._study(study)
        now = self._clock.now()
        acted = await self._ledger.run(lambda connection: act(connection, study_id, destination, now))
        name = await self._name(study_id)
        to = f" to {destination}" if destination else ""
        self._audit.changed(operation, f"study {name}{to}: {acted.count} objects")
        for bundle_id in sorted(acted.bundles):
            await self._spool.release(bundle_id)
        for title in sorted(acted.titles):
            self._bells.deliver(title)
        if acted.away:
            self._bells.post()
        return {"study": name, "objects": acted.count, "too_late": acted.late}

    # -- inside

    async def _study(self, text: str) -> int | None:
        """Return the study that a person means. Raises OperatorError if that is none, or more than one."""
        wanted = text.strip().lower()
        if wanted == OTHER:
            return None
        if not _LEAST_DIGITS <= len(wanted) <= 64 or not set(wanted) <= set("0123456789abcdef"):
            raise OperatorError(f"'{text}' names no study", hint="isthmus queue list shows what does")
        found = await self._ledger.read(lambda connection: studies.by_mac(connection, wanted))
        if not found:
            raise OperatorError(
                f"there is no study {text}", hint="isthmus queue list; it is forgotten a week after its delivery"
            )
        if len(found) > 1:
            raise OperatorError(f"{text} names several studies", hint="isthmus queue list --json shows longer names")
        return found[0]

    async def _name(self, study_id: int | None) -> str:
        if study_id is None:
            return OTHER
        rows = await self._ledger.read(lambda connection: views.study_rows(connection, [study_id]))
        return rows[study_id].study_mac.hex()[:_SHOWN_DIGITS] if study_id in rows else "erased"

    async def _rows(self, study_ids: list[int | None], *, done: bool, private: bool = False) -> list[dict[str, Any]]:
        now = self._clock.now()

        def read(connection: sqlite3.Connection) -> tuple[Any, ...]:
            known = [study_id for study_id in study_ids if study_id is not None]
            return (
                views.study_rows(connection, known),
                views.lines(connection, study_ids, now),
                views.outages(connection),
            )

        rows, lines, outages = await self._ledger.read(read)
        fields = await asyncio.to_thread(self._open, rows)
        return [
            self._row(line, rows.get(line.study_id), fields.get(line.study_id), outages, private=private)
            for line in lines
            if done or line.left or CopyState.HELD in line.counts
        ]

    def _open(self, rows: Mapping[int, views.StudyRow]) -> dict[int | None, StudyFields]:
        found: dict[int | None, StudyFields] = {}
        for study_id, row in rows.items():
            try:
                found[study_id] = self._sealer.open(row.sealed, row.study_mac)
            except SealBroken:
                continue  # damaged: its objects are shown all the same
        return found

    def _row(
        self,
        line: views.Line,
        row: views.StudyRow | None,
        fields: StudyFields | None,
        outages: Mapping[str, views.Outage],
        *,
        private: bool,
    ) -> dict[str, Any]:
        oldest = line.any
        reason, since = self._why(line, outages)
        mac = OTHER if row is None else row.study_mac.hex()
        shown: dict[str, Any] = {
            "study": mac[:_SHOWN_DIGITS],
            "mac": mac,
            "description": fields.description if fields else "",
            "study_date": fields.study_date if fields else "",
            "modality": fields.modality if fields else "",
            "sender": oldest.calling,
            "destination": line.destination,
            "site": oldest.site or "",
            "total": line.total,
            **{state.value: line.counts.get(state, 0) for state in CopyState},
            "reason": reason,
            "since": since,
            "expected": line.expected,
            "first": oldest.priority > 0,
            "erased_after": row.erase_after if row else None,
        }
        if private and fields is not None:
            shown |= {
                "accession": fields.accession,
                "patient_id": fields.patient_id,
                "patient_name": fields.patient_name,
                "study_uid": fields.study_uid,
            }
        return shown

    def _why(self, line: views.Line, outages: Mapping[str, views.Outage]) -> tuple[str, float]:
        """Return why the rest is not delivered, and since when."""
        oldest = line.any
        if CopyState.HELD in line.counts:
            said = "" if oldest.status is None else f" (status {oldest.status:04X}H)"
            return (oldest.reason or "held") + said, oldest.since
        if not line.left:
            return "", oldest.since
        outage = None if oldest.site else outages.get(line.destination)
        if outage is not None:
            return f"{line.destination} does not answer: {outage.reason}", outage.since
        away = self._far_trouble(oldest.site) if oldest.site else ""
        if CopyState.WAITING in line.counts:
            if oldest.next_try > self._clock.now():
                return oldest.reason or "the device asked to wait", oldest.since
            return away or oldest.reason, oldest.since
        if CopyState.POSTED in line.counts:
            return away or f"site {oldest.site} has not fetched it yet", oldest.since
        return away or f"at site {oldest.site}, for its device", oldest.since

    def _far_trouble(self, site: str) -> str:
        for acceptance in self._directory.acceptances.values():
            if acceptance.site == site and acceptance.accepted:
                online = self._directory.is_online(acceptance.router_id)
                return "" if online else f"the Router of site {site} is offline"
        return f"site {site} is not accepted any more"

    def _comment(self, sealed: bytes | None) -> str:
        if not sealed:
            return ""
        try:
            return self._spool.open_local(COMMENT_LABEL, sealed).decode("utf-8", "replace")
        except SealBroken:
            return "(damaged)"
