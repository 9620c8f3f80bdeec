"""Checkpoints without an engine: commits made by hand, and the expected state in dicts.

written = Written(random.Random(seed))
written.commit({b"k": b"v"}, [("account-ann", "Opened", None)])
written.checkpoint(horizon=1)
written.check()                  # every read at every readable view, against the dicts
written = written.crash()        # power loss; commits are replayed from the dicts, not from a log
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence

from headwater_protocol.numbers import CommitNumber, Position
from headwater_server.engine.checkpoint.checkpoint import CheckpointResult, write_checkpoint
from headwater_server.engine.format.events import category_of, encode_event
from headwater_server.engine.format.records import Record
from headwater_server.engine.reads.scanning import scan_page
from headwater_server.engine.state.layers import State
from headwater_server.engine.state.stored_state import StoredState, read_applied
from headwater_server.engine.transactions.changed_keys import ChangedKeys
from headwater_server.engine.transactions.replaying import plan_records
from headwater_server.engine.work_budget import VALIDATION, WorkBudget
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.events.event_log import EventLog
from headwater_server.storage.files.file_system import make_durable_directory
from headwater_server.storage.store.interface import Family, Page, WriteBatch
from headwater_server.testing.memory_files import MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore

START_US = 1_700_000_000_000_000
SECOND_US = 1_000_000
Appended = tuple[str, str, bytes | None]
"""Stream, type and, if the user gave one, the id of an event."""


class PowerLoss(Exception):
    """Raised by a test in `before_write`, to end a checkpoint between two batches."""


class WatchedStore:
    """A store that calls a hook before each write, and otherwise only forwards to another."""

    def __init__(self, beneath: MemoryStore) -> None:
        self.beneath = beneath
        self.before_write: Callable[[], None] = lambda: None

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self.beneath.get(family, key)

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        return self.beneath.get_many(family, keys)

    def scan(
        self, family: Family, start: bytes, end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self.beneath.scan(family, start, end, reverse=reverse)

    def page(
        self,
        family: Family,
        start: bytes,
        end: bytes | None,
        *,
        count_max: int,
        size_max: int,
        reverse: bool = False,
    ) -> Page:
        return self.beneath.page(
            family, start, end, count_max=count_max, size_max=size_max, reverse=reverse
        )

    def write(self, batch: WriteBatch) -> None:
        self.before_write()
        self.beneath.write(batch)

    def compact(self, family: Family, start: bytes, end: bytes) -> None:
        self.beneath.compact(family, start, end)

    def flush(self) -> None:
        self.beneath.flush()

    def checkpoint_to(self, path: str) -> None:
        self.beneath.checkpoint_to(path)

    def reopen(self) -> None:
        self.beneath.reopen()

    def sizes(self) -> dict[str, int]:
        return self.beneath.sizes()

    def verify(self) -> int:
        return self.beneath.verify()

    def close(self) -> None:
        self.beneath.close()


def tags_at(position: int) -> list[str]:
    """The tags of the event at a position: up to three common ones, and sometimes two rare ones."""
    return [tag for bit, tag in enumerate(("x", "y", "z")) if position >> bit & 1] + (
        ["rare:1", "rare:2"] if position % 5 == 0 else []
    )


class Truth:
    """Everything that was ever committed, in dicts."""

    def __init__(self) -> None:
        self.versions: dict[bytes, list[tuple[int, bytes | None]]] = {}
        self.streams: dict[str, list[int]] = {}
        self.categories: dict[str, list[int]] = {}
        self.types: dict[str, list[int]] = {}
        self.tags: dict[str, list[int]] = {}
        self.event_ids: dict[tuple[str, bytes], int] = {}
        self.events: list[bytes] = []
        self.records: list[Record] = []

    def value_at(self, key: bytes, view: int) -> bytes | None:
        versions = self.versions.get(key, [])
        count = bisect_right(versions, view, key=lambda version: version[0])
        return versions[count - 1][1] if count else None

    def scan(self, start: bytes, end: bytes | None, view: int) -> list[tuple[bytes, bytes]]:
        found = []
        for key in sorted(self.versions):
            value = self.value_at(key, view)
            if key >= start and (end is None or key < end) and value is not None:
                found.append((key, value))
        return found

    def position_at(self, view: int) -> int:
        record = self.records[view - 1] if view else None
        return record.first_position + len(record.events) - 1 if record else 0


class Written:
    """A state in simulated files, and its expected content."""

    def __init__(
        self,
        source: random.Random,
        *,
        files: MemoryFileSystem | None = None,
        store: MemoryStore | None = None,
        truth: Truth | None = None,
        batch_entries_max: int = 3,
    ) -> None:
        self.random = source
        self.files = files or MemoryFileSystem(random.Random(source.getrandbits(32)))
        self.store = WatchedStore(store or MemoryStore(random.Random(source.getrandbits(32))))
        self.truth = truth or Truth()
        self.batch_entries_max = batch_entries_max
        self.views: list[int] = []
        self.log_index = 0
        make_durable_directory(self.files, "data/events")
        make_durable_directory(self.files, "data/commits")
        applied = read_applied(self.store)
        self.event_log = EventLog.open(self.files, "data/events", Position(applied.position))
        self.commit_log = CommitLog.open(self.files, "data/commits", CommitNumber(applied.commit))
        self.stored_state = StoredState(self.store, self.event_log, self.commit_log)
        self.state = State(self.stored_state)
        for record in self.truth.records[applied.commit :]:
            self._apply(record)

    @property
    def last_commit(self) -> int:
        return len(self.truth.records)

    @property
    def horizon(self) -> int:
        return self.stored_state.horizon

    def commit(
        self,
        writes: dict[bytes, bytes | None],
        appended: Sequence[Appended] = (),
        *,
        tags_of: Mapping[int, Sequence[str]] | None = None,
    ) -> int:
        """Commit one second after the previous commit; return the number."""
        truth = self.truth
        commit = self.last_commit + 1
        time = START_US + commit * SECOND_US
        transaction = commit.to_bytes(16, "big")
        first_position = len(truth.events) + 1
        events: list[bytes] = []
        event_ids: list[object] = []
        for key, value in writes.items():
            truth.versions.setdefault(key, []).append((commit, value))
        for place, (stream, event_type, event_id) in enumerate(appended):
            position = len(truth.events) + 1
            positions = truth.streams.setdefault(stream, [])
            positions.append(position)
            truth.categories.setdefault(category_of(stream), []).append(position)
            truth.types.setdefault(event_type, []).append(position)
            tags = tags_at(position) if tags_of is None else tags_of.get(position, ())
            for tag in tags:
                truth.tags.setdefault(tag, []).append(position)
            if event_id is not None:
                truth.event_ids[stream, event_id] = len(positions)
                event_ids += [place, event_id]
            stored = encode_event(
                position,
                stream,
                len(positions),
                commit,
                time,
                event_id or transaction,
                event_type,
                b"data",
                b"",
                tags,
            )
            events.append(stored)
            truth.events.append(stored)
        flat = [member for write in writes.items() for member in write]
        record = Record(commit, transaction, time, 0, flat, first_position, events, event_ids)
        truth.records.append(record)
        self._apply(record)
        return commit

    def _apply(self, record: Record) -> None:
        self.state.apply(plan_records(self.state, [record]))

    def begin_checkpoint(self) -> None:
        self.state.freeze()

    def run_checkpoint(
        self, *, horizon: int = 0, garbage_entries_max: int = 1_000_000, forget_before: int = 0
    ) -> CheckpointResult:
        """Run the checkpoint, as a worker thread would."""
        assert self.state.frozen is not None
        self.stored_state.horizon = max(self.stored_state.horizon, horizon)
        return write_checkpoint(
            self.state.frozen,
            self.stored_state,
            horizon=horizon,
            views=sorted(self.views),
            garbage_entries_max=garbage_entries_max,
            forget_before=forget_before,
            log_index=self.log_index,
            batch_entries_max=self.batch_entries_max,
        )

    def finish_checkpoint(self, result: CheckpointResult) -> None:
        self.stored_state.advance(result.applied, result.time)
        self.state.thaw()

    def checkpoint(
        self, *, horizon: int = 0, garbage_entries_max: int = 1_000_000, forget_before: int = 0
    ) -> CheckpointResult:
        self.begin_checkpoint()
        result = self.run_checkpoint(
            horizon=horizon,
            garbage_entries_max=garbage_entries_max,
            forget_before=forget_before,
        )
        self.finish_checkpoint(result)
        return result

    def crash(self) -> "Written":
        """Lose the power, reopen the files, and replay missing commits. Read views end."""
        return Written(
            self.random,
            files=self.files.crash(),
            store=self.store.beneath.crash(),
            truth=self.truth,
            batch_entries_max=self.batch_entries_max,
        )

    # The content of the store.

    def entries(self, family: Family) -> list[tuple[bytes, bytes]]:
        return list(self.store.beneath.scan(family, b""))

    def retained(self) -> int:
        return sum(1 for _ in self.store.beneath.scan(Family.INDEX, b"r", b"s"))

    # Reads against the truth.

    def check(self, *, with_streams: bool = True) -> None:
        """Check every kind of read at each readable view."""
        views = [*range(self.horizon, self.last_commit + 1), *self.views]
        for view in sorted(set(views)):
            self.check_keys(view)
            if with_streams:
                self.check_streams(view)
        for key, entry in self.stored_state.latest.found.items():
            # While a checkpoint is written, cached entries may be older than the store.
            if self.state.frozen is None:
                assert self.store.get(Family.LATEST, key) == entry, key

    def check_keys(self, view: int) -> None:
        truth, state = self.truth, self.state
        for key in truth.versions:
            assert state.get(key, view) == truth.value_at(key, view), (key, view)
        keys = sorted(truth.versions)
        ranges: list[tuple[bytes, bytes | None]] = [(b"", None)]
        if len(keys) > 2:
            ranges.append((keys[1], keys[-1]))
        for start, end in ranges:
            self.check_iterators(start, end, view)
            self.check_pages(start, end, view)
            self.check_changes(start, end, view)

    def check_iterators(self, start: bytes, end: bytes | None, view: int) -> None:
        expected = self.truth.scan(start, end, view)
        behind = b"\xff" if end is None else end
        for ahead in (1, 2, 100):
            assert list(self.state.scan(start, behind, view, ahead=ahead)) == expected, view
            backwards = list(self.state.scan(start, behind, view, reverse=True, ahead=ahead))
            assert backwards == expected[::-1], view

    def check_pages(self, start: bytes, end: bytes | None, view: int) -> None:
        expected = self.truth.scan(start, end, view)
        behind = b"\xff" if end is None else end
        for reverse in (False, True):
            for limit in (1, 2, 1000):
                page = scan_page(
                    self.state, start, behind, view, limit=limit, size_max=10**6, reverse=reverse
                )
                wanted = (expected[::-1] if reverse else expected)[:limit]
                assert page.items == [each for key, value in wanted for each in (key[1:], value)]
                assert page.key_count == len(wanted)
                assert page.last == (wanted[-1][0] if wanted else b"")
                assert page.more == (len(expected) > limit)

    def check_changes(self, start: bytes, end: bytes | None, view: int) -> None:
        truth, state = self.truth, self.state
        changed = {
            key: versions[-1][0]
            for key, versions in truth.versions.items()
            if key >= start and (end is None or key < end) and versions[-1][0] > view
        }
        budget = WorkBudget(VALIDATION)
        changed_keys = ChangedKeys(state, view, budget)
        found = changed_keys.in_range(start, b"\xff" if end is None else end)
        if found is not None:
            assert changed[found[0]] >= found[1] > view
        elif view >= self.horizon:
            assert not changed
        else:
            # A key created and deleted before the horizon leaves no trace.
            assert truth.scan(start, end, view) == truth.scan(start, end, self.last_commit)
        for key, commit in changed.items():
            if view >= self.horizon:
                assert state.newest_commit(key, view) == commit

    def check_streams(self, view: int) -> None:
        truth, state = self.truth, self.state
        last = truth.position_at(view)
        assert state.position_at(view) == last or view < self.commit_log.first_commit
        for stream, all_positions in truth.streams.items():
            head = state.head(stream)
            assert (head.version, head.last_position) == (len(all_positions), all_positions[-1])
            positions = [position for position in all_positions if position <= last]
            version = state.version_at(stream, head, last)
            assert version == len(positions)
            for first in range(1, version + 1):
                found = list(state.stream_positions(stream, head, first, version))
                assert found == positions[first - 1 :]
        for index, names in (
            ("category", truth.categories),
            ("type", truth.types),
            ("tag", truth.tags),
        ):
            for name, all_positions in names.items():
                for after in range(0, last + 1, 3):
                    within = [each for each in all_positions if after < each <= last]
                    for limit in (1, 2, 1000):
                        found = list(state.indexed_positions(index, name, after, last, limit))
                        assert found == within[:limit]
                        backwards = state.indexed_positions(
                            index, name, after, last, limit, reverse=True
                        )
                        assert list(backwards) == within[::-1][:limit]
        for (stream, event_id), expected in truth.event_ids.items():
            assert state.event_version(stream, state.head(stream), event_id) == expected
        everything = range(1, last + 1)
        assert state.events(everything) == truth.events[:last]
        assert state.events(everything[::-2]) == truth.events[:last][::-2]
