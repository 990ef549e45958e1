"""How this machine gets to a provider: through its proxy, if it has one for that host."""

from collections.abc import Iterable
from pathlib import Path

from aiohttp.helpers import get_env_proxy_for_url
from yarl import URL

from isthmus.kit.names import HostPort
from isthmus.ports.provider import Way


def way_to(hosts: Iterable[HostPort], ca: Path | None) -> Way:
    """Return the way to the first of the hosts (HTTPS_PROXY, NO_PROXY); `ca` is trusted besides the machine's own."""
    for at in hosts:
        try:
            proxy, account = get_env_proxy_for_url(URL.build(scheme="https", host=at.host, port=at.port))
        except LookupError:
            break
        whole = proxy if account is None else proxy.with_user(account.login).with_password(account.password)
        return Way(str(whole), ca)
    return Way(None, ca)
