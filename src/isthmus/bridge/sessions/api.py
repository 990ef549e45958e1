"""REST: opening and ending sessions, and heartbeats."""

from typing import Annotated

from fastapi import APIRouter, Path

from isthmus.bridge.caller import Caller, TheParts
from isthmus.bridge.problems import describe
from isthmus.contract.rest import Heartbeat, HeartbeatAnswer, SessionEnd, SessionRequest

routes = APIRouter(tags=["sessions"])


@routes.post(
    "/sessions", status_code=201, operation_id="open_session", responses=describe([401, 403, 404, 409, 413, 429, 503])
)
async def open_session(parts: TheParts, caller: Caller, request: SessionRequest) -> None:
    """Record a session and offer it to the called site's Router."""
    parts.sessions.open(caller, request)


@routes.delete(
    "/sessions/{session_id}", status_code=204, operation_id="end_session", responses=describe([401, 404, 413, 429])
)
async def end_session(
    parts: TheParts,
    caller: Caller,
    session_id: Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="16 bytes, in hexadecimal")],
    end: SessionEnd,
) -> None:
    """Say that a session is over, and what it carried."""
    await parts.sessions.arrival(bytes.fromhex(session_id))
    parts.sessions.end(caller, bytes.fromhex(session_id), end)


@routes.post("/heartbeat", operation_id="heartbeat", responses=describe([401, 413, 429]))
async def heartbeat(parts: TheParts, caller: Caller, beat: Heartbeat) -> HeartbeatAnswer:
    """Keep the named sessions alive; learn the Bridge's time and the network's revision."""
    parts.sessions.heartbeat(caller, beat.sessions)
    parts.heard_of(caller, beat.version, beat.providers)
    if beat.usage is not None:
        parts.usage.take(caller.router_id, caller.site, beat.usage, parts.providers.ever_known)
    return HeartbeatAnswer(time=parts.clock.now(), revision=parts.changes.revision(caller.router_id))
