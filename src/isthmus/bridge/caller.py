"""What the routes of the API share: the parts, and who asks.

Both are async although they wait for nothing: what is not, FastAPI runs in a thread, a millisecond each.
"""

from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader

from isthmus.bridge.accounts.service import Account
from isthmus.bridge.parts import Parts
from isthmus.errors import Problem

# the gate checks the signature; this only says in the OpenAPI document which operations need one
_SIGNATURE = APIKeyHeader(
    name="Authorization",
    scheme_name="Isthmus-Ed25519",
    description="Isthmus-Ed25519 router=...,time=...,nonce=...,signature=... (docs/protocol/requests.md)",
    auto_error=False,
)


async def _parts(request: Request) -> Parts:
    return cast("Parts", request.app.state.parts)


async def _caller(request: Request, _header: Annotated[str | None, Security(_SIGNATURE)]) -> Account:
    caller = getattr(request.state, "caller", None)
    if not isinstance(caller, Account):
        raise Problem(401, "Not signed")
    return caller


TheParts = Annotated[Parts, Depends(_parts)]
Caller = Annotated[Account, Depends(_caller)]
