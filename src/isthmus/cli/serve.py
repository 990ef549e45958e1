"""Running a part until it is told to stop: the event loop, the signals, the drain."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from types import FrameType

from isthmus.cli import logs
from isthmus.kit import platform


def run_until_stopped(part: Callable[[asyncio.Event], Awaitable[None]], *, verbose: bool = False) -> None:
    """Run `part` and set its stop event at the first SIGTERM or SIGINT, so that it drains; the second one kills."""
    logs.configure(verbose=verbose)
    platform.raise_open_file_limit()
    platform.keep_freed_memory()
    with asyncio.Runner(loop_factory=platform.new_event_loop) as runner:
        runner.run(_run(part))


async def _run(part: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, _frame: FrameType | None = None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        print(f"{signal.Signals(number).name}: draining; once more to stop at once", file=sys.stderr)
        loop.call_soon_threadsafe(stop.set)

    for each in before:
        signal.signal(each, on_signal)
    try:
        await part(stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
