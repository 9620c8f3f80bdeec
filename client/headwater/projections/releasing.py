"""Releasing a parked stream: its held events are handled in order, from the one that failed.

    parked at 17 | 18 21 30 held | position of the build
         '--step: 17 18--> parked at 21 | 30 | --step: 21--> parked at 30 --finish: 30--> not parked

No transaction here reads or writes the position of the build. The projection writes it with each of
its batches, so a release would otherwise conflict with every batch of a busy projection. What the
two have to agree on is the stream alone: a batch that meets an event of a parked stream reads the
key of that stream, and adds to the number of its held events. The last transaction reads that
number and deletes both. So either the batch finds that the stream is no longer parked, or the
release finds that there are more events.

A step that meets a conflict of the model itself is made smaller. Events never change, so they are
read outside of the transaction that handles them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from headwater.errors import Conflict, HeadwaterError
from headwater.projections.failures import (
    EventFailed,
    Row,
    is_of_the_transaction,
    tell,
)
from headwater.projections.follower import Follower, Superseded, failed_at
from headwater.projections.state import (
    RECORDS,
    ParkedStream,
    ProjectionTransaction,
    build_key,
    held_key,
    parked_key,
    skipped_key,
)
from headwater_protocol.keys import encode_key
from headwater_protocol.operations import SNAPSHOT

STEP_EVENTS_MAX: Final = 100
"""The most held events that are handled in one transaction."""

FINISH_EVENTS_MAX: Final = 10
"""The most held events that are left for the last transaction."""

STEP_ATTEMPTS: Final = 3
"""Conflicts of a step with several events before it is made smaller."""


@dataclass(frozen=True, slots=True)
class Held:
    """The next held events of a parked stream.

    Attributes:
        parked: the stream as it is parked.
        position: of the build. The events up to here are held.
        rows: the events from the one that failed, without those that were skipped.
        positions: of all events that were looked at, in order.
    """

    parked: ParkedStream
    position: int
    rows: Sequence[Row]
    positions: Sequence[int]

    def passed(self, position: int) -> int:
        """How many events that wait behind the parked one are at or before a position."""
        return sum(self.parked.position < each <= position for each in self.positions)


class Release:
    """The release of one parked stream of a build."""

    def __init__(self, follower: Follower, stream: str) -> None:
        self._follower = follower
        self._stream = stream
        self._name = follower.projection.name
        self._key = parked_key(self._name, follower.build, stream)
        self._held_key = held_key(self._name, follower.build, stream)
        self._tried: Sequence[Row] = ()

    async def run(self) -> bool:
        """Handle the held events in order. Returns whether all succeeded.

        Raises:
            Superseded: the build no longer exists.
            HeadwaterError: an error that no event has caused.
        """
        limit = STEP_EVENTS_MAX
        failed: tuple[Row, BaseException] | None = None
        while (held := await self._look(limit + 1)) is not None:
            if failed is not None and held.rows and held.rows[0][0] == failed[0][0]:
                # The events before the one that failed are handled now. It is not tried twice.
                await self._follower.run(self._fail_again, held, *failed)
                return False
            is_step = len(held.rows) > min(limit, FINISH_EVENTS_MAX)
            # A step leaves one event, at which the stream stays parked.
            count = min(limit, len(held.rows) - 1) if is_step else len(held.rows)
            self._tried = held.rows[:count]
            # A single event has to succeed in the end, so its conflicts are retried for longer.
            attempts = STEP_ATTEMPTS if count > 1 else None
            try:
                work = self._step if is_step else self._finish
                await self._follower.run(work, held, count, attempts=attempts)
            except EventFailed as failure:
                index, error = failure.index, failure.cause
            except Conflict:
                if count <= 1:
                    raise
                limit = count // 2
                continue
            except HeadwaterError as refused:
                if is_of_the_transaction(refused) or not self._tried:
                    raise
                index, error = None, refused
            else:
                limit = min(STEP_EVENTS_MAX, limit * 2)
                continue
            if len(self._tried) <= 1 or index == 0:
                await self._follower.run(self._fail_again, held, self._tried[0], error)
                return False
            # The events before the one that failed; if it is unknown, half of them.
            if index is not None:
                failed = self._tried[index], error
            limit = len(self._tried) // 2 if index is None else index
        return True

    async def skip(self) -> None:
        """Leave the event that failed out of this build and of every later one."""
        await self._follower.run(self._skip)

    async def _look(self, limit: int) -> Held | None:
        held: Held | None = await self._follower.run(self._read, limit, isolation=SNAPSHOT)
        return held

    async def _read(self, tx: ProjectionTransaction, limit: int) -> Held | None:
        """The next held events, at least *limit* if there are as many. None: it is not parked."""
        parked = await tx.parked_stream(self._name, self._follower.build, self._stream)
        if parked is None:
            return None
        progress = await self._follower.progress_in(tx)
        skipped = await tx.skipped(self._name)
        wanted = {**self._follower.projection.wanted, "stream": self._stream}
        after = parked.position - 1
        rows: list[Row] = []
        positions: list[int] = []
        while len(rows) < limit:
            page = await tx.events(wanted, after, progress.position, limit)
            if not page:
                break
            after = page[-1][0]
            positions += [row[0] for row in page]
            rows += [row for row in page if row[0] not in skipped]
        return Held(parked, progress.position, rows[:limit], positions)

    async def _handle(self, tx: ProjectionTransaction, rows: Sequence[Row]) -> None:
        follower = self._follower
        events = [follower.decoded(row, index) for index, row in enumerate(rows)]
        if follower.projection.batched and events:
            await follower.handle(tx, events, 0 if len(events) == 1 else None)
        elif not follower.projection.batched:
            for index, event in enumerate(events):
                await follower.handle(tx, event, index)

    async def _is_unchanged(self, tx: ProjectionTransaction, held: Held) -> bool:
        """Whether the stream is still parked where it was; another release may have moved it."""
        now = await tx.parked_stream(self._name, self._follower.build, self._stream)
        return now is not None and now.position == held.parked.position

    async def _step(self, tx: ProjectionTransaction, held: Held, count: int) -> None:
        """Handle the first events, and park the stream at the one after them."""
        if not await self._is_unchanged(tx, held):
            return
        await self._handle(tx, held.rows[:count])
        following = held.rows[count]
        moved = replace(
            held.parked, position=following[0], version=following[2], type=following[6], attempts=0
        )
        tx.write_record(self._key, moved.record())
        tx.add(self._held_key, -held.passed(following[0]))

    async def _finish(self, tx: ProjectionTransaction, held: Held, _count: int) -> None:
        """Handle the last held events, and return the stream to the projection."""
        if not await self._is_unchanged(tx, held):
            return
        # If a batch adds an event after the view of this transaction, the commit is a conflict.
        await tx.read_record(self._held_key)
        more = await self._held_since(held)
        if more is None:
            return
        self._tried = [*held.rows, *more]
        await self._handle(tx, self._tried)
        tx.delete(self._key)
        tx.delete(self._held_key)

    async def _held_since(self, held: Held) -> list[Row] | None:
        """The events that are held since *held* was read. None: too many for one transaction.

        This reads the newest state, which is at least as new as that of the transaction.
        """
        key = build_key(self._name, self._follower.build)
        data = await self._follower.channel.fetch("get", encode_key(key))
        if data is None:
            raise Superseded
        position = RECORDS.decode(data)["position"]
        wanted = {**self._follower.projection.wanted, "stream": self._stream}
        rows: list[Row] = []
        after = held.position
        while after < position:
            _, after, page, _ = await self._follower.channel.fetch(
                "read_all", after, wanted, STEP_EVENTS_MAX, False
            )
            rows += [row for row in page if row[0] <= position]
            if len(rows) > STEP_EVENTS_MAX:
                return None
        return rows

    async def _fail_again(
        self, tx: ProjectionTransaction, held: Held, row: Row, error: BaseException
    ) -> None:
        """Park the stream at the event that failed now."""
        if not await self._is_unchanged(tx, held):
            return
        same = row[0] == held.parked.position
        failed = failed_at(row, error, held.parked.attempts + 1 if same else 1)
        tell(self._name, row, error, f"stream {self._stream} stays parked")
        tx.write_record(self._key, failed.record())
        if not same:
            # The event may have come after *held* was read.
            passed = held.passed(row[0]) + (row[0] > held.position)
            tx.add(self._held_key, -passed)

    async def _skip(self, tx: ProjectionTransaction) -> None:
        parked = await tx.parked_stream(self._name, self._follower.build, self._stream)
        if parked is None:
            return
        tx.write_record(
            skipped_key(self._name, parked.position),
            {
                "stream": parked.stream,
                "version": parked.version,
                "type": parked.type,
                "since": time.time_ns() // 1000,
            },
        )
        head = await tx.head(self._name)
        if head is None or head.next is None:
            return
        progress = await tx.progress(self._name, head.next.number)
        if progress is not None:
            # Whoever makes the next build reads again which events are skipped.
            tx.write_record(build_key(self._name, head.next.number), progress.with_skip().record())
