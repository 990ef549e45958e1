"""What goes wrong with stores, at real servers and in bad weather in front of them: what is said, and what is lost."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from tests.backends.blobstores.opening import Signing, opened
from tests.backends.meter import Counts
from tests.backends.servers.azurite import AzuriteServer
from tests.backends.servers.ceph import OWNER, ROLE, STRANGER, CephServer
from tests.backends.servers.gcs_double import GcsDouble
from tests.backends.servers.weather import BAD, Trouble, weather

from isthmus.adapters.blobstore import azure, gcs, s3, swift, trouble
from isthmus.cloudio.retry import RetryingBlobstore
from isthmus.errors import BlobExists, BlobMissing, IsthmusError, OperatorError, ProviderTrouble, Retry
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.provider import BlobstoreProvider, Keys, Loan, Way
from isthmus.testing.depth import count

CANARY = "CANARYSECRETCANARYSECRETCANARYSECRET"


@dataclass(frozen=True)
class Case:
    """A way to a real store: how its URL is written for a port and a container, and with which keys."""

    provider: BlobstoreProvider
    url: Callable[..., str]
    secrets: Mapping[str, str]
    port: int
    keys: Keys | Mapping[str, str]


KINDS = ["s3 lent", "s3 signed", "swift login", "swift signed", "azure lent", "gcs lent"]


@pytest.fixture(params=KINDS)
async def case(
    request: pytest.FixtureRequest, prepared: dict[str, Loan], ceph: CephServer, azurite: AzuriteServer,
    gcs_double: GcsDouble,
) -> Case:  # fmt: skip
    loan = prepared[request.param]
    name, _, way = request.param.partition(" ")
    if name == "s3":
        if way == "signed":
            keys = Signing(s3.PROVIDER, ceph.s3("trouble"), OWNER.s3, loan)
            return Case(s3.PROVIDER, ceph.s3, OWNER.s3, ceph.port, keys)
        return Case(s3.PROVIDER, ceph.s3, OWNER.s3, ceph.port, loan.fields)
    if name == "swift":
        if way == "signed":
            keys = Signing(swift.PROVIDER, ceph.swift("swifttrouble"), OWNER.swift, loan)
            return Case(swift.PROVIDER, ceph.swift, OWNER.swift, ceph.port, keys)
        return Case(swift.PROVIDER, ceph.swift, OWNER.swift, ceph.port, OWNER.swift)
    if name == "azure":
        return Case(azure.PROVIDER, azurite.blobs, azurite.secrets, azurite.blob_port, loan.fields)
    return Case(gcs.PROVIDER, gcs_double.url, gcs_double.secrets, gcs_double.port, loan.fields)


def container(case: Case) -> str:
    return "swifttrouble" if case.provider is swift.PROVIDER else "trouble"


@pytest.fixture(scope="module")
def prepared(ceph: CephServer, azurite: AzuriteServer, gcs_double: GcsDouble) -> dict[str, Loan]:
    async def prepare() -> dict[str, Loan]:
        router, way = "R" * 36, Way()
        await s3.PROVIDER.set_up(ceph.s3("trouble"), OWNER.s3, way, keep_days=3)
        await s3.PROVIDER.set_up(ceph.s3("elsewhere"), OWNER.s3, way, keep_days=3)
        await swift.PROVIDER.set_up(ceph.swift("swifttrouble"), OWNER.swift, way, keep_days=3)
        await azure.PROVIDER.set_up(azurite.blobs("trouble"), azurite.secrets, way, keep_days=3)
        await azure.PROVIDER.set_up(azurite.blobs("elsewhere"), azurite.secrets, way, keep_days=3)
        await gcs.PROVIDER.set_up(gcs_double.url("trouble"), gcs_double.secrets, way, keep_days=3)
        return {
            "s3 lent": await s3.PROVIDER.lend(ceph.s3("trouble"), {**OWNER.s3, "role": ROLE}, router, way),
            "s3 signed": await s3.PROVIDER.lend(ceph.s3("trouble"), OWNER.s3, router, way),
            "swift login": Loan(OWNER.swift),
            "swift signed": await swift.PROVIDER.lend(ceph.swift("swifttrouble"), OWNER.swift, router, way),
            "azure lent": await azure.PROVIDER.lend(azurite.blobs("trouble"), azurite.secrets, router, way),
            "gcs lent": await gcs.PROVIDER.lend(gcs_double.url("trouble"), gcs_double.secrets, router, way),
        }

    return asyncio.run(prepare())


@asynccontextmanager
async def through(case: Case, port: int, counts: Counts | None = None) -> AsyncIterator[Blobstore]:
    """Open a case's store at another port."""
    keys = case.keys
    if isinstance(keys, Signing):  # a URL is signed for host and port
        keys = Signing(case.provider, case.url(container(case), port=port), case.secrets, await keys.loan())
    store = opened(case.provider, case.url(container(case), port=port), keys, counts=counts)
    try:
        yield store
    finally:
        await store.close()


def _calls(store: Blobstore) -> list[Callable[[], Awaitable[object]]]:
    return [lambda: store.put("a", b"body"), lambda: store.get("a"), lambda: store.delete("a")]


async def refusal(call: Awaitable[object]) -> ProviderTrouble:
    with pytest.raises(ProviderTrouble) as refused:
        await call
    check_words(refused.value)
    return refused.value


def check_words(error: IsthmusError) -> None:
    """An error is one line that a person may read anywhere."""
    said = f"{error} {error.hint}"
    assert "\n" not in said
    assert len(said) < 300
    for secret in (
        OWNER.secret_access_key,
        OWNER.swift_key,
        CANARY,
        "sig=",
        "Signature=",
        "temp_url_sig",
        "ya29",
        "source:",
    ):
        assert secret not in said


# -- weather


@pytest.mark.parametrize("seed", range(count(push=1, nightly=500)))
async def test_in_bad_weather_every_blob_comes_through_and_none_is_another(case: Case, seed: int) -> None:
    """T5."""
    sizes = (1, 1000, 70_000, 300_000) * count(push=3, nightly=25)
    async with weather(case.port, some=BAD, share=0.3, seed=seed) as sky, through(case, sky.port) as plain:
        store = RetryingBlobstore(plain, tries=20, first=0.001, most=0.01)
        bodies = {f"w-{secrets.token_hex(8)}": secrets.token_bytes(size) for size in sizes}
        for name, body in bodies.items():
            await store.put(name, body)
        for name, body in bodies.items():
            assert await store.get(name) == body
            with pytest.raises(BlobExists):
                await store.put(name, body + b"!")
        for name in bodies:
            await store.delete(name)
            with pytest.raises(BlobMissing):
                await store.get(name)
    assert len(set(sky.met)) > 3


@pytest.mark.parametrize("kind", [Trouble.BUSY, Trouble.BROKEN, Trouble.CUT_BEFORE, Trouble.CUT_AFTER])
async def test_what_passes_is_for_later(case: Case, kind: Trouble) -> None:
    async with weather(case.port, always=kind) as sky, through(case, sky.port) as store:
        assert (await refusal(store.put("a", b"body" * 100))).retry is Retry.LATER
        assert (await refusal(store.get("a"))).retry is Retry.LATER


async def test_a_server_that_says_nothing_is_given_up_in_time(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("objects", "web"):
        monkeypatch.setattr(f"isthmus.adapters.blobstore.{module}.seconds_for", lambda size: 0.3)
    async with weather(case.port, always=Trouble.STALL) as sky, through(case, sky.port) as store:
        before = time.monotonic()
        for call in _calls(store):
            given_up = await refusal(call())
            assert given_up.retry is Retry.LATER
            assert "in time" in str(given_up)
        assert time.monotonic() - before < 5


async def test_a_store_that_is_not_there_is_for_later_and_says_where_it_should_be(case: Case) -> None:
    async with weather(case.port) as sky:
        port = sky.port
    async with through(case, port) as store:
        gone = await refusal(store.get("a"))
        assert gone.retry is Retry.LATER
        assert f"127.0.0.1:{port}" in str(gone)


async def test_a_put_whose_answer_was_lost_may_be_repeated(case: Case) -> None:
    name = f"lost-{secrets.token_hex(8)}"
    async with weather(case.port) as sky, through(case, sky.port) as store:
        if case.provider is swift.PROVIDER:
            await store.put(f"warm-{name}", b"the store has been tried out")
        sky.always = Trouble.DENIED_ANSWER
        with pytest.raises(ProviderTrouble):
            await store.put(name, b"body")
        sky.always = Trouble.NONE
        await store.put(name, b"body")
        assert await store.get(name) == b"body"
        await store.delete(name)


# -- keys


def wrong_keys(case: Case) -> Mapping[str, str]:
    return {
        "s3": {"access_key_id": "AKOWNER", "secret_access_key": CANARY},
        "swift": {"user": "owner:swift", "key": CANARY},
        "azure": {"account_key": CANARY * 2 + "=="},
        "gcs": {"token": f"ya29.{CANARY}"},
    }[case.provider.__module__.rpartition(".")[2]]


async def test_a_wrong_key_is_refused_for_good_and_is_not_said(case: Case) -> None:
    store = opened(case.provider, case.url(container(case)), wrong_keys(case))
    for call in _calls(store)[:2]:
        refused = await refusal(call())
        assert refused.retry is Retry.NEVER
        assert refused.hint
    await store.close()


async def test_a_missing_bucket_is_not_a_missing_blob(case: Case) -> None:
    if case.provider is gcs.PROVIDER or (isinstance(case.keys, Mapping) and "session_token" in case.keys):
        pytest.skip("keys for one bucket are refused at another before it is looked for")
    if case.provider is azure.PROVIDER:
        case = Case(case.provider, case.url, case.secrets, case.port, case.secrets)
    keys = case.keys
    if isinstance(keys, Signing):
        keys = Signing(case.provider, case.url("no-such-bucket"), case.secrets, await keys.loan())
    store = opened(case.provider, case.url("no-such-bucket"), keys)
    for call in _calls(store):
        refused = await refusal(call())
        assert not isinstance(refused, BlobMissing)
        assert refused.retry is Retry.NEVER
        if not (
            case.provider is swift.PROVIDER and isinstance(case.keys, Signing)
        ):  # Ceph says no more than "forbidden"
            assert "isthmus provider setup" in refused.hint
    await store.close()


async def test_what_is_lent_lists_nothing(case: Case) -> None:
    if case.keys == OWNER.swift:
        pytest.skip("this is not lent")
    async with through(case, case.port) as store:
        assert (await refusal(anext(aiter(store.list(""))))).retry is Retry.NEVER


async def test_keys_lent_for_one_bucket_reach_no_other(
    prepared: dict[str, Loan], ceph: CephServer, azurite: AzuriteServer
) -> None:
    elsewhere: list[tuple[BlobstoreProvider, str, Loan]] = [
        (s3.PROVIDER, ceph.s3("elsewhere"), prepared["s3 lent"]),
        (azure.PROVIDER, azurite.blobs("elsewhere"), prepared["azure lent"]),
    ]
    for provider, url, loan in elsewhere:
        store = opened(provider, url, loan.fields)
        for call in (*_calls(store)[:1], *_calls(store)[2:]):
            assert (await refusal(call())).retry is Retry.NEVER
        await store.close()


async def test_keys_lent_below_a_prefix_reach_nothing_beside_it(ceph: CephServer, prepared: dict[str, Loan]) -> None:
    loan = await s3.PROVIDER.lend(ceph.s3("trouble/mine"), {**OWNER.s3, "role": ROLE}, "R" * 36, Way())
    mine, beside = (opened(s3.PROVIDER, ceph.s3(f"trouble/{name}"), loan.fields) for name in ("mine", "theirs"))
    await mine.put("a", b"body")
    assert (await refusal(beside.put("a", b"body"))).hint == "the permission s3:PutObject is needed"
    await mine.delete("a")
    await mine.close()
    await beside.close()


async def test_a_signed_url_that_is_changed_or_old_is_refused(ceph: CephServer, prepared: dict[str, Loan]) -> None:
    cases: list[tuple[BlobstoreProvider, str, Mapping[str, str], Loan]] = [
        (s3.PROVIDER, ceph.s3("trouble"), OWNER.s3, prepared["s3 signed"]),
        (swift.PROVIDER, ceph.swift("swifttrouble"), OWNER.swift, prepared["swift signed"]),
    ]
    for provider, url, keys, loan in cases:
        signing = Signing(provider, url, keys, loan)
        store = opened(provider, url, signing)
        await store.put("signed", b"body")
        (good,) = await signing.urls("GET", ["signed"])
        (other,) = await signing.urls("GET", ["other"])
        assert good != other
        signing.spoil = "0"
        assert (await refusal(store.get("signed"))).retry is Retry.NEVER
        signing.spoil, signing.seconds = "", -100.0 if provider is swift.PROVIDER else 1.0
        if provider is swift.PROVIDER:
            assert (await refusal(store.get("signed"))).retry is Retry.NEVER
        signing.seconds = 60.0
        await store.delete("signed")
        await store.close()


async def test_an_expired_signature_is_refused(azurite: AzuriteServer, prepared: dict[str, Loan]) -> None:
    fields = prepared["azure lent"].fields
    old = fields["sas"].replace("se=2", "se=1")  # some time in the second millennium; the signature breaks with it
    store = opened(azure.PROVIDER, azurite.blobs("trouble"), {"sas": old})
    assert (await refusal(store.get("a"))).retry is Retry.NEVER
    await store.close()


def test_a_lent_signature_says_no_more_than_read_create_and_delete(prepared: dict[str, Loan]) -> None:
    fields = dict(part.split("=", 1) for part in prepared["azure lent"].fields["sas"].split("&"))
    assert fields["sp"] == "rcd"
    assert fields["sr"] == "c"
    expires = prepared["azure lent"].expires
    assert expires is not None
    assert abs(expires - time.time() - 3600) < 120


async def test_what_is_lent_is_good_for_an_hour(prepared: dict[str, Loan]) -> None:
    expires = prepared["s3 lent"].expires
    assert expires is not None
    assert 3400 < expires - time.time() < 3700
    assert OWNER.secret_access_key not in str(dict(prepared["s3 lent"].fields))


async def test_a_stranger_may_do_nothing_and_is_told_what_lacks(ceph: CephServer, prepared: dict[str, Loan]) -> None:
    store = opened(s3.PROVIDER, ceph.s3("trouble"), STRANGER.s3)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "s3:PutObject": lambda: store.put("a", b"body"),
        "s3:GetObject": lambda: store.get("a"),
        "s3:DeleteObject": lambda: store.delete("a"),
        "s3:ListBucket": lambda: anext(aiter(store.list("a/"))),
    }
    for needed, call in calls.items():
        refused = await refusal(call())
        assert refused.retry is Retry.NEVER
        assert needed in refused.hint
    await store.close()


async def test_set_up_by_a_stranger_names_what_lacks(ceph: CephServer, prepared: dict[str, Loan]) -> None:
    with pytest.raises((ProviderTrouble, OperatorError)) as refused:
        await s3.PROVIDER.set_up(ceph.s3("trouble"), STRANGER.s3, Way(), keep_days=3)
    check_words(refused.value)
    assert "s3:ListBucket" in refused.value.hint
    role = {**STRANGER.s3, "role": ROLE}
    with pytest.raises(ProviderTrouble) as kept:
        await s3.PROVIDER.lend(ceph.s3("trouble"), role, "R" * 36, Way())
    check_words(kept.value)
    assert kept.value.retry is Retry.NEVER


async def test_set_up_keeps_the_rules_of_others_and_repeats_without_harm(ceph: CephServer) -> None:
    for prefix, days in (("", 3), ("/p", 4), ("/p", 5), ("", 3)):
        said = await s3.PROVIDER.set_up(ceph.s3(f"ruled{prefix}"), OWNER.s3, Way(), keep_days=days)
    assert said[:2] == [
        "the bucket ruled is there",
        "the rule isthmus deletes what is 3 days old, and uploads that broke off; 1 other rules are as they were",
    ]


# -- counts and URLs


async def test_requests_and_bytes_are_counted(case: Case) -> None:
    counts = Counts()
    async with through(case, case.port, counts) as store:
        if case.provider is swift.PROVIDER:
            await store.put(f"warm-{secrets.token_hex(8)}", b"x")
        counts.requests.clear()
        counts.up = counts.down = 0
        names = [f"counted-{secrets.token_hex(8)}" for _ in range(3)]
        for name in names:
            await store.put(name, b"body")
        assert await store.get(names[0]) == b"body"
        await store.delete(*names)
        with pytest.raises(BlobMissing):
            await store.get(names[0])
    assert counts.requests["put"] == 3
    batch = case.provider is azure.PROVIDER or case.keys == OWNER.swift
    assert counts.requests["delete"] == (1 if batch else 3)
    assert counts.up >= 12
    assert counts.down >= 4


@pytest.mark.parametrize(
    ("provider", "url"),
    [
        (s3.PROVIDER, "s3://bucket/prefix"),
        (s3.PROVIDER, "s3://minio.example.org/bucket"),
        (s3.PROVIDER, "s3://host:9000/"),
        (s3.PROVIDER, "s3://key:secret@host:9000/bucket"),
        (s3.PROVIDER, "s3://host:9000/bucket?tls=maybe"),
        (s3.PROVIDER, "s3://host:9000/bucket?secret=1"),
        (s3.PROVIDER, "s3://host:9000/bucket/../other"),
        (azure.PROVIDER, "azblob://account/container"),
        (azure.PROVIDER, "azblob://account.blob.core.windows.net/"),
        (azure.PROVIDER, "azblob://host:10000/account"),
        (gcs.PROVIDER, "gs://B/"),
        (gcs.PROVIDER, "gs://host:1/"),
        (swift.PROVIDER, "swift://host/container"),
        (swift.PROVIDER, "swift://host/container?storage=v1"),
        (swift.PROVIDER, "swift://host/container?storage=/v1/a&digest=md5"),
    ],
)
def test_a_url_that_means_nothing_is_refused_with_what_is_meant(provider: BlobstoreProvider, url: str) -> None:
    with pytest.raises(OperatorError) as refused:
        provider.hosts(url)
    assert "://" in refused.value.hint


@pytest.mark.parametrize(
    ("provider", "url", "host"),
    [
        (s3.PROVIDER, "s3://images/here?region=eu-west-1", "images.s3.eu-west-1.amazonaws.com:443"),
        (s3.PROVIDER, "s3://images?region=cn-north-1", "images.s3.cn-north-1.amazonaws.com.cn:443"),
        (s3.PROVIDER, "s3://minio.example.org:443/images", "minio.example.org:443"),
        (azure.PROVIDER, "azblob://hospital.blob.core.windows.net/images", "hospital.blob.core.windows.net:443"),
        (gcs.PROVIDER, "gs://images/here", "storage.googleapis.com:443"),
        (swift.PROVIDER, "swift://storage.example.org/images?storage=/v1/AUTH_a", "storage.example.org:443"),
    ],
)
def test_a_url_says_to_which_host_a_router_connects(provider: BlobstoreProvider, url: str, host: str) -> None:
    assert [str(at) for at in provider.hosts(url)] == [host]


async def test_urls_for_amazon_are_signed_for_the_buckets_own_host() -> None:
    (url,) = await s3.PROVIDER.sign("s3://images/here?region=eu-west-1", OWNER.s3, "PUT", ["a/b"], seconds=60)
    assert url.startswith("https://images.s3.eu-west-1.amazonaws.com/here/a/b?X-Amz-Algorithm=AWS4-HMAC-SHA256&")
    assert "X-Amz-Expires=60" in url


async def test_what_is_in_the_environment_is_not_mixed_with_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", CANARY)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    (url,) = await s3.PROVIDER.sign("s3://images?region=eu-west-1", OWNER.s3, "PUT", ["a"], seconds=60)
    assert CANARY not in url
    assert "X-Amz-Signature=" in url


def test_an_answer_that_only_says_expired_is_for_later() -> None:
    service = trouble.Service("S3", "host:1", "bucket b")
    text = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    assert service.refusal("get", 403, trouble.code_of(text)).retry is Retry.LATER
