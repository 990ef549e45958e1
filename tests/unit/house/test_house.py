"""Rules of the house that no other tool holds. The floors between rooms are import-linter's (`make check`)."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
MOST_LINES = 600

# Put together here, so that this file does not contain what it forbids.
_INDEX_ADDRESSES = [
    re.compile("/".join(("", "simple")) + r"/?(?=[\s'\"]|$)"),
    re.compile("index" + "[-_]url", re.IGNORECASE),
    re.compile("find" + "[-_]links", re.IGNORECASE),
    re.compile("py" + r"pi\.(?:org|python)", re.IGNORECASE),
    re.compile("python" + "hosted", re.IGNORECASE),
    re.compile("https?://[^ ]*" + "/pack" + "ages/", re.IGNORECASE),
]
_MAY_FORBID = {"scripts/lock"}  # names the options that keep addresses out


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name]


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=_name)
def test_every_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", [path for path in TESTS if path.is_relative_to(ROOT / "tests/unit")], ids=_name)
def test_names_of_tests_are_sentences(path: Path) -> None:
    names = [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    ]
    assert [name for name in names if len(name.split("_")) < 4 and name != "test_vectors"] == []


def test_no_tracked_file_contains_the_address_of_a_package_index() -> None:
    found = []
    for path in _tracked():
        if _name(path) in _MAY_FORBID or not path.is_file():
            continue
        text = path.read_text(errors="replace")
        found += [f"{_name(path)}: {match[0]}" for pattern in _INDEX_ADDRESSES if (match := pattern.search(text))]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "--index" + "-url https://mirror.example.org/",
        "https://mirror.example.org/" + "simple/",
        "url = 'https://mirror.example.org/pack" + "ages/ab/cd/x.whl'",
        "https://py" + "pi.org/project/x",
    ],
)
def test_the_search_for_index_addresses_finds_them(line: str) -> None:
    assert any(pattern.search(line) for pattern in _INDEX_ADDRESSES)


def test_every_requirement_is_pinned_by_version_and_hash() -> None:
    entries = re.sub(r"\\\n", "", (ROOT / "requirements.lock").read_text()).splitlines()
    wrong = [entry for entry in entries if entry.strip() and not re.match(r"[\w.\[\]-]+==\S+ .*--hash=sha256:", entry)]
    assert wrong == []


def test_what_differs_between_systems_is_in_one_file() -> None:
    posix_only = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "msvcrt"}
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if posix_only & {name.split(".")[0] for name in names}:
                found.add(_name(path))
    assert found <= {"src/isthmus/kit/platform.py"}
