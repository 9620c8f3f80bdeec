"""Background tasks that run as long as a block of the application, on trio and on asyncio.

    async with beside([first, second]):     both start
        ...                                 one of them fails: the block is cancelled
                                            the block ends: both are cancelled

A single error is raised as it is and not in a group: that there are tasks is an internal matter.
"""

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
