"""The control API: what the CLI and the console speak to."""

import asyncio
import io
import json
import stat
import sys
from typing import Any

import aiohttp
import pytest
from fastapi.encoders import jsonable_encoder

from isthmus.errors import AssociationRefused, OperatorError
from isthmus.kit.names import HostPort


async def ask(
    running: Any, operation: str, arguments: Any = None, *, token: str | None = None, body: bytes | None = None
) -> tuple[int, Any]:
    note = json.loads((running.folder / "control.json").read_text())
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"http://{note['address']}/control/{operation}",
            data=io.BytesIO(json.dumps(arguments or {}).encode() if body is None else body),
            headers={"Authorization": f"Bearer {note['token'] if token is None else token}"},
        ) as response,
    ):
        return response.status, await response.json(content_type=None)


async def test_an_operation_is_done_and_answered(running: Any) -> None:
    status, added = await ask(running, "device_add", {"address": "PACS@192.0.2.20:104", "name": "Archive"})
    assert (status, added["title"], added["name"]) == (200, "PACS", "Archive")
    assert await ask(running, "device_list") == (200, jsonable_encoder(running.administration.device_list()))


async def test_what_an_operator_did_wrong_is_a_problem_with_field_and_hint(running: Any) -> None:
    status, problem = await ask(running, "device_add", {"address": "PACS"})
    assert (status, problem["field"]) == (400, "address")
    assert "AET@HOST" in problem["detail"]
    await ask(running, "device_add", {"address": "PACS@192.0.2.20:104"})
    status, problem = await ask(running, "grant_add", {"device": "PACS", "site": "north", "services": []})
    assert (status, problem["field"]) == (400, "services")
    assert "store" in problem["hint"]


@pytest.mark.parametrize("token", ["", "wrong", "ä"])
async def test_without_the_token_nothing_is_done(running: Any, token: str) -> None:
    status, problem = await ask(running, "device_add", {"address": "PACS@192.0.2.20:104"}, token=token)
    assert (status, problem["status"]) == (401, 401)
    assert running.administration.device_list() == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
async def test_the_token_is_readable_by_its_owner_only(running: Any) -> None:
    assert stat.S_IMODE((running.folder / "control.json").stat().st_mode) == 0o600


async def test_the_note_is_gone_when_the_router_is(running: Any) -> None:
    other = running.folder / "other"
    other.mkdir()
    control = type(running.control)(other, running.administration, running.metrics)
    async with control.serving(HostPort("127.0.0.1", 0)):
        assert (other / "control.json").exists()
    assert not (other / "control.json").exists()


async def test_live_operations_are_registered_by_whoever_has_them(running: Any) -> None:
    async def echo(title: str, calling: str | None = None) -> dict[str, object]:
        await asyncio.sleep(0)
        return {"ok": True, "title": title, "calling": calling}

    def status() -> dict[str, int]:
        return {"sessions": 3}

    running.control.register("echo", echo)
    running.control.register("status", status)
    assert await ask(running, "echo", {"title": "PACS"}) == (200, {"ok": True, "title": "PACS", "calling": None})
    assert await ask(running, "status") == (200, {"sessions": 3})
    assert (await ask(running, "echo", {"colour": "red"}))[0] == 400


async def test_errors_of_live_operations_are_told_and_faults_are_ours(running: Any) -> None:
    def refused() -> None:
        raise AssociationRefused("PACS is offline", result=2, source=3, reason=1, hint="call them")

    def impossible() -> None:
        raise OperatorError("not now", hint="later")

    def fault() -> None:
        raise KeyError("a fault")

    for name, operation in (("refused", refused), ("impossible", impossible), ("fault", fault)):
        running.control.register(name, operation)
    status, problem = await ask(running, "refused")
    assert (status, problem["detail"], problem["hint"]) == (400, "PACS is offline", "call them")
    status, problem = await ask(running, "impossible")
    assert (status, problem["detail"], problem["hint"]) == (400, "not now", "later")
    status, problem = await ask(running, "fault")
    assert status == 500
    assert "KeyError" in problem["detail"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b" " * (1024 * 1024 + 1)])
async def test_what_is_no_request_is_refused(running: Any, body: bytes) -> None:
    assert (await ask(running, "device_list", body=body))[0] == 400


async def test_an_unknown_operation_is_refused(running: Any) -> None:
    assert (await ask(running, "listening", {"dicom": "x"}))[0] == 400
    assert (await ask(running, "__init__"))[0] == 400


async def test_metrics_are_there_and_name_nobody(running: Any) -> None:
    await ask(running, "device_add", {"address": "PACS@192.0.2.20:104"})
    running.metrics.opened(seconds=0.2)
    running.metrics.ended(outcome="released", bytes_out=1000, bytes_in=10)
    running.metrics.refused("1/1/3")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{running.address}/metrics") as response:
            text = await response.text()
        async with session.get(f"http://{running.address}/") as response:
            assert response.status == 404
    assert 'isthmus_relayed_bytes_total{direction="out"} 1000.0' in text
    assert 'isthmus_associations_refused_total{reason="1/1/3"} 1.0' in text
    assert "isthmus_associations_live 0.0" in text
    assert "PACS" not in text


async def test_a_port_that_is_taken_is_an_operators_error(running: Any) -> None:
    with pytest.raises(OperatorError, match="cannot listen"):
        async with running.control.serving(running.address):
            pass
    assert (running.folder / "control.json").exists()
