"""Where Routers connect to the hub: a protocol class for uvicorn, so that no ASGI queue stands on the data path."""

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

import structlog
from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from isthmus.adapters.signalling.websocket import CloseCode, WebSocket
from isthmus.bridge.accounts.service import Account
from isthmus.bridge.problems import problem_fields
from isthmus.bridge.signalling.hub import Hub
from isthmus.errors import Problem

_log = structlog.get_logger()

MOST_CONNECTIONS: Final = 4
"""Of one Router, which needs one: while the network fails it, some that are dead already may seem alive."""


class Doorkeeper(Protocol):
    """Says who may connect."""

    def admit_socket(self, target: str, authorization: str) -> Account:
        """Return the account of a signed upgrade request. Raises Problem."""
        ...

    def is_revoked(self, account: Account) -> bool:
        """Return whether this Router was shut out since."""
        ...


def socket_class(hub: Hub, doorkeeper: Doorkeeper) -> Callable[..., asyncio.Protocol]:
    """Return what uvicorn calls for each request to upgrade to a WebSocket."""
    admitted: dict[bytes, list[SignallingSocket]] = {}

    def make(config: Config, server_state: ServerState, app_state: dict[str, Any]) -> SignallingSocket:
        del config, app_state
        return SignallingSocket(hub, doorkeeper, server_state, admitted)

    return make


class SignallingSocket(asyncio.Protocol):
    """One Router's connection: the opening handshake, and then a lane of the hub.

    Nothing is delivered before the Router's first frame, so that nothing is lost while its end changes protocols.
    `admitted` is shared by all: the connections of each Router, the oldest first, which gives way to a newer one.
    """

    def __init__(
        self,
        hub: Hub,
        doorkeeper: Doorkeeper,
        server_state: ServerState,
        admitted: "dict[bytes, list[SignallingSocket]]",
    ) -> None:
        self._hub = hub
        self._admitted = admitted
        self._doorkeeper = doorkeeper
        self._connections: set[Any] = server_state.connections
        self._transport: asyncio.Transport | None = None
        self._account: Account | None = None
        self._attached = False
        self._socket = WebSocket(masks=False, on_message=self._received, on_lost=self._lost, on_life=self._attach)

    @property
    def waiting(self) -> int:
        """Bytes that are still to be sent."""
        return self._socket.waiting

    def send(self, *parts: bytes | memoryview) -> None:
        """Send one message."""
        self._socket.send(*parts)

    def revoke(self) -> None:
        """Close the connection: its Router no longer belongs to the network."""
        self._detach()
        self._socket.close(CloseCode.POLICY, "revoked")

    def shutdown(self) -> None:
        """Close the connection: the Bridge stops. Called by uvicorn."""
        if self._transport is not None and not self._socket.is_open:
            self._transport.close()  # not admitted, or admitted in this very turn of the loop
        self._socket.close(CloseCode.GOING_AWAY, "the Bridge stops")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by uvicorn with the transport of the HTTP request."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Called by uvicorn with the head of the HTTP request."""
        assert self._transport is not None
        handshake = ServerProtocol()
        handshake.receive_data(data)
        requests = [event for event in handshake.events_received() if isinstance(event, Request)]
        if not requests:
            self._transport.abort()
            return
        response = handshake.accept(requests[0])
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            try:
                self._account = self._doorkeeper.admit_socket(
                    requests[0].path, ",".join(requests[0].headers.get_all("Authorization"))
                )
            except Problem as problem:
                response = _refusal(problem)
        handshake.send_response(response)
        self._transport.writelines(handshake.data_to_send())
        if self._account is None:
            self._transport.close()
        else:
            self._make_room(self._account)
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._take_over, self._transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Forget a connection that was not admitted, or went before it was."""
        self._connections.discard(self)
        self._leave()

    def _make_room(self, account: Account) -> None:
        own = self._admitted.setdefault(account.mailbox, [])
        own.append(self)
        while len(own) > MOST_CONNECTIONS:
            own[0]._give_way()  # noqa: SLF001 - another of this class

    def _give_way(self) -> None:
        self._leave()
        self._detach()
        self._socket.close(CloseCode.GOING_AWAY, "newer connections of this Router are there")
        if self._transport is not None:
            self._transport.close()  # if no frame may be sent yet

    def _leave(self) -> None:
        own = self._admitted.get(self._account.mailbox, []) if self._account is not None else []
        if self in own:
            own.remove(self)
        if not own and self._account is not None:
            self._admitted.pop(self._account.mailbox, None)

    def _take_over(self, transport: asyncio.Transport) -> None:
        if not transport.is_closing():
            self._socket.take_over(transport)

    def _attach(self) -> None:
        if self._attached or self._account is None:
            return
        if self._doorkeeper.is_revoked(self._account):  # since it was admitted, when the hub did not know it yet
            self._socket.close(CloseCode.POLICY, "revoked")
        else:
            self._attached = True
            self._hub.attach(self._account.mailbox, self)
            _log.info("router connected", site=self._account.site)

    def _detach(self) -> None:
        if self._attached and self._account is not None:
            self._attached = False
            self._hub.detach(self._account.mailbox, self)

    def _received(self, message: bytes) -> None:
        if self._account is not None:
            self._hub.forward(self._account.mailbox, message)

    def _lost(self, reason: str) -> None:
        self._connections.discard(self)
        self._leave()
        self._detach()
        if self._account is not None:
            _log.info("router disconnected", site=self._account.site, reason=reason)


def _refusal(problem: Problem) -> Response:
    body = json.dumps(problem_fields(problem)).encode()
    headers = Headers(
        {"Content-Type": "application/problem+json", "Content-Length": str(len(body)), "Connection": "close"}
    )
    if problem.retry_after:
        headers["Retry-After"] = str(problem.retry_after)
    return Response(problem.status, HTTPStatus(problem.status).phrase, headers, body)
