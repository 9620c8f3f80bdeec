"""The three faces of the client are trio, asyncio and blocking. A scenario can run on each."""

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
        case "blocking":
            return step(stepped())
        case _:
            raise AssertionError(face)
