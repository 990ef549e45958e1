"""moto_server on loopback: it plays SQS and STS.

It checks neither signatures nor permissions, unless it is told to; and then it heeds no resources of a policy, and no
policy that was given with a loan.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from aiobotocore.session import AioSession  # type: ignore[import-untyped]  # has no types
from tests.backends.servers.started import read_on, said_until

_LISTENS: Final = re.compile(r"Running on http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True, slots=True)
class MotoServer:
    """A running server."""

    port: int

    def url(self, namespace: str, *, port: int | None = None) -> str:
        """Return by what a provider is listed; `port` is that of something in front of the server."""
        return f"sqs://127.0.0.1:{port or self.port}/{namespace}?region=eu-central-1&tls=no"


@dataclass(frozen=True, slots=True)
class StrictMoto:
    """A server that checks signatures, and whether a user or role may act at all.

    Attributes:
        operator: keys of a user who may do everything, and a role that it may assume.
        poor: keys of a user who may only ask whether a queue is there.
    """

    server: MotoServer
    operator: dict[str, str]
    poor: dict[str, str]


@contextlib.contextmanager
def running_moto(*, unchecked: int | None = None) -> Iterator[MotoServer]:
    """Run a server that knows nothing yet; after so many calls that it does not check, it checks them."""
    environment = dict(os.environ)
    if unchecked is not None:
        environment["INITIAL_NO_AUTH_ACTION_COUNT"] = str(unchecked)
    program = Path(sys.executable).with_name("moto_server")
    if not program.exists():
        pytest.fail("there is no moto_server here: scripts/make-env installs it")
    with subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        try:
            said = said_until(process.stderr, _LISTENS.search)
            read_on(process.stderr)  # it logs each request
            yield MotoServer(int(_LISTENS.findall(said[-1])[0]))
        finally:
            process.kill()


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoServer]:
    """Give the server of this test run."""
    with running_moto() as server:
        yield server


@pytest.fixture
async def strict_moto() -> AsyncIterator[StrictMoto]:
    """Give a server that checks who calls."""
    with running_moto(unchecked=8) as server:
        iam = AioSession().create_client(
            "iam",
            region_name="us-east-1",
            endpoint_url=f"http://127.0.0.1:{server.port}",
            aws_access_key_id="any",
            aws_secret_access_key="any",
        )
        async with iam as calls:
            keys = []
            for name, actions in (("operator", ["sqs:*", "sts:*"]), ("poor", ["sqs:GetQueueUrl"])):
                await calls.create_user(UserName=name)
                await calls.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=_policy(actions))
                made = (await calls.create_access_key(UserName=name))["AccessKey"]
                keys.append({"access_key_id": made["AccessKeyId"], "secret_access_key": made["SecretAccessKey"]})
            role = await calls.create_role(RoleName="lender", AssumeRolePolicyDocument=_policy(["sts:AssumeRole"]))
            await calls.put_role_policy(RoleName="lender", PolicyName="lender", PolicyDocument=_policy(["sqs:*"]))
        yield StrictMoto(server, {**keys[0], "role": role["Role"]["Arn"]}, keys[1])


def _policy(actions: list[str]) -> str:
    statement: dict[str, object] = {"Effect": "Allow", "Action": actions}
    statement |= {"Principal": {"AWS": "*"}} if actions == ["sts:AssumeRole"] else {"Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
