"""The pages on Bridges in clouds: their commands, URLs, names of secrets and permissions are those of the code."""

import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.image import ROOT
from tests.deploy.test_compose import SERVICES

from isthmus import cli
from isthmus.adapters.blobstore import aws, s3
from isthmus.adapters.signalling.sqs.place import Place
from isthmus.adapters.signalling.sqs.provider import policy
from isthmus.cloudio.providers import blobstore_provider, signalling_provider

PAGES = sorted((ROOT / "docs/how-to").glob("bridge-*.md"))
_BLOCK = re.compile(r"```(sh|json)\n(.*?)```", re.DOTALL)
_RUNS = re.compile(r"(?:\bexec (?P<service>[\w-]+) |\s)isthmus (?=\w)")
_MAKES_QUEUES = {"sqs:GetQueueUrl", "sqs:CreateQueue", "sqs:SetQueueAttributes"}


def _name(page: Path) -> str:
    return page.stem


def _blocks(page: Path, kind: str) -> list[str]:
    return [text for found, text in _BLOCK.findall(page.read_text()) if found == kind]


def _lines(page: Path) -> Iterator[str]:
    for block in _blocks(page, "sh"):
        yield from block.splitlines()


def _in_containers() -> Iterator[tuple[str, str | None, str]]:
    """Yield page, service if one is named, and the words for isthmus of each line that begins with docker."""
    for page in PAGES:
        for line in _lines(page):
            if line.startswith("docker") and (runs := list(_RUNS.finditer(line))):
                yield page.stem, runs[-1]["service"], re.split(r"\s[<>]\s", line[runs[-1].end() :])[0]


IN_CONTAINERS = list(_in_containers())
ADDED = [(page.stem, shlex.split(line)) for page in PAGES for line in _lines(page) if " provider add " in f" {line}"]


@pytest.mark.parametrize(("page", "service", "words"), IN_CONTAINERS, ids=[each[2] for each in IN_CONTAINERS])
def test_what_is_typed_into_a_container_is_understood(page: str, service: str | None, words: str) -> None:
    if page == "bridge-in-house" and service is not None:
        assert service in SERVICES
    cli.app.parse_args(shlex.split(words), exit_on_error=False, print_error=False)


def test_commands_in_containers_are_shown_at_all() -> None:
    assert len(IN_CONTAINERS) > 8


@pytest.mark.parametrize(("page", "words"), ADDED, ids=[f"{each[0]}: {each[1][3]}" for each in ADDED])
def test_a_pair_that_a_page_adds_is_one_that_the_providers_know(page: str, words: list[str]) -> None:
    given = dict(itertools.pairwise(words))
    signalling, blobstore = given["--signalling"], given["--blobstore"]
    signalling_provider(signalling).hosts(signalling)
    blobstore_provider(blobstore).hosts(blobstore)
    names = {f"signalling.{secret.name}" for secret in signalling_provider(signalling).secrets}
    names |= {f"blobstore.{secret.name}" for secret in blobstore_provider(blobstore).secrets}
    secrets = {value.partition("=")[0] for option, value in itertools.pairwise(words) if option == "--secret"}
    assert secrets <= names


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_json_in_a_page_is_json(page: Path) -> None:
    for block in _blocks(page, "json"):
        json.loads(block)


def _actions(document: Any) -> set[str]:
    given = [statement["Action"] for statement in document["Statement"]]
    return {action for each in given for action in ([each] if isinstance(each, str) else each)}


def test_amazons_permissions_are_those_that_the_adapters_need_and_no_others() -> None:
    page = ROOT / "docs/how-to/bridge-on-aws.md"
    bridge, router, trust = (json.loads(block) for block in _blocks(page, "json"))
    assert _actions(bridge) == set(aws._NEEDS.values()) | _MAKES_QUEUES
    own = _actions(policy(Place.parse("sqs://eu-west-1/isthmus"), "111122223333", "mailbox"))
    blobs = _actions(json.loads(s3._policy(s3.Place.parse("s3://isthmus-hospitals?region=eu-west-1"))))
    assert _actions(router) == own | blobs
    assert _actions(trust) == {"sts:AssumeRole"}
