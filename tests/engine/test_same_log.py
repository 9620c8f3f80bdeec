"""Two engines that have applied the same log give the same answers, whatever their clocks say.

One engine makes a random history: keys, events, and streams that are truncated, limited by count
and by age, deleted and erased, while time passes. From time to time another engine opens a copy of
its files with a wrong clock and other memory settings. Both must be able to read the same commits,
with the same results, and must give the same status for every transaction.
"""

import random
from dataclasses import replace
from typing import Any

import pytest

from headwater_protocol.errors import HeadwaterError
from headwater_protocol.numbers import ANY
from headwater_server.engine.reads.filters import EVERYTHING, EventFilter
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.settings import SECOND_US
from tests.engine.database import OWNER, SETTINGS, Database, all_events

KEYS = [b"a", b"b", b"c"]
STREAMS = ["kept-1", "kept-2", "aged-1"]
WINDOW = replace(SETTINGS, history_window_us=20 * SECOND_US, examined_events_max=5)
WRONG_US = (0, 3600 * SECOND_US, -3600 * SECOND_US, 10 * 365 * 24 * 3600 * SECOND_US)
"""By how much the clock of the other engine is wrong."""


def some_writes(source: random.Random) -> list[list[Any]]:
    stream = source.choice(STREAMS)
    match source.randrange(9):
        case 0 | 1:
            return [["put", source.choice(KEYS), source.randbytes(1)]]
        case 2:
            return [["delete_range", b"a", source.choice((b"b", None))]]
        case 3:
            return [["truncate", stream, source.randint(1, 6)]]
        case 4 if source.random() < 0.3:
            return [["delete_stream", stream]]
        case 5:
            age = source.choice((None, SECOND_US, 5 * SECOND_US))
            return [["set_retention", stream, source.choice((None, 2)), age]]
        case 6:
            return [["erase", stream, [source.randint(1, 4)]]]
        case _:
            event = [None, "T", source.randbytes(2), b""]
            return [["append", stream, ANY, [event] * source.choice((1, 1, 3))]]


def everything(reader: Reader) -> list[Any]:
    """Everything that can be read at a commit."""
    wanted = [EVERYTHING, EventFilter(category="kept"), EventFilter(prefix="aged")]
    loads = [reader.load(stream, "", 0) for stream in STREAMS]
    return [
        reader.scan(b"", None, 1000, False).items,
        [all_events(reader, 0, each) for each in wanted],
        [(load.version, load.begins, load.events) for load in loads],
    ]


def assert_same(one: Database, other: Database, transactions: list[bytes]) -> None:
    assert other.engine.published == one.engine.published
    assert other.engine.oldest_readable == one.engine.oldest_readable
    for commit in range(one.engine.oldest_readable, one.engine.published + 1):
        found, expected = (everything(each.engine.reader(commit)) for each in (other, one))
        assert found == expected, f"commit {commit} of {one.engine.published}"
    for transaction in transactions:
        first, second = (each.engine.status(transaction, resolve=False) for each in (one, other))
        assert (first.state, first.ticket.payload) == (second.state, second.ticket.payload)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_copy_of_the_log_gives_the_same_answers_under_another_clock(seed: int) -> None:
    source = random.Random(f"same log {seed}")
    database = Database(WINDOW, seed=seed)
    transactions: list[bytes] = []
    for step in range(80):
        transaction = database.new_id()
        transactions.append(transaction)
        try:
            database.execute(*some_writes(source), transaction=transaction)
        except HeadwaterError:
            # For example, a missing event cannot be erased.
            pass
        if source.random() < 0.1:
            database.engine.status(database.new_id(), resolve=True)
            database.sync()
        if source.random() < 0.3:
            database.wait(source.choice((SECOND_US // 10, SECOND_US, 4 * SECOND_US)))
        if source.random() < 0.1:
            database.checkpoint()
        if step % 20 == 19:
            other = Database(
                replace(WINDOW, memtable_commits_max=source.choice((3, 50_000))),
                seed=seed + 1,
                files=database.files.copy(),
                store=database.store.crash(),
                now=database.now + source.choice(WRONG_US),
            )
            assert_same(database, other, transactions)
            other.checkpoint()
            assert_same(database, other, transactions)


def test_an_open_transaction_reads_one_state_while_events_grow_old() -> None:
    # Events that a transaction had read were gone at its next read, without a commit in between.
    database = Database()
    database.execute(["set_retention", "aged-1", None, 5 * SECOND_US])
    database.execute(["append", "aged-1", ANY, [[None, "T", b"1", b""]]])
    opened = database.engine.begin(database.new_id(), owner=OWNER, isolation="serializable")
    before = opened.read_stream("aged-1", 0, 10, False).events
    assert len(before) == 1
    for _ in range(10):
        database.wait(SECOND_US)
        assert opened.read_stream("aged-1", 0, 10, False).events == before
    assert database.engine.reader().read_stream("aged-1", 0, 10, False).events == []
