"""REST: what a Router needs to use a pair of cloud services."""

from fastapi import APIRouter

from isthmus.bridge.caller import Caller, TheParts
from isthmus.bridge.problems import describe
from isthmus.contract.rest import BlobUrlRequest, BlobUrls, ProviderLoan, ProviderName

routes = APIRouter(prefix="/providers", tags=["providers"])


@routes.post("/{name}/loan", operation_id="lend", responses=describe([401, 404, 409, 413, 429, 503]))
async def lend(parts: TheParts, caller: Caller, name: ProviderName) -> ProviderLoan:
    """Lend the asking Router keys of a pair, for a while: its own, and no more than it needs."""
    return await parts.lender.loan(caller.router_id, name)


@routes.post("/{name}/urls", operation_id="sign_urls", responses=describe([401, 404, 409, 413, 429, 503]))
async def sign_urls(parts: TheParts, caller: Caller, name: ProviderName, request: BlobUrlRequest) -> BlobUrls:
    """Sign URLs for blobs, where the keys of a store cannot be lent."""
    del caller  # names are unguessable: whoever was told one may read, as at the built-in store
    return await parts.lender.urls(name, request)
