"""What the Bridge and people know of MQTT, beside what the service does. It imports no library of MQTT's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.kit.names import HostPort
from isthmus.ports.provider import Loan, Secret, Surroundings, Way
from isthmus.ports.signalling import Signalling

_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class Place:
    """Which broker, whether with TLS, and below which word the topics are."""

    at: HostPort
    secure: bool
    prefix: str

    @classmethod
    def parse(cls, url: str) -> "Place":
        """Return what a URL says. Raises OperatorError if it is none of ours."""
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        prefix = query.pop("prefix", "isthmus")
        if parts.scheme not in _PORTS or "@" in parts.netloc or parts.path.strip("/") or query or not prefix.isalnum():
            raise OperatorError("this is not the URL of an MQTT broker", hint="mqtts://HOST[:PORT][?prefix=WORD]")
        return cls(HostPort.parse(parts.netloc, default_port=_PORTS[parts.scheme]), parts.scheme == "mqtts", prefix)


class MqttProvider:
    """MQTT brokers (`isthmus.ports.provider.SignallingProvider`)."""

    title = "MQTT"
    tried = "mosquitto 2.0"
    secrets: Sequence[Secret] = (
        Secret("user", "a user of the broker, for all Routers alike"),
        Secret("password", "that user's password"),
    )

    def hosts(self, url: str) -> list[HostPort]:
        """Return the broker: what each site is asked to let its Router connect to."""
        return [Place.parse(url).at]

    def open(self, url: str, surroundings: Surroundings) -> Signalling:
        """Return the service. Raises OperatorError if its library is not installed."""
        place = Place.parse(url)
        try:
            from isthmus_mqtt.service import MqttSignalling
        except ImportError as error:
            raise OperatorError("aiomqtt is not installed", hint="pip install isthmus-mqtt") from error
        return MqttSignalling(place, surroundings)

    async def lend(self, url: str, secrets: Mapping[str, str], router_id: str, way: Way) -> Loan:
        """Return the one user that there is: MQTT knows no way to make another."""
        del url, router_id, way
        if not secrets.get("user"):
            raise ProviderTrouble("there is no user of the broker", retry=Retry.NEVER, hint="isthmus provider set")
        return Loan({"user": secrets["user"], "password": secrets.get("password", "")})

    async def set_up(self, url: str, secrets: Mapping[str, str], way: Way, *, keep_days: int) -> list[str]:
        """Make nothing: topics come into being by themselves, and a broker's users are made where it runs."""
        del secrets, way, keep_days
        place = Place.parse(url)
        return [f"nothing has to be made; let the user subscribe and publish below {place.prefix}/ at the broker"]
