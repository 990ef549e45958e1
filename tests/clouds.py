"""What tests with cloud pairs share: having one listed, accepted at every site, and used before the built-in one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from isthmus.cloudio.providers import blobstore_provider
from isthmus.ports.provider import GivenKeys, Loan, Surroundings, Unmetered, Way
from isthmus.testing.network import Network, Site, until

_BLOBSTORE = "blobstore."


@dataclass(frozen=True, slots=True)
class Clouds:
    """A pair: where it is, what Routers connect to, and the operator's keys (`signalling.NAME`, `blobstore.NAME`)."""

    signalling: str = "bridge:"
    blobstore: str = "bridge:"
    hosts: Sequence[str] = ()
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)

    async def held(self) -> dict[str, bytes]:
        """Return all that the blobstore holds, as its operator sees it."""
        own = {name.removeprefix(_BLOBSTORE): key for name, key in self.keys.items() if name.startswith(_BLOBSTORE)}
        store = blobstore_provider(self.blobstore).open(
            self.blobstore, Surroundings(GivenKeys(Loan(own)), Way(), Unmetered())
        )
        try:
            return {blob.name: await store.get(blob.name) async for blob in store.list("")}
        finally:
            await store.close()


async def use_pair(network: Network, name: str, clouds: Clouds, *, priority: int = 10, seconds: float = 30.0) -> None:
    """List a pair at the Bridge and have every site accept its hosts; return once all use it with each other."""
    assert network.bridge is not None
    control = network.bridge.control
    await control("provider_set", name="bridge", priority=1000)
    await control(
        "provider_add",
        name=name,
        signalling=clouds.signalling,
        blobstore=clouds.blobstore,
        priority=priority,
        secrets=dict(clouds.keys),
    )
    await control("provider_setup", name=name)
    for site in network.sites.values():
        await site.control("egress_allow", hosts=list(clouds.hosts))
    said = dict.fromkeys(network.sites, "")

    def all_use_it() -> bool:
        for site in network.sites.values():
            rows = {row["name"]: row for row in site.live.core.pairs.shown()}
            said[site.name] = f"{rows[name]['state']}: {rows[name]['reason']}" if name in rows else "not listed"
        return all(chosen(one, other) == name for one in network.sites.values() for other in network.sites.values())

    await until(all_use_it, seconds, what=lambda: f"{name}: {said}")


def chosen(site: Site, other: Site) -> str:
    """Return which pair a site would use now for another one; for itself, what it uses for everybody."""
    if site is other:
        return next(str(row["name"]) for row in site.live.core.pairs.shown() if row["state"] == "works")
    return site.live.core.pairs.choose(other.router_id).name
