"""A follower brings one build of a projection up to the newest event, and keeps it there.

    subscription --rows--> chunk --one transaction--> handler's writes, and the position
                             |
                             '- a handler fails --> the events before it, the failed event alone,
                                                    the events after it; fails again --> parked

Each transaction reads the position of the build, and writes the new position together with the
writes of the handlers. So every event takes effect once: after a crash, after a commit whose answer
was lost, and if two processes run the same projection. The second process finds that its events
were already processed.

An event that fails parks its stream. From then on the events of this stream are held, and other
streams continue. Held events are not copied: a retry reads them again from their stream.
"""

import logging
import time
import traceback
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from headwater.codecs.codec import Codec
from headwater.codecs.events import from_stored, recorded_event
from headwater.errors import (
    AuthenticationFailed,
    CommitUnknown,
    ConnectionLost,
    HeadwaterError,
    HistoryGone,
    InternalError,
    PermissionDenied,
    ProtocolError,
    TransactionForgotten,
    UnknownOperation,
)
from headwater.feeds.items import CaughtUp
from headwater.feeds.subscription import WINDOW_DEFAULT, Subscription
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
from headwater.transport.backoff import Backoff
from headwater.transport.channel import Channel
from headwater_protocol.operations import SERIALIZABLE, SNAPSHOT

log = logging.getLogger("headwater.projections")

REASON_SIZE_MAX: Final = 2000
"""Characters to store of the reason of a failure: the error and its place, no whole traceback."""

ATTEMPT_PAUSE_FIRST: Final = 0.05
"""Seconds before a failed event is tried again. The other streams wait meanwhile."""

ATTEMPT_PAUSE_MAX: Final = 0.5
"""The longest such pause in seconds, for the same reason."""

RELEASE_EVENTS_MAX: Final = 100
"""The most held events that are handled in one transaction."""

NOT_THE_HANDLERS: Final = (
    AuthenticationFailed,
    CommitUnknown,
    ConnectionLost,
    HistoryGone,
    InternalError,
    PermissionDenied,
    ProtocolError,
    TransactionForgotten,
    UnknownOperation,
)
"""Errors that are not the fault of the event during which they are raised."""

Row = Sequence[Any]
"""An event in the form of the protocol."""

Handler = Callable[[ProjectionTransaction, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """The definition of a projection.

    Attributes:
        name: the name under which its position and its model are stored.
        handler: handler(tx, event), or handler(tx, events) if it is batched.
        wanted: the filter of its events, in the form of the protocol.
        version: of the handler. If it is higher than that of the model, the model is rebuilt.
        batched: whether the handler takes a list of events.
        batch_size: the most events in one transaction.
        batch_seconds: time after which no further event is taken into a transaction.
        attempts: how often an event is tried before its stream is parked.
    """

    name: str
    handler: Handler
    wanted: Mapping[str, Any]
    version: int
    batched: bool
    batch_size: int
    batch_seconds: float
    attempts: int


class Superseded(Exception):
    """The build no longer exists: another one has replaced it."""


class PositionMismatch(Exception):
    """The position of the build went back: it was removed, or restored from a backup."""


class EventFailed(Exception):
    """A handler failed.

    Attributes:
        index: of the event that failed, among those that the handler was given. None: unknown.
        cause: the exception.
    """

    def __init__(self, index: int | None, cause: Exception) -> None:
        super().__init__(index, cause)
        self.index = index
        self.cause = cause


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
        position: of the build, as far as this follower knows.
    """

    def __init__(self, host: Host, projection: Projection, build: int) -> None:
        self.projection = projection
        self.build = build
        self.position = 0
        self._channel: Channel = host.channel
        self._codec: Codec = host.codec
        self._parked: dict[str, ParkedStream] = {}
        self._parkings = 0

    # Following.

    async def follow(self, level: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Handle events, without end; or until *level*, which is called when caught up, is true.

        Raises:
            Superseded: the build no longer exists.
            PositionMismatch: the position of the build went back.
            HeadwaterError: an error that no event has caused. The next call can continue.
        """
        self.position = (await self.run(self._progress)).position
        feed = RowSubscription(
            self._channel,
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
            try:
                done = await self.run(self._apply, chunk, self.position)
            except EventFailed as failure:
                index, error = failure.index, failure.cause
            except HeadwaterError as refused:
                # The commit was refused. A retryable error was retried long enough.
                if refused.retryable or isinstance(refused, NOT_THE_HANDLERS):
                    raise
                index, error = None, refused
            else:
                self.position = chunk[done - 1][0]
                if done < len(chunk):
                    work.appendleft(chunk[done:])
                continue
            if len(chunk) == 1:
                await self._try_again(chunk, error)
                self.position = chunk[0][0]
            else:
                # Isolate the failed event; if it is unknown, split the chunk in half.
                cuts = (len(chunk) // 2,) if index is None else (index, index + 1)
                parts = [chunk[start:end] for start, end in zip((0, *cuts), (*cuts, None))]  # noqa: B905
                work.extendleft(part for part in reversed(parts) if part)

    async def _try_again(self, chunk: Sequence[Row], error: Exception) -> None:
        """Try a failed event a few more times, then park its stream."""
        backoff = Backoff(ATTEMPT_PAUSE_FIRST, ATTEMPT_PAUSE_MAX)
        for _ in range(self.projection.attempts - 1):
            await self._channel.runtime.sleep(backoff.next())
            try:
                await self.run(self._apply, chunk, self.position)
            except EventFailed as failure:
                error = failure.cause
            except HeadwaterError as refused:
                if refused.retryable or isinstance(refused, NOT_THE_HANDLERS):
                    raise
                error = refused
            else:
                return
        await self.run(self._park, chunk[0], error)
        log.warning(
            "projection %s: stream %s is parked at position %s: %s",
            self.projection.name,
            chunk[0][1],
            chunk[0][0],
            error,
        )

    # Transactions.

    async def run(
        self,
        function: Callable[..., Awaitable[Any]],
        *arguments: Any,
        isolation: str = SERIALIZABLE,
    ) -> Any:
        """Call function(tx, …) in a transaction of this build, exactly once."""
        return await running.run(
            self._channel,
            lambda: ProjectionTransaction(
                self._channel, self._codec, self.projection.name, self.build, isolation=isolation
            ),
            function,
            arguments,
            attempts=None,
            deadline=None,
        )

    async def _progress(self, tx: ProjectionTransaction) -> Progress:
        progress = await tx.progress(self.projection.name, self.build)
        if progress is None:
            raise Superseded
        return progress

    def _write(self, tx: ProjectionTransaction, progress: Progress) -> None:
        tx.write_record(build_key(self.projection.name, self.build), progress.record())

    async def _parked_now(
        self, tx: ProjectionTransaction, progress: Progress
    ) -> dict[str, ParkedStream]:
        """The parked streams. They are read only if they have changed."""
        if not progress.parked:
            return {}
        if progress.parkings != self._parkings:
            self._parked = await tx.parked(self.projection.name, self.build)
            self._parkings = progress.parkings
        return self._parked

    async def _apply(self, tx: ProjectionTransaction, rows: Sequence[Row], after: int) -> int:
        """Handle events in order, as many as time allows. Returns their number."""
        progress = await self._progress(tx)
        if progress.position < after:
            raise PositionMismatch
        parked = await self._parked_now(tx, progress)
        now = self._channel.runtime.now
        enough = now() + self.projection.batch_seconds
        held: Counter[str] = Counter()
        together: list[RecordedEvent] = []
        done = 0
        for index, row in enumerate(rows):
            done += 1
            if row[0] <= progress.position:
                continue  # Another process has handled it.
            if row[1] in parked:
                held[row[1]] += 1
            elif self.projection.batched:
                together.append(self._decoded(row, index))
            else:
                await self._handle(tx, self._decoded(row, index), index)
                if now() >= enough:
                    break
        if together:
            await self._handle(tx, together, 0 if len(rows) == 1 else None)
        last = rows[done - 1]
        if last[0] > progress.position:
            for stream, count in held.items():
                tx.add(held_key(self.projection.name, self.build, stream), count)
            self._write(tx, replace(progress, position=last[0], time=last[4]))
        return done

    def _decoded(self, row: Row, index: int) -> RecordedEvent:
        try:
            (event,) = from_stored([recorded_event(row, self._codec)], self._codec)
        except Exception as error:
            raise EventFailed(index, error) from error
        return event

    async def _handle(self, tx: ProjectionTransaction, given: Any, index: int | None) -> None:
        try:
            await self.projection.handler(tx, given)
        except Exception as error:
            if running.can_be_retried(error) or isinstance(error, NOT_THE_HANDLERS):
                raise
            raise EventFailed(index, error) from error

    async def _advance(self, tx: ProjectionTransaction, after: int, position: int) -> None:
        """Record *position*, since there are no events to handle between *after* and it."""
        progress = await self._progress(tx)
        if progress.position < after:
            raise PositionMismatch
        if progress.position < position:
            self._write(tx, replace(progress, position=position))

    async def look_ahead(self) -> None:
        """Skip the events that the filter excludes, if there are no others after the position."""
        await self.run(self._look_ahead, isolation=SNAPSHOT)

    async def _look_ahead(self, tx: ProjectionTransaction) -> None:
        progress = await self._progress(tx)
        position, rows = await tx.events(self.projection.wanted, progress.position, 1)
        if not rows and position > progress.position:
            self._write(tx, replace(progress, position=position))

    # Parking.

    async def _park(self, tx: ProjectionTransaction, row: Row, error: Exception) -> None:
        progress = await self._progress(tx)
        if progress.position >= row[0]:
            return  # Another process has handled it.
        failed = self._failed(row, error, self.projection.attempts)
        tx.write_record(
            parked_key(self.projection.name, self.build, failed.stream), failed.record()
        )
        moved = replace(progress, position=row[0], time=row[4])
        self._write(tx, moved.with_parked(1))

    def _failed(self, row: Row, error: Exception, attempts: int) -> ParkedStream:
        return ParkedStream(
            stream=row[1],
            position=row[0],
            version=row[2],
            type=row[6],
            reason=reason_of(error),
            attempts=attempts,
            since=time.time_ns() // 1000,
        )

    async def release(self, stream: str, *, skip: bool) -> bool:
        """Handle the held events of a parked stream in order. Returns whether all succeeded.

        Args:
            stream: its name.
            skip: skip the event that failed.
        """
        limit = RELEASE_EVENTS_MAX
        while True:
            try:
                more = await self.run(self._release, stream, skip, limit)
            except EventFailed as failure:
                if failure.index:
                    limit = failure.index
                    continue
                if limit > 1:
                    limit = max(1, limit // 2) if failure.index is None else 1
                    continue
                await self.run(self._fail_again, stream, skip, failure.cause)
                return False
            if not more:
                return True
            skip = False
            limit = RELEASE_EVENTS_MAX

    async def _held(
        self, tx: ProjectionTransaction, parked: ParkedStream, skip: bool, limit: int
    ) -> tuple[Progress, list[Row]]:
        """The held events of a parked stream, up to the position of the build."""
        progress = await self._progress(tx)
        wanted = {**self.projection.wanted, "stream": parked.stream}
        after = parked.position if skip else parked.position - 1
        rows: list[Row] = []
        while len(rows) < limit:
            after, page = await tx.events(wanted, after, limit)
            rows += [row for row in page if row[0] <= progress.position]
            if not page or after >= progress.position:
                break
        return progress, rows[:limit]

    async def _release(
        self, tx: ProjectionTransaction, stream: str, skip: bool, limit: int
    ) -> bool:
        """Handle some held events of a stream. Returns whether there may be more."""
        parked = (await tx.parked(self.projection.name, self.build)).get(stream)
        if parked is None:
            return False
        progress, rows = await self._held(tx, parked, skip, limit + 1)
        events = [self._decoded(row, index) for index, row in enumerate(rows[:limit])]
        if self.projection.batched and events:
            await self._handle(tx, events, 0 if len(events) == 1 else None)
        elif not self.projection.batched:
            for index, event in enumerate(events):
                await self._handle(tx, event, index)
        key = parked_key(self.projection.name, self.build, stream)
        held = held_key(self.projection.name, self.build, stream)
        if len(rows) > limit:
            row = rows[limit]
            moved = replace(parked, position=row[0], version=row[2], type=row[6], attempts=0)
            tx.write_record(key, moved.record())
            tx.add(held, -limit)
            self._write(tx, progress.with_parked(0))
            return True
        tx.delete(key)
        tx.delete(held)
        self._write(tx, progress.with_parked(-1))
        return False

    async def _fail_again(
        self, tx: ProjectionTransaction, stream: str, skip: bool, error: Exception
    ) -> None:
        parked = (await tx.parked(self.projection.name, self.build)).get(stream)
        if parked is None:
            return
        progress, rows = await self._held(tx, parked, skip, 1)
        if not rows:
            return
        same = rows[0][0] == parked.position
        failed = self._failed(rows[0], error, parked.attempts + 1 if same else 1)
        tx.write_record(parked_key(self.projection.name, self.build, stream), failed.record())
        if not same:
            tx.add(held_key(self.projection.name, self.build, stream), -1)
        self._write(tx, progress.with_parked(0))


def reason_of(error: Exception) -> str:
    """An error, and the place where it was raised, in a few lines."""
    frames = traceback.extract_tb(error.__traceback__)
    place = (
        f" (at {frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    )
    return f"{type(error).__name__}: {error}"[: REASON_SIZE_MAX - len(place)] + place
