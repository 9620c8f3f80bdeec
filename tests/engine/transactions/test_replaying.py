"""Replaying the log makes the same memtable as the commits themselves did."""

import random

import pytest

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.format.records import encode_commit
from headwater_server.engine.state.layers import State
from headwater_server.engine.state.memtable import MemTable
from headwater_server.engine.transactions.replaying import plan_entry
from tests.engine.database import Database


def content(table: MemTable) -> dict[str, object]:
    """Everything in a memtable except the sorted keys."""
    found = dict(vars(table))
    del found["_sorted"], found["_unsorted"]
    del found["_stream_names"], found["_category_names"]
    found["commits"] = [(each.commit_record(), list(each.writes)) for each in table.commits]
    seen = table.seen_ids
    found["seen_ids"] = (seen.newest, seen.early, seen.beyond, seen.early_from)
    found["stream names"] = table.first_names("stream", b"", None, 100)
    found["category names"] = table.first_names("category", b"", None, 100)
    found["keys"] = list(table.keys(b"", None))
    found["streams"] = {
        name: (tail.id, tail.base_version, tail.positions, tail.event_ids)
        for name, tail in table.streams.items()
    }
    return found


@pytest.mark.parametrize("seed", range(8))
def test_a_replayed_memtable_is_the_one_that_was_written(seed: int) -> None:
    print("seed", seed)
    source = random.Random(seed)
    database = Database(seed=seed)
    for _ in range(source.randrange(120)):
        key = b"k%d" % source.randrange(20)
        match source.randrange(9):
            case 0:
                database.execute(["put", key, b"v"], ["put", key + b"x", b"v"])
            case 1:
                event = [source.choice([None, source.randbytes(16)]), "Happened", b"d", b"", ["t"]]
                database.execute(["append", f"s-{source.randrange(3)}", -1, [event]])
            case 2:
                database.engine.status(source.randbytes(16), resolve=True)
            case 3:
                database.execute(["delete", key])
            case 4:
                database.execute(["save_snapshot", "s-0", "", 0, 0, b"state"])
            case _:
                database.now += source.randrange(3)
                value = source.randbytes(source.randrange(300))
                ticket, _ = database.engine.execute(
                    database.new_id(), user=0, conditions=[], reads=None,
                    writes=[["put", key, value]],
                )  # fmt: skip
                assert ticket.error is None
                if source.random() < 0.3:
                    database.sync()
    database.sync()
    before = content(database.engine._state.active)
    sequence = database.engine.durable_sequence
    database = database.crash()
    assert content(database.engine._state.active) == before
    assert database.engine.durable_sequence == sequence
    assert database.engine.published == before["last_commit"]


def one_put(commit: int, first_position: int = 1) -> bytes:
    transaction = commit.to_bytes(16, "big")
    return encode_commit(
        commit, transaction, 5, 0, [b"\x01k%d" % commit, b"v"], first_position, [], []
    )


def replay(state: State, encoded: list[bytes], *, path: str, index: int) -> None:
    state.apply(plan_entry(state, encoded, path=path, index=index))


def test_commits_in_the_files_are_skipped_and_a_gap_is_reported() -> None:
    database = Database()
    for number in range(5):
        database.execute(["put", b"k%d" % number, b"v"])
    database.checkpoint()
    state = database.engine._state
    replay(state, [one_put(number) for number in range(3, 9)], path="wal", index=7)
    assert (state.last_commit, len(state.active.commits)) == (8, 3)
    with pytest.raises(DamagedFile, match="wal: commit 11 follows commit 9") as caught:
        replay(state, [one_put(9), one_put(11)], path="wal", index=8)
    assert caught.value.details == {"file": "wal", "index": 8}
    # An entry is planned as a whole before any of it is applied.
    assert state.last_commit == 8


def test_a_key_is_written_by_several_commits_of_a_run() -> None:
    database = Database()
    keys = [b"\x01a", b"\x01b", b"\x01a", b"\x01a"]
    values = [b"1", b"2", None, b"4"]
    encoded = [
        encode_commit(commit, bytes([commit]) * 16, 5, 0, [key, value], 1, [], [])
        for commit, key, value in zip(range(1, 5), keys, values, strict=True)
    ]
    replay(database.engine._state, encoded, path="wal", index=1)
    table = database.engine._state.active
    assert list(table.keys(b"", None)) == [b"\x01a", b"\x01b"]
    found = [table.version_at(b"\x01a", view) for view in range(5)]
    assert [each and each[:2] for each in found] == [
        None, (1, b"1"), (1, b"1"), (3, None), (4, b"4"),
    ]  # fmt: skip
    assert [record.commit for record in table.commits] == [1, 2, 3, 4]
    assert table.transactions == {bytes([commit]) * 16: commit for commit in range(1, 5)}
    # An id says a time of its own, which is years ahead of this log's.
    assert table.seen_ids.early == [b"\x01" * 16]


def test_a_commit_that_skips_positions_fails_an_assertion() -> None:
    database = Database()
    with pytest.raises(AssertionError, match="and positions are dense"):
        replay(database.engine._state, [one_put(1, first_position=2)], path="wal", index=1)
