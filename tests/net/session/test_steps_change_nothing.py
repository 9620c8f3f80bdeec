"""A request that is evaluated in steps has the outcome of one that is evaluated in one stretch."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from headwater_protocol.errors import HeadwaterError
from headwater_server.engine import work_budget
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.transactions import write_buffer
from headwater_server.engine.transactions.sequencer import Ticket
from headwater_server.engine.work_budget import Cutting
from headwater_server.net.session.long_requests import LongRequest
from tests.engine.database import Database

pytestmark = pytest.mark.skipif(
    str(work_budget.__file__).endswith(".so"), reason="a constant of a compiled module is fixed"
)

KEYS = [b"k%02d" % number for number in range(40)]
STREAMS = ["a-1", "a-2", "b-1", "c"]


@pytest.fixture(autouse=True)
def _shortest_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_budget, "AT_ONCE_MAX", 3)
    monkeypatch.setattr(work_budget, "STEP_MAX", 3)
    monkeypatch.setattr(write_buffer, "WRITES_AT_ONCE_MAX", 2)


def a_write(source: random.Random) -> list[Any]:
    key, other = sorted(source.sample(KEYS, 2))
    return source.choice(
        [
            ["put", key, b"\x01"],
            ["delete", key],
            ["add", key, 1],
            ["delete_range", key, other],
            ["append", source.choice(STREAMS), -1, [[None, "T", b"", b"", ["x"]]]],
            ["append", source.choice(STREAMS), source.randrange(5), [[None, "T", b"", b""]]],
            [
                "append",
                "d",
                -1,
                [[None, "T", b"", b""]],
                {"query": [{"tags": ["x"]}]},
                source.randrange(3),
            ],
            ["truncate", "a-1", 1],
        ]
    )


def reads(database: Database) -> tuple[Any, ...]:
    """Everything that can be read, and the newest commit."""
    reader = database.engine.reader()
    keys = [reader.get(key) for key in KEYS]
    return keys, reader.read_stream("a-1", 0, 100, False), reader.view


def outcome(call: Callable[[Cutting | None], Any]) -> Any:
    """The answer or the error of a call."""
    try:
        result = call(None)
    except HeadwaterError as error:
        return error.code, error.message
    return told(result)


def told(result: Any) -> Any:
    ticket: Ticket = result[0] if isinstance(result, tuple) else result
    if ticket.error is not None:
        return ticket.error.code, ticket.error.message, ticket.error.details
    return ticket.payload, result[1] if isinstance(result, tuple) else None


def request(database: Database, source: random.Random) -> Callable[[Cutting | None], Any]:
    """A random execute, or the commit of a random transaction with an earlier view."""
    engine, transaction = database.engine, database.new_id()
    writes = [a_write(source) for _ in range(source.randrange(1, 9))]
    if source.random() < 0.5:
        conditions = [["value", source.choice(KEYS), None]] if source.random() < 0.3 else []
        chosen = source.sample(KEYS, 5)

        def read(reader: Reader) -> list[Any]:
            return [reader.get(key) for key in chosen]

        return lambda cutting: engine.execute(
            transaction,
            user=0,
            conditions=conditions,
            reads=read,
            writes=writes,
            cutting=cutting,
        )
    opened = engine.begin(transaction, owner="me")
    for key in source.sample(KEYS, 6):
        opened.get(key)
    first, last = sorted(source.sample(KEYS, 2))
    opened.scan(first, last, 10, False)
    engine.write(transaction, "me", writes)
    for _ in range(source.randrange(3)):
        database.execute(["put", source.choice(KEYS), b"\x02"])
    return lambda cutting: engine.commit(transaction, "me", [], cutting=cutting)


def in_steps(database: Database, source: random.Random, call: Callable[..., Any]) -> Any:
    """The same as `outcome`, with reads, syncs, checkpoints and ticks between the steps."""
    long = LongRequest(1, None, call, 0.0)
    before = reads(database)
    try:
        while not long.step():
            assert reads(database) == before, "nothing of it can be seen yet"
            what = source.random()
            if what < 0.05:
                database.checkpoint()
            elif what < 0.1:
                database.engine.sequencer._tick(database.now)
                database.sync()
    except HeadwaterError as error:
        return error.code, error.message
    finally:
        database.engine.sequencer.end_plan()
    return told(long.result)


@pytest.mark.parametrize("seed", range(8))
def test_steps_change_no_outcome(seed: int) -> None:
    print("seed", seed)
    plain, stepped = Database(seed=seed), Database(seed=seed)
    disturbing = random.Random(seed)
    committed = 0
    for number in range(60):
        results = []
        for database in (plain, stepped):
            source = random.Random(f"{seed} {number}")
            # A checkpoint draws from it too, and the ids must be the same in both.
            database.random.seed(f"{seed} {number}")
            call = request(database, source)
            run = partial(in_steps, database, disturbing) if database is stepped else outcome
            results.append(run(call))
            database.sync()
        assert results[0] == results[1]
        committed += results[0][0] not in ("conflict", "condition_failed")
        assert reads(plain) == reads(stepped)
    assert 20 < committed < 60
    assert reads(stepped.crash()) == reads(plain)
