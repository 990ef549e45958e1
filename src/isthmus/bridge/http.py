"""The REST API as one ASGI application: routes, problems and the gate in front."""

from fastapi import FastAPI
from starlette.types import ASGIApp

from isthmus import __version__
from isthmus.bridge import problems
from isthmus.bridge.accounts.api import routes as account_routes
from isthmus.bridge.blobs.api import routes as blob_routes
from isthmus.bridge.directory.api import routes as directory_routes
from isthmus.bridge.gate import Gate
from isthmus.bridge.parts import Parts
from isthmus.bridge.probe.api import routes as probe_routes
from isthmus.bridge.providers.api import routes as provider_routes
from isthmus.bridge.quick import Quick
from isthmus.bridge.sessions.api import routes as session_routes
from isthmus.bridge.signalling.api import routes as signalling_routes
from isthmus.contract.rest import API


def make_api() -> FastAPI:
    """Return the routes without any Bridge behind them, which is all that the OpenAPI document needs."""
    app = FastAPI(title="Isthmus Bridge", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    for routes in (
        account_routes,
        directory_routes,
        session_routes,
        blob_routes,
        probe_routes,
        signalling_routes,
        provider_routes,
    ):
        app.include_router(routes, prefix=API)
    problems.install(app)
    return app


def make_app(parts: Parts) -> ASGIApp:
    """Return what uvicorn serves."""
    app = make_api()
    app.state.parts = parts
    return Gate(Quick(app, parts), parts.guard, parts.metrics.count_request)
