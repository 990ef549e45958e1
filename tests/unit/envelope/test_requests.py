"""Signed requests: what was signed passes, everything near it is 401."""

import hashlib
import random
from typing import Any

import pytest

from isthmus.envelope.identity import Identity
from isthmus.envelope.requests import SCHEME, RequestSignature, parse_authorization, sign_request, verify_request
from isthmus.errors import LocalMisuse, Problem
from isthmus.testing.depth import count

ROUTER, OTHER = Identity.from_private(bytes(32)), Identity.from_private(b"\1" * 32)
BRIDGE = Identity.from_private(b"\2" * 32).public
NOW = 1_790_000_000.123
SKEW = 60.0
REQUEST: dict[str, Any] = {
    "method": "PUT",
    "target": "/api/v1/blobs/a/b?x=1",
    "body_digest": hashlib.sha256(b"body").digest(),
}
HEADER = sign_request(ROUTER, BRIDGE, **REQUEST, now=NOW, nonce=bytes(range(16)))


def _verify(signature: RequestSignature, **change: Any) -> None:
    verify_request(
        signature, **{"public": ROUTER.public, "bridge": BRIDGE, "now": NOW, "max_skew": SKEW, **REQUEST, **change}
    )


def test_a_signed_request_passes_and_says_who_when_and_its_nonce() -> None:
    signature = parse_authorization(HEADER)
    _verify(signature)
    assert (signature.router_id, signature.time, signature.nonce) == (ROUTER.router_id, NOW, bytes(range(16)))


@pytest.mark.parametrize(
    "change",
    [
        {"method": "GET"},
        {"target": "/api/v1/blobs/a/b"},
        {"target": "/api/v1/blobs/a/b?x=2"},
        {"body_digest": hashlib.sha256(b"").digest()},
        {"bridge": OTHER.public},
        {"public": OTHER.public},
        {"public": b""},
    ],
)
def test_a_signature_does_not_pass_for_another_request_bridge_or_router(change: dict[str, Any]) -> None:
    with pytest.raises(Problem) as caught:
        _verify(parse_authorization(HEADER), **change)
    assert (caught.value.status, caught.value.title) == (401, "Signature refused")


@pytest.mark.parametrize(
    ("field", "value"),
    [("router_id", OTHER.router_id), ("time_ms", 1_790_000_000_124), ("nonce", bytes(16)), ("signature", bytes(64))],
)
def test_no_field_of_the_header_can_be_exchanged(field: str, value: object) -> None:
    signature = parse_authorization(HEADER)
    changed = {name: getattr(signature, name) for name in ("router_id", "time_ms", "nonce", "signature")}
    with pytest.raises(Problem, match="does not fit"):
        _verify(RequestSignature(**{**changed, field: value}))


@pytest.mark.parametrize(("offset", "word"), [(SKEW + 1, "behind"), (-SKEW - 1, "ahead of")])
def test_a_request_outside_the_skew_is_told_about_clocks(offset: float, word: str) -> None:
    with pytest.raises(Problem, match=f"61 s {word}") as caught:
        _verify(parse_authorization(HEADER), now=NOW + offset)
    assert (caught.value.status, caught.value.title) == (401, "Clock skew")
    assert caught.value.hint


@pytest.mark.parametrize("offset", [-SKEW + 0.01, 0.0, SKEW - 0.01])
def test_a_request_within_the_skew_passes(offset: float) -> None:
    _verify(parse_authorization(HEADER), now=NOW + offset)


def test_a_forger_is_told_nothing_about_clocks() -> None:
    with pytest.raises(Problem) as caught:
        _verify(parse_authorization(HEADER), method="GET", now=NOW + 1e6)
    assert caught.value.title == "Signature refused"


@pytest.mark.parametrize(
    "value",
    [
        "",
        SCHEME,
        "Basic Zm9vOmJhcg==",
        HEADER + " ",
        HEADER + "\n",
        HEADER.lower(),
        HEADER.replace(",", ", "),
        HEADER.replace("router=", "Router="),
        HEADER.replace("time=1", "time=-1"),
        HEADER.replace("time=1", "time=\u0661"),
        HEADER.replace("time=1", "time=01"),
        HEADER.replace("time=1", "time=" + "9" * 30),
        HEADER.replace(ROUTER.router_id, ROUTER.router_id[:-1] + "A"),
        HEADER.replace(ROUTER.router_id, ROUTER.router_id.spoken),
        HEADER[:-1],
        HEADER + "A",
        HEADER * 1000,
    ],
)
def test_a_header_that_is_not_ours_to_the_letter_is_401(value: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_authorization(value)
    assert caught.value.status == 401


def test_a_header_with_any_character_changed_is_401_and_nothing_else() -> None:
    chance = random.Random(1)
    for _ in range(count(push=2_000, nightly=50_000)):
        place, character = chance.randrange(len(HEADER)), chr(chance.choice((chance.randrange(128), 0x17F, 0x661)))
        changed = HEADER[:place] + character + HEADER[place + 1 :]
        if changed == HEADER:
            continue
        with pytest.raises(Problem) as caught:
            _verify(parse_authorization(changed))
        assert caught.value.status == 401


@pytest.mark.parametrize("lengths", [(31, 16), (32, 15), (0, 16), (32, 0)])
def test_signing_with_a_digest_or_nonce_of_another_length_is_a_bug(lengths: tuple[int, int]) -> None:
    with pytest.raises(LocalMisuse):
        sign_request(ROUTER, BRIDGE, "GET", "/", bytes(lengths[0]), NOW, bytes(lengths[1]))
