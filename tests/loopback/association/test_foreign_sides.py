"""Foreign implementations on the other side of the machine, over real TCP on loopback: DCMTK and pynetdicom."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AE, evt
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from isthmus.association.machine import UpperLayer
from isthmus.association.negotiation import agreed_contexts
from isthmus.association.primitives import (
    Abort,
    AbortIndication,
    AcceptPrimitive,
    AssociateConfirmed,
    AssociateIndication,
    AssociateRejected,
    AssociateRequestPrimitive,
    ConnectionLost,
    DataIndication,
    Event,
    RejectPrimitive,
    ReleaseConfirmed,
    ReleaseIndication,
    ReleaseRequest,
    ReleaseResponse,
    SendData,
    ShouldClose,
)
from isthmus.association.states import Role
from isthmus.dicom.associate import AssociateRequest, build_accept
from isthmus.dicom.command import CommandField, c_echo_rsp
from isthmus.dicom.items import AsyncOperations, RoleSelection
from isthmus.dicom.pdus import Abort as AbortPdu
from isthmus.dicom.pdus import message
from isthmus.testing import dicom

ECHOSCU, STORESCU, STORESCP = "/usr/bin/echoscu", "/usr/bin/storescu", "/usr/bin/storescp"
VERIFICATION = "1.2.840.10008.1.1"

pytestmark = pytest.mark.skipif(not Path(ECHOSCU).exists(), reason="DCMTK is not installed (make tools)")


class Line:
    """The smallest driver there can be: one machine on one TCP connection."""

    def __init__(self, layer: UpperLayer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.layer = layer
        self._reader = reader
        self._writer = writer
        layer.connection_made(self.now())
        self._flush()

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def request(
        self, primitive: AcceptPrimitive | RejectPrimitive | SendData | ReleaseRequest | ReleaseResponse | Abort
    ) -> None:
        if isinstance(primitive, SendData):
            primitive = SendData(bytes(primitive.run), primitive.boundary)
        self._act(self.layer.request(primitive, self.now()))
        self._flush()

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens until the connection is gone."""
        while not self.layer.closed:
            data = await self._reader.read(1 << 18)
            events = self.layer.receive(data, self.now()) if data else self.layer.connection_lost(self.now())
            for event in self._act(events):
                yield event
            self._flush()
        self._writer.close()

    def _act(self, events: list[Event]) -> list[Event]:
        if ShouldClose(reset=True) in events:
            self._writer.transport.abort()
        return events

    def _flush(self) -> None:
        for piece in self.layer.take_bytes():
            self._writer.write(piece)


@asynccontextmanager
async def listening(serve: Callable[[Line], Awaitable[None]]) -> AsyncIterator[tuple[int, list[asyncio.Future[None]]]]:
    """Listen with our acceptor; yield the port, and the outcome of each connection served."""
    done: list[asyncio.Future[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.append(outcome)
        try:
            await serve(Line(UpperLayer(Role.ACCEPTOR), reader, writer))
            outcome.set_result(None)
        except Exception as error:  # noqa: BLE001 - it is raised again in the test, which awaits the outcome
            outcome.set_exception(error)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], done


async def dial(port: int, request: bytes) -> Line:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    layer = UpperLayer(Role.REQUESTOR)
    layer.request(AssociateRequestPrimitive(request), 0)
    return Line(layer, reader, writer)


async def run(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode(errors="replace")


@asynccontextmanager
async def storescp(folder: Path) -> AsyncIterator[int]:
    """Run DCMTK's storescp on one connection, handed over as by inetd: no port to race for, nothing to wait for."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        async def serve() -> int | None:
            connection, _ = await loop.sock_accept(listener)
            connection.setblocking(True)
            process = await asyncio.create_subprocess_exec(
                STORESCP, "--inetd", "+xa", "-od", str(folder), stdin=connection.fileno()
            )
            connection.close()
            return await process.wait()

        async with asyncio.TaskGroup() as group:
            served = group.create_task(serve())
            yield listener.getsockname()[1]
            await served


async def echo_scp(line: Line) -> None:
    """Accept everything, answer C-ECHO, agree to the release."""
    async for event in line.events():
        match event:
            case AssociateIndication(request):
                line.request(AcceptPrimitive(build_accept(request, lambda context: context.transfer_syntaxes[0]).raw))
            case DataIndication():
                for command in event.commands:
                    fields = command.parse()
                    assert fields.command_field is CommandField.C_ECHO_RQ
                    line.request(SendData(message(command.context_id, c_echo_rsp(fields.message_id or 0))))
            case ReleaseIndication():
                line.request(ReleaseResponse())


async def test_echoscu_verifies_our_acceptor() -> None:
    async with listening(echo_scp) as (port, done):
        code, output = await run(ECHOSCU, "-v", "--repeat", "3", "127.0.0.1", str(port))
        assert code == 0, output
        assert output.count("Received Echo Response (Success)") == 3
        await done[0]


async def test_echoscu_proposing_128_contexts_gets_them_all() -> None:
    seen = []

    async def serve(line: Line) -> None:
        async for event in line.events():
            if isinstance(event, AssociateIndication):
                seen.append(len(event.request.contexts))
                line.request(AcceptPrimitive(build_accept(event.request, lambda one: one.transfer_syntaxes[0]).raw))
            elif isinstance(event, ReleaseIndication):
                line.request(ReleaseResponse())
            elif isinstance(event, DataIndication):
                (command,) = event.commands
                line.request(SendData(message(command.context_id, c_echo_rsp(command.parse().message_id or 0))))

    async with listening(serve) as (port, done):
        code, output = await run(ECHOSCU, "-v", "-ppc", "128", "-pts", "38", "127.0.0.1", str(port))
        assert code == 0, output
        assert seen == [128]
        await done[0]


async def test_echoscu_reads_our_reject() -> None:
    async def serve(line: Line) -> None:
        async for event in line.events():
            if isinstance(event, AssociateIndication):
                line.request(RejectPrimitive(1, 1, 7))

    async with listening(serve) as (port, done):
        code, output = await run(ECHOSCU, "127.0.0.1", str(port))
        assert code != 0
        assert "Called AE Title Not Recognized" in output
        await done[0]


async def test_echoscu_reads_our_abort() -> None:
    async def serve(line: Line) -> None:
        async for event in line.events():
            if isinstance(event, AssociateIndication):
                line.request(AcceptPrimitive(build_accept(event.request, lambda one: one.transfer_syntaxes[0]).raw))
            elif isinstance(event, DataIndication):
                line.request(Abort(2, 0))

    async with listening(serve) as (port, done):
        code, output = await run(ECHOSCU, "127.0.0.1", str(port))
        assert "Peer aborted Association" in output, (code, output)
        await done[0]


async def test_echoscu_takes_contexts_that_we_refused_in_an_answer() -> None:
    """The shape that docs/conformance.md states: the same id, user rejection, the first transfer syntax."""

    async def serve(line: Line) -> None:
        async for event in line.events():
            match event:
                case AssociateIndication(request):
                    left = request.without_contexts({1, 5})
                    answer = build_accept(left, lambda one: one.transfer_syntaxes[0])
                    refused = [(one.id, one.transfer_syntaxes[0]) for one in request.contexts if one.id in {1, 5}]
                    line.request(AcceptPrimitive(answer.with_refused_contexts(refused).raw))
                case DataIndication():
                    (command,) = event.commands
                    assert command.context_id == 3
                    line.request(SendData(message(3, c_echo_rsp(command.parse().message_id or 0))))
                case ReleaseIndication():
                    line.request(ReleaseResponse())

    async with listening(serve) as (port, done):
        code, output = await run(ECHOSCU, "-v", "-ppc", "3", "127.0.0.1", str(port))
        assert code == 0, output
        await done[0]


async def test_storescp_answers_our_echo_and_release(tmp_path: Path) -> None:
    async with storescp(tmp_path) as port:
        line = await dial(port, dicom.associate_rq(contexts=[dicom.ECHO_CONTEXT]))
        heard = []
        async for event in line.events():
            heard.append(type(event))
            if isinstance(event, AssociateConfirmed):
                line.request(SendData(dicom.echo_rq()))
            elif isinstance(event, DataIndication):
                assert event.turn
                assert event.commands[0].parse().status == 0
                line.request(ReleaseRequest())
        assert heard == [AssociateConfirmed, DataIndication, ReleaseConfirmed, ShouldClose]


async def relay(line: Line, port: int) -> None:
    """Relay one association byte for byte: what two Routers will do, without what is between them."""
    far: Line | None = None

    async def backwards(far: Line) -> None:
        async for event in far.events():
            match event:
                case AssociateConfirmed(accept):
                    line.request(AcceptPrimitive(accept.raw))
                case DataIndication():
                    line.request(SendData(event.run, event.boundary))
                case ReleaseConfirmed():
                    line.request(ReleaseResponse())

    async with asyncio.TaskGroup() as group:
        async for event in line.events():
            match event:
                case AssociateIndication(request):
                    far = await dial(port, request.raw)
                    group.create_task(backwards(far))
                case DataIndication() if far:
                    far.request(SendData(event.run, event.boundary))
                case ReleaseIndication() if far:
                    far.request(ReleaseRequest())


@pytest.mark.parametrize(
    ("name", "options"), [("CT_small.dcm", []), ("MR_small_bigendian.dcm", ["-xb"]), ("JPEG2000.dcm", ["-xw"])]
)
async def test_what_storescu_sends_arrives_at_storescp_unchanged(name: str, options: list[str], tmp_path: Path) -> None:
    """mercure#50, fo-dicom PR#259: no data set is touched, whatever is wrong with it."""
    path = get_testdata_file(name)
    assert isinstance(path, str)
    async with storescp(tmp_path) as port, listening(lambda line: relay(line, port)) as (own, done):
        code, output = await run(STORESCU, "-v", "-R", *options, "127.0.0.1", str(own), path)
        assert code == 0, output
        await done[0]
    (stored,) = await asyncio.to_thread(lambda: [*tmp_path.iterdir()])
    assert dcmread(stored, force=True).PixelData == dcmread(path, force=True).PixelData


def everything_requested() -> AE:
    ae = AE("PYNET")
    ae.add_requested_context(VERIFICATION)
    ae.add_requested_context(dicom.CT_IMAGE_STORAGE)
    return ae


async def test_a_pynetdicom_request_with_every_user_item_is_read_and_accepted() -> None:
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = dicom.CT_IMAGE_STORAGE, False, True
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = dicom.CT_IMAGE_STORAGE, b"\x02\x00\x03"
    common = SOPClassCommonExtendedNegotiation()
    common.sop_class_uid, common.service_class_uid = dicom.MR_IMAGE_STORAGE, "1.2.840.10008.4.2"
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field = 1, b"CROWN"
    requests: list[AssociateRequest] = []

    async def serve(line: Line) -> None:
        async for event in line.events():
            if isinstance(event, AssociateIndication):
                requests.append(event.request)
                line.request(AcceptPrimitive(build_accept(event.request, lambda one: one.transfer_syntaxes[-1]).raw))
            elif isinstance(event, ReleaseIndication):
                line.request(ReleaseResponse())

    def associate(port: int) -> list[tuple[int, str]]:
        association = everything_requested().associate(
            "127.0.0.1", port, ae_title="ARCHIVE", ext_neg=[role, window, extended, common, identity]
        )
        assert association.is_established
        accepted = [(context.context_id, context.transfer_syntax[0]) for context in association.accepted_contexts]
        association.release()
        assert association.is_released
        return accepted

    async with listening(serve) as (port, done):
        accepted = await asyncio.to_thread(associate, port)
        await done[0]
    (request,) = requests
    assert accepted == [(one.id, one.transfer_syntaxes[-1]) for one in request.contexts]
    assert (request.called, request.calling) == ("ARCHIVE", "PYNET")
    assert request.roles == (RoleSelection(dicom.CT_IMAGE_STORAGE, scu=False, scp=True),)
    assert request.user.async_operations == AsyncOperations(5, 5)
    assert request.user.extended == (dicom.CT_IMAGE_STORAGE,)
    assert request.user.common_extended == (dicom.MR_IMAGE_STORAGE,)
    assert request.user.user_identity_type == 1
    assert request.user.implementation_version.startswith("PYNETDICOM")


async def test_a_pynetdicom_abort_is_heard_as_such() -> None:
    heard: list[Event] = []

    async def serve(line: Line) -> None:
        async for event in line.events():
            heard.append(event)
            if isinstance(event, AssociateIndication):
                line.request(AcceptPrimitive(build_accept(event.request, lambda one: one.transfer_syntaxes[0]).raw))

    def associate(port: int) -> None:
        association = everything_requested().associate("127.0.0.1", port)
        association.abort()

    async with listening(serve) as (port, done):
        await asyncio.to_thread(associate, port)
        await done[0]
    assert heard[1:] == [AbortIndication(AbortPdu(0, 0), provider=False), ShouldClose()]


@pytest.mark.parametrize("known", [True, False])
async def test_a_pynetdicom_acceptor_answers_our_request(known: bool) -> None:
    ae = AE("ARCHIVE")
    ae.add_supported_context(VERIFICATION)
    ae.require_called_aet = True
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _: 0x0000)])
    try:
        request = dicom.associate_rq("ARCHIVE" if known else "NOBODY", contexts=[dicom.ECHO_CONTEXT, dicom.CT_CONTEXT])
        line = await dial(server.server_address[1], request)
        heard: list[Event] = []
        async for event in line.events():
            heard.append(event)
            if isinstance(event, AssociateConfirmed):
                assert set(agreed_contexts(AssociateRequest.parse(request), event.accept)) == {1}
                line.request(SendData(dicom.echo_rq()))
            elif isinstance(event, DataIndication):
                line.request(ReleaseRequest())
    finally:
        await asyncio.to_thread(server.shutdown)
    if known:
        assert [type(event) for event in heard] == [AssociateConfirmed, DataIndication, ReleaseConfirmed, ShouldClose]
    else:
        assert isinstance(heard[0], AssociateRejected)
        assert (heard[0].answer.result, heard[0].answer.source, heard[0].answer.reason) == (1, 1, 7)
        assert ConnectionLost() not in heard
