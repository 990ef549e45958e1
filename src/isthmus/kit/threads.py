"""Work in threads that holds a file: who is cancelled while it goes on must not let go of the file below it."""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar


class Closable(Protocol):
    """What is to be let go of."""

    def close(self) -> None:
        """Let go of it."""
        ...


T = TypeVar("T")
C = TypeVar("C", bound=Closable)


async def to_its_end(work: Callable[..., T], *arguments: object) -> T:
    """Do work in a thread, and wait for it even if this is cancelled: then CancelledError is raised behind it."""
    done = asyncio.get_running_loop().run_in_executor(None, work, *arguments)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise


async def opened(work: Callable[..., C], *arguments: object) -> C:
    """Open something in a thread; if this is cancelled meanwhile, what was opened is closed again."""
    done = asyncio.get_running_loop().run_in_executor(None, work, *arguments)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        if done.exception() is None:
            done.result().close()
        raise
