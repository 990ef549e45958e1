"""How answers are printed: tables for people, JSON for programs, times and sizes in words."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

_STEPS: Final = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def as_json(value: Any) -> None:
    """Print `value` as JSON, one field a line."""
    print(json.dumps(value, indent=2, sort_keys=True, default=str))


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, empty: str) -> None:
    """Print `rows` under the headings that are the values of `columns`; the line `empty` if there are none."""
    if not rows:
        print(empty)
        return
    cells = [list(columns.values())] + [[words(row.get(field)) for field in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print one fact a line, the names aligned; facts that are None are left out."""
    known = [(name, words(value)) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        print(f"{name.ljust(width)}  {value}")


def flat(answer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the facts in an answer, those of an object within it under both names."""
    for name, value in answer.items():
        spelled = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{spelled} ")
        else:
            yield spelled, value


def legs(echo: Mapping[str, Any]) -> None:
    """Print what a C-ECHO came to, and how long each leg of it took."""
    where = f" of {echo['site']}" if echo["site"] else ""
    print(f"{echo['called']}{where}: {echo['status']}")
    for name, seconds in [*((leg["name"], leg["seconds"]) for leg in echo["legs"]), ("in all", echo["seconds"])]:
        print(f"  {seconds * 1000:8.1f} ms  {name}")


def findings(rows: Sequence[Mapping[str, str]], *, width: int = 0) -> None:
    """Print what was looked at, a line each (names `width` wide at least), and under it what to do about it."""
    width = max([width, *(len(row["what"]) for row in rows)])
    for row in rows:
        print(f"{row['level']:4}  {row['what'].ljust(width)}  {row['found']}")
        if row["advice"]:
            print(f"{'':4}  {'':{width}}  -> {row['advice']}")


def words(value: Any) -> str:
    """Return a value as a person reads it in a table: yes and no, lists with commas, nothing as a dash.

    Much of it was written by devices and other sites: what would upset a terminal becomes a question mark.
    """
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ",".join(sorted(map(words, value)))
    return "".join(character if character.isprintable() else "?" for character in str(value))


def size(count: float) -> str:
    """Return a number of bytes in decimal units."""
    for unit, step in _STEPS:
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Return a duration in the two largest units that say something."""
    left = round(seconds)
    if left < 60:
        return f"{left} s"
    if left < 3600:
        return f"{left // 60} min {left % 60} s"
    if left < 86400:
        return f"{left // 3600} h {left % 3600 // 60} min"
    return f"{left // 86400} d {left % 86400 // 3600} h"


def moment(seconds: float | None) -> str:
    """Return a Unix time as date and time in this machine's time zone; a dash for none."""
    if not seconds:
        return "-"
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
