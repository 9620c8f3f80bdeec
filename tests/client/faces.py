"""The faces of the client: trio, asyncio with both of its loops, and blocking.

A scenario can run on each.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import trio
import uvloop

import headwater
from headwater.blocking.database import BlockingDatabase
from headwater.database import Database
from headwater.transport.stepping import step

T = TypeVar("T")

FACES: Final = ("trio", "asyncio", "uvloop", "blocking")

Scenario = Callable[[Database], Awaitable[T]]


def run_on(face: str, url: str, scenario: Scenario[T], **options: Any) -> T:
    """Connect with one face, run the scenario, and return its result."""

    async def connected() -> T:
        async with headwater.connect(url, **options) as db:
            return await scenario(db)

    async def stepped() -> T:
        blocking: BlockingDatabase = headwater.connect_blocking(url, **options)
        # The blocking database wraps this one: the core of all faces, on a blocking socket.
        async with blocking._core as db:
            return await scenario(db)

    match face:
        case "trio":
            return trio.run(connected)
        case "asyncio":
            return asyncio.run(connected())
        case "uvloop":
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(connected())
        case "blocking":
            return step(stepped())
        case _:
            raise AssertionError(face)
