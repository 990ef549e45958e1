"""`isthmus provider` as an operator types it, against a running Bridge."""

import asyncio
import getpass
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.loopback.bridge.clouds import BLOBSTORE_CANARY, SECRETS, SIGNALLING_CANARY, FakeCloud, install

from isthmus import cli
from isthmus.contract.rest import Usage
from isthmus.errors import ProviderTrouble, Retry
from isthmus.testing.bridge import BridgeUnderTest, running_bridge

ADD = ("add", "one", "--signalling", "fake://a/b", "--blobstore", "fake://a/c")
WITH_SECRETS = [f"--secret={name}={value}" for name, value in SECRETS.items()]


class Operator:
    """Types commands."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys

    async def types(self, *words: str) -> tuple[int, str]:
        status = await asyncio.to_thread(cli.run, ["provider", *words, "--data", str(self.folder)])
        said = self.capsys.readouterr()
        return status, said.out + said.err

    async def gets(self, *words: str) -> str:
        status, said = await self.types(*words)
        assert status == 0, said
        return said

    async def reads(self, *words: str) -> Any:
        return json.loads(await self.gets(*words, "--json"))


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> FakeCloud:
    return install(monkeypatch)


@pytest.fixture
async def bridge(tmp_path: Path) -> Any:
    async with running_bridge(tmp_path / "bridge") as running:
        yield running


@pytest.fixture
def operator(bridge: BridgeUnderTest, capsys: pytest.CaptureFixture[str]) -> Operator:
    return Operator(bridge.config.data, capsys)


async def test_a_pair_is_added_listed_changed_and_removed(operator: Operator, cloud: FakeCloud) -> None:
    said = await operator.gets(*ADD, *WITH_SECRETS)
    assert "Sessions choose in this order: bridge (0), then one (10)" in said
    assert "isthmus egress allow one" in said
    said = await operator.gets("list")
    assert "fake://a/c" in said
    assert "0 of 0" in said
    assert "one: blobstore: A cloud for tests: not tried against a real service" in said
    assert "one: signalling: A cloud for tests: tried against a list in memory" in said
    assert "one (10), then bridge (1000)" in await operator.gets("set", "bridge", "--priority", "1000")
    assert "one (1), then bridge (1000)" in await operator.gets("set", "one", "--priority", "1")
    assert (await operator.gets("set", "bridge", "--off")).endswith("Sessions choose in this order: one (1)\n")
    assert "off" in await operator.gets("list")
    await operator.gets("set", "bridge", "--on")
    assert "one is removed" in await operator.gets("remove", "one")
    assert [row["name"] for row in await operator.reads("list")] == ["bridge"]


async def test_secrets_come_from_a_file_of_lines_or_json_or_a_file_each(
    operator: Operator, cloud: FakeCloud, tmp_path: Path, bridge: BridgeUnderTest
) -> None:
    lines, fields, key = tmp_path / "lines", tmp_path / "fields.json", tmp_path / "key.json"
    lines.write_text("# of the cloud\nsignalling.seed = a=b \n\nblobstore.key=c\n")
    fields.write_text(json.dumps({"signalling": {"seed": "two\nlines"}, "blobstore": {"key": "c"}}))
    key.write_text('{"private": "x\\n"}')
    wanted = [
        ([f"--secret-file={lines}"], {"seed": "a=b"}, {"key": "c"}),
        ([f"--secret-file={fields}"], {"seed": "two\nlines"}, {"key": "c"}),
        ([f"--secret-file={lines}", f"--secret=blobstore.key=@{key}"], {"seed": "a=b"}, {"key": key.read_text()}),
    ]
    for options, signalling, blobstore in wanted:
        await operator.gets(*ADD, *options)
        kept = bridge.parts.providers.secrets_of(bridge.parts.providers.demand("one"))
        assert (kept.signalling, kept.blobstore) == (signalling, blobstore)
        await operator.gets("remove", "one")


async def test_on_a_terminal_secrets_that_lack_are_asked_for_by_their_meaning(
    operator: Operator, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch, bridge: BridgeUnderTest
) -> None:
    asked: list[str] = []

    def prompt(words: str) -> str:
        asked.append(words)
        return {"signalling.seed": "typed", "signalling.note": ""}[words.split(":")[0]]

    monkeypatch.setattr(getpass, "getpass", prompt)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    await operator.gets(*ADD, "--secret=blobstore.key=given")
    assert asked == [
        "signalling.seed: the seed that signs users: ",
        "signalling.note: a word that nobody needs (Enter for none): ",
    ]
    kept = bridge.parts.providers.secrets_of(bridge.parts.providers.demand("one"))
    assert (kept.signalling, kept.blobstore) == ({"seed": "typed"}, {"key": "given"})


@pytest.mark.parametrize(
    ("words", "line", "hint"),
    [
        (["add", "Two", *ADD[2:], *WITH_SECRETS], "name: 'Two' is not a name of a pair", ""),
        (["add", "two", "--blobstore", "gopher://x"], "blobstore: no provider for gopher://x", "known here: "),
        (["add", "two", *ADD[2:]], "secrets: signalling.seed is missing: the seed that signs users", "--secret"),
        (["add", "two", *ADD[2:], "--secret", "hush"], "--secret: NAME=VALUE is meant", ""),
        (["add", "two", *ADD[2:], "--secret-file", "/nowhere"], "cannot read /nowhere", ""),
        (["add", "two", *ADD[2:], *WITH_SECRETS, "--priority", "-1"], "priority: a number from 0", ""),
        (["add", "two", *ADD[2:], *WITH_SECRETS, "--price", "put=x"], "--price: 'x' is not a number", ""),
        (["add", "two", *ADD[2:], *WITH_SECRETS, "--price", "puts=1"], "no price of 'puts'", "publish"),
        (["add", "two"], "both are the Bridge's own", "--signalling URL"),
        (["set", "two", "--priority", "1"], "there is no cloud pair two", "isthmus provider list"),
        (["set", "bridge"], "nothing is to be changed", "--priority"),
        (["set", "bridge", "--ask"], "--ask needs a terminal", "--secret-file"),
        (["set", "bridge", "--off"], "only cloud pair that is in use", "provider add"),
        (["set", "bridge", "--secret", "x.y=hush"], "bridge has no secret 'x.y'", ""),
        (["remove", "bridge"], "the built-in pair cannot be removed", "--off"),
        (["test", "bridge"], "the built-in pair needs no test here", "isthmus router check"),
        (["setup", "bridge", "--keep-days", "0"], "keep_days: a number of days", ""),
        (["usage", "--month", "2026-1"], "month: '2026-1' is not a month", "2026-11"),
        (["usage", "--price", "nobody.put=1"], "no cloud pair nobody", ""),
    ],
)
async def test_what_is_mistyped_is_answered_with_one_line_and_a_hint(
    operator: Operator, cloud: FakeCloud, words: list[str], line: str, hint: str
) -> None:
    status, said = await operator.types(*words)
    assert status == 1
    assert line in said
    assert hint in said.partition("\n")[2]
    assert len(said.strip().splitlines()) <= 2
    for secret in ("hush", SIGNALLING_CANARY, BLOBSTORE_CANARY):
        assert secret not in said


async def test_a_test_says_what_works_and_ends_with_1_if_something_does_not(
    operator: Operator, cloud: FakeCloud
) -> None:
    await operator.gets(*ADD, *WITH_SECRETS)
    said = await operator.gets("test", "one")
    assert "MB/s up" in said
    assert "one works." in said
    cloud.trouble = ProviderTrouble("the key was refused", retry=Retry.NEVER, hint="enter it anew")
    status, said = await operator.types("test", "one")
    assert status == 1
    assert "bad" in said
    assert "the key was refused" in said
    assert "-> enter it anew" in said
    assert "blobs" not in said
    status, said = await operator.types("test", "one", "--json")
    assert status == 1
    assert json.loads(said)["findings"][-1]["found"] == "signalling: the key was refused"


async def test_setting_up_shows_what_was_done(operator: Operator, cloud: FakeCloud) -> None:
    await operator.gets(*ADD, *WITH_SECRETS)
    said = await operator.gets("setup", "one", "--keep-days", "7")
    assert "blobstore: fake: made, and kept for 7 days" in said
    assert cloud.set_up == [("fake://a/b", 7), ("fake://a/c", 7)]


async def test_usage_shows_requests_bytes_and_money(
    operator: Operator, cloud: FakeCloud, bridge: BridgeUnderTest, tmp_path: Path
) -> None:
    await operator.gets(*ADD, *WITH_SECRETS, "--price", "put=5")
    assert "Nothing was asked in" in await operator.gets("usage")
    member = await bridge.join("clinic")
    counts = [
        {"provider": "one", "kind": "put", "requests": 2000, "up": 3 * 10**9, "down": 0},
        {"provider": "one", "kind": "get", "requests": 10, "up": 0, "down": 10**9},
    ]
    await member.client.heartbeat([], usage=Usage.model_validate({"run": "a" * 16, "counts": counts}))
    said = await operator.gets("usage")
    assert "3.0 GB" in said
    assert "In all: 10.00" in said
    prices = tmp_path / "prices"
    prices.write_text("# euros\nput=1\nout = 2\n")
    assert "In all: 4.00" in await operator.gets("usage", "--prices", str(prices))
    answer = await operator.reads("usage", "--price", "one.put=0")
    assert answer["cost"] == 0
    assert answer["rows"][0]["requests"] == {"put": 2000, "get": 10}


async def test_a_stopped_bridge_is_administered_on_its_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cloud: FakeCloud
) -> None:
    async with running_bridge(tmp_path / "b"):
        pass
    operator = Operator(tmp_path / "b", capsys)
    await operator.gets(*ADD, *WITH_SECRETS)
    assert "one works." in await operator.gets("test", "one")
    assert [row["name"] for row in await operator.reads("list")] == ["bridge", "one"]
