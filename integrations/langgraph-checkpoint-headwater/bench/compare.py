"""Savers beside each other: Headwater, PostgreSQL, SQLite, on asyncio.

    PYTHONPATH=. python integrations/langgraph-checkpoint-headwater/bench/compare.py --rounds 8

Run it at the root of the repository; it needs langgraph-checkpoint-postgres and -sqlite. All
servers run at the same time on the same disk. In each round, each saver does each task once, in an
order that changes. A figure is the time of a task, the median of the rounds; a ratio is
other/headwater within a round, so above 1 Headwater is faster.
"""

import argparse
import asyncio
import operator
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any, Final, TypedDict
from uuid import uuid4

from langgraph.checkpoint.headwater import AsyncHeadwaterSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from bench import servers

TOGETHER: Final = 20
POOL: Final = 10


class State(TypedDict):
    """The state of the graph."""

    steps: Annotated[list[str], operator.add]


def _graph(saver: Any) -> Any:
    builder = StateGraph(State)
    for name in ("first", "left", "right"):
        builder.add_node(name, lambda _, name=name: {"steps": [name]})
    builder.add_node("question", lambda _: {"steps": [interrupt("go on?")]})
    builder.add_edge(START, "first")
    for name in ("left", "right"):
        builder.add_edge("first", name)
        builder.add_edge(name, "question")
    builder.add_edge("question", END)
    return builder.compile(checkpointer=saver)


def _config() -> Any:
    return {"configurable": {"thread_id": str(uuid4())}}


class Contender:
    """A saver with a graph, and a thread with a long history."""

    def __init__(self, name: str, saver: Any) -> None:
        self.name = name
        self.graph = _graph(saver)
        self.long = _config()

    async def prepare(self) -> None:
        """Make the long history: 60 checkpoints."""
        for _ in range(12):
            await self._conversation(self.long)

    async def _conversation(self, config: Any) -> None:
        await self.graph.ainvoke({"steps": ["x" * 200]}, config)
        await self.graph.ainvoke(Command(resume="yes"), config)

    async def one(self) -> None:
        """A run, an interrupt and a resume."""
        await self._conversation(_config())

    async def together(self) -> None:
        """Several such conversations at once."""
        await asyncio.gather(*(self._conversation(_config()) for _ in range(TOGETHER)))

    async def state(self) -> None:
        """Read the newest state, 20 times."""
        for _ in range(20):
            await self.graph.aget_state(self.long)

    async def history(self) -> None:
        """Read the whole history."""
        count = len([each async for each in self.graph.aget_state_history(self.long)])
        assert count == 60, count

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """The tasks by title."""
        return {
            "run, interrupt, resume": self.one,
            f"{TOGETHER} of these together": self.together,
            "newest state, 20 times": self.state,
            "history of 60 checkpoints": self.history,
        }


async def _contenders(stack: AsyncExitStack, directory: Path) -> AsyncIterator[Contender]:
    headwater = servers.Headwater(directory / "headwater")
    stack.callback(headwater.stop)
    headwater.start()
    url = f"headwater://127.0.0.1:{headwater.port}"
    saver = await stack.enter_async_context(AsyncHeadwaterSaver.from_conn_string(url))
    yield Contender("headwater", saver)
    if servers.postgres_programs() is None:
        print("postgresql: not installed, left out")
    else:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool

        postgres = servers.Postgres(directory / "postgres")
        stack.callback(postgres.stop)
        postgres.start()
        pool: Any = AsyncConnectionPool(
            f"host=127.0.0.1 port={postgres.port} user=postgres dbname=postgres",
            min_size=POOL,
            max_size=POOL,
            open=False,
            kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
        )
        await stack.enter_async_context(pool)
        rival = AsyncPostgresSaver(pool)
        await rival.setup()
        yield Contender("postgresql", rival)
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    file = str(directory / "checkpoints.sqlite")
    yield Contender(
        "sqlite", await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(file))
    )


async def _compare(directory: Path, rounds: int) -> None:
    found: dict[str, dict[str, list[float]]] = {}
    async with AsyncExitStack() as stack:
        contenders = [each async for each in _contenders(stack, directory)]
        for contender in contenders:
            await contender.prepare()
        for number in range(rounds + 1):
            for title in contenders[0].tasks():
                for contender in random.sample(contenders, len(contenders)):
                    began = time.perf_counter()
                    await contender.tasks()[title]()
                    if number:  # the first round warms up
                        times = found.setdefault(title, {}).setdefault(contender.name, [])
                        times.append(time.perf_counter() - began)
    others = [contender.name for contender in contenders[1:]]
    print("| task | headwater, ms | " + " | ".join(f"{name} / headwater" for name in others) + " |")
    print("|---|---|" + "---|" * len(others))
    for title, times in found.items():
        ours = times["headwater"]
        cells = [f"{statistics.median(ours) * 1000:.1f}"]
        for name in others:
            ratios = [theirs / our for theirs, our in zip(times[name], ours, strict=True)]
            middle = statistics.median(ratios)
            cells.append(f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        print(f"| {title} | " + " | ".join(cells) + " |")


def main() -> None:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    directory = Path(tempfile.mkdtemp(prefix="headwater-bench-"))
    try:
        asyncio.run(_compare(directory, rounds))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
