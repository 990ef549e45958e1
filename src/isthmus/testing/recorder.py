"""A device behind a stream that writes down what it is told."""

import asyncio

from isthmus.errors import IsthmusError


class Recorder:
    """Keeps all that a stream tells its observer. `told` is set with each call.

    Attributes:
        data: payloads, in order.
        finals: how often the far side ended.
        signals: signals, in order.
        writable: how often writing could go on.
        errors: what broke the stream: one at the most, if the stream keeps its word.
    """

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.finals = 0
        self.signals: list[bytes] = []
        self.writable = 0
        self.errors: list[IsthmusError] = []
        self.told = asyncio.Event()

    def on_data(self, payload: bytes) -> None:
        """Keep payload."""
        self.data.append(payload)
        self.told.set()

    def on_final(self) -> None:
        """Count it."""
        self.finals += 1
        self.told.set()

    def on_signal(self, payload: bytes) -> None:
        """Keep the signal."""
        self.signals.append(payload)
        self.told.set()

    def on_writable(self) -> None:
        """Count it."""
        self.writable += 1
        self.told.set()

    def on_broken(self, error: IsthmusError) -> None:
        """Keep the error."""
        self.errors.append(error)
        self.told.set()
