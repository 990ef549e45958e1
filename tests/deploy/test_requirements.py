"""What is installed to run Isthmus is part of what everything is tested with."""

import re
import tomllib

from tests.deploy.image import ROOT

_ENTRY = re.compile(r"^([\w.-]+)==(\S+) (?:; [^\\]*)?\\\n((?:    --hash=sha256:\w+(?: \\)?\n)+)", re.MULTILINE)


def _pins(name: str) -> dict[str, tuple[str, str]]:
    text = (ROOT / name).read_text()
    pins = {match[1]: (match[2], match[3]) for match in _ENTRY.finditer(text)}
    assert _ENTRY.sub("", text) == ""  # nothing in it is anything else
    return pins


def test_each_requirement_has_the_version_and_the_hashes_of_the_tests() -> None:
    run, everything = _pins("requirements-run.lock"), _pins("requirements.lock")
    assert len(run) > 50
    assert {name: everything.get(name) for name in run} == run


def test_every_extra_but_that_for_development_is_in_it() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    run = _pins("requirements-run.lock")
    for extra, named in extras.items():
        names = [re.split(r"[\[><=;]", each)[0] for each in named]
        assert all(name in run for name in names) == (extra != "dev"), extra
