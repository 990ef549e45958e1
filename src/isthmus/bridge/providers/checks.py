"""What an operator types about a pair, looked at: URLs, secrets, certificates, and what must be installed for it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ssl import SSLError, create_default_context
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from isthmus.bridge.providers.lending import provider_of, url_of
from isthmus.bridge.providers.secrets import PairSecrets
from isthmus.bridge.providers.service import SERVICES, Pair, Service
from isthmus.cloudio.providers import is_built_in
from isthmus.cloudio.way import way_to
from isthmus.contract.rest import ProviderEntry
from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.ports.provider import Loan, Surroundings, Unmetered

_MOST_URL: Final = 1000
_MOST_SECRET: Final = 16 * 1024
_SECRET_WORDS: Final = ("secret", "password", "token", "sig")


class NoKeys:
    """What a provider is opened with that is only looked at."""

    async def loan(self) -> Loan:
        """Lend nothing."""
        raise ProviderTrouble("nothing is lent here", retry=Retry.NEVER)

    async def urls(self, method: str, names: object) -> list[str]:
        """Sign nothing."""
        del method, names
        raise ProviderTrouble("nothing is signed here", retry=Retry.NEVER)


def remote(pair: Pair) -> list[Service]:
    """Return which services of a pair are not the Bridge's own."""
    return [service for service in SERVICES if not is_built_in(url_of(pair, service))]


def checked(entry: ProviderEntry) -> ProviderEntry:
    """Return a pair whose URLs say something. Raises OperatorError naming the field."""
    pair = Pair(entry)
    if not remote(pair):
        raise OperatorError(
            "signalling, blobstore: both are the Bridge's own, which is the pair 'bridge' already",
            hint="--signalling URL or --blobstore URL names a cloud's",
        )
    for service in remote(pair):
        url = url_of(pair, service)
        with said_of(service):
            _check_url(url)
            provider, _ = provider_of(pair, service)
            provider.hosts(url)
    return entry


def _check_url(url: str) -> None:
    hint = "what is secret goes in with --secret, --secret-file or at the prompt; every Router sees the URL"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise OperatorError("this is not a URL") from error
    if len(url) > _MOST_URL or not url.isprintable() or " " in url:
        raise OperatorError(f"this is not a URL of at most {_MOST_URL} printable characters")
    if parts.password is not None:
        raise OperatorError("the URL holds a password", hint=hint)
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if any(word in name.lower() for word in _SECRET_WORDS):
            raise OperatorError(f"the URL holds something secret: {name}", hint=hint)


def checked_ca(pem: str) -> str:
    """Return certificates that TLS can trust, or an empty text for none."""
    if not pem.strip():
        return ""
    try:
        create_default_context(cadata=pem)
    except (SSLError, ValueError) as error:
        raise OperatorError("ca: this is no PEM file of certificates") from error
    return pem


def merged_secrets(pair: Pair, before: PairSecrets, given: Mapping[str, str]) -> PairSecrets:
    """Return what was kept with what is given now. Raises OperatorError if a field is unknown or lacks."""
    merged: dict[Service, dict[str, str]] = {
        "signalling": dict(before.signalling),
        "blobstore": dict(before.blobstore),
    }
    known = {service: {secret.name for secret in provider_of(pair, service)[0].secrets} for service in remote(pair)}
    for name, value in given.items():
        service = next((service for service in known if name.removeprefix(f"{service}.") in known[service]), None)
        if service is None or not name.startswith(f"{service}."):
            names = ", ".join(f"{service}.{field}" for service in known for field in sorted(known[service]))
            raise OperatorError(f"secrets: {pair.entry.name} has no secret '{name}'", hint=f"it has: {names or 'none'}")
        if len(value) > _MOST_SECRET:
            raise OperatorError(f"secrets: {name} is longer than {_MOST_SECRET} characters")
        field = name.removeprefix(f"{service}.")
        if value:
            merged[service][field] = value
        else:
            merged[service].pop(field, None)
    for service in known:
        for secret in provider_of(pair, service)[0].secrets:
            if secret.required and not merged[service].get(secret.name):
                raise OperatorError(
                    f"secrets: {service}.{secret.name} is missing: {secret.meaning}",
                    hint=f"--secret {service}.{secret.name}=..., --secret-file FILE, or type it at the prompt",
                )
    return PairSecrets(merged["signalling"], merged["blobstore"])


async def check_installed(pair: Pair, service: Service) -> None:
    """Raise OperatorError if the library of a provider is not installed: opening it connects to nothing yet."""
    provider, url = provider_of(pair, service)
    with said_of(service):
        opened = provider.open(url, Surroundings(NoKeys(), way_to(provider.hosts(url), None), Unmetered()))
    await opened.close()


async def lack(pair: Pair, service: Service) -> str:
    """Return why this Bridge cannot serve a provider, or an empty text."""
    if is_built_in(url_of(pair, service)):
        return ""
    try:
        await check_installed(pair, service)
    except OperatorError as error:
        return f"{error}{f' ({error.hint})' if error.hint else ''}"
    return ""


def about(pair: Pair, service: Service) -> tuple[str, str]:
    """Return what a provider is, and what it was tried against."""
    if is_built_in(url_of(pair, service)):
        return "the Bridge itself", "a Bridge"
    try:
        provider, _ = provider_of(pair, service)
    except OperatorError:
        return "", ""
    return provider.title, provider.tried


@contextmanager
def said_of(service: Service) -> Iterator[None]:
    """Put the name of the service before an error's words."""
    try:
        yield
    except OperatorError as error:
        raise OperatorError(f"{service}: {error}", hint=error.hint) from error
    except ProviderTrouble as trouble:
        raise ProviderTrouble(f"{service}: {trouble}", retry=trouble.retry, hint=trouble.hint) from trouble
