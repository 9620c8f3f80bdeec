"""Persistence modules of the library beside each other: Headwater, PostgreSQL, SQLite.

    PYTHONPATH=. python integrations/eventsourcing-headwater/bench/compare.py --rounds 8

Run it at the root of the repository. All servers run at the same time on the same disk. In each
round, each module does each task once, in an order that changes. A figure is the time of a task,
the median of the rounds; a ratio is other/headwater within a round, so above 1 Headwater is faster.
SQLite runs in the process of the application, in a file, with its defaults; it needs no server.
"""

import argparse
import itertools
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from eventsourcing.application import Application
from eventsourcing.dcb.api import DCBAppendCondition, DCBEvent, DCBQuery, DCBQueryItem
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import InfrastructureFactory, StoredEvent
from eventsourcing.utils import Environment

from bench import servers

STATE: Final = bytes(200)
THREADS: Final = 16
Task = Callable[[], object]


def _events(count: int, first: int = 1) -> list[StoredEvent]:
    originator = uuid4()
    return [StoredEvent(originator, first + n, "topic", STATE) for n in range(count)]


class Module:
    """One persistence module, with its recorder, its application and its tasks."""

    def __init__(self, name: str, settings: dict[str, str]) -> None:
        self.name = name
        self.settings = settings
        self.factory: InfrastructureFactory[Any] = InfrastructureFactory.construct(
            Environment("bench", settings)
        )
        self.recorder = self.factory.application_recorder()
        self.application: Application[Any] = Application(env=settings)
        self.dcb = self._dcb()
        self._numbers = itertools.count()
        self._known = _events(10)
        self.recorder.insert_events(self._known)
        for _ in range(10):
            self.recorder.insert_events(_events(100))
        self._aggregate = Aggregate()
        for _ in range(9):
            self._aggregate.trigger_event(Aggregate.Event)
        self.application.save(self._aggregate)

    def _dcb(self) -> Any:
        settings = dict(self.settings)
        if self.name == "postgresql":
            settings["PERSISTENCE_MODULE"] = "eventsourcing.dcb.postgres_tt"
        elif self.name == "sqlite":
            return None
        from eventsourcing.dcb.persistence import DCBInfrastructureFactory

        factory: Any = DCBInfrastructureFactory.construct(Environment("benchdcb", settings))
        self._dcb_factory = factory
        return factory.dcb_recorder()

    def tasks(self) -> Iterator[tuple[str, Task]]:
        """The tasks with their titles. A module without a kind of recorder leaves tasks out."""
        recorder = self.recorder
        yield (
            "insert 1 event, 20 times",
            lambda: [recorder.insert_events(_events(1)) for _ in range(20)],
        )
        yield (
            "insert 100 events, 5 times",
            lambda: [recorder.insert_events(_events(100)) for _ in range(5)],
        )
        yield (
            "select 10 events, 50 times",
            lambda: [recorder.select_events(self._known[0].originator_id) for _ in range(50)],
        )
        yield (
            "100 notifications, 20 times",
            lambda: [recorder.select_notifications(1, 100) for _ in range(20)],
        )
        yield (
            "500 notifications, 10 times",
            lambda: [recorder.select_notifications(1, 500) for _ in range(10)],
        )
        yield (
            "max_notification_id, 50 times",
            lambda: [recorder.max_notification_id() for _ in range(50)],
        )
        yield (
            "save an aggregate, 20 times",
            lambda: [self.application.save(Aggregate()) for _ in range(20)],
        )
        yield (
            "get an aggregate of 10 events, 20 times",
            lambda: [self.application.repository.get(self._aggregate.id) for _ in range(20)],
        )
        yield f"{THREADS} threads, 10 inserts each", self._threads
        if self.dcb is not None:
            yield "conditional append, 20 times", self._conditional_appends

    def _threads(self) -> None:
        def work() -> None:
            for _ in range(10):
                self.recorder.insert_events(_events(1))

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _conditional_appends(self) -> None:
        for _ in range(20):
            tag = f"seat {next(self._numbers)} {uuid4()}"
            query = DCBQuery(items=[DCBQueryItem(types=["Taken"], tags=[tag])])
            head = self.dcb.read(query).head
            self.dcb.append([DCBEvent("Taken", STATE, [tag])], DCBAppendCondition(query, head))

    def close(self) -> None:
        """Close its connections."""
        self.application.close()
        if self.dcb is not None:
            self._dcb_factory.close()
        self.factory.close()


def _modules(stack: ExitStack, directory: Path) -> Iterator[Module]:
    headwater = servers.Headwater(directory / "headwater")
    stack.callback(headwater.stop)
    headwater.start()
    yield Module(
        "headwater",
        {
            "PERSISTENCE_MODULE": "eventsourcing_headwater",
            "HEADWATER_URL": f"headwater://127.0.0.1:{headwater.port}",
        },
    )
    if servers.postgres_programs() is None:
        print("postgresql: not installed, left out")
    else:
        postgres = servers.Postgres(directory / "postgres")
        stack.callback(postgres.stop)
        postgres.start()
        yield Module(
            "postgresql",
            {
                "PERSISTENCE_MODULE": "eventsourcing.postgres",
                "POSTGRES_DBNAME": "postgres",
                "POSTGRES_HOST": "127.0.0.1",
                "POSTGRES_PORT": str(postgres.port),
                "POSTGRES_USER": "postgres",
                "POSTGRES_PASSWORD": "unused",
                "POSTGRES_POOL_SIZE": str(THREADS),
            },
        )
    yield Module(
        "sqlite",
        {
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": str(directory / "events.sqlite"),
        },
    )


def _measure(modules: Sequence[Module], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds, by task and module, one figure a round."""
    found: dict[str, dict[str, list[float]]] = {}
    tasks = [(module, title, task) for module in modules for title, task in module.tasks()]
    for number in range(rounds + 1):
        random.shuffle(tasks)
        for module, title, task in sorted(tasks, key=lambda each: each[1]):
            began = time.perf_counter()
            task()
            if number:  # the first round warms up
                times = found.setdefault(title, {}).setdefault(module.name, [])
                times.append(time.perf_counter() - began)
    return found


def main() -> None:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    directory = Path(tempfile.mkdtemp(prefix="headwater-bench-"))
    try:
        with ExitStack() as stack:
            modules = []
            for module in _modules(stack, directory):
                stack.callback(module.close)
                modules.append(module)
            found = _measure(modules, rounds)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    others = [module.name for module in modules[1:]]
    print("| task | headwater, ms | " + " | ".join(f"{name} / headwater" for name in others) + " |")
    print("|---|---|" + "---|" * len(others))
    for title, times in sorted(found.items()):
        ours = times["headwater"]
        cells = [f"{statistics.median(ours) * 1000:.1f}"]
        for name in others:
            if name not in times:
                cells.append("no recorder")
                continue
            ratios = [theirs / our for theirs, our in zip(times[name], ours, strict=True)]
            cells.append(
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        print(f"| {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
