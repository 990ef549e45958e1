"""Keys for the store of a Bridge's blobs: from a file of its user alone, or from the environment."""

from pathlib import Path

import pytest

from isthmus.cli.given import blobs_keys
from isthmus.errors import OperatorError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_text("# of the Bridges\naccess_key_id = of the file\nsecret_access_key=a=b\n")
    return path


def test_keys_of_a_file_go_before_those_of_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_BLOBS_ACCESS_KEY_ID", "of the environment")
    monkeypatch.setenv("ISTHMUS_BLOBS_ROLE", "arn")
    monkeypatch.setenv("ISTHMUS_BLOBS_STS", "")
    monkeypatch.setenv("ISTHMUS_BLOBS_KEYS", str(file))
    monkeypatch.setenv("ISTHMUS_BLOBS", "s3://x:1/y")
    assert blobs_keys(None) == {"access_key_id": "of the environment", "role": "arn"}
    assert blobs_keys(file) == {"access_key_id": "of the file", "secret_access_key": "a=b", "role": "arn"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_may_read_is_not_taken(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(OperatorError, match="others than its owner may read") as refused:
        blobs_keys(file)
    assert refused.value.hint == f"chmod 600 {file}"


@pytest.mark.parametrize("text", ["hush", "=hush"])
def test_what_is_no_key_is_not_quoted(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(OperatorError, match="--blobs-keys: NAME=VALUE is meant") as refused:
        blobs_keys(file)
    assert "hush" not in f"{refused.value} {refused.value.hint}"
