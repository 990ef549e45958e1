"""The search for what the middle could read, in files that come and go meanwhile."""

from pathlib import Path

import pytest

from isthmus.demo.run import _files_with

CANARIES = {b"DOE^JOHN"}


def test_a_file_that_goes_while_the_search_is_at_it_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a bundle", "b bundle", "c bundle"):
        (tmp_path / name).write_bytes(b"sealed for DOE^JOHN")
    read = Path.read_bytes

    def read_or_find_gone(path: Path) -> bytes:
        if path.name == "b bundle":
            path.unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_or_find_gone)
    assert {file.name for file in _files_with(CANARIES, tmp_path)} == {"a bundle", "c bundle"}


def test_a_place_that_is_one_file_is_searched_too(tmp_path: Path) -> None:
    log = tmp_path / "bridge.log"
    log.write_bytes(b"nothing to see")
    assert _files_with(CANARIES, log) == []
    log.write_bytes(b"hello DOE^JOHN")
    assert _files_with(CANARIES, log) == [log]
