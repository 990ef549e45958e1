"""REST: the network as one Router sees it, and the documents it publishes."""

from fastapi import APIRouter
from starlette.responses import Response

from isthmus.bridge.caller import Caller, TheParts
from isthmus.bridge.problems import describe
from isthmus.contract.rest import Network, Publication

routes = APIRouter(tags=["directory"])


@routes.get("/network", operation_id="network", response_model=Network, responses=describe([401, 429]))
async def network(parts: TheParts, caller: Caller) -> Response:
    """Tell one Router all that it may know of the network."""
    around = Network(
        revision=parts.changes.revision(caller.router_id),
        site=caller.site,
        sites=[],
        providers=parts.providers.entries,
        own_counter=parts.directory.own_counter(caller),
        time=parts.clock.now(),
    )
    return Response(parts.roll.write(caller, around), media_type="application/json")


@routes.put("/records", status_code=204, operation_id="publish", responses=describe([401, 403, 409, 413, 429]))
async def publish(parts: TheParts, caller: Caller, publication: Publication) -> None:
    """Keep signed documents of the asking Router: all of them or, with a problem, none."""
    parts.changes.touch(await parts.directory.publish(caller, publication.documents))
    await parts.spread()
