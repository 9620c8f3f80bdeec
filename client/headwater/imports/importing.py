"""Writing the events of a source, each exactly once.

    source --> parts with one time --> transactions: events + progress --> runs of positions

Each transaction requires the progress that its predecessor left, and puts its own. So an
interrupted import goes on where it ended, and of two that run at the same time one is refused.

To keep the times, the server's clock is held at the time of each transaction (`hold_clock`). The
times of a database never decrease. So this needs a database without commits that are newer, and the
right `admin`. Where the times of the source decrease, later ones stay. When an import is
interrupted, the clock goes on. The rest keeps its times if nobody has written anything since.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

from headwater.blocking.database import BlockingDatabase
from headwater.codecs.codec import Codec
from headwater.errors import (
    ConditionFailed,
    HeadwaterError,
    InvalidArgument,
    PermissionDenied,
    WrongVersion,
)
from headwater.identifiers import new_transaction_id
from headwater.imports.positions import (
    Progress,
    complete_runs,
    join_runs,
    progress_of,
    put_progress,
    put_run,
    require_progress,
)
from headwater.imports.source import Source, SourceEvent
from headwater.records import Event, microseconds_of
from headwater.transactions.batch import Batch
from headwater.transport.stepping import step

EVENTS_TOGETHER_MAX: Final = 1000
"""Events that are sent at once. They share a sync, and what was not yet answered is sent again."""

SIZE_TOGETHER_MAX: Final = 4 * 1024 * 1024
"""Bytes of data that are sent at once, unless a single event is larger."""

Times = Literal["keep", "now"]


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import.

    Attributes:
        events: how many there are now, with those of earlier, interrupted runs.
        written: how many this run wrote.
        later: how many have a later time than in the source, where its times went back.
        position: the last position of the source that was read.
    """

    events: int
    written: int
    later: int
    position: int


def import_events(
    db: BlockingDatabase,
    source: Source,
    *,
    name: str,
    times: Times = "keep",
    on_progress: Callable[[int], object] | None = None,
) -> Imported:
    """Write all events of a source into a database, each exactly once.

    Call it again after an interruption, or when the source has grown: it goes on behind the last
    event that it wrote. Times are then kept only if nobody else has written since.

    Args:
        db: the database, with a user that may write the streams and the keys below "$import".
        source: where to read.
        name: of the import; its progress and its table of positions are stored under it.
        times: "keep": events get the times that they had. "now": they get that of the import.
        on_progress: called with the number of events after each step.

    Raises:
        InvalidArgument: the times cannot be kept, or an event cannot be stored; the message says
            where.
        WrongVersion: a stream has other events already.
        ConditionFailed: another process runs the same import.
    """
    if times not in ("keep", "now"):
        raise InvalidArgument(f"import: times: expected 'keep' or 'now', got {times!r:.60}")
    writer = _Writer(db, source.codec, name, keeps_times=times == "keep")
    before = writer.progress.events
    try:
        for part in _parts(source.events(writer.progress.position)):
            writer.write(part)
            if on_progress is not None:
                on_progress(writer.progress.events)
        writer.finish()
    finally:
        writer.release()
    done = writer.progress
    return Imported(done.events, done.events - before, done.later, done.position)


def _parts(events: Iterator[SourceEvent]) -> Iterator[list[SourceEvent]]:
    part: list[SourceEvent] = []
    size = 0
    last = 0
    for event in events:
        if event.position <= last:
            raise InvalidArgument(
                f"import: position {event.position} follows {last}; positions must grow"
            )
        last = event.position
        # Encoded sizes are not known yet; text and bytes are what is large.
        length = len(event.data) if isinstance(event.data, bytes | str) else len(str(event.data))
        if part and (len(part) == EVENTS_TOGETHER_MAX or size + length > SIZE_TOGETHER_MAX):
            yield part
            part, size = [], 0
        part.append(event)
        size += length
    if part:
        yield part


class _Writer:
    """Writes parts, and knows the progress."""

    def __init__(
        self, db: BlockingDatabase, codec: Codec | None, name: str, *, keeps_times: bool
    ) -> None:
        self._db = db
        self._codec = codec
        self._name = name
        self._keeps_times = keeps_times
        self._holds = False
        self._stored = progress_of(db, name)
        self.progress = self._stored or Progress()
        self._time = self.progress.time
        # Do this while the clock is held: what it writes must not be newer than the events.
        self._is_complete = self._stored is None or self.progress.finished

    def write(self, part: list[SourceEvent]) -> None:
        """Write a part: a transaction for each time, all sent together."""
        requests: list[tuple[Any, ...]] = []
        written: list[list[SourceEvent]] = []
        times: list[int] = []
        progress, stored = self.progress, self._stored
        for time, events in self._by_time(part):
            batch = self._db.batch() if self._codec is None else Batch(self._codec)
            require_progress(batch, self._name, stored)
            later = sum(
                event.time is not None and microseconds_of(event.time, "time") < time
                for event in events
            )
            progress = Progress(
                position=events[-1].position,
                events=progress.events + len(events),
                later=progress.later + (later if self._keeps_times else 0),
                time=time,
            )
            stored = progress
            put_progress(batch, self._name, progress)
            put_run(batch, self._name, [event.position for event in events], events[0].id)
            self._append(batch, events)
            if self._keeps_times and time:
                requests.append(("hold_clock", time))
            requests.append(("execute", new_transaction_id(), *batch.request()))
            written.append(events)
            times.append(time)
        firsts = self._send(requests, written, times)
        self.progress = self._stored = progress
        olds = [[event.position for event in events] for events in written]
        join_runs(self._db, self._name, list(zip(olds, firsts, strict=True)))

    def _by_time(self, part: list[SourceEvent]) -> Iterator[tuple[int, list[SourceEvent]]]:
        """The events of a part, divided where the time changes. Times never go back."""
        if not self._keeps_times:
            yield 0, part
            return
        group: list[SourceEvent] = []
        for event in part:
            time = self._time
            if event.time is not None:
                time = max(time, microseconds_of(event.time, f"time of {event.position}"))
            if group and time != self._time:
                yield self._time, group
                group = []
            self._time = time
            group.append(event)
        yield self._time, group

    def _append(self, batch: Batch, events: list[SourceEvent]) -> None:
        start = 0
        while start < len(events):
            first = events[start]
            end = start + 1
            while end < len(events) and _follows(events[end - 1], events[end]):
                end += 1
            stored = [
                Event(each.type, each.data, each.metadata, each.id, each.tags)
                for each in events[start:end]
            ]
            try:
                if first.version is None:
                    batch.append(first.stream, stored)
                else:
                    batch.append(first.stream, stored, expect=first.version - 1)
            except InvalidArgument as error:
                raise InvalidArgument(
                    f"import: positions {first.position} to {events[end - 1].position}: "
                    f"{error.message}"
                ) from error
            start = end

    def _send(
        self,
        requests: list[tuple[Any, ...]],
        written: list[list[SourceEvent]],
        times: list[int],
    ) -> list[int]:
        """Send all requests, and return the first new position of each transaction."""
        connection = step(self._db._core._channel.connection())  # noqa: SLF001
        where = f"positions {written[0][0].position} to {written[-1][-1].position}"
        if self._keeps_times and times[-1]:
            self._hold(connection, times[0], times[-1], where)
        self._complete_runs()
        try:
            answers = step(connection.exchange(requests))
        except WrongVersion as error:
            raise WrongVersion(
                f"import: {where}: {error.message}; the stream has other events",
                details=error.details,
            ) from error
        except ConditionFailed as error:
            raise ConditionFailed(
                f"import {self._name!r}: {where}: another process imports the same, or this one "
                f"lost its connection and had written them ({error.message}); run it again",
                details=error.details,
            ) from error
        committed = [answer[0] for answer in answers if answer is not None]
        for (_, at, *_), events, time in zip(committed, written, times, strict=True):
            if self._keeps_times and time and at != time:
                raise InvalidArgument(
                    f"import: positions {events[0].position} to {events[-1].position} were stored "
                    "with another time, since the clock of the server went on"
                )
        return [answer[2] for answer in committed]

    def _complete_runs(self) -> None:
        if not self._is_complete:
            complete_runs(self._db, self._name)
            self._is_complete = True

    def _hold(self, connection: Any, first: int, last: int, where: str) -> None:
        """Hold the clock at the first time of a part, before the part is sent."""
        if last > microseconds_of(datetime.now(UTC), "now"):
            raise InvalidArgument(
                f"import: {where}: a time is yet to come; import with that of now"
            )
        try:
            step(connection.exchange([("hold_clock", first)]))
        except (InvalidArgument, PermissionDenied) as error:
            raise InvalidArgument(
                f"import: {where}: the times cannot be kept: {error.message}. They can in a "
                "database without newer commits, by a user with the right admin. Or import with "
                "the time of now"
            ) from error
        self._holds = True

    def finish(self) -> None:
        """Store that the end was reached."""
        if self.progress.finished:
            return
        self._complete_runs()
        batch = self._db.batch()
        require_progress(batch, self._name, self._stored)
        self.progress = replace(self.progress, finished=True)
        put_progress(batch, self._name, self.progress)
        self._db.execute(batch)

    def release(self) -> None:
        """Let the clock of the server go on."""
        if not self._holds:
            return
        try:
            step(self._db._core._channel.read("hold_clock", None))  # noqa: SLF001
        except HeadwaterError:
            # The connection that held it is gone, and so the clock goes on.
            return


def _follows(one: SourceEvent, other: SourceEvent) -> bool:
    """Whether the second event can be appended with the first."""
    if one.stream != other.stream:
        return False
    if one.version is None or other.version is None:
        return one.version is other.version
    return other.version == one.version + 1
