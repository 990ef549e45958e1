"""REST: who the Bridge is, and enrolling with it."""

import hashlib
import hmac
from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy import text
from starlette.responses import PlainTextResponse, Response

from isthmus import __version__
from isthmus.bridge.caller import TheParts
from isthmus.bridge.gate import request_target
from isthmus.bridge.problems import describe
from isthmus.contract.documents import DocumentKind, Prekey
from isthmus.contract.rest import BridgeIdentity, Enrolled, Enrolment
from isthmus.envelope.certificates import CHALLENGE_BYTES, prove
from isthmus.envelope.documents import open_document
from isthmus.envelope.identity import RouterId
from isthmus.envelope.requests import parse_authorization
from isthmus.errors import OperatorError, Problem, Untrusted
from isthmus.kit.names import SiteName

routes = APIRouter(tags=["accounts"])


@routes.get("/identity", operation_id="identity", responses=describe([]))
async def identity(
    parts: TheParts,
    challenge: Annotated[str, Query(pattern=f"^[0-9a-f]{{{2 * CHALLENGE_BYTES}}}$")] | None = None,
) -> BridgeIdentity:
    """Say who this Bridge is and endorse its TLS certificate, before anything is trusted; prove it to who asks."""
    tls = parts.tls
    proof = None
    if challenge is not None:
        proof = prove(parts.identity, bytes.fromhex(challenge), None if tls is None else tls.sha256)
    return BridgeIdentity(
        identity=parts.identity.public,
        certificate_sha256=None if tls is None else tls.sha256,
        endorsement=None if tls is None else tls.endorsement,
        proof=proof,
        version=__version__,
        time=parts.clock.now(),
    )


@routes.get("/health", operation_id="health", responses=describe([503]))
async def health(parts: TheParts) -> dict[str, str]:
    """Answer 200 if the Bridge and its database work."""
    async with parts.database.transaction() as session:
        await session.execute(text("SELECT 1"))
    return {"status": "ok"}


@routes.get("/metrics", operation_id="metrics", response_class=PlainTextResponse, responses=describe([401]))
async def metrics(request: Request, parts: TheParts) -> Response:
    """Give the metrics to Prometheus: `Authorization: Bearer` with the token in the Bridge's data folder."""
    offered = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not parts.metrics_token or not hmac.compare_digest(offered.encode(), parts.metrics_token.encode()):
        raise Problem(401, "Not the metrics token")
    return Response(parts.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@routes.post("/enrolments", status_code=201, operation_id="enrol", responses=describe([401, 403, 409, 413]))
async def enrol(request: Request, parts: TheParts, enrolment: Enrolment) -> Enrolled:
    """Spend an invite. Signed with the key that is in the body, so that nobody enrols another's."""
    signature = parse_authorization(request.headers.get("authorization", ""))
    digest = hashlib.sha256(await request.body()).digest()
    try:
        SiteName.parse(enrolment.site)
        if RouterId.from_public(enrolment.public_key) != signature.router_id:
            raise Problem(401, "Signature refused", detail="The signing Router is not the one that enrols.")
    except OperatorError as error:
        raise Problem(422, "Not a site name", detail=str(error), field="site") from error
    except Untrusted as error:
        raise Problem(422, "Not a public key", detail=str(error), field="public_key") from error
    parts.guard.check(signature, enrolment.public_key, request.method, request_target(request.scope), digest)
    try:
        Prekey.parse(open_document(enrolment.prekey, enrolment.public_key, DocumentKind.PREKEY))
    except (Untrusted, ValueError) as error:
        raise Problem(
            422, "Not a prekey", detail="It is not signed by this key, or not whole.", field="prekey"
        ) from error
    answer, account = await parts.accounts.enrol(enrolment)
    if account is not None:
        await parts.directory.publish(account, [enrolment.prekey])
        parts.enrolled(account)
        await parts.spread()
    return answer
