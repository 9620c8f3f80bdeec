"""Rewriting: removes hidden events and erased data from disk.

    begin    decide what may be removed, up to which commit      reading thread
    run      rewrite segments of the event log                   any thread, without a checkpoint
    finish   close the old files                                 reading thread

Hidden events are removed once no commit of the history window and no open transaction can read
them. A walk over the streams with a rule counts their bytes by segment, and a segment is rewritten
if enough of it is hidden. INDEX stores how far each stream was removed, so the cost of a walk
depends on what was hidden since the last one. Positions, postings and commits do not change: a
removed event leaves an empty entry, which readers skip.

Erased data is removed without waiting for readers. Its masks (see rules.py) stay until the event
log is rewritten *and* the write-ahead log has removed the segments with the original data. Then the
masks are deleted directly from the store, without a trace in history.

A rewrite can be interrupted at any point. Nothing is removed before its replacement is durable, and
a repeated run skips what is done. One run rewrites few segments, so that a checkpoint need not wait
for long.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from headwater_protocol.limits import PAGE_SIZE_MAX
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.events import decode_event, erase_event
from headwater_server.engine.format.index_keys import (
    META_HORIZON,
    NUMBER,
    NUMBER_END,
    history_key,
    history_prefix,
    latest_value,
    parse_history_key,
    parse_latest,
    parse_number,
    removed_key,
)
from headwater_server.engine.log_clock import LogTime
from headwater_server.engine.retention.rules import Visibility, as_of, stored_rule
from headwater_server.engine.settings import EngineSettings
from headwater_server.engine.state.layers import State
from headwater_server.engine.state.stored_state import StoredState
from headwater_server.storage.events.event_segment import EventSegment
from headwater_server.storage.store.interface import Family, WriteBatch
from headwater_server.storage.wal.interface import WriteAheadLog

STREAMS_MAX: Final = 1_000
"""Streams that one run examines; each costs some look-ups."""

POSITIONS_MAX: Final = 200_000
"""About the most hidden events that one run looks up in their segments."""

ERASED_SEGMENTS_MAX: Final = 4
"""Segments with erased events that one run rewrites, at about a second of work each."""

_EVENTS: Final = 64
"""Events that are decoded at a time, within a bound of bytes, because each may be large."""

_SLICE: Final = 10_000
"""Versions of a stream that are looked up at a time."""


@dataclass(slots=True)
class Walk:
    """A walk over the streams with rules, which continues from run to run.

    Attributes:
        after: the key of the last stream that was examined.
        dead: bytes of hidden events, by the first position of their segment.
        due: segments that the last finished walk found worth rewriting.
    """

    after: bytes = keyspaces.RETENTION
    dead: dict[int, int] = field(default_factory=dict)
    due: deque[int] = field(default_factory=deque)


@dataclass(slots=True)
class Rewrite:
    """A run that has begun and is not finished.

    Attributes:
        erased: positions whose data must be removed, including those that `finish` unmasks.
        given_back: bytes by which the event log has shrunk.
        removed: hidden events that were removed.
        complete: whether the walk has ended and no segment is left to rewrite.
    """

    files: StoredState
    view: int
    horizon: int
    now: int
    is_in_use: bool
    erased: set[int]
    rewritten: set[int]
    log_is_clean: bool
    walk: Walk
    settings: EngineSettings
    given_back: int = 0
    removed: int = 0
    complete: bool = False
    unmasked: list[int] = field(default_factory=list)

    def run(self) -> None:
        """Rewrite what is due. Blocks; may run in another thread, but not during a checkpoint.

        Raises:
            DiskFull: there is no room for a second copy of a segment; nothing is lost.
            DamagedFile: a segment has a damaged event; the segment is left as it is.
        """
        state = State(self.files.for_another_thread())
        state.retention.in_use = self.is_in_use
        visibility = Visibility(
            state,
            state.position_at(self.view),
            rule_of=lambda stream: stored_rule(state, stream, self.view),
            now=self.now,
        )
        if self.erased:
            self._erase(visibility)
        if not self.is_in_use:
            self.complete = True
            return
        self._keep_horizon()
        if not self.walk.due:
            self._go_on(visibility)
        if self.walk.due:
            first = self.walk.due.popleft()
            for segment in self.files.event_log.segments:
                if segment.first == first:
                    self._write_anew(segment, visibility)
        self.complete = not self.walk.due and self.walk.after == keyspaces.RETENTION

    def _keep_horizon(self) -> None:
        """Store the horizon, so that no read begins below it after a restart."""
        store = self.files.store
        if parse_number(store.get(Family.INDEX, META_HORIZON)) < self.horizon:
            batch = WriteBatch()
            batch.put(Family.INDEX, META_HORIZON, NUMBER.pack(self.horizon))
            store.write(batch)
            store.flush()

    # Erased events.

    def _erase(self, visibility: Visibility) -> None:
        waiting = sorted(self.erased - self.rewritten)
        written = 0
        for segment in self.files.event_log.segments:
            low, high = bisect_left(waiting, segment.first), bisect_right(waiting, segment.last)
            if low == high:
                continue
            if written == ERASED_SEGMENTS_MAX:
                return
            streams: set[str] = set()
            start = low
            while start < high:
                here = waiting[start : min(high, start + _EVENTS)]
                stored = self.files.events_within(here, PAGE_SIZE_MAX, least=1)
                start += len(stored)
                events = [decode_event(each) for each in stored if each]
                streams.update(event.stream for event in events if event.data is not None)
            for stream in sorted(streams):
                self._empty_snapshots(stream)
            if streams:
                self._write_anew(segment, visibility)
                written += 1
            self.rewritten.update(waiting[low:high])
        if self.log_is_clean:
            self._remove_masks()

    def _empty_snapshots(self, stream: str) -> None:
        """Empty old versions of snapshots with erased data; no read returns these snapshots.

        An erasure ends the versions with its data. One that outlived it was made without the data.
        """
        store = self.files.store
        state = State(self.files.for_another_thread())
        rule = stored_rule(state, stream, self.files.applied_commit)
        batch = WriteBatch()
        emptied: list[bytes] = []
        first, last = keyspaces.snapshots_of(stream)
        for key, _ in store.scan(Family.LATEST, first, last):
            if keyspaces.parse_snapshot_key(key).version < rule.erased_from:
                continue
            emptied.append(key)
            start, end = history_prefix(key), history_key(key, NUMBER_END)
            for entry_key, entry in store.scan(Family.HISTORY, start, end):
                commit, value = parse_latest(entry)
                _, until = parse_history_key(entry_key)
                if until <= rule.erased_commit and value:
                    batch.put(Family.HISTORY, entry_key, latest_value(commit, b""))
        if not emptied:
            return
        store.write(batch)
        store.flush()
        # Older files of the store still have what was overwritten or removed.
        for key in emptied:
            store.compact(Family.HISTORY, history_prefix(key), history_key(key, NUMBER_END))
        store.compact(Family.LATEST, first, last)

    def _remove_masks(self) -> None:
        store = self.files.store
        batch = WriteBatch()
        for position in sorted(self.erased & self.rewritten):
            key = keyspaces.erasure_key(position)
            entry = store.get(Family.LATEST, key)
            if entry is not None:
                batch.delete(Family.LATEST, key)
            self.unmasked.append(position)
        store.write(batch)
        store.flush()

    # Hidden events.

    def _go_on(self, visibility: Visibility) -> None:
        """Examine some more streams; at the end of the walk, determine which segments are due."""
        log = self.files.event_log
        store = self.files.store
        firsts = [segment.first for segment in log.segments]
        sizes: dict[int, array[int]] = {}
        batch = WriteBatch()
        positions = 0
        start = self.walk.after + b"\0"
        streams = self.files.scan(start, keyspaces.RETENTION_END, self.view)
        for count, (key, _, _) in enumerate(streams):
            if count == STREAMS_MAX or positions > POSITIONS_MAX:
                break
            stream = key[1:].decode()
            self.walk.after = key
            entry_key = removed_key(stream)
            removed = parse_number(store.get(Family.INDEX, entry_key))
            last = visibility.first(stream) - 1
            found = 0
            for low in range(removed + 1, last + 1, _SLICE):
                run = self.files.stream_positions(stream, low, min(last, low + _SLICE - 1))
                positions += len(run)
                found += self._count_dead(run, log.segments, firsts, sizes)
            if not found and last > removed:
                # All of these are removed, so later walks can skip them.
                batch.put(Family.INDEX, entry_key, NUMBER.pack(last))
        else:
            self._finish_walk(log.segments)
        if batch:
            store.write(batch)

    def _count_dead(
        self,
        positions: Sequence[int],
        segments: Sequence[EventSegment],
        firsts: list[int],
        sizes: dict[int, "array[int]"],
    ) -> int:
        """Count the hidden events that are not removed yet, and their bytes by segment."""
        found = 0
        for position in positions:
            segment = segments[bisect_right(firsts, position) - 1]
            if segment.first not in sizes:
                sizes[segment.first] = segment.payload_sizes()
            size = sizes[segment.first][position - segment.first]
            if size > 0:
                found += 1
                dead = self.walk.dead
                dead[segment.first] = dead.get(segment.first, 0) + size
        return found

    def _finish_walk(self, segments: Sequence[EventSegment]) -> None:
        for segment in segments:
            dead = self.walk.dead.get(segment.first, 0)
            if dead and dead >= self.settings.rewrite_dead_share * segment.entries_size:
                self.walk.due.append(segment.first)
        self.walk.dead.clear()
        self.walk.after = keyspaces.RETENTION

    def _write_anew(self, segment: EventSegment, visibility: Visibility) -> None:
        erased = self.erased

        def changed(position: int, stored: bytes) -> bytes:
            if not stored:
                return stored
            if self.is_in_use and not visibility.shows(stored):
                self.removed += 1
                return b""
            return erase_event(stored) if position in erased else stored

        self.given_back += self.files.event_log.rewrite(segment, changed)


class Published(Protocol):
    """Knows which commits are durable; implemented by the sequencer."""

    @property
    def published(self) -> int:
        """The newest commit that readers may see."""
        ...

    @property
    def published_time(self) -> LogTime:
        """The log's time as of the newest published record."""
        ...


class Rewriting:
    """Begins and finishes rewrites, one at a time and never during a checkpoint."""

    def __init__(
        self,
        state: State,
        durable: Published,
        log: WriteAheadLog,
        settings: EngineSettings,
        views: Callable[[], list[int]],
        times: Callable[[], list[int]],
    ) -> None:
        """*views* and *times* return those of the open transactions."""
        self._state = state
        self._durable = durable
        self._log = log
        self._settings = settings
        self._views = views
        self._times = times
        self._walk = Walk()
        self._seen: set[int] = set()
        self._rewritten: set[int] = set()
        self._log_index = 0
        self._rolled_at = 0
        self.removed = 0
        self.given_back = 0

    @property
    def erasing(self) -> bool:
        """Whether any erased data may still be on disk."""
        return bool(self._state.retention.masked)

    @property
    def wants_roll(self) -> bool:
        """Whether the log must begin a new segment, so that it can remove erased data."""
        return self.waits_for_log and self._rolled_at <= self._log_index

    def seal_log(self) -> None:
        """Seal the log; or let it begin a new segment, once, if it must remove erased data.

        The trim may come much later, if a reader of the log needs the old segment.
        """
        if self.wants_roll:
            self._log.roll()
            self._rolled_at = int(self._log.last_index)
        else:
            self._log.seal()

    @property
    def roll_at(self) -> int | None:
        """The index up to which the log has erased data, if it must begin a segment for that."""
        return self._log_index if self.wants_roll else None

    @property
    def log_index(self) -> int:
        """The index up to which the log may have erased data."""
        return self._log_index

    @property
    def waits_for_log(self) -> bool:
        """Whether erased data is in the log and nowhere else, until that can be trimmed."""
        return (
            self.erasing
            and self._rewritten >= self._state.retention.masked.keys()
            and not self._log_is_clean
        )

    @property
    def _log_is_clean(self) -> bool:
        return int(self._log.first_index) > self._log_index

    def begin(self) -> Rewrite | None:
        """Decide what may be removed; None if nothing. No checkpoint may be running."""
        state = self._state
        assert state.frozen is None, "not beside a checkpoint"
        files = state.files
        masked = state.retention.masked
        if not masked.keys() <= self._seen:
            # Their original data may be in any current segment of the log.
            self._seen = set(masked)
            self._log_index = int(self._log.last_index)
        if not state.retention.in_use and not masked:
            return None
        horizon = min(files.horizon, files.applied_commit)
        view = min([horizon, *self._views()])
        return Rewrite(
            files=files,
            view=view,
            horizon=horizon,
            # A view's time is fixed when it begins, which may be before the next commit.
            now=min([self._time_at(view), *self._times()]),
            is_in_use=state.retention.in_use,
            erased={p for p, commit in masked.items() if commit <= files.applied_commit},
            rewritten=self._rewritten,
            log_is_clean=self._log_is_clean,
            walk=self._walk,
            settings=self._settings,
        )

    def _time_at(self, view: int) -> int:
        if view < self._durable.published:
            return as_of(self._state, view)
        # Use only durable time: a power loss could undo the rest, but not a removal.
        return self._durable.published_time.time

    def finish(self, rewrite: Rewrite) -> None:
        """Close the old files, and drop the masks that are not needed any more."""
        self._state.files.event_log.close_replaced()
        for position in rewrite.unmasked:
            # The cache belongs to this thread.
            self._state.files.latest.forget(keyspaces.erasure_key(position))
            self._state.retention.masked.pop(position, None)
            self._rewritten.discard(position)
            self._seen.discard(position)
        self.removed += rewrite.removed
        self.given_back += rewrite.given_back
