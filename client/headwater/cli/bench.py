"""`headwater bench`: measures a running server, over one connection or many.

It is a closed loop like redis-benchmark or pgbench: each connection has a fixed number of requests
in flight, and sends the next one when an answer arrives. The loop is in Python, so with many
connections it is often the bottleneck. The repository has a load generator in C, in bench/.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Final

import click

from headwater.cli.connection_options import Connector, connection_options
from headwater.codecs.codec import RawCodec
from headwater.database import Database
from headwater.errors import HeadwaterError
from headwater.records import Event
from headwater.transactions.transaction import Transaction

PREFIX: Final = "headwater_bench"
"""The first member of all keys that the benchmark writes, and the category of its streams."""

KEYS_A_COMMIT: Final = 5000
"""The keys that one commit deletes at the end."""

STREAMS_A_COMMIT: Final = 500
"""The streams that one commit deletes at the end."""


class Operations:
    """One request of each kind, on one connection."""

    def __init__(self, db: Database, *, keys: int, size: int) -> None:
        self._db = db
        self._keys = keys
        self._value = random.randbytes(size)

    def _key(self) -> tuple[str, int]:
        return PREFIX, random.randrange(self._keys)

    async def ping(self) -> None:
        """A round trip without work."""
        await self._db.ping()

    async def get(self) -> None:
        """Read a key."""
        await self._db.get(self._key(), default=b"")

    async def put(self) -> None:
        """Write a key, durably."""
        await self._db.put(self._key(), self._value)

    async def append(self) -> None:
        """Append an event to one of the streams, durably."""
        stream = f"{PREFIX}-{random.randrange(self._keys)}"
        await self._db.append(stream, [Event("Measured", self._value)])

    async def transaction(self) -> None:
        """Read and write a key in a serializable transaction. Repeat after a conflict."""
        await self._db.run(self._read_and_write)

    async def _read_and_write(self, tx: Transaction) -> None:
        key = self._key()
        await tx.get(key, default=b"")
        tx.put(key, self._value)


OPERATIONS: Final = ("ping", "get", "put", "append", "transaction")


@dataclass(frozen=True, slots=True)
class Figures:
    """The result for one operation. Times are in milliseconds."""

    operation: str
    requests: int
    failures: int
    rate: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


async def measure(
    operation: str,
    connect: Callable[[], Database],
    *,
    connections: int,
    depth: int,
    seconds: float,
    keys: int,
    size: int,
) -> Figures:
    """Repeat an operation on all connections for a time, after a fifth of it to warm up."""
    times: list[float] = []
    failures = 0
    begin = time.perf_counter() + seconds / 5
    end = begin + seconds

    async def repeat(call: Callable[[], Awaitable[None]]) -> None:
        nonlocal failures
        while (began := time.perf_counter()) < end:
            try:
                await call()
            except HeadwaterError:
                failures += 1
                continue
            ended = time.perf_counter()
            if begin <= ended < end:
                times.append(ended - began)

    async def converse() -> None:
        async with connect() as db:
            call = getattr(Operations(db, keys=keys, size=size), operation)
            await asyncio.gather(*(repeat(call) for _ in range(depth)))

    await asyncio.gather(*(converse() for _ in range(connections)))
    times.sort()

    def quantile(part: float) -> float:
        return round(1000 * times[int(part * (len(times) - 1))], 3) if times else 0.0

    return Figures(
        operation,
        len(times),
        failures,
        round(len(times) / seconds, 1),
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        quantile(1),
    )


@click.command()
@connection_options
@click.option(
    "-o",
    "--operation",
    "operations",
    multiple=True,
    type=click.Choice(OPERATIONS),
    help="The operation to measure; may be repeated.  [default: all]",
)
@click.option("-c", "--connections", default=8, show_default=True, type=click.IntRange(1, 1000))
@click.option(
    "-d",
    "--depth",
    default=1,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Requests in flight on each connection.",
)
@click.option(
    "-s",
    "--seconds",
    default=3.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds for each operation.",
)
@click.option(
    "--keys",
    default=10_000,
    show_default=True,
    type=click.IntRange(min=1),
    help=f"Number of keys, and of streams. Their names begin with {PREFIX}.",
)
@click.option(
    "--size",
    default=100,
    show_default=True,
    type=click.IntRange(0, 1 << 20),
    help="Size of a value in bytes.",
)
@click.option("--keep", is_flag=True, help="Leave the keys and streams that it has written.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def bench(
    connector: Connector,
    operations: tuple[str, ...],
    connections: int,
    depth: int,
    seconds: float,
    keys: int,
    size: int,
    keep: bool,
    as_json: bool,
) -> None:
    """Measure a running server.

    Keys and streams that it writes are deleted at the end, also after Ctrl-C. The events of a
    deleted stream still have their positions. Exit status 1: requests failed.
    """
    try:
        failures = _bench(connector, operations, connections, depth, seconds, keys, size, as_json)
    finally:
        if not keep and set(operations or OPERATIONS) - {"ping", "get"}:
            _clean_up(connector)
    if failures:
        raise click.ClickException(f"{failures} requests failed")


def _clean_up(connector: Connector) -> None:
    """Delete what this benchmark, or an earlier one that was killed, has written."""
    # Bytes, since the values may be of another codec.
    with connector.connect(codec=RawCodec()) as db:
        while keys := [key for key, _ in db.scan((PREFIX,), limit=KEYS_A_COMMIT)]:
            batch = db.batch()
            for key in keys:
                batch.delete(key)
            db.execute(batch)
        names = (each.stream for each in db.streams(prefix=f"{PREFIX}-"))
        while part := list(islice(names, STREAMS_A_COMMIT)):
            batch = db.batch()
            for name in part:
                batch.delete_stream(name)
            db.execute(batch)


def _bench(
    connector: Connector,
    operations: tuple[str, ...],
    connections: int,
    depth: int,
    seconds: float,
    keys: int,
    size: int,
    as_json: bool,
) -> int:
    """Measure the operations and print the figures. Returns the number of failed requests."""
    if not as_json:
        click.echo(f"{connections} connections, {depth} deep, {seconds} s each")
        click.echo(f"{'':12}{'a second':>12}{'p50 ms':>10}{'p99 ms':>10}{'p99.9':>10}{'max':>10}")
    found: list[Figures] = []
    for operation in operations or OPERATIONS:
        figures = asyncio.run(
            measure(
                operation,
                connector.connect_async,
                connections=connections,
                depth=depth,
                seconds=seconds,
                keys=keys,
                size=size,
            )
        )
        found.append(figures)
        if not as_json:
            failed = f"  {figures.failures} failed" if figures.failures else ""
            click.echo(
                f"{operation:12}{figures.rate:12,.0f}{figures.p50_ms:10.3f}{figures.p99_ms:10.3f}"
                f"{figures.p999_ms:10.3f}{figures.max_ms:10.3f}{failed}"
            )
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    return sum(each.failures for each in found)
