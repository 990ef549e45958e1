"""`isthmus queue ...`: what waits to be delivered, by the study."""
# ruff: noqa: D417 - the shared options --data and --json are explained in options.py

import sys
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter, validators

from isthmus.cli import show
from isthmus.cli.call import call_running
from isthmus.cli.options import AsJson, Data, Limit, Part

app = App(name="queue", help="What waits to be delivered, by the study.")

Study = Annotated[str, Parameter(metavar="STUDY")]
To = Annotated[
    str | None, Parameter(name="--destination", metavar="AET", help="only what goes to this device; without it, all.")
]
_CLEAR: Final = "\x1b[H\x1b[2J"
_COLUMNS: Final = {
    "study": "STUDY",
    "description": "DESCRIPTION",
    "sender": "FROM",
    "to": "TO",
    "progress": "DELIVERED",
    "where": "THE REST",
    "reason": "WHY",
    "since": "SINCE",
    "expected": "EXPECTED",
}
_PLACES: Final = (("waiting", "waits here"), ("posted", "on its way"), ("received", "at its site"), ("held", "held"))


@app.command(name="list")
def list_(
    *,
    done: Annotated[bool, Parameter(negative="")] = False,
    limit: Limit = 100,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List the studies that are not delivered yet: how far each is, where the rest is, why, and until when.

    The first column names the study in the other commands. Who looks is in the audit.

    ```
    isthmus queue list
    isthmus queue list --done --json
    ```

    Args:
        done: also those that are delivered; they are forgotten a week later.
    """
    answer = call_running(data, Part.ROUTER, "queue_list", limit=limit, done=done)
    if as_json:
        return show.as_json(answer)
    _print(answer)
    return None


@app.command
def watch(
    *,
    every: Annotated[float, Parameter(metavar="SECONDS", validator=validators.Number(gte=0.5))] = 2.0,
    count: Annotated[int | None, Parameter(metavar="N")] = None,
    data: Data = None,
) -> None:
    """Show the list again and again, until Ctrl-C. Without a terminal it prints a line for each study that changed.

    ```
    isthmus queue watch
    isthmus queue watch --every 10 > progress.txt
    ```

    Args:
        every: how often.
        count: end after so many looks; without it, go on.
    """
    import threading

    pause = threading.Event()  # nobody sets it: a wait that Ctrl-C ends
    shown: dict[tuple[str, str], str] = {}
    looks = 0
    while count is None or looks < count:
        if looks:
            pause.wait(every)
        answer = call_running(data, Part.ROUTER, "queue_list", again=looks > 0, done=True)
        looks += 1
        if sys.stdout.isatty():
            print(_CLEAR, end="")
            unfinished = [row for row in answer["rows"] if row["delivered"] < row["total"]]
            _print({**answer, "rows": unfinished, "more": 0})
            continue
        for row in answer["rows"]:
            line = "  ".join(show.words(_line(row)[name]) for name in ("study", "to", "progress", "where", "reason"))
            if shown.get(key := (row["mac"], row["destination"])) != line:
                shown[key] = line
                print(line, flush=True)


@app.command
def find(
    *,
    accession: Annotated[str | None, Parameter(metavar="NUMBER")] = None,
    patient_id: Annotated[str | None, Parameter(metavar="ID")] = None,
    name: Annotated[str | None, Parameter(metavar="WORDS")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Find a study, also one that was delivered within the last week. All that is given must fit.

    Only whole numbers and whole words of a name are found, in any order and any case: the ledger holds keyed hashes of
    them, so that its file tells nothing. Who looks is in the audit.

    ```
    isthmus queue find --accession A1234567
    isthmus queue find --name "Doe Jane"
    ```

    Args:
        accession: Accession Number.
        patient_id: Patient ID.
        name: words of the Patient's Name.
    """
    rows = call_running(data, Part.ROUTER, "queue_find", accession=accession, patient_id=patient_id, name=name)
    if as_json:
        return show.as_json(rows)
    columns = {"study": "STUDY", "patient_name": "NAME", "patient_id": "PATIENT ID", "accession": "ACCESSION"}
    lines = [_line(row) for row in rows]
    show.table(lines, {**columns, **_COLUMNS}, empty="Nothing of it is queued, or was within the last week.")
    return None


@app.command(name="show")
def show_(study: Study, /, *, data: Data = None, as_json: AsJson = False) -> None:
    """Show one study: whose it is, how far each destination is, and what devices answered to what they did not take.

    ```
    isthmus queue show 3f29ab10
    ```

    Args:
        study: its name in `isthmus queue list`; the first digits do.
    """
    answer = call_running(data, Part.ROUTER, "queue_show", study=study)
    if as_json:
        return show.as_json(answer)
    for first in answer["rows"][:1]:
        show.facts(
            [
                ("study", first["study"]),
                ("patient", first.get("patient_name")),
                ("patient ID", first.get("patient_id")),
                ("accession", first.get("accession")),
                ("description", first["description"]),
                ("date", first["study_date"]),
                ("modality", first["modality"]),
            ]
        )
        print()
    _table(answer["rows"])
    for title, count in answer["repeats"].items():
        print(f"\n{title} may have {count} of them twice.")
    if answer["held"]:
        print("\nHeld:")
        columns = {
            "destination": "TO",
            "count": "OBJECTS",
            "status": "STATUS",
            "reason": "WHY",
            "comment": "THE DEVICE SAYS",
            "since": "SINCE",
        }
        show.table([{**row, "since": show.moment(row["since"])} for row in answer["held"]], columns, empty="")
    return None


@app.command
def first(study: Study, /, *, destination: To = None, data: Data = None) -> None:
    """Send a study before all others.

    ```
    isthmus queue first 3f29ab10
    ```

    Args:
        study: its name in `isthmus queue list`.
    """
    _act(data, "queue_first", study, destination, "go first")


@app.command
def retry(
    study: Study,
    /,
    *,
    destination: To = None,
    lost_there: Annotated[bool, Parameter(negative="")] = False,
    data: Data = None,
) -> None:
    """Send again what is held, and at once what waits for its next try.

    What is held at another site is sent there again; retrying it at that site spares the way.

    ```
    isthmus queue retry 3f29ab10
    isthmus queue retry 3f29ab10 --destination SOUTH_PACS
    isthmus queue retry 3f29ab10 --lost-there
    ```

    Args:
        study: its name in `isthmus queue list`.
        lost_there: also what the other site has already, or should fetch: its Router was lost with its disk. If it
            was not, its device gets that twice.
    """
    _act(data, "queue_retry", study, destination, "are tried again", lost_there=lost_there)


@app.command
def hold(study: Study, /, *, destination: To = None, data: Data = None) -> None:
    """Keep back what has not left, until it is released.

    ```
    isthmus queue hold 3f29ab10
    ```

    Args:
        study: its name in `isthmus queue list`.
    """
    _act(data, "queue_hold", study, destination, "are held")


@app.command
def release(study: Study, /, *, destination: To = None, data: Data = None) -> None:
    """Let go on what was held by hand.

    ```
    isthmus queue release 3f29ab10
    ```

    Args:
        study: its name in `isthmus queue list`.
    """
    _act(data, "queue_release", study, destination, "go on")


@app.command
def cancel(
    study: Study,
    /,
    *,
    destination: To = None,
    yes: Annotated[bool, Parameter(negative="")] = False,
    data: Data = None,
) -> int:
    """Give up what waits here or is held: it is never delivered, and cannot be had back. Export it first.

    ```
    isthmus queue cancel 3f29ab10 --destination SOUTH_PACS
    isthmus queue cancel 3f29ab10 --yes
    ```

    Args:
        study: its name in `isthmus queue list`.
        yes: do not ask.
    """
    if not yes:
        to = f" to {destination}" if destination else ""
        print(
            f"Give up all of study {study}{to} that is not delivered? Type yes: ", end="", file=sys.stderr, flush=True
        )
        if sys.stdin.readline().strip().lower() != "yes":
            print("Nothing was given up.")
            return 1
    _act(data, "queue_cancel", study, destination, "are given up")
    return 0


@app.command
def export(
    study: Study,
    folder: Annotated[Path, Parameter(metavar="DIR")],
    /,
    *,
    destination: To = None,
    data: Data = None,
) -> None:
    """Write what is not delivered as DICOM files, to carry it another way. It stays in the queue.

    The Router writes them, as its own user and on its own machine; the files are numbered.

    ```
    isthmus queue export 3f29ab10 /mnt/usb/study
    ```

    Args:
        study: its name in `isthmus queue list`.
        folder: where to; it is made if it is not there.
    """
    where = str(folder.expanduser().absolute())
    answer: dict[str, Any] = {"after": None, "number": 1}
    damaged = 0
    while True:
        answer = call_running(
            data,
            Part.ROUTER,
            "queue_export",
            study=study,
            folder=where,
            destination=destination,
            after=answer["after"],
            number=answer["number"],
        )
        damaged += answer["damaged"]
        if answer["after"] is None:
            break
    print(f"{answer['number'] - 1} files are in {where}.")
    if damaged:
        print(f"Note: {damaged} objects are damaged in the spool and were not written")


def _act(data: Path | None, operation: str, study: str, destination: str | None, what: str, **more: object) -> None:
    answer = call_running(data, Part.ROUTER, operation, study=study, destination=destination, **more)
    print(f"{answer['objects']} objects of study {answer['study']} {what}.")
    if answer["too_late"]:
        print(f"Note: {answer['too_late']} are on their way to another site already, or there")


def _print(answer: dict[str, Any]) -> None:
    _table(answer["rows"])
    if answer["more"]:
        print(f"\nand {answer['more']} studies more: --limit")


def _table(rows: list[dict[str, Any]]) -> None:
    show.table([_line(row) for row in rows], _COLUMNS, empty="Nothing waits.")


def _line(row: dict[str, Any]) -> dict[str, Any]:
    places = [f"{row[state]:,} {words}" for state, words in _PLACES if row[state]]
    at = f"@{row['site']}" if row["site"] else ""
    return {
        **row,
        "to": f"{row['destination']}{at}",
        "progress": f"{row['delivered']:,} of {row['total']:,}",
        "where": "; ".join(places) + (" (first)" if row["first"] and row["waiting"] else ""),
        "since": show.moment(row["since"]) if row["reason"] else "-",
        "expected": show.moment(row["expected"]),
    }
