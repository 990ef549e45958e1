"""What an operator sees of the letters between sites, and does to them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from isthmus.kit.names import SiteName
from isthmus.router.audit import Audit
from isthmus.router.control.administration import Administration
from isthmus.router.control.device_administration import in_field
from isthmus.router.queued.post.office import Post

_CONDITIONS: Final = frozenset({"mailbox", "withheld", "prekey", "upload", "room", "no answer", "pair", "clouds"})
"""What stands until it is over; all else that the post tells of is an event, for log and audit."""


class PostOperations:
    """The operations of the control API about the mailboxes of other sites. They need a running Router."""

    def __init__(self, post: Post, administration: Administration, audit: Audit) -> None:
        self._post = post
        self._administration = administration
        self._audit = audit

    def table(self) -> Mapping[str, Callable[..., Awaitable[Any]]]:
        """Return the operations by name."""
        return {"site_list": self.site_list, "site_renew_mailbox": self.site_renew_mailbox}

    async def site_list(self) -> list[dict[str, Any]]:
        """Return the sites as Administration does, with what stands against the letters to and from each."""
        standing = self._post.core.alerts
        return [
            row | {"alerts": [*row["alerts"], *standing.of(row["site"], _CONDITIONS)]}
            for row in self._administration.site_list()
        ]

    async def site_renew_mailbox(self, site: str) -> dict[str, Any]:
        """Have a site leave its letters in a new mailbox, and return how it and we stand to each other."""
        name = in_field("site", SiteName.parse, site)
        self._post.renew_mailbox(name)
        self._audit.changed("site_renew_mailbox", "", site=name)
        return next(row for row in await self.site_list() if row["site"] == name)
