"""The memtable: everything that was committed since the last checkpoint.

Each key has a version chain, newest first, as nested tuples:

    chains[key] -> (commit 9, b"new", (commit 4, b"old", None))

A reader at commit 6 skips the 9 and takes the 4. The chains also hold commits that are sequenced
but not yet durable: no read view reaches them, but validation must see them.

Positions and commit numbers are dense, so events and commits are lists: the event at position p is
`events[p - base_position - 1]`. Streams, categories, types and tags have lists of positions.

    base_commit, base_position          last_commit, last_position
    ------------------------|===================================|
       in the files                     in this memtable

While a checkpoint runs there are two memtables: a frozen one, which is being written to the files,
and the active one above it. A frozen memtable never changes, so another thread may read it.
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from headwater_server.engine.format.index_keys import IDS_END, tag_id
from headwater_server.engine.format.planned import COMMIT, TICK, Planned
from headwater_server.engine.log_clock import LogTime
from headwater_server.engine.pacing import YieldGil
from headwater_server.engine.state.seen_ids import SeenIds
from headwater_server.engine.state.sorted_keys import SortedKeys
from headwater_server.storage.commits.commit_records import CommitRecord

Version = tuple[int, "bytes | None", Any]
"""A commit number, its value (None: a deletion), and the previous Version or None. That one is Any
because mypyc unboxes tuples and cannot do so recursively."""

ABORTED: Final = 0
"""Stands for a commit number: the transaction was fenced and can never commit."""

# Memory per entry besides its bytes: dict slot, tuple, int, bytes headers. Measured with
# tracemalloc on CPython 3.11. Only the magnitude matters: it decides when a checkpoint is due.
_VERSION_OVERHEAD: Final = 200
_EVENT_OVERHEAD: Final = 120
_COMMIT_OVERHEAD: Final = 250
_STREAM_OVERHEAD: Final = 300
_TAG_OVERHEAD: Final = 300


PIECE_ENTRIES: Final = 1024
"""Entries that are freed in one piece, which takes about half a millisecond."""

_NO_TIME: Final = LogTime()


class StreamTail:
    """The events of one stream that are in a memtable.

    Attributes:
        id: the position of the stream's first event ever; it identifies the stream in indexes.
        base_version: the stream's version before the first event of this tail.
        positions: the positions of the events, in the order of versions.
        event_ids: the versions of events to which users gave ids, by id.
    """

    __slots__ = ("base_version", "event_ids", "id", "positions")

    def __init__(self, stream_id: int, base_version: int) -> None:
        self.id = stream_id
        self.base_version = base_version
        self.positions: array[int] = array("Q")
        self.event_ids: dict[bytes, int] = {}

    @property
    def version(self) -> int:
        """The stream's version after this tail."""
        return self.base_version + len(self.positions)


class MemTable:
    """What was committed since a checkpoint: keys, events, commits and their indexes.

    Attributes:
        last_commit: the newest commit; `base_commit` if there is none.
        last_position: the position of the newest event; `base_position` if there is none.
        seen_ids: the ids of commits and fences, which a checkpoint adds to those of the files.
        newest_time, horizon, forget_before: the log's time as of the newest record.
    """

    def __init__(self, base_commit: int, base_position: int, time: LogTime = _NO_TIME) -> None:
        self.base_commit = base_commit
        self.base_position = base_position
        self.last_commit = base_commit
        self.last_position = base_position
        self.chains: dict[bytes, Version] = {}
        # Without their records' bytes: a group has those until they are in the log.
        self.commits: list[Planned] = []
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
        self._stream_names = SortedKeys()
        self._category_names = SortedKeys()

    # Writing.

    def apply(self, run: list[Planned]) -> None:
        """Put planned records into the memtable, in their order.

        This reads only the plans. An exception here is a bug that leaves half of a commit behind,
        so the process must end.
        """
        # Any: mypyc then boxes a number once instead of at each use.
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
            given = planned.writes
            writes = given if isinstance(given, list) else list(given)
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
            events = planned.events
            if events:
                self._apply_events(planned)
            self.commits.append(planned)
            transactions[transaction] = number
            # `SeenIds.note` inlined for the usual case.
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
        # A replay may meet records that the last checkpoint already contains.
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
            # The given ids are in the order of the events.
            while given < len(event_ids) and event_ids[given] < end:
                tail.event_ids[event_ids[given + 1]] = version + 1 + event_ids[given] - place
                given += 2
            place = end
        assert place == len(events), "the runs are of these events"
        assert given == len(event_ids), "and the ids"
        if planned.tags:
            for place, tags in planned.tags.items():
                self.add_tags(planned.first_position + place, tags)
        # The memtable keeps the plan, without what it has elsewhere: the garbage collector visits
        # each object that stays.
        planned.events = planned.runs = planned.event_ids = ()
        planned.tags = None

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
            # The usual case: no array is needed.
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
        """Index the tags of an event that was just added."""
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
        """The log's time as of the newest record."""
        return LogTime(self.newest_time, self.horizon, self.forget_before)

    # Freeing.

    def take_apart(self, yield_gil: YieldGil) -> None:
        """Free everything, piece by piece; nobody may read this memtable any more.

        Freeing hundreds of thousands of objects in one go would hold the GIL for 10 to 20 ms.
        *yield_gil* is called after each PIECE_ENTRIES. The writes of one commit are one piece.
        """
        self._sorted.take_apart(yield_gil)
        self._stream_names.take_apart(yield_gil)
        self._category_names.take_apart(yield_gil)
        lists: list[list[Any]] = [self._unsorted, self.events]
        for each in lists:
            while each:
                del each[-PIECE_ENTRIES:]
                yield_gil()
        self._take_apart_commits(yield_gil)
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

    def _take_apart_commits(self, yield_gil: YieldGil) -> None:
        # Before the chains, which share the keys and values: this frees only the lists.
        commits = self.commits
        count = 0
        while commits:
            count += 1 + len(commits.pop().writes)
            if count >= PIECE_ENTRIES:
                yield_gil()
                count = 0
        yield_gil()

    def _take_apart_chains(self, yield_gil: YieldGil) -> None:
        chains: dict[bytes, Any] = self.chains
        count = 0
        while chains:
            # Version by version: one key may have a version for every commit.
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
        """The newest version of the key at or before the commit *view*, if this has one."""
        version = self.chains.get(key)
        while version is not None and version[0] > view:
            version = version[2]
        return version

    def keys(self, start: bytes, end: bytes | None, *, reverse: bool = False) -> Iterator[bytes]:
        """The keys of [start, end) that have any version here, in order.

        The memtable must not be written while the iterator is in use.
        """
        self._sort()
        return self._sorted.between(start, end, reverse=reverse)

    def first_keys(
        self, start: bytes, end: bytes, count_max: int, *, reverse: bool = False
    ) -> list[bytes]:
        """The first keys of [start, end), at most *count_max*; in reverse the last come first."""
        self._sort()
        return self._sorted.first(start, end, count_max, reverse=reverse)

    def _sort(self) -> None:
        # Sort lazily at the first scan, so that writes alone do not pay for it.
        if self._unsorted:
            self._sorted.add(self._unsorted)
            self._unsorted = []

    def first_names(
        self, index: str, start: bytes, end: bytes | None, count_max: int
    ) -> list[bytes]:
        """The first names of streams or categories in [start, end) that have events here, encoded.

        *index* is "stream" or "category".
        """
        if index == "stream":
            return _first_names(self._stream_names, self.streams, start, end, count_max)
        return _first_names(self._category_names, self.categories, start, end, count_max)

    def event(self, position: int) -> bytes:
        """The stored event at a position of this memtable."""
        assert self.base_position < position <= self.last_position
        return self.events[position - self.base_position - 1]

    def writes_of(self, commit: int) -> Sequence[bytes | None]:
        """The writes of a commit of this memtable: key, value, …."""
        assert self.base_commit < commit <= self.last_commit
        return self.commits[commit - self.base_commit - 1].writes

    def commit_record(self, commit: int) -> CommitRecord:
        """The record of a commit of this memtable."""
        assert self.base_commit < commit <= self.last_commit
        return self.commits[commit - self.base_commit - 1].commit_record()


def _first_names(
    in_order: SortedKeys, names: dict[str, Any], start: bytes, end: bytes | None, count_max: int
) -> list[bytes]:
    # Sort lazily, as keys are. A dict keeps its keys in the order of insertion, so those
    # beyond the sorted ones are the new ones.
    if len(in_order) < len(names):
        in_order.add([name.encode() for name in islice(names, len(in_order), None)])
    return in_order.first(start, end, count_max)
