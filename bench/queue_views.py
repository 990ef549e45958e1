"""How long an operator waits for the queue: a synthetic ledger, listing and finding timed.

python -m bench.queue_views [--objects 100000] [--per-study 250]
"""

import argparse
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from isthmus.router.queued.ledger import studies, views
from isthmus.router.queued.ledger.schema import STEPS
from isthmus.router.queued.studies import StudyFields, StudySealer

_NOW = 1_800_000_000.0


def fill(connection: sqlite3.Connection, sealer: StudySealer, objects: int, per_study: int) -> None:
    """Queue `objects` synthetic objects: each study is partly delivered, the rest waits, some of it is held."""
    for step in STEPS:
        connection.executescript(step)
    connection.execute("BEGIN")
    for number in range(objects):
        study, place = divmod(number, per_study)
        if not place:
            fields = StudyFields(
                study_uid=f"2.25.{study + 1}",
                accession=f"A{study}",
                patient_id=f"P{study // 2}",
                patient_name=f"Family{study % 1000}^Given{study % 77}",
                description=f"Synthetic study {study}",
                study_date="20260101",
                modality="CT",
            )
            study_id = studies.record_study(connection, sealer, fields, _NOW - objects + number)
        object_id = number.to_bytes(16, "big")
        state = ("delivered", "waiting", "waiting", "posted", "waiting", "received", "waiting", "waiting")[place % 8]
        state = "held" if place % 97 == 96 else state
        connection.execute(
            "INSERT INTO objects VALUES"
            " (?, ?, ?, 525000, ?, 'store', 'CT1', 'ARCHIVE', ?, '1.2', '1.2', ?, ?, ?, 524288)",
            (
                object_id,
                number // 16,
                number % 16 * 525_000,
                os.urandom(32),
                os.urandom(16),
                os.urandom(16),
                study_id,
                _NOW,
            ),
        )
        connection.execute(
            "INSERT INTO copies (object_id, bundle_id, study_id, destination, site, calling, kind, state, since)"
            " VALUES (?, ?, ?, ?, 'south', 'CT1', 'store', ?, ?)",
            (object_id, number // 16, study_id, f"ARCHIVE{study % 3}", state, _NOW - number % 500),
        )
    connection.execute("COMMIT")


def show(connection: sqlite3.Connection, sealer: StudySealer, found: list[int]) -> int:
    """Do what `isthmus queue list` does with these studies."""
    rows = views.study_rows(connection, found)
    lines = views.lines(connection, found, _NOW)
    for row in rows.values():
        sealer.open(row.sealed, row.study_mac)
    return len(lines)


def milliseconds(what: Callable[[], int], times: int = 30) -> str:
    """Return median and worst of `times` calls, in milliseconds, and what was found."""
    took = []
    found = 0
    for _ in range(times):
        begun = time.perf_counter()
        found = what()
        took.append((time.perf_counter() - begun) * 1000)
    return f"median {statistics.median(took):6.1f} ms, worst {max(took):6.1f} ms, {found} found"


def main() -> None:
    """Fill a ledger and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--per-study", type=int, default=250)
    options = parser.parse_args()
    sealer = StudySealer(bytes(32))
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "ledger.db", isolation_level=None)
        connection.execute("PRAGMA cache_size = -16384")
        fill(connection, sealer, options.objects, options.per_study)
        print(f"{options.objects} queued objects, {options.per_study} in a study")
        print("list      ", milliseconds(lambda: show(connection, sealer, views.active(connection, most=100))))
        print("list all  ", milliseconds(lambda: show(connection, sealer, views.active(connection, most=10_000)), 5))
        for what, wanted in (("accession", "A33"), ("patient_id", "p7"), ("name", "given7 family7")):
            tokens = sealer.search(**{what: wanted})
            print(
                f"find {what:10}",
                milliseconds(lambda t=tokens: show(connection, sealer, studies.find(connection, t, most=100))),  # type: ignore[misc]  # bound at once
            )
        print("settle    ", milliseconds(lambda: studies.settle(connection, _NOW, most=500)))
        connection.close()


if __name__ == "__main__":
    main()
