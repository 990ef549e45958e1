"""Google Cloud Storage as far as it is used: blobs by XML, buckets by JSON, tokens for keys, narrower tokens.

There is no emulator of Google's that speaks the XML API. This double knows what its documentation says; it has never
been compared with the real service.
"""

import asyncio
import base64
import contextlib
import json
import secrets
import threading
import time
import xml.sax.saxutils
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

EMAIL = "isthmus@project.iam.gserviceaccount.com"


@dataclass(slots=True)
class Token:
    """What a token allows: everything, or what its boundary says."""

    beginning: str | None = None  # of a resource's name
    bucket: str = ""
    dead: bool = False


@dataclass(slots=True)
class GcsDouble:
    """A running double."""

    port: int = 0
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    buckets: dict[str, dict[str, Any]] = field(default_factory=dict)
    blobs: dict[tuple[str, str], tuple[bytes, datetime]] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)

    def url(self, bucket: str, *, port: int | None = None) -> str:
        """Return by which URL a bucket is listed."""
        return f"gs://127.0.0.1:{port or self.port}/{bucket}?tls=no"

    @property
    def secrets(self) -> dict[str, str]:
        """What an operator enters."""
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        fields = {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "1",
            "private_key": pem,
            "client_email": EMAIL,
            "token_uri": f"http://127.0.0.1:{self.port}/token",
        }
        return {"service_account_key": json.dumps(fields)}

    def app(self) -> web.Application:
        """Return what answers."""
        app = web.Application(client_max_size=128 * 1024 * 1024)
        app.router.add_post("/token", self._grant)
        app.router.add_post("/v1/token", self._narrow)
        app.router.add_post("/storage/v1/b", self._make)
        app.router.add_get("/storage/v1/b/{bucket}", self._see)
        app.router.add_patch("/storage/v1/b/{bucket}", self._change)
        app.router.add_get("/{bucket}", self._list)
        app.router.add_put("/{bucket}/{name:.+}", self._put)
        app.router.add_get("/{bucket}/{name:.+}", self._get)
        app.router.add_delete("/{bucket}/{name:.+}", self._delete)
        return app

    async def _grant(self, request: web.Request) -> web.Response:
        said = self._claims(str((await request.post())["assertion"]))
        if said.get("iss") != EMAIL or said.get("aud") != f"http://127.0.0.1:{self.port}/token":
            return web.json_response({"error": "invalid_grant"}, status=400)
        return self._token(Token())

    def _claims(self, text: str) -> dict[str, Any]:
        """Return what the account signed, or nothing if somebody else did."""
        try:
            head, claims, signature = text.split(".")
            signed = f"{head}.{claims}".encode()
            self.key.public_key().verify(_decoded(signature), signed, padding.PKCS1v15(), SHA256())
            said: dict[str, Any] = json.loads(_decoded(claims))
        except (ValueError, InvalidSignature):
            return {}
        return said

    async def _narrow(self, request: web.Request) -> web.Response:
        form = await request.post()
        if str(form["subject_token"]) not in self.tokens:
            return web.json_response({"error": "invalid_grant"}, status=400)
        (rule,) = json.loads(str(form["options"]))["accessBoundary"]["accessBoundaryRules"]
        beginning = rule["availabilityCondition"]["expression"].partition("('")[2].removesuffix("')")
        return self._token(Token(beginning, rule["availableResource"].rpartition("/")[2]))

    def _token(self, token: Token) -> web.Response:
        text = f"ya29.{secrets.token_urlsafe(32)}"
        self.tokens[text] = token
        return web.json_response({"access_token": text, "expires_in": 3599, "token_type": "Bearer"})

    async def _make(self, request: web.Request) -> web.Response:
        self._admit(request, "", "")
        bucket = await request.json()
        self.buckets[bucket["name"]] = bucket
        return web.json_response(bucket)

    async def _see(self, request: web.Request) -> web.Response:
        self._admit(request, "", "")
        bucket = self.buckets.get(request.match_info["bucket"])
        return web.json_response(bucket or {}, status=404 if bucket is None else 200)

    async def _change(self, request: web.Request) -> web.Response:
        self._admit(request, "", "")
        bucket = self.buckets[request.match_info["bucket"]]
        bucket.update(await request.json())
        return web.json_response(bucket)

    async def _list(self, request: web.Request) -> web.Response:
        bucket, prefix = request.match_info["bucket"], request.query.get("prefix", "")
        self._admit(request, bucket, f"projects/_/buckets/{bucket}")
        most, after = int(request.query.get("max-keys", "1000")), request.query.get("continuation-token", "")
        names = sorted(
            name for where, name in self.blobs if where == bucket and name.startswith(prefix) and name > after
        )
        more = f"<NextContinuationToken>{names[most - 1]}</NextContinuationToken>" if len(names) > most else ""
        rows = "".join(
            f"<Contents><Key>{xml.sax.saxutils.escape(name)}</Key><Generation>1</Generation><Size>{len(body)}</Size>"
            f'<LastModified>{modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified><ETag>"1"</ETag></Contents>'
            for name in names[:most]
            for body, modified in [self.blobs[bucket, name]]
        )
        return web.Response(text=f"<ListBucketResult>{rows}{more}</ListBucketResult>", content_type="application/xml")

    async def _put(self, request: web.Request) -> web.Response:
        where = self._blob(request)
        body = await request.read()
        if request.headers.get("x-goog-if-generation-match") == "0" and where in self.blobs:
            raise _refusal(412, "PreconditionFailed")
        self.blobs[where] = body, datetime.fromtimestamp(time.time(), UTC)
        return web.Response(headers={"ETag": '"1"', "x-goog-generation": "1"})

    async def _get(self, request: web.Request) -> web.Response:
        where = self._blob(request)
        if where not in self.blobs:
            raise _refusal(404, "NoSuchKey")
        body, modified = self.blobs[where]
        stamp = modified.strftime("%a, %d %b %Y %H:%M:%S GMT")
        return web.Response(body=body, headers={"ETag": '"1"', "Last-Modified": stamp, "x-goog-generation": "1"})

    async def _delete(self, request: web.Request) -> web.Response:
        where = self._blob(request)
        if self.blobs.pop(where, None) is None:
            raise _refusal(404, "NoSuchKey")
        return web.Response(status=204)

    def _blob(self, request: web.Request) -> tuple[str, str]:
        bucket, name = request.match_info["bucket"], request.match_info["name"]
        self._admit(request, bucket, f"projects/_/buckets/{bucket}/objects/{name}")
        return bucket, name

    def _admit(self, request: web.Request, bucket: str, resource: str) -> None:
        text = request.headers.get("Authorization", "").removeprefix("Bearer ")
        token = self.tokens.get(text)
        if token is None and self._claims(text).get("iss") == EMAIL:  # which Google takes for a token as it is
            token = Token()
        if token is None or token.dead:
            raise _refusal(401, "AuthenticationRequired")
        narrow = token.beginning is not None
        if narrow and (bucket != token.bucket or not resource.startswith(token.beginning or "")):
            raise _refusal(403, "AccessDenied")
        if bucket and bucket not in self.buckets:
            raise _refusal(404, "NoSuchBucket")


def _refusal(status: int, code: str) -> web.HTTPException:
    kinds: dict[int, type[web.HTTPException]] = {
        401: web.HTTPUnauthorized,
        403: web.HTTPForbidden,
        404: web.HTTPNotFound,
        412: web.HTTPPreconditionFailed,
    }
    return kinds[status](text=f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@contextlib.asynccontextmanager
async def _serving(double: GcsDouble) -> AsyncIterator[None]:
    runner = web.AppRunner(double.app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    double.port = runner.addresses[0][1]
    try:
        yield
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def running_gcs_double() -> Iterator[GcsDouble]:
    """Run a double in a thread with a loop of its own, so that any test's loop may use it."""
    double, started = GcsDouble(), threading.Event()
    loop, ended = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with _serving(double):
            started.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert started.wait(timeout=10)
        yield double
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(timeout=10)
        loop.close()


@pytest.fixture(scope="session")
def gcs_double() -> Iterator[GcsDouble]:
    """Give the double of this test run."""
    with running_gcs_double() as double:
        yield double
