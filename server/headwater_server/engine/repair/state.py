"""The part of `repair` that makes the state store agree with the logs again.

Everything in the store except the keys can be rebuilt: the index from the events, and the
transaction ids from the commit log. The newest values of keys are kept as they are. Older versions
are dropped if the changes that list them are damaged, because nothing else lists them.
"""

from collections import deque
from itertools import islice
from typing import Final

from headwater_protocol.errors import DamagedFile, HeadwaterError
from headwater_protocol.numbers import CommitNumber
from headwater_server.engine.check.findings import Counter, Report
from headwater_server.engine.check.logs import (
    LOST_TRANSACTION,
    EventReader,
    commit_records,
    is_given,
)
from headwater_server.engine.checkpoint.event_id_writer import FirstEvent
from headwater_server.engine.checkpoint.state_writer import StateWriter
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.event_ids import (
    FIRST_EVENT,
    GIVEN,
    META_EVENT_IDS,
    Indexed,
    indexed_value,
)
from headwater_server.engine.format.events import StoredEvent
from headwater_server.engine.format.index_keys import (
    ABORTED,
    CATEGORY,
    EVENT_ID,
    HEAD_SIZE,
    META_APPLIED,
    META_COLLECTED,
    META_FORGOTTEN,
    META_HORIZON,
    META_UNFINISHED,
    NUMBER,
    NUMBER_END,
    POSTINGS,
    RETAINED,
    STREAM,
    TAG,
    TYPE,
    VALUE,
    Applied,
    aborted_key,
    aborted_value,
    applied_value,
    collected_value,
    history_key,
    latest_commit,
    latest_value,
    parse_aborted_key,
    parse_number,
)
from headwater_server.engine.format.keyspaces import SNAPSHOTS, SNAPSHOTS_END, parse_snapshot_key
from headwater_server.engine.format.stored_rules import decode_rule
from headwater_server.engine.state.memtable import MemTable, StreamTail
from headwater_server.engine.state.stored_state import StoredState
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.commits.commit_records import CommitRecord
from headwater_server.storage.store.interface import Family, StateStore, WriteBatch

_CHUNK_EVENTS: Final = 20_000
_BATCH_ENTRIES: Final = 1000


class StateRepair:
    """Repairs the state store of a directory whose logs are sound."""

    def __init__(self, state: StoredState) -> None:
        self._state = state
        self._store = state.store
        # Positions of removed events that are not assigned to a stream yet.
        self._free: deque[int] = deque()

    def rebuild_index(self) -> int:
        """Rebuild heads, postings and event ids from the events; return the count of events.

        The streams of removed events are unknown. A stream whose first events are missing gets
        some of the removed positions, so that its versions stay right.
        """
        batch = WriteBatch()
        kinds = (STREAM, CATEGORY, TYPE, TAG, EVENT_ID, GIVEN, FIRST_EVENT, *POSTINGS.values())
        for kind in kinds:
            batch.delete_range(Family.INDEX, kind, _end_of(kind))
        self._store.write(batch)
        self._store.flush()
        reader = EventReader(self._state.event_log, self._state.commit_log, Report())
        events = (
            checked.event for checked in reader.read(Counter(lambda _d, _t: None, 1), quiet=True)
        )
        self._free.clear()
        count = 0
        base = int(self._state.event_log.first_position) - 1
        while chunk := list(islice(events, _CHUNK_EVENTS)):
            records = self._records_of(chunk)
            self._write(
                self._memtable_of(chunk, base, records),
                [(each.transaction, each.first_position) for each in records.values()],
            )
            count += len(chunk)
            base = chunk[-1].position
        self._free.extend(range(base + 1, self._state.applied_position + 1))
        self._write(self._hidden_streams(), [])
        batch = WriteBatch()
        indexed = Indexed(0, self._state.applied_position)
        batch.put(Family.INDEX, META_EVENT_IDS, indexed_value(indexed))
        self._store.write(batch)
        self._store.flush()
        return count

    def _write(self, table: MemTable, first_events: list[FirstEvent]) -> None:
        writer = StateWriter(table, self._store, horizon=0, views=(), log_index=0)
        writer.write_index(interrupted=True)
        writer.write_ids(first_events)

    def _hidden_streams(self) -> MemTable:
        """Streams without remaining events, if their rules say how many events they had."""
        table = MemTable(0, self._state.applied_position)
        start, end = keyspaces.RETENTION, keyspaces.RETENTION_END
        for key, _, stored in self._state.scan(start, end, self._state.applied_commit):
            stream = key[1:].decode()
            missing = decode_rule(stored).before - 1
            if missing > 0 and self._state.stream_head(stream) is None:
                positions = self._take(missing)
                if positions:
                    tail = table.streams[stream] = StreamTail(positions[0], 0)
                    tail.positions.extend(positions)
        return table

    def _take(self, count: int) -> list[int]:
        return [self._free.popleft() for _ in range(min(count, len(self._free)))]

    def _memtable_of(
        self, events: list[StoredEvent], base: int, records: dict[int, CommitRecord]
    ) -> MemTable:
        table = MemTable(0, base)
        for event in events:
            removed = range(table.last_position + 1, event.position)
            self._free.extend(removed)
            table.events += [b""] * len(removed)
            table.last_position += len(removed)
            tail = table.streams.get(event.stream)
            if tail is None:
                head = self._state.stream_head(event.stream)
                positions = self._take(event.version - 1) if head is None else []
                first = positions[0] if positions else event.position
                tail = table.streams[event.stream] = StreamTail(
                    head.id if head else first, head.version if head else 0
                )
                tail.positions.extend(positions)
            table.add_events(event.stream, tail, event.type, [b""])
            table.add_tags(event.position, event.tags)
            record = records.get(event.commit)
            # If this is unknown, index the id, which does no harm.
            if record is None or is_given(event, record):
                tail.event_ids[event.id] = tail.version
        return table

    def _records_of(self, events: list[StoredEvent]) -> dict[int, CommitRecord]:
        log = self._state.commit_log
        first = max(events[0].commit, log.first_commit)
        last = min(events[-1].commit, log.last_commit)
        if first > last:
            return {}
        try:
            found = log.read_range(CommitNumber(first), last - first + 1)
        except HeadwaterError:
            return {}
        return {record.commit: record for record in found if record.event_count}

    def rebuild_transactions(self) -> int:
        """Rebuild the index of transaction ids; return how many there are."""
        store = self._store
        fenced: dict[bytes, int] = {}
        for transaction, entry in store.scan(Family.TRANSACTIONS, b""):
            if len(transaction) == 16 and parse_number(entry) == 0:
                fenced[transaction] = parse_number(entry[8:])
        for entry_key, _ in store.scan(Family.INDEX, ABORTED, _end_of(ABORTED)):
            time, transaction = parse_aborted_key(entry_key)
            fenced.setdefault(transaction, time)
        batch = WriteBatch()
        batch.delete_range(Family.TRANSACTIONS, b"", None)
        batch.delete_range(Family.INDEX, ABORTED, _end_of(ABORTED))
        for transaction, time in fenced.items():
            batch.put(Family.TRANSACTIONS, transaction, aborted_value(time))
            batch.put(Family.INDEX, aborted_key(time, transaction), b"")
        log = self._state.commit_log
        forgotten = max(parse_number(store.get(Family.INDEX, META_FORGOTTEN)), log.first_commit - 1)
        batch.put(Family.INDEX, META_FORGOTTEN, NUMBER.pack(forgotten))
        count = len(fenced)
        for record in commit_records(log):
            if isinstance(record, DamagedFile) or record.transaction == LOST_TRANSACTION:
                continue
            if record.commit > forgotten:
                batch.put(Family.TRANSACTIONS, record.transaction, NUMBER.pack(record.commit))
                count += 1
            if len(batch) >= _BATCH_ENTRIES:
                store.write(batch)
                batch = WriteBatch()
        store.write(batch)
        store.flush()
        return count

    def give_up_history(self) -> tuple[int, int]:
        """Drop all versions except the newest of every key.

        Values that an unfinished checkpoint wrote are reverted, or removed if the value before is
        gone. The write-ahead log has them, unless they are lost with it.

        Returns:
            How many older versions, and how many newest ones, were dropped.
        """
        store, applied = self._store, self._state.applied.commit
        lost = 0
        batch = WriteBatch()
        for key, entry in store.scan(Family.LATEST, b""):
            if len(entry) < HEAD_SIZE or entry[8] > VALUE:
                batch.delete(Family.LATEST, key)
                lost += 1
            elif latest_commit(entry) > applied:
                before = self._version_before(key, applied)
                if before is None:
                    batch.delete(Family.LATEST, key)
                else:
                    batch.put(Family.LATEST, key, before)
            elif not entry[8]:
                batch.delete(Family.LATEST, key)
            if len(batch) >= _BATCH_ENTRIES:
                store.write(batch)
                batch = WriteBatch()
        versions = sum(1 for _ in store.scan(Family.HISTORY, b""))
        batch.delete_range(Family.HISTORY, b"", None)
        batch.delete_range(Family.CHANGES, b"", None)
        batch.delete_range(Family.INDEX, RETAINED, _end_of(RETAINED))
        batch.put(Family.INDEX, META_HORIZON, NUMBER.pack(applied))
        batch.put(Family.INDEX, META_COLLECTED, collected_value(applied + 1, 0))
        batch.delete(Family.INDEX, META_UNFINISHED)
        store.write(batch)
        store.flush()
        self._state.horizon = applied
        return versions, lost

    def _version_before(self, key: bytes, view: int) -> bytes | None:
        start, end = history_key(key, view + 1), history_key(key, NUMBER_END)
        for _, entry in self._store.scan(Family.HISTORY, start, end):
            return entry if latest_commit(entry) <= view and entry[8] else None
        return None

    def drop_snapshots(self) -> int:
        """Remove snapshots that are unreadable or ahead of their streams; return how many."""
        batch = WriteBatch()
        for key, entry in self._store.scan(Family.LATEST, SNAPSHOTS, SNAPSHOTS_END):
            if entry[8:9] != b"\x01":
                continue
            try:
                snapshot = parse_snapshot_key(key)
                head = self._state.stream_head(snapshot.stream)
            except (ValueError, ArithmeticError):
                head, snapshot = None, None
            if snapshot is None or head is None or snapshot.version > head.version:
                # Mark it as deleted by the same commit, so that its change stays valid.
                batch.put(Family.LATEST, key, latest_value(latest_commit(entry), None))
        self._store.write(batch)
        self._store.flush()
        return len(batch)


def set_applied(store: StateStore, applied: Applied) -> None:
    """Store the applied commit, and how far the write-ahead log was durable."""
    batch = WriteBatch()
    batch.put(Family.INDEX, META_APPLIED, applied_value(applied))
    store.write(batch)
    store.flush()


def commit_of_position(log: CommitLog, position: int) -> CommitRecord | None:
    """The record of the commit that an event belongs to, if the commit log has it."""
    low, high = int(log.first_commit), int(log.last_commit)
    while low <= high:
        middle = (low + high) // 2
        record = log.read(CommitNumber(middle))
        if record.first_position > position:
            high = middle - 1
        elif record.first_position + record.event_count <= position:
            low = middle + 1
        else:
            return record
    return None


def _end_of(kind: bytes) -> bytes:
    return bytes([kind[0] + 1])
