"""The state of the database at any commit: two memtables above the files.

    active memtable      being written                     newest
    frozen memtable      while a checkpoint runs
    files                stored by the last checkpoint

Look-ups ask each layer in turn; the first that has a version at or before the read view answers.
Layers hold successive ranges of commits, so a higher layer's version is always newer. While a
checkpoint writes to the files, the frozen memtable still holds the same versions, so it does not
matter in which of the two a reader finds them.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from headwater_protocol import limits
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.index_keys import NUMBER_END
from headwater_server.engine.format.planned import Planned
from headwater_server.engine.log_clock import LogTime
from headwater_server.engine.state.masks import Retention
from headwater_server.engine.state.memtable import MemTable
from headwater_server.engine.state.range_merge import RUN_KEYS, first_items
from headwater_server.engine.state.stored_state import StoredState
from headwater_server.storage.commits.commit_records import CommitRecord

NO_EXPIRY: Final = 2**62 - 1
"""Above every time at which a key expires: it does not. The largest number that compiled code
compares without an object."""

_EVENTS_AT_ONCE: Final = 512
"""Events that are read at a time, within a bound of bytes."""


_FIRST_KEYS: Final = 4
"""Keys of a commit by which an administrative write is recognized. It writes a few of its kind."""


class Head(NamedTuple):
    """The end of a stream: the stream's id, its version, and the position of its last event."""

    id: int
    version: int
    last_position: int


NO_HEAD = Head(0, 0, 0)

_new: Final = tuple.__new__


class State:
    """Layered look-ups. A `view` is a commit number; it sees that commit and all before it.

    Attributes:
        next_expiry: no key expires before this time of the log; NO_EXPIRY: none does. Stays 0 on a
            node that does not lead, which does not look.
        due_from: no key that says so comes before this one.
    """

    def __init__(self, files: StoredState) -> None:
        self.files = files
        self.retention = Retention()
        self.frozen: MemTable | None = None
        self.next_expiry = 0
        self.due_from = keyspaces.DUE
        # By start: the end, and the commit at which there was no key; see gaps.py.
        self.gaps: dict[bytes, tuple[bytes, int]] = {}
        self.active = MemTable(files.applied_commit, files.applied_position, files.time)

    def apply(self, run: list[Planned]) -> None:
        """Put planned records, which follow the newest commit, into the active memtable."""
        self.active.apply(run)
        for planned in run:
            if planned.has_retention:
                self.retention.note(planned.commit, planned.writes)

    @property
    def time(self) -> LogTime:
        """What the newest record says about time, durable or not."""
        return self.active.time

    def load_retention(self) -> None:
        """Load from the files what is hidden and masked; later commits add to it."""
        start, end = keyspaces.RETENTION, keyspaces.ERASURES_END
        self.retention.load(
            self.files.scan(start, keyspaces.RETENTION_END, NUMBER_END),
            self.files.scan(keyspaces.ERASURES, end, NUMBER_END),
        )

    @property
    def last_commit(self) -> int:
        """The newest sequenced commit, durable or not."""
        return self.active.last_commit

    @property
    def last_position(self) -> int:
        """The position of the newest sequenced event, durable or not."""
        return self.active.last_position

    def memtables(self) -> tuple[MemTable, ...]:
        """The memtables, newest first."""
        return (self.active,) if self.frozen is None else (self.active, self.frozen)

    def freeze(self) -> MemTable:
        """Freeze the active memtable and return it; a new one takes its place."""
        assert self.frozen is None, "one checkpoint at a time"
        self.files.hand_over()
        self.frozen = self.active
        self.active = MemTable(self.frozen.last_commit, self.frozen.last_position, self.frozen.time)
        return self.frozen

    def thaw(self) -> None:
        """Drop the frozen memtable, which is in the files now."""
        assert self.frozen is not None
        assert self.files.applied_commit == self.frozen.last_commit
        self.files.add_seen_ids(self.frozen.seen_ids)
        self.frozen = None

    # Keys.

    def get(self, key: bytes, view: int) -> bytes | None:
        """The value of a key at a commit, or None."""
        version = self.active.chains.get(key)
        while version is not None and version[0] > view:
            version = version[2]
        if version is None and self.frozen is not None:
            version = self.frozen.version_at(key, view)
        if version is not None:
            return version[1]
        return self.files.value_at(key, view)

    def expiry(self, key: bytes, view: int) -> int | None:
        """When a user's stored key expires, as of a commit; None: it does not, or is absent."""
        if self.next_expiry == NO_EXPIRY and view >= self.active.last_commit:
            return None
        stored = self.get(keyspaces.expiry_key(key), view)
        return None if stored is None else keyspaces.parse_expiry(stored)

    def newest_commit(self, key: bytes, after: int) -> int:
        """The newest commit that wrote a key if it is newer than *after*, else 0."""
        chain = self.active.chains.get(key)
        if chain is None and self.frozen is not None:
            chain = self.frozen.chains.get(key)
        if chain is not None:
            return chain[0] if chain[0] > after else 0
        if after >= self.files.applied_commit:
            return 0
        newest = self.files.newest_commit(key)
        return newest if newest > after else 0

    def scan(
        self,
        start: bytes,
        end: bytes,
        view: int,
        *,
        reverse: bool = False,
        ahead: int = 32,
    ) -> Iterator[tuple[bytes, bytes]]:
        """The keys of [start, end) that exist at a commit, with their values, in order.

        *ahead* keys are looked up for the first batch, and twice as many for each further one.
        """
        count = ahead
        while start < end:
            found, rest = self.first_items(start, end, view, count_max=count, reverse=reverse)
            yield from found
            if rest is None:
                return
            if reverse:
                end = rest
            else:
                start = rest
            count = min(2 * count, RUN_KEYS)

    def first_items(
        self, start: bytes, end: bytes, view: int, *, count_max: int, reverse: bool = False
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """The first keys of a range with their values, and where the range goes on.

        About *count_max* keys are met, deleted ones included, so there may be none.
        """
        return first_items(
            self.active,
            self.frozen,
            self.files,
            start,
            end,
            view,
            count_max=count_max,
            size_max=limits.PAGE_SIZE_MAX,
            reverse=reverse,
        )

    # Streams and events.

    def head(self, stream: str) -> Head:
        """The end of a stream now, including events that are not yet durable."""
        tail = self.active.streams.get(stream)
        if tail is None and self.frozen is not None:
            tail = self.frozen.streams.get(stream)
        if tail is not None:
            # Five times as fast as Head(…); every append does this.
            head: Head = _new(Head, (tail.id, tail.version, tail.positions[-1]))
            return head
        stored = self.files.stream_head(stream)
        return NO_HEAD if stored is None else Head(stored.id, stored.version, stored.last_position)

    def version_at(self, stream: str, head: Head, position: int) -> int:
        """The version of a stream when *position* was the newest of all events."""
        if head.last_position <= position:
            return head.version
        for table in self.memtables():
            tail = table.streams.get(stream)
            if tail is not None:
                count = bisect_right(tail.positions, position)
                if count:
                    return tail.base_version + count
                if tail.base_version == 0:
                    return 0
        return self.files.stream_version_at(stream, position)

    def stream_positions(self, stream: str, head: Head, first: int, last: int) -> Sequence[int]:
        """The positions of the events with versions *first* to *last*, both included."""
        found: array[int] = array("Q")
        if first > last:
            return found
        tails = [
            tail
            for table in reversed(self.memtables())
            if (tail := table.streams.get(stream)) is not None
        ]
        stored_last = tails[0].base_version if tails else head.version
        if first <= stored_last:
            found.extend(self.files.stream_positions(stream, first, min(last, stored_last)))
        for tail in tails:
            if last > tail.base_version and first <= tail.version:
                low = max(first - tail.base_version, 1)
                found.extend(tail.positions[low - 1 : last - tail.base_version])
        return found

    def event_version(self, stream: str, head: Head, event_id: bytes) -> int | None:
        """The version of the event to which a user gave this id, or None."""
        for table in self.memtables():
            tail = table.streams.get(stream)
            if tail is not None and (version := tail.event_ids.get(event_id)) is not None:
                return version
        return self.files.event_version(head.id, event_id)

    def indexed_count(self, index: str, name: str) -> int:
        """About how many events a category, type or tag has; a checkpoint may count some twice."""
        found = (table.index(index).get(name, ()) for table in self.memtables())
        return sum(map(len, found)) + self.files.indexed_count(index, name)

    def indexed_positions(
        self, index: str, name: str, after: int, upto: int, limit: int, *, reverse: bool = False
    ) -> "array[int]":
        """Positions of a category's, a type's or a tag's events in (after, upto], at most *limit*.

        *index* is "category", "type" or "tag"; in reverse, the greatest come first.
        """
        # Arrays throughout: a position only becomes an int object when it is used.
        runs: list[array[int]] = []
        for table in self.memtables():
            positions = table.index(index).get(name)
            if positions is not None:
                low = bisect_right(positions, after)
                high = bisect_right(positions, upto)
                # Slicing copies, which is needed because the active memtable's array grows.
                runs.append(
                    positions[max(low, high - limit) : high][::-1]
                    if reverse
                    else positions[low : min(high, low + limit)]
                )
        if not reverse:
            found = self.files.indexed_positions(index, name, after, upto, limit)
            for run in reversed(runs):
                found.extend(run)
            return found[:limit]
        found = array("Q")
        for run in runs:
            found.extend(run)
        if len(found) < limit:
            rest = limit - len(found)
            found.extend(self.files.indexed_positions(index, name, after, upto, rest, reverse=True))
        return found[:limit]

    def events(self, positions: Sequence[int]) -> list[bytes]:
        """The stored events at existing positions; b"" for an event that was removed."""
        found = self._events(positions)
        if self.retention.masked:
            return self.retention.mask(positions, found)
        return found

    def events_within(self, positions: Sequence[int], size_max: int) -> list[bytes]:
        """The first of the events at *positions*, about *size_max* bytes of them; at least one.

        *positions* ascend or descend. Of the files, nothing is read that is not returned.
        """
        boundary = self.active.base_position
        if self.frozen is not None:
            boundary = self.frozen.base_position
        if min(positions[0], positions[-1]) > boundary:
            return self.events(positions)
        in_files = sum(position <= boundary for position in positions)
        if positions[0] <= positions[-1]:
            below, above = positions[:in_files], positions[in_files:]
            found = self.files.events_within(below, size_max, least=1)
            if len(found) == in_files and above:
                found += self._events(above)
        else:
            above, below = positions[: len(positions) - in_files], positions[-in_files:]
            found = self._events(above) if above else []
            left = max(0, size_max - sum(map(len, found)))
            found += self.files.events_within(below, left, least=0 if found else 1)
        if self.retention.masked:
            return self.retention.mask(positions[: len(found)], found)
        return found

    def each_event(
        self, positions: Sequence[int], *, wanted_size: int = limits.PAGE_SIZE_MAX
    ) -> Iterator[bytes]:
        """The stored events at *positions*, which ascend or descend, read some at a time.

        *wanted_size* is about how many bytes the caller wants to see at first.
        """
        at, size_max = 0, wanted_size
        while at < len(positions):
            found = self.events_within(positions[at : at + _EVENTS_AT_ONCE], size_max)
            yield from found
            # After the wanted bytes come one event, to see that it does not fit, and then, if the
            # caller goes on, as many as before.
            size_max = 0 if at == 0 else limits.PAGE_SIZE_MAX
            at += len(found)

    def _events(self, positions: Sequence[int]) -> list[bytes]:
        boundary = self.active.base_position
        if positions and min(positions) > boundary:
            event = self.active.event
            return [event(position) for position in positions]
        found = dict.fromkeys(positions, b"")
        below: list[int] = []
        for position in found:
            if position > boundary:
                found[position] = self.active.event(position)
            elif self.frozen is not None and position > self.frozen.base_position:
                found[position] = self.frozen.event(position)
            else:
                below.append(position)
        if below:
            # In order, neighbours in the log are fetched in one read.
            below.sort()
            found.update(zip(below, self.files.events(below), strict=True))
        return [found[position] for position in positions]

    def events_from(self, first: int, last: int, count_max: int, size_max: int) -> list[bytes]:
        """Stored events from position *first* to *last*, until a page is full; at least one.

        A removed event is b"".
        """
        found = self._events_from(first, last, count_max, size_max)
        if self.retention.masked:
            return self.retention.mask(range(first, first + len(found)), found)
        return found

    def _events_from(self, first: int, last: int, count_max: int, size_max: int) -> list[bytes]:
        if first > last:
            return []
        for table in self.memtables():
            if first > table.base_position:
                low = first - table.base_position - 1
                high = min(last - table.base_position, low + count_max)
                return _within(table.events[low:high], size_max)
        count = min(count_max, last - first + 1)
        return self.files.events_from(first, count, size_max)

    # Commits.

    def commit_record(self, commit: int) -> CommitRecord:
        """The record of a sequenced commit that is not forgotten."""
        for table in self.memtables():
            if commit > table.base_commit:
                return table.commit_record(commit)
        return self.files.commit_record(commit)

    def wrote_no_key(self, commit: int) -> bool:
        """Whether a commit wrote no key; False also if that is not known any more."""
        for table in self.memtables():
            if commit > table.base_commit:
                return not table.writes_of(commit)
        if commit < self.files.horizon:
            return False
        change = next(self.files.changes_after(commit - 1), None)
        return change is None or change[0] != commit

    def wrote_key(self, commit: int, prefix: bytes) -> bool:
        """Whether one of the first keys that a commit wrote begins so.

        True also if that is not known any more.
        """
        for table in self.memtables():
            if commit > table.base_commit:
                writes = table.writes_of(commit)[: 2 * _FIRST_KEYS : 2]
                return any(key is not None and key.startswith(prefix) for key in writes)
        if commit < self.files.horizon:
            return True
        for number, key in islice(self.files.changes_after(commit - 1), _FIRST_KEYS):
            if number == commit and key.startswith(prefix):
                return True
        return False

    def position_at(self, commit: int) -> int:
        """The position of the newest event at a commit."""
        if commit == self.last_commit:
            return self.last_position
        if commit == 0:
            return 0
        for table in self.memtables():
            if commit == table.base_commit:
                return table.base_position
        record = self.commit_record(commit)
        return record.first_position + record.event_count - 1

    def transaction(self, transaction: bytes) -> int | None:
        """The commit number of a transaction, 0 if it was fenced, None if neither is known."""
        known = self.active.transactions.get(transaction)
        if known is None and self.frozen is not None:
            known = self.frozen.transactions.get(transaction)
        if known is None:
            seen = self.files.seen_ids
            # `may_have` inlined, for the usual case without early ids.
            outside = not seen.newest < transaction < seen.beyond
            if outside or (seen.early and seen.may_have(transaction)):
                known = self.files.transaction(transaction)
        return known

    def commit_at(self, time: int) -> int:
        """The newest commit with a time (microseconds) at or before *time*, or 0."""
        for table in self.memtables():
            if table.commits and table.commits[0].time <= time:
                return table.base_commit + bisect_right(
                    table.commits, time, key=lambda record: record.time
                )
        return self.files.commit_at(time)


def _within(events: list[bytes], size_max: int) -> list[bytes]:
    size = 0
    for count, event in enumerate(events):
        size += len(event)
        if size > size_max and count:
            return events[:count]
    return events
