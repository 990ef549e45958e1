"""T22: patient names, ids and UIDs that cross the relay are found nowhere on its way."""

import base64
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from isthmus.cloudio.stream import Cloud
from isthmus.dicom import uids
from isthmus.dicom.command import CommandField, Tag, encode
from isthmus.dicom.pdus import message
from isthmus.ports.signalling import SignallingTraits
from isthmus.testing.devices import Archive, calling, listening
from isthmus.testing.dicom import CT_CONTEXT, move_command, pdata, store_rq, store_rsp
from isthmus.testing.malice import MaliciousBridge
from isthmus.testing.network import Network, NetworkOptions
from isthmus.testing.weather import Weather, WeatherBlobstore, WeatherSignalling

NAME = "KANARIENVOGEL^ZWITSCHERINE"
PATIENT_ID = "KANARI-0815-4711"
STUDY_UID = "2.25.271828182845904523536028747135266249"
INSTANCE_UID = "2.25.314159265358979323846264338327950288"
CANARIES = (NAME, PATIENT_ID, STUDY_UID, INSTANCE_UID)
FIND_CONTEXT = (uids.STUDY_ROOT_FIND, (uids.IMPLICIT_VR_LITTLE_ENDIAN,))
MOVE_CONTEXT = (uids.STUDY_ROOT_MOVE, (uids.IMPLICIT_VR_LITTLE_ENDIAN,))


def hits(where: bytes) -> list[str]:
    """Return the canaries in some bytes, as they are or as hexadecimal, base64 or UTF-16."""
    found = []
    for canary in CANARIES:
        raw = canary.encode()
        # base64 of the middle, at each of the three alignments
        encoded = [base64.b64encode(raw[skip:-3])[:-4] for skip in range(3)]
        forms = (raw, raw.hex().encode(), canary.encode("utf-16-le"), *encoded)
        if any(form in where for form in forms):
            found.append(canary)
    return found


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def element(group: int, number: int, value: str) -> bytes:
    raw = value.encode() + b" " * (len(value) % 2)
    return group.to_bytes(2, "little") + number.to_bytes(2, "little") + len(raw).to_bytes(4, "little") + raw


IDENTIFIER = element(0x0010, 0x0010, NAME) + element(0x0010, 0x0020, PATIENT_ID) + element(0x0020, 0x000D, STUDY_UID)


def find_command() -> bytes:
    fields: dict[Tag, int | str | bytes] = {
        Tag.AFFECTED_SOP_CLASS_UID: uids.STUDY_ROOT_FIND,
        Tag.COMMAND_FIELD: CommandField.C_FIND_RQ,
        Tag.MESSAGE_ID: 7,
        Tag.PRIORITY: 0,
        Tag.DATA_SET_TYPE: 1,
    }
    return encode(fields)


async def converse(port: int) -> None:
    """Store, query and move; then what goes wrong: an unreadable command, an abort inside a data set, a dead device."""
    data_set = element(0x0008, 0x0018, INSTANCE_UID) + IDENTIFIER + bytes(300_000)
    async with calling(port) as wire:
        await wire.associate("PACS", "WS", contexts=(FIND_CONTEXT, CT_CONTEXT, MOVE_CONTEXT))
        await wire.send(store_rq(data_set, sop_instance=INSTANCE_UID))
        assert await wire.pdu() == store_rsp(sop_instance="1.2.3.4")
        await wire.send(message(1, find_command(), IDENTIFIER))
        await wire.send(message(5, move_command("WS"), IDENTIFIER))
        await wire.release()
    for cut in (b"", b"\x00\x00\x00\x01\xff\xff\xff\xff" + IDENTIFIER):
        async with calling(port) as wire:
            await wire.associate("PACS", "WS")
            await wire.send(pdata(3, cut + IDENTIFIER, command=True, last=True))
            await wire.send(store_rq(data_set, sop_instance=INSTANCE_UID)[:9000])
            wire.reset()
    async with calling(port) as wire:  # an association request that is not one, with a name in it
        await wire.send(
            b"\x01\x00\x00\x00\x00\x60\x00\x01\x00\x00" + (NAME + PATIENT_ID + INSTANCE_UID).encode().ljust(92)
        )
        await wire.pdu()


@pytest.mark.parametrize("lane", ["inline", "blobs"])
async def test_no_log_metric_file_notice_or_blob_name_knows_a_patient(
    tmp_path: Path, lane: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    blob_names: list[str] = []

    class OnlyBlobs(WeatherSignalling):
        @property
        def traits(self) -> SignallingTraits:
            return replace(super().traits, cheap_bulk=False, max_notice_bytes=8192)

    class Noted(WeatherBlobstore):
        async def put(self, name: str, body: bytes) -> None:
            blob_names.append(name)
            await super().put(name, body)

    def around(name: str, cloud: Cloud) -> Cloud:
        signalling = OnlyBlobs(cloud.signalling, Weather()) if lane == "blobs" else cloud.signalling
        return Cloud(signalling, Noted(cloud.blobstore, Weather()))

    archive = Archive()
    with capture_logs() as logs:
        async with (
            listening(archive) as pacs,
            Network.running(tmp_path, options=NetworkOptions(around=around)) as network,
        ):
            await network.pair(pacs)
            assert network.parts is not None
            bridge = MaliciousBridge(network.parts)
            await converse(network.sites["north"].port)
            await pacs.let_go()
            await network.quiet()
            assert archive.bytes_in > 300_000
            assert len(archive.commands) >= 3
            places: dict[str, bytes] = {
                "metrics of the Bridge": network.parts.metrics.text(),
                "notices": b"\n".join(row.notice for row in bridge.delivered),
                "what Routers asked of the Bridge": "\n".join(row.model_dump_json() for row in bridge.asked).encode(),
                "blob names": "\n".join(blob_names).encode(),
            }
            for name, site in network.sites.items():
                places[f"metrics of {name}"] = site.live.core.metrics.text()
    # Every part has stopped: all that it wrote is on disk.
    places |= files_under(tmp_path)
    places["logs"] = "\n".join(repr(line) for line in logs).encode()
    places["logs of others"] = caplog.text.encode()
    printed = capfd.readouterr()
    places["printed"] = (printed.out + printed.err).encode()
    assert {where: hits(content) for where, content in places.items() if hits(content)} == {}
    # The search sees what there is to see: who, but not what.
    assert b"WS" in places["logs"]
    assert b"association open" in places["logs"]
    assert b"PACS" in places["bridge/bridge.db"]
    assert b"isthmus_" in places["metrics of north"]
    assert len(places["notices"]) > (300_000 if lane == "inline" else 1000)
    assert (lane == "blobs") == bool(blob_names)


def test_the_search_finds_a_canary_in_every_form_it_looks_for() -> None:
    for canary in CANARIES:
        for padding in range(3):
            raw = b"x" * padding + canary.encode() + b"tail"
            for form in (raw, raw.hex().encode(), base64.b64encode(raw), (canary + "tail").encode("utf-16-le")):
                assert canary in hits(b"before " + form + b" after"), form
