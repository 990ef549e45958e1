"""What a person should look at, told once each, and gone when it is over."""

from collections.abc import Callable, Collection
from typing import Final

MOST: Final = 1000


class Alerts:
    """The standing alerts of the post, by site and matter. `tell` hears of each new one: the site and a sentence."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self._tell = tell
        self._standing: dict[tuple[str, str], str] = {}

    def __repr__(self) -> str:
        return f"<Alerts: {len(self._standing)} standing>"

    def raise_(self, site: str, matter: str, text: str) -> None:
        """Tell a person, unless this very text stands already."""
        if self._standing.get((site, matter)) == text:
            return
        if len(self._standing) >= MOST:  # another site cannot fill our memory with what it does wrong
            self._standing.pop(next(iter(self._standing)))
        self._standing[site, matter] = text
        self._tell(site, text)

    def clear(self, site: str, matter: str) -> None:
        """This is over."""
        self._standing.pop((site, matter), None)

    def of(self, site: str, matters: Collection[str]) -> list[str]:
        """Return what stands about a site in these matters."""
        return [text for (of, matter), text in self._standing.items() if of == site and matter in matters]
