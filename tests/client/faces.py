"""One scenario, run on trio, on asyncio and without an event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import trio

import headwater
from headwater.blocking.database import BlockingDatabase
from headwater.database import Database
from headwater.transport.stepping import step

T = TypeVar("T")

FACES: Final = ("trio", "asyncio", "blocking")

Scenario = Callable[[Database], Awaitable[T]]


def run_on(face: str, url: str, scenario: Scenario[T], **options: Any) -> T:
    """Connect on a face, and return what the scenario returns."""

    async def connected() -> T:
        async with headwater.connect(url, **options) as db:
            return await scenario(db)

    async def stepped() -> T:
        blocking: BlockingDatabase = headwater.connect_blocking(url, **options)
        # The database within: the same core that the other faces use, on a socket that blocks.
        async with blocking._core as db:
            return await scenario(db)

    match face:
        case "trio":
            return trio.run(connected)
        case "asyncio":
            return asyncio.run(connected())
        case "blocking":
            return step(stepped())
        case _:
            raise AssertionError(face)
