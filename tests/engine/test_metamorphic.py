"""One history, stored in many ways: reads must not depend on how it is stored.

Each run executes the same commits with other sizes of groups, segments and memtables, other
checkpoints, garbage collection and history windows, and other restarts and power losses. All must
answer like the plain run: a group for each commit, no checkpoints, no restarts.
"""

import random
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest

from headwater_server.engine.engine import Engine
from headwater_server.engine.reads.filters import EVERYTHING, EventFilter
from headwater_server.engine.settings import SECOND_US, EngineSettings
from tests.engine import database as database_module
from tests.engine.database import START_US, Database, all_events
from tests.simulation.determinism import replaced

COMMITS = 60
FOREVER_US = 10**15


class Answers(NamedTuple):
    keys: Any
    backwards: Any
    events: list[bytes]
    of_a_type: list[bytes]
    streams: Any
    loaded: Any


@dataclass(frozen=True)
class Storage:
    """How a history is stored.

    Attributes:
        group: commits that one sync makes durable, at most.
        checkpoint: commits between two checkpoints; 0 for none.
        overtaken: commits between the begin and the end of a checkpoint.
        restarts: the share of commits after which the database is crashed or closed and reopened.
    """

    settings: EngineSettings
    group: int
    checkpoint: int
    overtaken: int
    segment_size: int
    restarts: float


PLAIN = Storage(
    EngineSettings(disk_reserve_size=0, history_window_us=FOREVER_US), 1, 0, 0, 16 * 2**20, 0.0
)


def draw(source: random.Random) -> Storage:
    settings = EngineSettings(
        disk_reserve_size=0,
        history_window_us=source.choice((0, 10 * SECOND_US, FOREVER_US)),
        snapshots_kept=source.choice((1, 2, 50)),
        memtable_size_max=source.choice((1000, 20_000, 10**8)),
        memtable_commits_max=source.choice((2, 7, 50_000)),
        examined_events_max=source.choice((3, 50, 20_000)),
        garbage_entries_max=source.choice((1, 10, 200_000)),
    )
    return Storage(
        settings,
        group=source.choice((1, 2, 7, 30)),
        checkpoint=source.choice((0, 1, 3, 10, 25)),
        overtaken=source.choice((0, 0, 2)),
        segment_size=source.choice((8 * 1024, 64 * 1024, 2**20)),
        restarts=source.choice((0.0, 0.05, 0.3)),
    )


def writes_of(source: random.Random, heads: dict[str, int]) -> list[list[Any]]:
    """The writes of a commit. They depend only on the seed, and not on how they are stored."""
    writes: list[list[Any]] = [["add", b"count", 1]]
    for _ in range(source.randint(1, 3)):
        key = b"key %d" % source.randrange(12)
        match source.choice(("put", "put", "delete", "range")):
            case "put":
                writes.append(["put", key, source.randbytes(source.choice((1, 20, 3000)))])
            case "delete":
                writes.append(["delete", key])
            case _:
                writes.append(["delete_range", key, key + b"\xff"])
    if source.random() < 0.7:
        stream = f"account-{source.randrange(4)}"
        kinds = [source.choice(("Opened", "Changed")) for _ in range(source.randint(1, 3))]
        expect = heads.get(stream, 0)
        writes.append(["append", stream, expect, [[None, k, b"data", b""] for k in kinds]])
        heads[stream] = expect + len(kinds)
        if source.random() < 0.3:
            writes.append(["save_snapshot", stream, "", 1, heads[stream], b"state"])
    return writes


def answers(engine: Engine, commit: int | None = None) -> Answers:
    reader = engine.reader(commit)
    names = [f"account-{number}" for number in range(4)]
    return Answers(
        reader.scan(b"", None, 1000, False).items,
        reader.scan(b"key 3", b"key 7", 5, True).items,
        all_events(reader, 0, EVERYTHING),
        all_events(reader, 0, EventFilter(types=("Opened",))),
        [reader.read_stream(name, 1, 1000, True) for name in names],
        [reader.load(name, "", 1) for name in names],
    )


def run(seed: int, storage: Storage) -> tuple[Engine, list[Answers]]:
    """Execute the history of a seed. Return the engine, and if PLAIN the answers at each commit."""
    history, chance = random.Random(f"history {seed}"), random.Random(f"endings {seed}")
    with replaced(database_module, "SEGMENT_SIZE", storage.segment_size):
        database = Database(storage.settings, seed=seed)
        heads: dict[str, int] = {}
        found: list[Answers] = []
        checkpoint = None
        begun = 0
        for place in range(COMMITS):
            database.now = START_US + SECOND_US * (place + 1)
            identity = b"transaction %04d" % place
            database.engine.execute(
                identity, user=0, conditions=[], reads=None, writes=writes_of(history, heads)
            )
            if place % storage.group == storage.group - 1:
                database.sync()
            if checkpoint is not None and place >= begun + storage.overtaken:
                checkpoint.run()
                database.engine.finish_checkpoint(checkpoint)
                database.engine.trim_log()
                checkpoint = None
            elif storage.checkpoint and place % storage.checkpoint == storage.checkpoint - 1:
                database.sync()
                checkpoint, begun = database.engine.begin_checkpoint(), place
            if chance.random() < storage.restarts:
                database.sync()
                checkpoint = None
                database = database.crash() if chance.random() < 0.5 else database.reopen()
            if storage is PLAIN:
                found.append(answers(database.engine))
        database.sync()
    return database.engine, found


def status(engine: Engine, identity: bytes) -> Any:
    found = engine.status(identity, resolve=False)
    return found.state, found.ticket.payload


@pytest.mark.parametrize("seed", range(12))
def test_a_history_reads_the_same_however_it_is_stored(seed: int) -> None:
    plain, expected = run(seed, PLAIN)
    source = random.Random(f"keeping {seed}")
    for number in range(6):
        storage = draw(source)
        print(f"seed {seed}, storage {number}: {storage}")
        engine, _ = run(seed, storage)
        assert engine.published == COMMITS
        oldest = engine.oldest_readable
        for commit in {oldest, max(oldest, COMMITS // 2), COMMITS - 1, COMMITS}:
            if commit >= max(1, oldest):
                assert answers(engine, commit) == expected[commit - 1], f"at commit {commit}"
        assert engine.looking.read_commits(0, 100) == plain.looking.read_commits(0, 100)
        for place in range(COMMITS):
            identity = b"transaction %04d" % place
            assert status(engine, identity) == status(plain, identity)


def test_the_drawn_storages_differ_in_history_and_checkpoints() -> None:
    oldest = set()
    checkpoints = set()
    for seed in range(12):
        engine, _ = run(seed, draw(random.Random(f"keeping {seed}")))
        oldest.add(engine.oldest_readable)
        checkpoints.add(engine.stats()["checkpoints"])
    assert len(oldest) > 2
    assert len(checkpoints) > 4


def test_a_history_without_a_window_is_complete() -> None:
    engine, _ = run(1, replace(PLAIN))
    assert engine.oldest_readable == 0
