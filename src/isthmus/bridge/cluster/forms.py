"""Sessions and counts as Bridges write them to each other. Leases are durations: no two clocks agree."""

import json
from typing import Any

from pydantic import TypeAdapter

from isthmus.bridge.accounts.service import Accounts
from isthmus.bridge.directory.changes import Column, Touch
from isthmus.bridge.sessions.service import Session
from isthmus.contract.rest import SessionCount
from isthmus.envelope.identity import RouterId

COUNTS: TypeAdapter[list[SessionCount]] = TypeAdapter(list[SessionCount])


def pack_json(fields: Any) -> bytes:
    """Return what `json.loads` reads."""
    return json.dumps(fields, separators=(",", ":")).encode()


def session_fields(session: Session, now: float) -> dict[str, Any]:
    """Return a session as JSON can say it; `now` is this Bridge's time."""
    return {
        "id": session.session_id.hex(),
        "from": session.initiator.router_id,
        "to": session.responder.router_id,
        "calling": session.calling,
        "called": session.called,
        "started": session.started,
        "lease": session.lease_until - now,
        "offer": session.offer.hex(),
        "provider": session.provider,
        "out": session.bytes_out,
        "in": session.bytes_in,
        "ended": None if session.ended is None else now - session.ended,
        "outcome": session.outcome,
        "said_end": sorted(session.said_end),
    }


def session_of(fields: dict[str, Any], accounts: Accounts, now: float) -> Session | None:
    """Return the session that was written, or None if one of its Routers is not part of the network."""
    initiator, responder = accounts.of_router(fields["from"]), accounts.of_router(fields["to"])
    if initiator is None or responder is None:
        return None
    return Session(
        session_id=bytes.fromhex(fields["id"]),
        initiator=initiator,
        responder=responder,
        calling=fields["calling"],
        called=fields["called"],
        started=fields["started"],
        lease_until=now + fields["lease"],
        offer=bytes.fromhex(fields["offer"]),
        provider=fields["provider"],
        bytes_out=fields["out"],
        bytes_in=fields["in"],
        ended=None if fields["ended"] is None else now - fields["ended"],
        outcome=fields["outcome"],
        said_end={RouterId(router_id) for router_id in fields["said_end"]},
    )


def column_fields(column: Column) -> dict[str, Any]:
    """Return what a Bridge has counted, as JSON can say it."""
    return {"all": column.all, "own": column.own}


def column_of(run: str, fields: dict[str, Any]) -> Column:
    """Return what was written."""
    return Column(run, fields["all"], {RouterId(name): count for name, count in fields["own"].items()})


def touch_fields(touch: Touch) -> dict[str, Any]:
    """Return a change as JSON can say it."""
    return {"routers": touch.router_ids, "but": touch.but}


def touch_of(fields: dict[str, Any]) -> Touch:
    """Return what was written."""
    return Touch(tuple(RouterId(name) for name in fields["routers"]), fields["but"])
