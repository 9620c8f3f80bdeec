"""Benchmarks of the public clients, each in its own process and loop.

    python -m bench.clients headwater-asyncio-get 4323 2.0

prints calls per second. The comparison runs the two loops of each pair alternately.
"""

import asyncio
import importlib.util
import itertools
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import headwater
from bench.load import LoadFailed
from headwater.codecs.codec import RawCodec

VALUE: Final = bytes(100)
DATA: Final = bytes(200)
TASKS: Final = 64
POOL: Final = 10
APPENDERS: Final = 16

Pair = tuple[str, str, str, float]

PAIRS: Final[tuple[Pair, ...]] = (
    ("blocking client, get", "headwater-blocking-get", "redis-blocking-get", 1.0),
    ("asyncio client, one task, get", "headwater-asyncio-get", "asyncpg-get", 1.0),
    ("asyncio client, one task, get", "headwater-asyncio-get", "redis-asyncio-get", 1.0),
    ("asyncio client, 64 tasks, one connection", "headwater-tasks-get", "asyncpg-pool-get", 1.5),
    ("conditional append, one at a time", "headwater-append", "umadb-append", 2.0),
    ("conditional append, 16 at once", "headwater-append-16", "umadb-append-16", 2.0),
)
"""Title, our loop, their loop, and the factor of their rate that ours must reach."""


def server_of(name: str) -> str:
    """The server that a loop uses."""
    word = name.partition("-")[0]
    return {"asyncpg": "postgresql"}.get(word, word)


def missing_package(name: str) -> str | None:
    """The missing package that a loop needs, or None."""
    # The first word of a loop's name is the name of the package.
    word = name.partition("-")[0]
    return word if importlib.util.find_spec(word) is None else None


def measure(
    name: str,
    port: int,
    seconds: float,
    *,
    environment: Mapping[str, str] | None = None,
    checkout: Path | None = None,
) -> float:
    """Calls per second of one loop, in its own process.

    With *checkout* (a root) and its *environment*, the loop and the client are those of another
    checkout, whose modules may have other names.

    Raises:
        LoadFailed: the loop ended with an error.
    """
    command = [sys.executable, "-m", "bench.clients", name, str(port), str(seconds)]
    ran = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=checkout
    )
    if ran.returncode:
        raise LoadFailed(f"{name}: {ran.stderr.strip()}")
    return float(ran.stdout)


def _repeat(call: Callable[[], object], seconds: float) -> float:
    for _ in range(100):
        call()
    count = 0
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        call()
        count += 1
    return count / (now - began)


async def _repeat_async(
    call: Callable[[], Awaitable[object]], seconds: float, tasks: int = 1
) -> float:
    for _ in range(100):
        await call()
    counts = [0] * tasks
    began = time.perf_counter()

    async def loop(place: int) -> None:
        while time.perf_counter() - began < seconds:
            await call()
            counts[place] += 1

    await asyncio.gather(*map(loop, range(tasks)))
    return sum(counts) / (time.perf_counter() - began)


def _url(port: int) -> str:
    return f"headwater://127.0.0.1:{port}"


def headwater_blocking_get(port: int, seconds: float) -> float:
    with headwater.connect_blocking(_url(port), codec=RawCodec()) as db:
        db.put("bench", VALUE)
        return _repeat(lambda: db.get("bench"), seconds)


def redis_blocking_get(port: int, seconds: float) -> float:
    import redis

    client = redis.Redis(port=port)
    client.set("bench", VALUE)
    return _repeat(lambda: client.get("bench"), seconds)


def _headwater_async(port: int, seconds: float, tasks: int) -> float:
    async def run() -> float:
        async with headwater.connect(_url(port), codec=RawCodec()) as db:
            await db.put("bench", VALUE)
            return await _repeat_async(lambda: db.get("bench"), seconds, tasks)

    return asyncio.run(run())


def headwater_asyncio_get(port: int, seconds: float) -> float:
    return _headwater_async(port, seconds, 1)


def headwater_tasks_get(port: int, seconds: float) -> float:
    return _headwater_async(port, seconds, TASKS)


def redis_asyncio_get(port: int, seconds: float) -> float:
    import redis.asyncio

    async def run() -> float:
        client = redis.asyncio.Redis(port=port)
        await client.set("bench", VALUE)
        try:
            return await _repeat_async(lambda: client.get("bench"), seconds)
        finally:
            await client.aclose()

    return asyncio.run(run())


_SELECT: Final = "SELECT v FROM kv WHERE k = $1"
_KEY: Final = b"key:000000000001"


def asyncpg_get(port: int, seconds: float) -> float:
    import asyncpg

    async def run() -> float:
        connection = await asyncpg.connect(host="127.0.0.1", port=port, user="postgres")
        prepared = await connection.prepare(_SELECT)
        return await _repeat_async(lambda: prepared.fetchval(_KEY), seconds)

    return asyncio.run(run())


def asyncpg_pool_get(port: int, seconds: float) -> float:
    import asyncpg

    async def run() -> float:
        async with asyncpg.create_pool(
            host="127.0.0.1", port=port, user="postgres", min_size=POOL, max_size=POOL
        ) as pool:
            return await _repeat_async(lambda: pool.fetchval(_SELECT, _KEY), seconds, TASKS)

    return asyncio.run(run())


def _headwater_append(port: int, seconds: float, tasks: int) -> float:
    async def run() -> float:
        async with headwater.connect(_url(port), codec=RawCodec()) as db:
            idle = [(f"client-{uuid.uuid4().hex}", itertools.count()) for _ in range(tasks)]

            async def append() -> None:
                # Only this task appends to the stream, so the expected version is right.
                stream, versions = idle.pop()
                event = headwater.Event("Happened", DATA)
                await db.append(stream, [event], expect=next(versions))
                idle.append((stream, versions))

            return await _repeat_async(append, seconds, tasks)

    return asyncio.run(run())


def headwater_append(port: int, seconds: float) -> float:
    return _headwater_append(port, seconds, 1)


def headwater_append_16(port: int, seconds: float) -> float:
    return _headwater_append(port, seconds, APPENDERS)


def _umadb_append(port: int, seconds: float, threads: int) -> float:
    # Connect in the main thread, because the client installs signal handlers.
    import umadb

    rates: list[float] = []

    def loop() -> None:
        client: Any = umadb.Client(f"http://127.0.0.1:{port}")
        tag = f"client-{uuid.uuid4().hex}"
        query = umadb.Query(items=[umadb.QueryItem(tags=[tag])])
        position: int | None = None

        def append() -> None:
            nonlocal position
            event = umadb.Event(event_type="Happened", data=DATA, tags=[tag])
            condition = umadb.AppendCondition(fail_if_events_match=query, after=position)
            position = client.append([event], condition)

        rates.append(_repeat(append, seconds))

    running = [threading.Thread(target=loop) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(rates) == threads, "a thread failed"
    return sum(rates)


def umadb_append(port: int, seconds: float) -> float:
    return _umadb_append(port, seconds, 1)


def umadb_append_16(port: int, seconds: float) -> float:
    return _umadb_append(port, seconds, APPENDERS)


if __name__ == "__main__":
    loop = globals()[sys.argv[1].replace("-", "_")]
    print(loop(int(sys.argv[2]), float(sys.argv[3])))
