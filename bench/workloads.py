"""The workloads: the same work in the protocol of each server.

A workload makes one script for each connection and for every server that supports it. Keys are
drawn uniformly. Each connection has its own random keys, the same for every server and round.
"""

import random
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench import requests
from bench.load import Cycle, Script, Step
from bench.requests import COUNT, COUNT_MARK, HELLO, SYNC, Transactions
from bench.servers import Postgres, Server

KEYS: Final = 10_000
"""Keys that exist before a run, each with a value of VALUE_SIZE bytes."""

ACCOUNTS: Final = 1_000
VALUE_SIZE: Final = 100
EVENT_SIZE: Final = 200
CYCLES: Final = 256
"""Different requests of a connection before they repeat (with other ids)."""

APPEND_MANY: Final = 100
PAGE_EVENTS: Final = 1_000
HISTORY_EVENTS: Final = 100_000
SCAN_KEYS: Final = 100

VALUE: Final = random.Random(1).randbytes(VALUE_SIZE)
DATA: Final = random.Random(2).randbytes(EVENT_SIZE)

Scripts = Callable[[random.Random, int], Script]
"""Makes the script of a connection from a random source and the connection's number."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A row of the table.

    Attributes:
        name: short name.
        title: description of the work.
        scripts: the makers of scripts, by server.
        targets: the required factor of each rival's rate; "rate" is an absolute rate per second.
        factor: the units in a request, for example its events.
        unit: the counted unit.
    """

    name: str
    title: str
    scripts: Mapping[str, Scripts]
    targets: Mapping[str, float]
    connections: int = 32
    depth: int = 1
    factor: int = 1
    unit: str = "requests"


PROTOCOLS: Final = {
    "headwater": "headwater",
    "redis": "resp",
    "postgresql": "postgres",
    "etcd": "http",
}


def key(number: int) -> bytes:
    """The number-th key."""
    return b"key:%012d" % number


STATEMENTS: Final[Mapping[str, tuple[str, Sequence[str]]]] = {
    "update": ("UPDATE kv SET v = $2 WHERE k = $1", ("bytea", "bytea")),
    "select": ("SELECT v FROM kv WHERE k = $1", ("bytea",)),
    "scan": ("SELECT k, v FROM kv WHERE k >= $1 ORDER BY k LIMIT 100", ("bytea",)),
    "repeatable": ("BEGIN ISOLATION LEVEL REPEATABLE READ", ()),
    "serializable": ("BEGIN ISOLATION LEVEL SERIALIZABLE", ()),
    "commit": ("COMMIT", ()),
    "rollback": ("ROLLBACK", ()),
    "append": (
        "INSERT INTO events (stream, version, type, data) VALUES ($1, $2, 'Happened', $3)",
        ("text", "int8", "bytea"),
    ),
}


def _keys(source: random.Random, count: int = KEYS) -> Iterator[bytes]:
    for _ in range(CYCLES):
        yield key(source.randrange(count))


# Headwater.


def _headwater(cycles: Sequence[Cycle]) -> Script:
    return Script(cycles, HELLO)


def _execute(ids: Transactions, *writes: Sequence[object], number: int) -> bytes:
    return requests.frame(number, "execute", ids.id, [], [], list(writes))


def _headwater_put(source: random.Random, connection: int) -> Script:
    ids = Transactions()
    return _headwater(
        [
            Cycle([Step(_execute(ids, ["put", each, VALUE], number=place), marks=ids.marks)])
            for place, each in enumerate(_keys(source), 1)
        ]
    )


def _headwater_get(source: random.Random, connection: int) -> Script:
    return _headwater(
        [
            Cycle([Step(requests.frame(place, "get", None, each))])
            for place, each in enumerate(_keys(source), 1)
        ]
    )


def _headwater_scan(source: random.Random, connection: int) -> Script:
    return _headwater(
        [
            Cycle([Step(requests.frame(1, "scan", None, each, None, SCAN_KEYS))])
            for each in _keys(source, KEYS - SCAN_KEYS)
        ]
    )


def _headwater_interactive(source: random.Random, connection: int) -> Script:
    ids = Transactions()
    cycles: list[Cycle] = []
    for each in _keys(source):
        begin = requests.frame(1, "begin", ids.id) + requests.frame(2, "get", ids.id, each)
        commit = requests.frame(3, "commit", ids.id, [["put", each, VALUE]])
        cycles.append(Cycle([Step(begin, 2, ids.marks), Step(commit, 1, ids.marks)], retries=True))
    return _headwater(cycles)


def _headwater_transfer(source: random.Random, connection: int) -> Script:
    ids = Transactions()
    cycles: list[Cycle] = []
    for _ in range(CYCLES):
        one, other = (key(number) for number in source.sample(range(ACCOUNTS), 2))
        begin = (
            requests.frame(1, "begin", ids.id)
            + requests.frame(2, "get", ids.id, one)
            + requests.frame(3, "get", ids.id, other)
        )
        writes = [["put", one, VALUE], ["put", other, VALUE]]
        commit = requests.frame(4, "commit", ids.id, writes)
        cycles.append(Cycle([Step(begin, 3, ids.marks), Step(commit, 1, ids.marks)], retries=True))
    return _headwater(cycles)


def _headwater_append(source: random.Random, connection: int) -> Script:
    ids = Transactions()
    # Every run uses a new stream, since the expected version counts from 0.
    stream = f"load-{source.randbytes(4).hex()}-{ids.base:x}"
    event = [None, "Happened", DATA, b""]
    request = _execute(ids, ["append", stream, COUNT, [event]], number=1)
    return _headwater([Cycle([Step(request, marks={**ids.marks, COUNT_MARK: 0})])])


def _headwater_append_many(source: random.Random, connection: int) -> Script:
    ids = Transactions()
    event = [None, "Happened", DATA, b""]
    request = _execute(ids, ["append", f"many-{connection}", -1, [event] * APPEND_MANY], number=1)
    return _headwater([Cycle([Step(request, marks=ids.marks)])])


def _headwater_read_all(source: random.Random, connection: int) -> Script:
    return _headwater(
        [
            Cycle(
                [
                    Step(
                        requests.frame(
                            1,
                            "read_all",
                            None,
                            source.randrange(HISTORY_EVENTS - PAGE_EVENTS),
                            {},
                            PAGE_EVENTS,
                        )
                    )
                ]
            )
            for _ in range(CYCLES)
        ]
    )


# Redis.


def _redis_set(source: random.Random, connection: int) -> Script:
    return Script([Cycle([Step(requests.command(b"SET", each, VALUE))]) for each in _keys(source)])


def _redis_get(source: random.Random, connection: int) -> Script:
    return Script([Cycle([Step(requests.command(b"GET", each))]) for each in _keys(source)])


# PostgreSQL.


def _postgres(cycles: Sequence[Cycle]) -> Script:
    return Script(cycles, requests.startup(STATEMENTS))


def _postgres_update(source: random.Random, connection: int) -> Script:
    return _postgres(
        [Cycle([Step(requests.execute("update", each, VALUE) + SYNC)]) for each in _keys(source)]
    )


def _postgres_select(source: random.Random, connection: int) -> Script:
    return _postgres(
        [Cycle([Step(requests.execute("select", each) + SYNC)]) for each in _keys(source)]
    )


def _postgres_scan(source: random.Random, connection: int) -> Script:
    return _postgres(
        [
            Cycle([Step(requests.execute("scan", each) + SYNC)])
            for each in _keys(source, KEYS - SCAN_KEYS)
        ]
    )


_ROLLBACK: Final = Step(requests.execute("rollback") + SYNC)


def _postgres_interactive(source: random.Random, connection: int) -> Script:
    return _postgres(
        [
            Cycle(
                [
                    Step(requests.execute("repeatable") + requests.execute("select", each) + SYNC),
                    Step(
                        requests.execute("update", each, VALUE) + requests.execute("commit") + SYNC
                    ),
                ],
                retries=True,
                recover=_ROLLBACK,
            )
            for each in _keys(source)
        ]
    )


def _postgres_transfer(source: random.Random, connection: int) -> Script:
    cycles: list[Cycle] = []
    for _ in range(CYCLES):
        one, other = (key(number) for number in source.sample(range(ACCOUNTS), 2))
        begin = requests.execute("serializable")
        reads = requests.execute("select", one) + requests.execute("select", other)
        writes = requests.execute("update", one, VALUE) + requests.execute("update", other, VALUE)
        steps = [Step(begin + reads + SYNC), Step(writes + requests.execute("commit") + SYNC)]
        cycles.append(Cycle(steps, retries=True, recover=_ROLLBACK))
    return _postgres(cycles)


def _postgres_append(source: random.Random, connection: int) -> Script:
    stream = f"load-{source.randbytes(4).hex()}-{Transactions().base:x}".encode()
    request = requests.execute("append", stream, COUNT_MARK, DATA)
    return _postgres([Cycle([Step(request + SYNC, marks={COUNT_MARK: 1})])])


# etcd.


def _etcd_put(source: random.Random, connection: int) -> Script:
    return Script(
        [
            Cycle([Step(requests.post("/v3/kv/put", key=each, value=VALUE))])
            for each in _keys(source)
        ]
    )


def _etcd_get(source: random.Random, connection: int) -> Script:
    return Script(
        [Cycle([Step(requests.post("/v3/kv/range", key=each))]) for each in _keys(source)]
    )


_PUT: Final[Mapping[str, Scripts]] = {
    "headwater": _headwater_put,
    "redis": _redis_set,
    "postgresql": _postgres_update,
    "etcd": _etcd_put,
}
_GET: Final[Mapping[str, Scripts]] = {
    "headwater": _headwater_get,
    "redis": _redis_get,
    "postgresql": _postgres_select,
    "etcd": _etcd_get,
}


def _without(scripts: Mapping[str, Scripts], *names: str) -> Mapping[str, Scripts]:
    return {name: each for name, each in scripts.items() if name not in names}


WORKLOADS: Final = (
    Workload(
        "put",
        "durable put of 100 bytes",
        _PUT,
        {"redis": 1.0, "postgresql": 4.0},
    ),
    Workload(
        "put-16-deep",
        "durable put of 100 bytes, 16 requests deep",
        _without(_PUT, "etcd"),
        {"redis": 0.6, "postgresql": 10.0},
        depth=16,
    ),
    Workload("get", "get of 100 bytes", _GET, {"redis": 0.8, "postgresql": 1.8}),
    Workload(
        "get-16-deep",
        "get of 100 bytes, 16 requests deep",
        _without(_GET, "etcd"),
        {},
        depth=16,
    ),
    Workload(
        "interactive",
        "begin, get, put, commit in two round trips; serializable, PostgreSQL repeatable read",
        {"headwater": _headwater_interactive, "postgresql": _postgres_interactive},
        {"postgresql": 3.0},
        unit="transactions",
    ),
    Workload(
        "transfer",
        "transfer between two of 1,000 accounts, serializable, run again on conflict",
        {"headwater": _headwater_transfer, "postgresql": _postgres_transfer},
        {"postgresql": 2.0},
        unit="transactions",
    ),
    Workload(
        "append",
        "append one event of 200 bytes, expecting the stream's version",
        {"headwater": _headwater_append, "postgresql": _postgres_append},
        {"postgresql": 3.0},
        unit="events",
    ),
    Workload(
        "append-100",
        "append 100 events of 200 bytes a request",
        {"headwater": _headwater_append_many},
        {"rate": 300_000},
        connections=8,
        factor=APPEND_MANY,
        unit="events",
    ),
    Workload(
        "read-all",
        "read all events from history, 1,000 a page",
        {"headwater": _headwater_read_all},
        {"rate": 500_000},
        connections=8,
        factor=PAGE_EVENTS,
        unit="events",
    ),
    Workload(
        "put-alone",
        "durable put of 100 bytes, one connection",
        _without(_PUT, "etcd"),
        {"redis": 0.8},
        connections=1,
    ),
    Workload(
        "scan",
        "scan of 100 keys",
        {"headwater": _headwater_scan, "postgresql": _postgres_scan},
        {"postgresql": 2.0},
        connections=8,
    ),
)


def fill(server: Server) -> None:
    """Fill an empty server with the keys; Headwater also with events."""
    match server.name:
        case "headwater":
            _fill_headwater(server.port)
        case "redis":
            words = (requests.command(b"SET", key(n), VALUE) for n in range(KEYS))
            _ask(server.port, b"".join(words), b"+OK\r\n", KEYS)
        case "postgresql":
            assert isinstance(server, Postgres)
            server.run_sql(
                "CREATE TABLE kv (k bytea PRIMARY KEY, v bytea NOT NULL);"
                "CREATE TABLE events (position bigserial PRIMARY KEY, stream text NOT NULL,"
                " version int8 NOT NULL, type text NOT NULL, data bytea NOT NULL,"
                " UNIQUE (stream, version));"
                "INSERT INTO kv SELECT convert_to('key:' || lpad(n::text, 12, '0'), 'UTF8'),"
                f" decode('{VALUE.hex()}', 'hex') FROM generate_series(0, {KEYS - 1}) n;"
                "VACUUM ANALYZE;"
            )
        case "etcd":
            for number in range(0, KEYS, 10):
                _ask(server.port, requests.post("/v3/kv/put", key=key(number), value=VALUE), b"200")


def _fill_headwater(port: int) -> None:
    frames = [HELLO.data]
    for first in range(0, KEYS, 1000):
        writes = [["put", key(number), VALUE] for number in range(first, first + 1000)]
        ids = Transactions()
        frames.append(ids.first(_execute(ids, *writes, number=2)))
    event = [None, "Happened", DATA, b""]
    for number in range(HISTORY_EVENTS // 1000):
        ids = Transactions()
        append = ["append", f"history-{number}", 0, [event] * 1000]
        frames.append(ids.first(_execute(ids, append, number=2)))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        answers = connection.makefile("rb")
        for each in frames:
            connection.sendall(each)
            size = int.from_bytes(answers.read(4), "big")
            answer = answers.read(size)
            if answer[2] != 0:
                raise RuntimeError(repr(answer))


def _ask(port: int, data: bytes, sign: bytes, count: int = 1) -> None:
    """Send bytes and read until *sign* has occurred *count* times."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(data)
        received = b""
        while received.count(sign) < count:
            more = connection.recv(1 << 20)
            if not more:
                raise RuntimeError(repr(received[-200:]))
            received += more
