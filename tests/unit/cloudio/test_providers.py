import pytest

from isthmus.cloudio import providers
from isthmus.errors import OperatorError


def test_the_built_in_pair_is_listed_and_opened_by_no_url() -> None:
    for group in (providers.SIGNALLING, providers.BLOBSTORE):
        assert "bridge" in providers.schemes(group)
    assert providers.is_built_in("bridge:")
    with pytest.raises(OperatorError):
        providers.blobstore_provider("bridge:")


@pytest.mark.parametrize("url", ["gopher://hole", "", "memory", "//memory"])
def test_an_unknown_scheme_is_refused_with_the_known_ones(url: str) -> None:
    with pytest.raises(OperatorError) as refused:
        providers.blobstore_provider(url)
    assert "bridge:" in refused.value.hint


def test_a_refusal_shows_no_secret() -> None:
    with pytest.raises(OperatorError) as refused:
        providers.signalling_provider("gopher://key:hush@hole/bucket?token=hush")
    assert "hush" not in str(refused.value) + refused.value.hint


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory:", "memory:"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("s3://key:hush@store.example:9000/bucket", "s3://hidden@store.example:9000/bucket"),
        ("s3://hush@store.example/bucket", "s3://hidden@store.example/bucket"),
        ("nats://host/a?token=hush&user=hush", "nats://host/a?token=hidden&user=hidden"),
        ("nats://host/a?hush", "nats://host/a?hush=hidden"),
        ("nats://host/a#hush", "nats://host/a"),
        ("nats://a:h@ush@host", "nats://hidden@host"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert providers.printable(url) == shown
