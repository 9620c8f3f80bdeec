"""The memtable: everything that was committed since the last checkpoint.

A version chain hangs from each key, newest first, as nested tuples:

    chains[key] -> (commit 9, b"new", (commit 4, b"old", None))

A reader at commit 6 steps past the 9 and takes the 4. Commits that are numbered but not yet
durable stand in the chains too: no read view reaches them, and validation must see them.

Events and commits are dense, so they are lists: the event at position p is
`events[p - base_position - 1]`. Streams, categories, types and tags keep the positions of theirs.

    base_commit, base_position          last_commit, last_position
    ------------------------|===================================|
       in the files                     in this memtable

While a checkpoint runs there are two: a frozen one that is being written to the files, and the
active one above it. A frozen memtable is never changed, so another thread may read it.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final

from headwater_server.engine.format.index_keys import IDS_END, tag_id
from headwater_server.engine.format.planned import COMMIT, TICK, Planned
from headwater_server.engine.log_clock import LogTime
from headwater_server.engine.pacing import YieldGil
from headwater_server.engine.state.seen_ids import SeenIds
from headwater_server.engine.state.sorted_keys import SortedKeys
from headwater_server.storage.commits.commit_log import CommitRecord

Version = tuple[int, "bytes | None", Any]
"""A commit number, the value that it wrote (None: it deleted the key), and the version before, a
Version or None. It is Any for mypyc, which lays tuples out flat and cannot do so without end."""

ABORTED: Final = 0
"""Stands for a commit number: the transaction was fenced and can never commit."""

# What an entry costs in memory beside its bytes: dict slot, tuple, int, bytes headers. Measured
# with tracemalloc on CPython 3.11; only the order of magnitude matters, for when to checkpoint.
_VERSION_OVERHEAD: Final = 200
_EVENT_OVERHEAD: Final = 120
_COMMIT_OVERHEAD: Final = 250
_STREAM_OVERHEAD: Final = 300
_TAG_OVERHEAD: Final = 300


PIECE_ENTRIES: Final = 1024
"""Entries that are freed at once: they take about half a millisecond."""

_new: Final = tuple.__new__
_NO_TIME: Final = LogTime()


class StreamTail:
    """The events of one stream that are in a memtable.

    Attributes:
        id: the position of the stream's first event ever; it names the stream in the indexes.
        base_version: the stream's version before the first event of this tail.
        positions: of the events, in the order of versions.
        event_ids: the ids that users gave, with the version of each.
    """

    __slots__ = ("base_version", "event_ids", "id", "positions")

    def __init__(self, stream_id: int, base_version: int) -> None:
        self.id = stream_id
        self.base_version = base_version
        self.positions: array[int] = array("Q")
        self.event_ids: dict[bytes, int] = {}

    @property
    def version(self) -> int:
        """The stream's version, with everything in this tail."""
        return self.base_version + len(self.positions)


class MemTable:
    """What was committed since a checkpoint: keys, events, commits and their indexes.

    Attributes:
        last_commit: the newest commit in here, or the one before its first.
        last_position: the position of the newest event in here, or the one before its first.
        seen_ids: the transaction ids in here, of commits and fences, for the files.
        newest_time, horizon, forget_before: what the newest record says about time.
    """

    def __init__(self, base_commit: int, base_position: int, time: LogTime = _NO_TIME) -> None:
        self.base_commit = base_commit
        self.base_position = base_position
        self.last_commit = base_commit
        self.last_position = base_position
        self.chains: dict[bytes, Version] = {}
        self.written: list[Sequence[bytes | None]] = []
        self.commits: list[CommitRecord] = []
        self.events: list[bytes] = []
        self.streams: dict[str, StreamTail] = {}
        self.categories: dict[str, array[int]] = {}
        self.types: dict[str, array[int]] = {}
        self.tags: dict[str, array[int]] = {}
        self.tag_ids: dict[str, int] = {}
        self.transactions: dict[bytes, int] = {}
        self.aborted: dict[bytes, int] = {}
        self.seen_ids = SeenIds()
        self.newest_time, self.horizon, self.forget_before = time
        self.size = 0
        self._sorted = SortedKeys()
        self._unsorted: list[bytes] = []

    # Writing.

    def apply(self, run: Sequence[Planned]) -> None:
        """Put planned records into the memtable, in their order.

        It needs nothing but what the plans say. An exception in here is a defect of ours, and
        leaves half of a commit behind: the process must end.
        """
        # Any: a number becomes an object once, and not each time that it is put somewhere.
        chains: dict[bytes, Any] = self.chains
        transactions: dict[bytes, Any] = self.transactions
        seen = self.seen_ids
        size = 0
        for planned in run:
            transaction = planned.transaction
            if planned.kind != COMMIT:
                self._apply_without_commit(planned)
                continue
            commit = planned.commit
            assert commit == self.last_commit + 1, "records are applied in commit order"
            assert planned.first_position == self.last_position + 1, "and positions are dense"
            number: Any = commit
            time: Any = planned.time
            writes = planned.writes
            for place in range(0, len(writes), 2):
                key = writes[place]
                value = writes[place + 1]
                assert key is not None
                older: Any = chains.get(key)
                if older is None:
                    self._unsorted.append(key)
                else:
                    assert older[0] < number, "a key is written once a commit"
                chains[key] = (number, value, older)
                size += _VERSION_OVERHEAD + len(key)
                if value is not None:
                    size += len(value)
            self.written.append(writes)
            events = planned.events
            count = 0
            if events:
                count = len(events)
                self._apply_events(planned)
            position: Any = planned.first_position
            members_of_record = (number, transaction, time, planned.user, position, count)
            # As CommitRecord(…), in a fifth of its time.
            self.commits.append(_new(CommitRecord, members_of_record))
            transactions[transaction] = number
            # As `note` has it, mostly without the call.
            if transaction < seen.early_from:
                if transaction > seen.newest:
                    seen.newest = transaction
            elif transaction < IDS_END:
                seen.note(transaction, planned.time)
            self.newest_time = planned.time
            self.last_commit = commit
            size += _COMMIT_OVERHEAD
        self.size += size

    def _apply_without_commit(self, planned: Planned) -> None:
        # A replay meets some that the last checkpoint knows already.
        self.newest_time = max(self.newest_time, planned.time)
        self.size += _COMMIT_OVERHEAD
        if planned.kind == TICK:
            self.horizon = max(self.horizon, planned.horizon)
            self.forget_before = max(self.forget_before, planned.forget_before)
            return
        transaction = planned.transaction
        self.transactions[transaction] = ABORTED
        self.aborted[transaction] = planned.time
        self.seen_ids.note(transaction, planned.time)

    def _apply_events(self, planned: Planned) -> None:
        """Append the events of a commit at the next positions, to streams and indexes."""
        events, event_ids = planned.events, planned.event_ids
        place = given = 0
        for stream, stream_id, version, event_type, count in planned.runs:
            tail = self.streams.get(stream)
            if tail is None:
                tail = self.streams[stream] = StreamTail(stream_id, version)
                self.size += _STREAM_OVERHEAD
            assert tail.version == version, "versions are dense"
            end = place + count
            self.add_events(stream, tail, event_type, events[place:end])
            # The ids that users gave stand in the order of the events.
            while given < len(event_ids) and event_ids[given] < end:
                tail.event_ids[event_ids[given + 1]] = version + 1 + event_ids[given] - place
                given += 2
            place = end
        assert place == len(events), "the runs are of these events"
        assert given == len(event_ids), "and the ids"
        if planned.tags:
            for place, tags in planned.tags.items():
                self.add_tags(planned.first_position + place, tags)

    def add_events(
        self, stream: str, tail: StreamTail, event_type: str, stored: Sequence[bytes]
    ) -> None:
        """Append stored events of one type and one stream."""
        first = self.last_position + 1
        # As category_of(stream).
        category = stream.partition("-")[0]
        of_category = self.categories.get(category)
        if of_category is None:
            of_category = self.categories[category] = array("Q")
        of_type = self.types.get(event_type)
        if of_type is None:
            of_type = self.types[event_type] = array("Q")
        if len(stored) == 1:
            # What most commits append: no array of its own.
            event = stored[0]
            self.last_position = first
            self.events.append(event)
            tail.positions.append(first)
            of_category.append(first)
            of_type.append(first)
            self.size += _EVENT_OVERHEAD + len(event)
            return
        self.last_position += len(stored)
        positions = array("Q", range(first, self.last_position + 1))
        self.events += stored
        tail.positions.extend(positions)
        of_category.extend(positions)
        of_type.extend(positions)
        self.size += _EVENT_OVERHEAD * len(stored) + sum(map(len, stored))

    def add_tags(self, position: int, tags: Sequence[str]) -> None:
        """Note the tags of an event that was just added."""
        index = self.tags
        for place, tag in enumerate(tags):
            found = index.get(tag)
            if found is None:
                found = index[tag] = array("Q")
                self.tag_ids[tag] = tag_id(position, place)
                self.size += _TAG_OVERHEAD
            found.append(position)
        self.size += 8 * len(tags)

    @property
    def time(self) -> LogTime:
        """What the newest record in here, or before, says about time."""
        return LogTime(self.newest_time, self.horizon, self.forget_before)

    # Freeing.

    def take_apart(self, yield_gil: YieldGil) -> None:
        """Free everything in here, piece by piece; nobody may read it any more.

        To free hundreds of thousands of objects at once holds the interpreter for 10 to 20 ms.
        *yield_gil* is called after PIECE_ENTRIES of them. One commit's writes are one piece.
        """
        self._sorted.take_apart(yield_gil)
        lists: list[list[Any]] = [self._unsorted, self.commits, self.events]
        for each in lists:
            while each:
                del each[-PIECE_ENTRIES:]
                yield_gil()
        self._take_apart_written(yield_gil)
        self._take_apart_chains(yield_gil)
        dicts: list[dict[Any, Any]] = [
            self.streams,
            self.categories,
            self.types,
            self.tags,
            self.tag_ids,
            self.transactions,
            self.aborted,
        ]
        for entries in dicts:
            while entries:
                for _ in range(min(PIECE_ENTRIES, len(entries))):
                    entries.popitem()
                yield_gil()

    def _take_apart_written(self, yield_gil: YieldGil) -> None:
        # Before the chains, which have the same keys and values: so these lists alone are freed.
        written = self.written
        count = 0
        while written:
            writes = written.pop()
            count += 1 + len(writes)
            del writes
            if count >= PIECE_ENTRIES:
                yield_gil()
                count = 0
        yield_gil()

    def _take_apart_chains(self, yield_gil: YieldGil) -> None:
        chains: dict[bytes, Any] = self.chains
        count = 0
        while chains:
            # Version by version: a key may have as many as there are commits.
            key, version = chains.popitem()
            del key
            while version is not None:
                version = version[2]
                count += 1
                if count >= PIECE_ENTRIES:
                    yield_gil()
                    count = 0

    # Reading.

    def index(self, index: str) -> "dict[str, array[int]]":
        """The positions by name of the index "category", "type" or "tag"."""
        if index == "tag":
            return self.tags
        return self.types if index == "type" else self.categories

    def version_at(self, key: bytes, view: int) -> Version | None:
        """The newest version of the key at or before the commit *view*, if one is in here."""
        version = self.chains.get(key)
        while version is not None and version[0] > view:
            version = version[2]
        return version

    def keys(self, start: bytes, end: bytes | None, *, reverse: bool = False) -> Iterator[bytes]:
        """The keys of the range [start, end) that have any version in here, in order.

        The memtable must not be written while the iterator is in use.
        """
        self._sort()
        return self._sorted.between(start, end, reverse=reverse)

    def first_keys(
        self, start: bytes, end: bytes, count_max: int, *, reverse: bool = False
    ) -> list[bytes]:
        """The first of what `keys` gives; in reverse those are the last of the range."""
        self._sort()
        return self._sorted.first(start, end, count_max, reverse=reverse)

    def _sort(self) -> None:
        # Sorting waits for the first scan, so that writes alone do not pay for it.
        if self._unsorted:
            self._sorted.add(self._unsorted)
            self._unsorted = []

    def event(self, position: int) -> bytes:
        """The stored event at a position that is in here."""
        assert self.base_position < position <= self.last_position
        return self.events[position - self.base_position - 1]

    def writes_of(self, commit: int) -> Sequence[bytes | None]:
        """What a commit that is in here wrote: key, value, …."""
        assert self.base_commit < commit <= self.last_commit
        return self.written[commit - self.base_commit - 1]

    def commit_record(self, commit: int) -> CommitRecord:
        """The record of a commit that is in here."""
        assert self.base_commit < commit <= self.last_commit
        return self.commits[commit - self.base_commit - 1]
