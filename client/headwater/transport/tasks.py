"""Background tasks that run as long as a block of the application, on trio and on asyncio.

    async with beside([first, second]):     both start
        ...                                 one of them fails: the block is cancelled
                                            the block ends: both are cancelled

A single error is raised as it is and not in a group: that there are tasks is an internal matter.
"""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import sniffio

Work: TypeAlias = Callable[[], Awaitable[None]]


@asynccontextmanager
async def beside(works: Sequence[Work]) -> AsyncIterator[None]:
    """Run *works* in the background while the block runs."""
    run = _beside_on_trio if sniffio.current_async_library() == "trio" else _beside_on_asyncio
    alone: BaseException | None = None
    try:
        async with run(works):
            yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) != 1:
            raise
        alone = group.exceptions[0]
    if alone is not None:
        # Raised outside of the `except`, so that the group does not become its context.
        raise alone


@asynccontextmanager
async def _beside_on_trio(works: Sequence[Work]) -> AsyncIterator[None]:
    import trio

    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(work)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _beside_on_asyncio(works: Sequence[Work]) -> AsyncIterator[None]:
    import asyncio

    async def run(work: Work) -> None:
        await work()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(work)) for work in works]
        yield
        for task in tasks:
            task.cancel()


def ends_the_task(error: BaseException) -> bool:
    """Whether an exception is meant for the task itself, and is no failure of what it called.

    These are a cancellation of the task, an interrupt from the keyboard, and the end of the
    process. A CancelledError of asyncio in a task that nobody has cancelled is not: the task waited
    for something else that was cancelled.
    """
    match error:
        case BaseExceptionGroup():
            return any(ends_the_task(inner) for inner in error.exceptions)
        case Exception():
            return False
        case KeyboardInterrupt() | SystemExit() | GeneratorExit():
            return True
    # A library that was never imported has cancelled nothing.
    trio, asyncio = sys.modules.get("trio"), sys.modules.get("asyncio")
    if trio is not None and isinstance(error, trio.Cancelled):
        return True
    if asyncio is None or not isinstance(error, asyncio.CancelledError):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False  # There is no event loop: this is a thread.
    return task is not None and task.cancelling() > 0
