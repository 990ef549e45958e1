"""The protocol pages name every label that the code signs, derives or seals under, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs" / "protocol"
_LABEL = re.compile(r"isthmus/[a-z-]+/v[0-9]+")


def _labels(files: list[Path]) -> set[str]:
    return {label for file in files for label in _LABEL.findall(file.read_text(encoding="utf-8"))}


def test_the_pages_and_the_code_agree_on_the_labels() -> None:
    code = [*(ROOT / "src/isthmus/envelope").glob("*.py"), ROOT / "src/isthmus/kit/base32.py"]
    code += [ROOT / f"src/isthmus/contract/{name}.py" for name in ("documents", "letters")]
    pages = [PAGES / f"{name}.md" for name in ("keys", "offers", "segments", "requests", "records", "queued")]
    assert len(_labels(code)) >= 12
    assert _labels(pages) == _labels(code)
