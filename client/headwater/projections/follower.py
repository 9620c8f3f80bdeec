"""A follower brings one build of a projection up to the newest event, and keeps it there.

    subscription --rows--> chunk --one transaction--> handler's writes, and the position
                             |
                             '- a handler fails --> the events before it, the failed event alone
                                                    until its attempts are used up and it is parked,
                                                    the events after it

Each transaction reads the position of the build, and writes the new position together with the
writes of the handlers. So every event takes effect once: after a crash, after a commit whose answer
was lost, and if two processes run the same projection. The second process finds that its events
were already processed.

An event that fails parks its stream. From then on the events of this stream are held, and other
streams continue. Held events are not copied: a retry reads them again from their stream.
"""

import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headwater.causation import cause
from headwater.codecs.codec import Codec
from headwater.codecs.events import recorded_event
from headwater.errors import HeadwaterError
from headwater.feeds.items import CaughtUp
from headwater.feeds.subscription import WINDOW_DEFAULT, Subscription
from headwater.projections.failures import (
    EventFailed,
    Failures,
    Row,
    is_of_the_transaction,
    reason_of,
    tell,
)
from headwater.projections.host import Host
from headwater.projections.state import (
    ParkedStream,
    Progress,
    ProjectionTransaction,
    build_key,
    held_key,
    parked_key,
)
from headwater.records import RecordedEvent
from headwater.transactions import running
from headwater.transactions.transaction import Isolation
from headwater.transport.channel import Channel
from headwater.transport.tasks import ends_the_task
from headwater_protocol.operations import SERIALIZABLE, SNAPSHOT

Handler = Callable[[ProjectionTransaction, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """The definition of a projection.

    Attributes:
        name: the name under which its position and its model are stored.
        handler: handler(tx, event), or handler(tx, events) if it is batched.
        effects: effects(tx, event), for each event that no other build has dealt with; or None.
        wanted: the filter of its events, in the form of the protocol.
        version: of the handler. If it is higher than that of the model, the model is rebuilt.
        batched: whether the handler takes a list of events.
        batch_size: the most events in one transaction.
        batch_seconds: time after which no further event is taken into a transaction.
        attempts: how often an event is tried before its stream is parked. A list of events that
            fails in a batched handler does not count, unless it has one event.
    """

    name: str
    handler: Handler
    wanted: Mapping[str, Any]
    version: int
    batched: bool
    batch_size: int
    batch_seconds: float
    attempts: int
    effects: Handler | None = None


class Superseded(Exception):
    """The build no longer exists: another one has replaced it."""


class PositionMismatch(Exception):
    """The position of the build went back: it was removed, or restored from a backup."""


class RowSubscription(Subscription):
    """A subscription that does not decode events.

    An event that cannot be decoded parks its stream. It must not end the subscription.
    """

    def _item(self, payload: list[Any]) -> Any:
        if payload[0] != "events":
            return super()._item(payload)
        self._last_size = len(payload[1])
        return Rows(payload[1])

    def take_more(self, count: int) -> list[Row]:
        """Take more rows from the queue, whole pushes, until there are at least *count*."""
        rows: list[Row] = []
        while self._queue and self._queue[0][0] == "events" and len(rows) < count:
            payload = self._queue.popleft()
            rows += payload[1]
        if rows:
            self._last_size += len(rows)
            self.position = rows[-1][0]
        return rows


class Rows(list[Row]):
    """The events of a push."""

    @property
    def position(self) -> Any:
        """The position of the last event."""
        return self[-1][0]


class Follower:
    """Brings one build up to the newest event.

    Attributes:
        projection: with the handler.
        build: the number of the build.
        position: of the build, as far as this follower knows.
        channel: to the server.
    """

    def __init__(
        self,
        host: Host,
        projection: Projection,
        build: int,
        failures: Failures | None = None,
    ) -> None:
        self.projection = projection
        self.build = build
        self.position = 0
        # Progress is read where it is written. Events may come from any node.
        self.channel: Channel = host.channel.at_leader
        self._feeds: Channel = host.channel
        self._codec: Codec = host.codec
        self._failures = Failures() if failures is None else failures
        self._parked: dict[str, ParkedStream] = {}
        self._skipped: frozenset[int] = frozenset()
        self._parkings = -1

    # Following.

    async def follow(self, level: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Handle events, without end; or until *level*, which is called when caught up, is true.

        Raises:
            Superseded: the build no longer exists.
            PositionMismatch: the position of the build went back.
            HeadwaterError: an error that no event has caused. The next call can continue.
        """
        self.position = (await self.run(self.progress_in)).position
        feed = RowSubscription(
            self._feeds,
            self._codec,
            after=self.position,
            wanted=dict(self.projection.wanted),
            window=WINDOW_DEFAULT,
        )
        caught_up = False
        async with feed:
            async for item in feed:
                if isinstance(item, Rows):
                    await self.project([*item, *feed.take_more(self.projection.batch_size)])
                elif isinstance(item, CaughtUp):
                    caught_up = True
                    await self.run(self._advance, self.position, item.position)
                    self.position = max(self.position, item.position)
                else:
                    caught_up = False
                if caught_up and level is not None and await level():
                    return

    async def project(self, rows: Sequence[Row]) -> None:
        """Handle the next events, in as many transactions as needed."""
        size = self.projection.batch_size
        work = deque(rows[start : start + size] for start in range(0, len(rows), size))
        while work:
            chunk = work.popleft()
            if len(chunk) == 1 and await self._is_given_up(chunk[0]):
                self.position = chunk[0][0]
                continue
            try:
                done = await self.run(self._apply, chunk, self.position)
            except EventFailed as failure:
                index, error = failure.index, failure.cause
            except HeadwaterError as refused:
                # The commit was refused. A retryable error was retried long enough.
                if is_of_the_transaction(refused):
                    raise
                index, error = None, refused
            else:
                self.position = chunk[done - 1][0]
                if len(chunk) == 1:
                    self._failures.forget(self.build, chunk[0])
                if done < len(chunk):
                    work.appendleft(chunk[done:])
                continue
            if len(chunk) == 1:
                index = 0
            if index is not None:
                self._count(chunk[index], error)
            # Isolate the failed event; if it is unknown, split the chunk in half.
            cuts = (len(chunk) // 2,) if index is None else (index, index + 1)
            parts = [chunk[start:end] for start, end in zip((0, *cuts), (*cuts, None))]  # noqa: B905
            work.extendleft(part for part in reversed(parts) if part)

    def _count(self, row: Row, error: BaseException) -> None:
        """Count and log a failed attempt."""
        failure = self._failures.count(self.build, row, error)
        left = self.projection.attempts - failure.attempts
        outcome = f"attempt {failure.attempts} of {self.projection.attempts}"
        if left <= 0:
            outcome += f"; stream {row[1]} is parked"
        tell(self.projection.name, row, error, outcome)

    async def _is_given_up(self, row: Row) -> bool:
        """Park the stream of an event whose attempts are used up; else wait before the next one."""
        failure = self._failures.find(self.build, row)
        if failure is None:
            return False
        if failure.attempts < self.projection.attempts:
            await self.channel.runtime.sleep(failure.pause)
            return False
        await self.run(self._park, row, failure.error, failure.attempts)
        self._failures.forget(self.build, row)
        return True

    # Transactions.

    async def run(
        self,
        function: Callable[..., Awaitable[Any]],
        *arguments: Any,
        isolation: Isolation = SERIALIZABLE,
        attempts: int | None = None,
    ) -> Any:
        """Call function(tx, …) in a transaction of this build, exactly once."""
        return await running.run(
            self.channel,
            lambda: ProjectionTransaction(
                self.channel, self._codec, self.projection.name, self.build, isolation=isolation
            ),
            function,
            arguments,
            attempts=attempts,
            deadline=None,
        )

    async def progress_in(self, tx: ProjectionTransaction) -> Progress:
        """The progress of the build.

        Raises:
            Superseded: the build no longer exists.
        """
        progress = await tx.progress(self.projection.name, self.build)
        if progress is None:
            raise Superseded
        return progress

    def _write(self, tx: ProjectionTransaction, progress: Progress) -> None:
        tx.write_record(build_key(self.projection.name, self.build), progress.record())

    async def _note_parkings(self, tx: ProjectionTransaction, progress: Progress) -> None:
        """Read the parked streams and the skipped events, if they have changed."""
        if progress.parkings != self._parkings:
            name = self.projection.name
            self._parked = await tx.parked(name, self.build) if progress.parked else {}
            self._skipped = await tx.skipped(name)
            self._parkings = progress.parkings

    async def _check_parked(self, tx: ProjectionTransaction, stream: str) -> None:
        """Read whether a stream is still parked. A release that ends meanwhile is a conflict."""
        if await tx.parked_stream(self.projection.name, self.build, stream) is None:
            del self._parked[stream]

    async def _apply(self, tx: ProjectionTransaction, rows: Sequence[Row], after: int) -> int:
        """Handle events in order, as many as time allows. Returns their number."""
        progress = await self.progress_in(tx)
        if progress.position < after:
            raise PositionMismatch
        await self._note_parkings(tx, progress)
        now = self.channel.runtime.now
        enough = now() + self.projection.batch_seconds
        held: Counter[str] = Counter()
        checked: set[str] = set()
        together: list[RecordedEvent] = []
        done = 0
        for index, row in enumerate(rows):
            done += 1
            if row[0] <= progress.position or row[0] in self._skipped:
                continue  # Another process has handled it, or it is skipped.
            if row[1] in self._parked and row[1] not in checked:
                checked.add(row[1])
                await self._check_parked(tx, row[1])
            if row[1] in self._parked:
                held[row[1]] += 1
            elif self.projection.batched:
                together.append(self.decoded(row, index))
            else:
                await self.handle(tx, self.decoded(row, index), index)
                if now() >= enough:
                    break
        if together:
            await self.handle(tx, together, 0 if len(rows) == 1 else None)
        last = rows[done - 1]
        if last[0] > progress.position:
            for stream, count in held.items():
                tx.add(held_key(self.projection.name, self.build, stream), count)
            self._write(tx, replace(progress, position=last[0], time=last[4]))
        return done

    def decoded(self, row: Row, index: int) -> RecordedEvent:
        """An event for the handler.

        Raises:
            EventFailed: it cannot be decoded.
        """
        event = recorded_event(row, self._codec)
        try:
            # Decoded here, so that the event is named also if a handler gets several.
            event.data  # noqa: B018
        except Exception as error:
            raise EventFailed(index, error) from error
        return event

    async def handle(self, tx: ProjectionTransaction, given: Any, index: int | None) -> None:
        """Call the handler with an event or a list of events.

        Raises:
            EventFailed: the handler failed.
            HeadwaterError: the transaction cannot go on.
        """
        tx.handled = True
        try:
            # Of several events, only the handler knows which one is the cause.
            alone = given if isinstance(given, RecordedEvent) else None
            with cause(alone):
                await self.projection.handler(tx, given)
            if self.projection.effects is not None:
                await self._take_effects(tx, [given] if alone is not None else given)
        except BaseException as error:
            if ends_the_task(error):
                raise
            await self._check_alive(tx)
            raise EventFailed(index, error) from error

    async def _take_effects(
        self, tx: ProjectionTransaction, events: Sequence[RecordedEvent]
    ) -> None:
        assert self.projection.effects is not None
        for event in events:
            if not await tx.seen_before(event):
                with cause(event):
                    await self.projection.effects(tx, event)

    async def _check_alive(self, tx: ProjectionTransaction) -> None:
        """Raise the transaction's error if it cannot continue and the handler is not the cause.

        If the handler lost another connection to the same server, this one may be lost too. So this
        asks the server.
        """
        if tx.broken is None:
            try:
                await tx.read_record(build_key(self.projection.name, self.build))
            except HeadwaterError as error:
                tx.broken = error
        if tx.broken is not None and is_of_the_transaction(tx.broken):
            raise tx.broken

    async def _advance(self, tx: ProjectionTransaction, after: int, position: int) -> None:
        """Record *position*, since there are no events to handle between *after* and it."""
        progress = await self.progress_in(tx)
        if progress.position < after:
            raise PositionMismatch
        if progress.position < position:
            self._write(tx, replace(progress, position=position))

    async def look_ahead(self) -> None:
        """Skip the events that the filter excludes, if there are no others after the position."""
        await self.run(self._look_ahead, isolation=SNAPSHOT)

    async def _look_ahead(self, tx: ProjectionTransaction) -> None:
        progress = await self.progress_in(tx)
        position, rows = await tx.search(self.projection.wanted, progress.position)
        if not rows and position > progress.position:
            self._write(tx, replace(progress, position=position))

    # Parking.

    async def _park(
        self, tx: ProjectionTransaction, row: Row, error: BaseException, attempts: int
    ) -> None:
        progress = await self.progress_in(tx)
        if progress.position >= row[0]:
            return  # Another process has handled it.
        await self._note_parkings(tx, progress)
        if row[1] in self._parked:
            await self._check_parked(tx, row[1])
        if row[1] in self._parked:
            # It had failed before an earlier event of its stream did, and waits behind that one.
            tx.add(held_key(self.projection.name, self.build, row[1]), 1)
            self._write(tx, replace(progress, position=row[0], time=row[4]))
            return
        failed = failed_at(row, error, attempts)
        tx.write_record(
            parked_key(self.projection.name, self.build, failed.stream), failed.record()
        )
        moved = replace(progress, position=row[0], time=row[4])
        self._write(tx, moved.with_parking())


def failed_at(row: Row, error: BaseException, attempts: int) -> ParkedStream:
    """The stream of an event that failed, to be parked there."""
    return ParkedStream(
        stream=row[1],
        position=row[0],
        version=row[2],
        type=row[6],
        reason=reason_of(error),
        attempts=attempts,
        since=time.time_ns() // 1000,
    )
