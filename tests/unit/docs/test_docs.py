"""The documentation says what the program does: commands, links, generated pages, numbers of decisions."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from isthmus import cli

ROOT = Path(__file__).parents[3]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
WRITTEN = [page for page in PAGES if page.name != "commands.md"]  # that one is generated
_BLOCK = re.compile(r"```(?:sh|console)\n(.*?)```", re.DOTALL)
_INLINE = re.compile(r"`(isthmus [^`]+)`")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def _commands(app: App = cli.app, words: tuple[str, ...] = ()) -> Iterator[str]:
    for name in app:
        if not name.startswith("-"):
            inner = app[name]
            if inner.default_command is not None:
                yield " ".join((*words, name))
            yield from _commands(inner, (*words, name))


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _typed(page: Path) -> Iterator[str]:
    """Yield every isthmus command line in a page's shell blocks, without redirections and pipes."""
    for block in _BLOCK.findall(page.read_text()):
        for line in block.splitlines():
            for part in re.split(r"\s[|]\s|;", line):
                words = part.strip().removeprefix("sudo -u isthmus ISTHMUS_DATA=/var/lib/isthmus/router ")
                if words.startswith("isthmus "):
                    yield re.split(r"\s[<>]\s", words)[0]


TYPED = [(_name(page), line) for page in WRITTEN for line in _typed(page)]


@pytest.mark.parametrize(("page", "line"), TYPED, ids=[f"{page}: {line}" for page, line in TYPED])
def test_every_command_line_that_is_shown_is_understood(page: str, line: str) -> None:
    cli.app.parse_args(shlex.split(line, comments=True)[1:], exit_on_error=False, print_error=False)


def test_command_lines_are_shown_at_all() -> None:
    assert len(TYPED) > 50


@pytest.mark.parametrize("page", WRITTEN, ids=_name)
def test_every_command_that_a_sentence_names_exists(page: Path) -> None:
    known = set(_commands()) | {"demo"}
    nouns = {command.split()[0] for command in known}
    for mention in _INLINE.findall(page.read_text()):
        words = [word for word in mention.split()[1:] if not word.startswith("-")]
        if not words:
            continue
        assert words[0] in nouns, mention
        if words[0] not in known and len(words) > 1 and words[1].islower():
            assert " ".join(words[:2]) in known, mention


@pytest.mark.parametrize("command", sorted(_commands()))
def test_every_command_is_in_the_reference(command: str) -> None:
    assert f"isthmus {command}\n" in (ROOT / "docs/commands.md").read_text()


@pytest.mark.parametrize("command", sorted(set(_commands()) - {"site release", "alias list", "alias remove"}))
def test_every_command_that_a_day_needs_is_explained_outside_the_reference(command: str) -> None:
    assert any(f"isthmus {command}" in page.read_text() for page in WRITTEN)


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/generate-docs", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", WRITTEN, ids=_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_decisions_are_numbered_without_gaps_and_all_listed() -> None:
    decisions = sorted(path for path in (ROOT / "docs/adr").glob("*.md") if path.name != "README.md")
    index = (ROOT / "docs/adr/README.md").read_text()
    for number, path in enumerate(decisions, 1):
        assert path.name.startswith(f"{number:04d}-")
        assert path.read_text().startswith(f"# {number}. ")
        assert f"({path.name})" in index


@pytest.mark.parametrize("target", ["demo", "test"])
def test_what_the_readme_tells_a_newcomer_to_make_is_there(target: str) -> None:
    assert f"make {target}" in (ROOT / "README.md").read_text()
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("words", ["What it is not", "When the link is down", "Tested on"])
def test_the_readme_says_on_its_first_screen(words: str) -> None:
    assert words in "\n".join((ROOT / "README.md").read_text().splitlines()[:60])


@pytest.mark.parametrize("page", [page for page in PAGES if "protocol" not in page.parts], ids=_name)
def test_one_thing_has_one_word(page: Path) -> None:
    text = re.sub(r"(?:name|time) servers|prometheus-client|Print Job", "", page.read_text())
    assert re.findall(r"\b(?:client|server|node|peer|job)s?\b", text, re.IGNORECASE) == []
