"""What a person does when letters of a site are read no more, and when a ledger was lost."""

import pytest
from tests.unit.router.queued.post.sites import Site, learn
from tests.unit.router.queued.post.test_post import images

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.errors import OperatorError
from isthmus.router.audit import Audit
from isthmus.router.control.post_operations import PostOperations


def operations(site: Site) -> PostOperations:
    return PostOperations(site.post, site.administration, Audit(site.store, site.clock))


async def renew(site: Site, of: Site) -> None:
    """Do as `isthmus site renew-mailbox`, and let the other Router hear of it."""
    await operations(site).site_renew_mailbox(of.name)
    learn(site, of)
    await of.post.letters.put_again(site.keys.router_id)


async def test_a_mailbox_that_stopped_names_the_command_that_mends_it_and_the_site_list_says_so(
    north: Site, south: Site, cloud: tuple[object, MemoryBlobstore]
) -> None:
    south.hears = False
    async with north.running(), south.running():
        await south.until("SELECT 1")
        prefix = south.directory.mailboxes[north.keys.router_id]
        await cloud[1].put(f"q/{prefix}/000000000001", b"somebody else's")
        await north.store_objects(*images(1), to=south)
        await north.until_all("posted", 1)
        south.post.connected()
        await south.until_alert("isthmus site renew-mailbox north")
        (row,) = await operations(south).site_list()
        assert any("isthmus site renew-mailbox north" in text for text in row["alerts"])
        answer = await operations(south).site_renew_mailbox("north")
        assert (answer["site"], answer["alerts"]) == ("north", [])
        learn(north, south)
        await north.post.letters.put_again(south.keys.router_id)
        south.post.connected()
        await south.until_all("waiting", 1, ours=True)
        assert await south.deliver() == images(1)


async def test_a_renewed_mailbox_is_in_the_audit_and_that_of_a_stranger_is_refused(north: Site, south: Site) -> None:
    async with south.running():
        before = south.directory.mailboxes[north.keys.router_id]
        await operations(south).site_renew_mailbox("north")
        assert south.directory.mailboxes[north.keys.router_id] != before
        for stranger, why in (("east", "is not accepted"), ("No Site", "site")):
            with pytest.raises(OperatorError, match=why):
                await operations(south).site_renew_mailbox(stranger)
    rows = [(row["services"], row["site"]) for row in south.administration.audit()]
    assert rows.count(("site_renew_mailbox", "north")) == 1
    assert len([services for services, _ in rows if services == "site_renew_mailbox"]) == 1


async def test_after_a_lost_ledger_a_new_mailbox_at_each_site_has_everything_flow_again(
    north: Site, south: Site
) -> None:
    north.device("MR", for_site="south")
    learn(north, south)
    async with north.running(), south.running():
        await north.store_objects(*images(2), to=south)
        await south.until_all("waiting", 2, ours=True)
        await south.store_objects(*images(1), to=north, titles=("MR",))
        await north.until_all("waiting", 1, ours=True)
        await north.until_all("received", 2)
    for path in south.folder.glob("ledger.db*"):
        path.unlink()
    async with north.running(), south.running():
        await south.until_all("waiting", 2, ours=True)  # again, from the spool
        await renew(south, north)
        await renew(north, south)
        await south.deliver()
        await north.until_all("delivered", 2)
        await north.store_objects(*images(3), to=south)
        await south.until("SELECT 1 WHERE (SELECT COUNT(*) FROM copies WHERE state = 'waiting' AND site IS NULL) = 3")
        await north.until("SELECT 1 WHERE (SELECT COUNT(*) FROM copies WHERE state = 'received') = 3")
