"""Can this site use the clouds that its Bridge lists: is each host allowed here, reached, and does it speak TLS?"""

import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from isthmus.errors import OperatorError
from isthmus.kit.findings import Finding, Level
from isthmus.router.control.way import ProxyRefused, Way

_WHAT: Final = "clouds"


def cloud_findings(clouds: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what there is to say of each host of each pair; `clouds` is what `egress_list` of the Router answers."""
    allowed = {str(row["host"]) for row in clouds["hosts"]}
    for pair in clouds["pairs"]:
        hosts: Sequence[str] = pair.get("hosts", ())
        for host in hosts:
            if host not in allowed:
                yield Finding(
                    Level.WARN,
                    _WHAT,
                    f"{pair['name']}: {host} is not in this site's egress list, so that pair is off",
                    f"isthmus egress allow {pair['name']}, if you agree",
                )
            elif PurePath(host).is_absolute():
                yield _used(pair["name"], host, pair.get("reason", ""), pair.get("hint", ""))
            else:
                yield _reached(pair["name"], host)
        if not hosts and pair.get("reason"):
            yield Finding(Level.WARN, _WHAT, f"{pair['name']}: {pair['reason']}", pair.get("hint", ""))


def _used(name: str, folder: str, reason: str, hint: str) -> Finding:
    """Return what the Router found out about a folder, which nothing but using it tells."""
    if reason:
        return Finding(Level.BAD, _WHAT, f"{name}: {folder} is not used: {reason}", hint)
    return Finding(Level.OK, _WHAT, f"{name}: {folder} is used")


def _reached(name: str, host: str) -> Finding:
    try:
        way = Way.to(f"https://{host}")
        with way.connected(ssl.create_default_context()):
            pass
    except ssl.SSLCertVerificationError as error:
        text = f"{name}: the certificate that {host} shows is not trusted: {error.verify_message}"
        advice = "is TLS inspected? Exempt that host; for an in-house cloud, join with its --ca"
        return Finding(Level.BAD, _WHAT, text, advice)
    except ssl.SSLError:
        return Finding(Level.OK, _WHAT, f"{name}: {host} is reached; it speaks no TLS at once")
    except ProxyRefused as error:
        return Finding(Level.BAD, _WHAT, f"{name}: {host}: {error}", f"have the proxy's owner allow CONNECT to {host}")
    except (OSError, OperatorError) as error:
        return Finding(Level.BAD, _WHAT, f"{name}: {host} is not reached: {error}", "the firewall must let it out")
    return Finding(Level.OK, _WHAT, f"{name}: {host} is reached, with TLS")
