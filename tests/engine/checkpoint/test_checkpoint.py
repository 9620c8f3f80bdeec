"""Checkpoints: what they write, and that they can be interrupted anywhere."""

import contextlib
import random
from collections.abc import Sequence

import pytest

from headwater_server.engine.checkpoint.version_writer import CHANGES_MAX
from headwater_server.engine.format.index_keys import (
    ID_BUCKET_IDS_MAX,
    META_UNFINISHED,
    find_in_id_bucket,
    id_bucket_entry,
    parse_changes,
    parse_transactions,
)
from headwater_server.engine.format.planned import ABORT, Planned
from headwater_server.engine.state.layers import State
from headwater_server.engine.state.stored_state import read_applied
from headwater_server.engine.transactions.changed_keys import ChangedKeys
from headwater_server.engine.work_budget import VALIDATION, WorkBudget
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.store.interface import Family
from tests.engine.written import START_US, PowerLoss, Written


def some_commits(written: Written, count: int) -> None:
    """Commits of every kind: keys are created, changed and deleted; streams begin and grow."""
    source = written.random
    keys = [b"\x01" + bytes([letter]) * length for letter in b"abcde" for length in (1, 2)]
    for _ in range(count):
        writes: dict[bytes, bytes | None] = {}
        for key in source.sample(keys, source.randint(0, 4)):
            writes[key] = None if source.random() < 0.3 else source.randbytes(4)
        appended = [
            (
                source.choice(["account-a", "account-b", "order-1", "plain"]),
                source.choice(["Opened", "Closed"]),
                source.randbytes(16) if source.random() < 0.3 else None,
            )
            for _ in range(source.randint(0, 3))
        ]
        written.commit(writes, appended)


@pytest.mark.slow
def test_the_files_give_the_same_answers_as_memory() -> None:
    written = Written(random.Random(1))
    for _ in range(6):
        some_commits(written, 8)
        written.check()
        written.checkpoint()
        written.check()
    assert written.stored_state.applied_commit == 48


def test_readers_see_the_same_between_any_two_batches_of_a_checkpoint() -> None:
    written = Written(random.Random(2), batch_entries_max=1)
    some_commits(written, 10)
    written.checkpoint(horizon=5)
    some_commits(written, 10)
    written.views = [6, 9]
    written.begin_checkpoint()
    some_commits(written, 3)
    writes = 0

    def look() -> None:
        nonlocal writes
        writes += 1
        if writes % 5 == 0:
            written.check(with_streams=writes % 3 == 0)

    written.store.before_write = look
    result = written.run_checkpoint(horizon=12)
    written.check()
    written.finish_checkpoint(result)
    written.check()
    assert writes > 40


@pytest.mark.parametrize("seed", range(4))
def test_a_crash_between_any_two_batches_loses_nothing(seed: int) -> None:
    base = Written(random.Random(seed), batch_entries_max=1)
    some_commits(base, 8)
    base.checkpoint(horizon=3)
    ends = 0
    finished = False
    while not finished:
        written = base.crash()
        some_commits(written, 3)
        ends += 1
        left = ends * 3

        def count_down() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise PowerLoss

        written.store.before_write = count_down
        written.begin_checkpoint()
        some_commits(written, 1)
        try:
            written.run_checkpoint(horizon=written.last_commit - 4)
            finished = True
        except PowerLoss:
            pass
        written = written.crash()
        written.check()
        # The commits are replayed, and now written by checkpoints of other lengths.
        written.checkpoint(horizon=written.last_commit - 3)
        written.check()
        base = written
    assert ends > 5
    base.checkpoint(horizon=base.last_commit)
    base.checkpoint()
    assert base.store.get(Family.INDEX, META_UNFINISHED) is None


def test_a_checkpoint_continues_after_a_full_disk() -> None:
    written = Written(random.Random(3))
    some_commits(written, 10)
    written.checkpoint(horizon=4)
    some_commits(written, 10)
    written.begin_checkpoint()
    some_commits(written, 2)
    written.store.beneath.full = True
    for _ in range(3):
        with pytest.raises(DiskFull):
            written.run_checkpoint(horizon=8)
        written.check()
        written.stored_state.reopen()
        written.check()
    written.store.beneath.full = False
    written.finish_checkpoint(written.run_checkpoint(horizon=8))
    written.check()
    written.checkpoint()
    written.crash().check()


def test_a_checkpoint_continues_after_the_logs_found_the_disk_full() -> None:
    written = Written(random.Random(4))
    some_commits(written, 10)
    written.checkpoint()
    for _ in range(30):
        written.commit({}, [("long", "Event", None)] * 30)
    written.begin_checkpoint()
    written.files.faults.capacity = written.files.used + 30_000
    with pytest.raises(DiskFull):
        written.run_checkpoint()
    written.check(with_streams=False)
    written.files.faults.capacity = None
    written.finish_checkpoint(written.run_checkpoint())
    assert written.state.events(range(1, 900)) == written.truth.events[:899]
    assert written.crash().state.events(range(1, 900)) == written.truth.events[:899]


def test_an_unfinished_checkpoint_marks_its_log_as_durable() -> None:
    written = Written(random.Random(10), batch_entries_max=1)
    some_commits(written, 4)
    written.log_index = 4
    written.checkpoint()
    some_commits(written, 4)
    written.log_index = 9
    written.begin_checkpoint()
    left = 10

    def count_down() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise PowerLoss

    written.store.before_write = count_down
    with pytest.raises(PowerLoss):
        written.run_checkpoint()
    assert read_applied(written.store) == written.stored_state.applied._replace(log_index=9)


def test_versions_that_nobody_can_read_are_not_written() -> None:
    written = Written(random.Random(5))
    for number in range(1, 10):
        written.commit({b"\x01k": b"%d" % number})
    written.views = [3]
    result = written.checkpoint(horizon=7)
    # The view needs 3, the window needs 7 and 8, and 9 is the newest.
    assert result.versions == 3
    written.check()


def test_a_key_created_and_deleted_before_the_horizon_leaves_no_entries() -> None:
    written = Written(random.Random(6))
    written.commit({b"\x01k": b"x"})
    written.commit({b"\x01k": None})
    written.checkpoint(horizon=2)
    assert written.entries(Family.LATEST) == []
    assert written.entries(Family.HISTORY) == []
    assert written.entries(Family.CHANGES) == []


def test_streams_grow_over_many_checkpoints_by_one_event_each() -> None:
    written = Written(random.Random(7))
    for number in range(1, 121):
        written.commit({}, [("slow", "Ticked", None)])
        if number % 7 == 0:
            written.commit({}, [("other", "Ticked", None)])
        written.checkpoint()
    written.check_streams(written.last_commit)
    written.check_streams(50)
    postings = [key for key, _ in written.entries(Family.INDEX) if key[:1] == b"S"]
    assert len(postings) == 3, "33 events make a posting, and the head keeps the newest ones"


def test_a_long_stream_is_cut_into_postings() -> None:
    written = Written(random.Random(8), batch_entries_max=1000)
    for _ in range(20):
        written.commit({}, [("long", "Ticked", None)] * 1000)
    written.checkpoint()
    head = written.state.head("long")
    assert head.version == 20_000
    for first, last in (
        (1, 20_000),
        (8192, 8193),
        (8193, 8193),
        (16_384, 16_386),
        (20_000, 20_000),
    ):
        found = written.stored_state.stream_positions("long", first, last)
        assert list(found) == list(range(first, last + 1))
    for position in (1, 8191, 8192, 8193, 19_999, 20_000):
        assert written.stored_state.stream_version_at("long", position) == position
    backwards = written.stored_state.indexed_positions(
        "type", "Ticked", 8000, 17_000, 1001, reverse=True
    )
    assert list(backwards) == list(range(17_000, 15_999, -1))


def test_transactions_are_forgotten_when_their_retention_is_over() -> None:
    written = Written(random.Random(9))
    for _ in range(10):
        written.commit({b"\x01k": b"v"})
    for transaction, time in ((b"a" * 16, START_US), (b"b" * 16, START_US + 9_000_000)):
        written.state.apply([Planned(ABORT, transaction, time, 0, 0, 0, ())])
    written.checkpoint(horizon=8)
    record = written.stored_state.commit_record(6)
    written.commit({b"\x01k": b"w"})
    result = written.checkpoint(horizon=8, forget_before=record.time)
    assert (result.forgotten.commit, result.forgotten.transactions) == (5, 6)
    known = [written.stored_state.transaction(each.to_bytes(16, "big")) for each in range(1, 12)]
    assert known == [None] * 5 + [6, 7, 8, 9, 10, 11]
    assert written.stored_state.transaction(b"a" * 16) is None
    assert written.stored_state.transaction(b"b" * 16) == 0
    written.check()


def test_ids_of_the_same_16_ms_share_an_entry_until_it_is_full() -> None:
    written = Written(random.Random(8), batch_entries_max=64)
    # The ids of these commits differ in their last bytes only.
    for number in range(ID_BUCKET_IDS_MAX + 5):
        written.commit({b"\x01k": b"%d" % number})
        if number == 700:
            written.checkpoint(horizon=written.last_commit)
    written.checkpoint(horizon=written.last_commit)
    entries = written.entries(Family.TRANSACTIONS)
    assert len(entries) == 1 + 5
    written.check()
    found = written.stored_state
    for record in written.truth.records:
        assert found.transaction(record.transaction) == record.commit
    assert found.transaction(bytes(14) + b"\xff\xff") is None
    # Some of both kinds are forgotten, then all except the newest.
    for last in (900, ID_BUCKET_IDS_MAX + 2):
        forget_before = written.truth.records[last].time
        written.checkpoint(horizon=written.last_commit, forget_before=forget_before)
        for record in written.truth.records:
            known = record.commit if record.time >= forget_before else None
            assert found.transaction(record.transaction) == known
    assert len(written.entries(Family.TRANSACTIONS)) == 3


def test_an_id_whose_bytes_span_two_others_is_not_found() -> None:
    entry = b"".join(id_bucket_entry(bytes([each]) * 16, 0x0202020202020202) for each in (1, 2))
    assert find_in_id_bucket(entry, b"\x02" * 16) == 0x0202020202020202
    assert find_in_id_bucket(entry, b"\x01" * 15 + b"\x02") is None
    assert find_in_id_bucket(entry, b"\x01" * 8 + b"\x02" * 8) is None


def test_a_commit_of_many_keys_has_its_changes_in_many_entries() -> None:
    written = Written(random.Random(9), batch_entries_max=64)
    keys = [b"\x01%04d" % number for number in range(2 * CHANGES_MAX + 100)]
    written.commit({keys[0]: b"before"})
    for value in (b"1", b"2", None):
        written.commit(dict.fromkeys(keys, value))
    written.commit({keys[1]: b"after"})
    written.checkpoint()
    entries = written.entries(Family.CHANGES)
    assert len(entries) == (3 * len(keys) + 2) // CHANGES_MAX + 1
    assert [key for key, _ in entries] == sorted(key for key, _ in entries)
    told = [change for _, entry in entries for change in parse_changes(entry)]
    assert [change[0] for change in told] == [
        1, *[commit for commit in (2, 3, 4) for _ in keys], 5
    ]  # fmt: skip
    for after in range(6):
        changed = ChangedKeys(State(written.stored_state), after, WorkBudget(VALIDATION))
        found = changed.in_range(keys[0], keys[2])
        assert (found is not None) == (after < 5), after
        assert changed.in_range(keys[2], b"\xff") == ((keys[2], 4) if after < 4 else None)
    # A run ends within a commit, the power is lost, and the next run continues there.
    runs = 0
    while not written.checkpoint(horizon=5, garbage_entries_max=500).garbage.complete:
        written.check()
        written = written.crash()
        runs += 1
    assert runs == (3 * len(keys) + 2) // 500
    assert written.entries(Family.HISTORY) == written.entries(Family.CHANGES) == []
    assert [key for key, _ in written.entries(Family.LATEST)] == [keys[1]]


@pytest.mark.parametrize("batches", range(1, 14))
def test_an_interrupted_attempt_is_repeated_with_other_commits(batches: int) -> None:
    written = Written(random.Random(batches), batch_entries_max=4)
    keys = [b"\x01%d" % number for number in range(5)]
    for number in range(4):
        written.commit(dict.fromkeys(keys[number:], b"%d" % number))
    written.checkpoint()
    for number in range(4):
        written.commit(dict.fromkeys(keys[: number + 1], b"more %d" % number))
    left = batches

    def count_down() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise PowerLoss

    written.store.before_write = count_down
    with contextlib.suppress(PowerLoss):
        written.checkpoint()
    # All batches except the last survive, and the log has two more commits.
    written.store.beneath.flush()
    written = written.crash()
    written.commit(dict.fromkeys(keys, b"behind"))
    written.commit({keys[0]: None})
    written.checkpoint(horizon=2)
    written.check()
    changes = [
        each for _, entry in written.entries(Family.CHANGES) for each in parse_changes(entry)
    ]
    assert sorted((key, commit) for commit, _, key in changes if commit > 2) == [
        (key, commit) for key in keys for commit, _ in written.truth.versions[key] if commit > 2
    ]
    ids = [
        each
        for entry in written.entries(Family.TRANSACTIONS)
        for each in parse_transactions(*entry)
    ]
    assert sorted(ids) == [(record.transaction, record.commit) for record in written.truth.records]
    assert written.checkpoint(horizon=written.last_commit).garbage.complete
    written.check()
    assert written.entries(Family.HISTORY) == written.entries(Family.CHANGES) == []


def test_a_key_is_looked_up_once_however_many_checkpoints_write_it() -> None:
    written = Written(random.Random(11))
    keys = [b"\x01%02d" % number for number in range(30)]
    asked: list[bytes] = []
    get_many = written.store.get_many

    def get_many_and_record(family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        asked.extend(keys if family is Family.LATEST else ())
        return get_many(family, keys)

    written.store.get_many = get_many_and_record  # type: ignore[method-assign]
    for value in (b"1", b"2", b"3"):
        written.commit(dict.fromkeys(keys, value))
        written.checkpoint()
    assert asked == keys
    # A deleted key may be gone from the files, so it is looked up again.
    written.commit({keys[0]: None, keys[1]: b"4"})
    written.checkpoint(horizon=written.last_commit)
    written.commit(dict.fromkeys(keys, b"5"))
    asked.clear()
    written.checkpoint()
    assert asked == keys[:1]
    written.check()


def test_keys_that_a_failed_checkpoint_wrote_are_looked_up_again() -> None:
    written = Written(random.Random(12))
    keys = [b"\x01%02d" % number for number in range(30)]
    written.commit(dict.fromkeys(keys, b"1"))
    written.checkpoint()
    written.commit(dict.fromkeys(keys, b"2"))
    written.begin_checkpoint()
    written.store.beneath.full = True
    with pytest.raises(DiskFull):
        written.run_checkpoint()
    assert not written.stored_state.latest.found
    written.stored_state.reopen()
    written.store.beneath.full = False
    written.finish_checkpoint(written.run_checkpoint())
    written.check()
    written.crash().check()
