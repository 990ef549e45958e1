"""What the demonstration tells its spectator: one line a step, with outcome and time, as it happens."""

import time
from collections.abc import Callable
from typing import TextIO

from isthmus.errors import IsthmusError


class Progress:
    """Runs steps, prints each with outcome and time, and remembers whether all succeeded."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._failed: list[str] = []
        self._done = 0

    @property
    def failed(self) -> list[str]:
        """The names of the steps that failed so far."""
        return list(self._failed)

    @property
    def done(self) -> int:
        """How many steps ran so far."""
        return self._done

    def say(self, text: str = "") -> None:
        """Print a line."""
        print(text, file=self._out, flush=True)

    def step(self, name: str, action: Callable[[], str]) -> bool:
        """Run `action`, which returns what to say about its success; return whether it succeeded.

        What goes wrong in it is printed as this step's failure, whatever it is: the next step is still worth seeing.
        """
        print(f"  {name} ... ", end="", file=self._out, flush=True)
        self._done += 1
        start = time.perf_counter()
        try:
            outcome, reason = "ok", action()
        except IsthmusError as error:
            outcome, reason = "FAILED", str(error)
        except Exception as error:  # noqa: BLE001 - shown to the spectator, and the exit status tells
            outcome, reason = "FAILED", f"{type(error).__name__}: {error}"
        if outcome == "FAILED":
            self._failed.append(name)
        self.say(f"{outcome}, {time.perf_counter() - start:.2f} s" + (f": {reason}" if reason else ""))
        return outcome == "ok"
