"""Projectors: processes that run a projection whose handler raises anything.

The model of the projection has the versions of each stream that were handled, in order. For some
events the handler always raises, and now and then it raises for others; it raises errors of the
library too, and some that are no Exception. It is not called for events that cannot be decoded.

    the middle of the world    the handler raises; projectors end, begin again, and retry streams
    the end, first part        it still raises. The projection must reach the newest event: what
                               fails has parked its own stream and holds no other
    the end, second part       it raises no more. Events that cannot be decoded are skipped, all
                               others are retried

After that each event that is not hidden was handled once, and in order, or was skipped because it
cannot be decoded.
"""

import asyncio
import logging
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any, Final

import trio

import headwater
from tests.simulation.history import Dump, History, Put, erased_element
from tests.simulation.plan import Plan
from tests.simulation.recorder import Recorder
from tests.simulation.unreadable import is_unreadable

NAME: Final = "handled"
MODEL: Final = ("$model", NAME)
ALWAYS_SHARE: Final = 0.1
"""The share of events for which the handler raises until the end of the world."""

NOW_AND_THEN_SHARE: Final = 0.1
REACHED_S_MAX: Final = 60.0
"""Seconds of the world's time for the projection to reach the newest event, while none fails."""


class Unshowable(Exception):
    """An error that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("it cannot be shown")


def failure(number: int) -> BaseException:
    """Anything that a handler may raise."""
    kinds: tuple[BaseException, ...] = (
        ValueError("a mistake of the handler"),
        headwater.ConnectionLost("the connection to another database is lost"),
        headwater.Conflict("a conflict in another database", retryable=True),
        headwater.TransactionGone("a transaction of another database is gone"),
        headwater.CommitUnknown("a commit to another database was not answered"),
        headwater.HistoryGone("the history of another database is gone"),
        asyncio.CancelledError("something else was cancelled"),
        ExceptionGroup("two mistakes", [ValueError(), KeyError()]),
        Unshowable(),
    )
    return kinds[number % len(kinds)]


class Projector:
    """The projection of a world.

    Attributes:
        raises: whether the handler still raises.
    """

    def __init__(self, plan: Plan, history: History, category: str) -> None:
        self._plan = plan
        self._history = history
        self.category = category
        self.raises = True

    def define(self, database: headwater.Database, dice: random.Random) -> list[tuple[str, int]]:
        """Define the projection, as each process does. Returns the list that failures go into."""
        plan = self._plan
        raised: list[tuple[str, int]] = []

        @database.projection(
            NAME,
            category=self.category,
            batched=plan.batched,
            batch_size=plan.batch_size,
            attempts=plan.attempts,
        )
        async def handle(tx: headwater.ProjectionTransaction, given: Any) -> None:
            events = given if plan.batched else [given]
            for event in events:
                seen = await tx.model.get((event.stream,)) or []
                tx.model.put((event.stream,), [*seen, event.version])
                await self._fail(event, dice, raised if len(events) == 1 else None)

        return raised

    async def _fail(
        self,
        event: headwater.RecordedEvent,
        dice: random.Random,
        raised: list[tuple[str, int]] | None,
    ) -> None:
        if not self.raises:
            return
        chance = zlib.crc32(f"{self._plan.seed} {event.stream} {event.version}".encode())
        if chance % 100 >= ALWAYS_SHARE * 100 and dice.random() >= NOW_AND_THEN_SHARE:
            return
        if chance % 7 == 0:
            # Longer than a transaction may be idle, in some worlds.
            await trio.sleep(0.5)
        if raised is not None:
            # A failure of several events counts for none of them: each is tried alone.
            raised.append((event.stream, event.version))
        raise failure(chance // 100)

    async def run(self, recorder: Recorder) -> None:
        """Run the projection for some time; at the end, retry what is parked."""
        database, dice = recorder.database, recorder.dice
        raised = self.define(database, dice)
        try:
            async with database.run_projections():
                await trio.sleep(dice.expovariate(1 / dice.choice((0.1, 1.0))))
                if dice.random() < 0.5 and NAME in await database.projections.names():
                    with suppress(headwater.CommitUnknown):
                        await database.projections.retry(NAME)
        finally:
            self._count(raised)

    async def finish(self, recorder: Recorder) -> None:
        """Bring the projection to the newest event, first with a handler that still raises."""
        database = recorder.database
        newest = await database.newest_position(category=self.category)
        if not newest:
            return
        raised = self.define(database, recorder.dice)
        try:
            async with database.run_projections():
                try:
                    await database.wait_for(NAME, newest, timeout=REACHED_S_MAX)
                except headwater.ProjectionBehind as error:
                    recorder.surprises.append(f"the projection stands still: {error.message}")
                    return
                self.raises = False
                await self._release_all(recorder, newest)
        finally:
            self._count(raised)
        # What the runners sent last comes before this, so it is in the final dump.
        await recorder.write(
            "projected",
            Put(("projected",), True),
            call=lambda: database.put(("projected",), True),
        )

    def _count(self, raised: list[tuple[str, int]]) -> None:
        """Keep the failures of a process that ends.

        It may have been cancelled between its last failure and the report of it.
        """
        if raised and not is_reported(*raised[-1], self._history):
            raised.pop()
        self._history.raised += raised

    async def _release_all(self, recorder: Recorder, rounds: int) -> None:
        """Skip what cannot be decoded, and retry all else, until nothing is parked."""
        database = recorder.database
        for _ in range(rounds + 1):
            parked = await database.projections.parked(NAME)
            if not parked:
                self._history.projected = self.category
                return
            for stream in parked:
                # If the outcome is unknown, the next turn sees what is still parked.
                with suppress(headwater.CommitUnknown):
                    if "Undecodable" in stream.reason:
                        self._history.skipped.add(stream.position)
                        await database.projections.skip(NAME, stream.stream)
                    else:
                        await database.projections.retry(NAME, stream.stream)
        recorder.surprises.append(f"streams stay parked: {parked}")


@contextmanager
def reports_into(history: History) -> Iterator[None]:
    """Keep what projections log."""

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            history.reports.append(record.getMessage())

    log, keeper = logging.getLogger("headwater.projections"), Keeper()
    before = log.propagate
    log.addHandler(keeper)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(keeper)
        log.propagate = before


def wrongly_projected(history: History, dump: Dump) -> Iterator[str]:
    """Events that were not handled exactly once and in order, though the projection is level."""
    if not history.projected:
        return
    for stream, handled in dump.projected.items():
        if any(first >= second for first, second in pairwise(handled)):
            yield f"the projection handled {stream} out of order: {handled}"
    for stream, events in dump.streams.items():
        if stream.partition("-")[0] != history.projected:
            continue
        handled = dump.projected.get(stream, [])
        for event in events:
            is_skipped = event.position in history.skipped
            if event.element == erased_element(event.position):
                # It may have been skipped before it was erased, and was handled otherwise.
                is_right = (event.version in handled) != is_skipped
            elif is_unreadable(event.element):
                is_right = is_skipped and event.version not in handled
            else:
                is_right = not is_skipped and event.version in handled
            if not is_right:
                yield (
                    f"the projection passed over {event}, or handled it although it cannot be "
                    f"decoded; it has handled {handled}"
                )


def is_reported(stream: str, version: int, history: History) -> bool:
    """Whether a failure of the handler at an event was logged."""
    return any(f"event {version} of stream {stream}," in report for report in history.reports)


def not_reported(history: History) -> Iterator[str]:
    """Failures of the handler that were not logged with their event.

    Only for worlds without faults, in which each failure counts.
    """
    for stream, version in sorted({*history.raised}):
        if not is_reported(stream, version, history):
            yield f"the handler failed at event {version} of {stream}, and nothing was logged"
