"""Threads that hold a file for somebody who is cancelled meanwhile."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from isthmus.kit.tasks import Tasks
from isthmus.kit.threads import opened, to_its_end


class File:
    """Something that is open until it is closed."""

    def __init__(self) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False


class Slow:
    """Does work that takes until `go_on` is set."""

    def __init__(self, result: Callable[[], File]) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.ended = False
        self._result = result

    def __call__(self) -> File:
        self.begun.set()
        self.go_on.wait()
        self.ended = True
        return self._result()


async def cancelled(task: asyncio.Task[File], slow: Slow) -> None:
    """Cancel a task while its thread is at work, and let both come to their end."""
    await asyncio.to_thread(slow.begun.wait)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    slow.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_is_cancelled_waits_for_the_thread() -> None:
    slow, tasks = Slow(File), Tasks("test")
    await cancelled(tasks.spawn(to_its_end(slow), name="work"), slow)
    assert slow.ended


async def test_what_was_opened_for_one_who_was_cancelled_is_closed() -> None:
    file, tasks = File(), Tasks("test")
    slow = Slow(lambda: file)
    await cancelled(tasks.spawn(opened(slow), name="open"), slow)
    assert not file.is_open


async def test_what_could_not_be_opened_for_one_who_was_cancelled_is_no_fault() -> None:
    def fail() -> File:
        raise FileNotFoundError

    slow, tasks = Slow(fail), Tasks("test")
    await cancelled(tasks.spawn(opened(slow), name="open"), slow)


async def test_otherwise_it_is_as_in_any_thread() -> None:
    slow = Slow(File)
    slow.go_on.set()
    assert (await opened(slow)).is_open
    assert (await to_its_end(slow)).is_open
