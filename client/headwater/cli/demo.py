"""`headwater demo`: loads a month of flights, kills the server in between, and compares.

    load ------------------> half way ----------------------> all in ------> compare with the file
      several clients          |  look at commit c              read events, counters, snapshots,
      one commit a flight      |  kill -9, start again          and commit c once more
                               v
                           clients reconnect and continue

A flight is one transaction: its event, three counters, and for every fiftieth flight of an aircraft
a snapshot. An append expects the exact version of the aircraft's stream. So a flight that was
stored twice, or not at all, would stop the demo, and the comparison would also show it.
"""

import asyncio
import importlib.util
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import headwater
from headwater.cli.flights import (
    SCHEMA,
    SNAPSHOT_EVERY,
    Aircraft,
    Flight,
    by_stream,
    counters,
    find_file,
    read_flights,
    shares,
)
from headwater.cli.server_process import ServerProcess

WORKERS_A_CLIENT: Final = 16
"""Concurrent transactions of one client, over its connection."""

FLIGHTS_MIN: Final = 200
"""The fewest flights: fewer would be loaded before the server could be killed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the result: the figures of the file and of the database."""

    what: str
    file: str
    database: str
    equal: bool


@dataclass(frozen=True, slots=True)
class Moment:
    """What was read at a commit before the kill."""

    commit: int
    counters: Counter[tuple[str, ...]]


@dataclass(slots=True)
class Journal:
    """The acknowledged commits, recorded outside of the database."""

    kill_after: int
    commits: list[tuple[int, Flight]] = field(default_factory=list)
    under_way: int = 0
    half_way: asyncio.Event = field(default_factory=asyncio.Event)

    def acknowledge(self, commit: int, flight: Flight) -> None:
        self.commits.append((commit, flight))
        if len(self.commits) >= self.kill_after:
            self.half_way.set()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of the demo."""

    findings: list[Finding]
    load_s: float
    restart_s: float

    @property
    def equal(self) -> bool:
        return all(finding.equal for finding in self.findings)


@click.command()
@click.option("--clients", default=4, show_default=True, type=click.IntRange(1, 64))
@click.option(
    "--flights",
    type=click.IntRange(min=FLIGHTS_MIN),
    help="Load only this number of flights, from the beginning of the month.",
)
def demo(clients: int, flights: int | None) -> None:
    """Load a month of flights, kill the server in between, and show that nothing is lost."""
    if importlib.util.find_spec("rocksdict") is None:
        raise click.ClickException('the demo runs a server: pip install "headwater[server]"')
    console = Console()
    rows = read_flights(find_file(), limit=flights)
    with tempfile.TemporaryDirectory(prefix="headwater-demo-") as directory:
        server = ServerProcess(Path(directory))
        with server:
            console.print(f"A server with pid {server.pid} at {server.address}, its data empty.")
            with _progress(console, len(rows)) as progress:
                outcome = asyncio.run(run_demo(server, rows, clients, progress))
    console.print(_table(outcome))
    console.print(_summary(outcome, rows))
    if not outcome.equal:
        raise click.ClickException("the database differs from the file")


async def run_demo(
    server: ServerProcess, flights: Sequence[Flight], clients: int, progress: Progress
) -> Outcome:
    """Load, kill, continue, compare."""
    journal = Journal(kill_after=len(flights) // 2)
    began = time.perf_counter()
    async with AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(headwater.connect(server.url)) for _ in range(clients)
        ]
        db = connections[0]
        async with asyncio.TaskGroup() as group:
            worker_shares = shares(flights, clients * WORKERS_A_CLIENT)
            for number, share in enumerate(worker_shares):
                worker = load(connections[number % clients], share, journal, progress)
                group.create_task(worker)
            await journal.half_way.wait()
            moment = await look(db, journal.commits[-1][0])
            restart_s = await kill_and_restart(server, journal, progress.console)
        load_s = time.perf_counter() - began
        findings = await compare(db, flights, journal, moment)
    return Outcome(findings, load_s, restart_s)


# Loading.


async def load(
    db: headwater.Database, share: Sequence[Flight], journal: Journal, progress: Progress
) -> None:
    """Record flights one after the other, each exactly once, even if the server is killed."""
    task = progress.task_ids[0]
    for flight in share:
        journal.under_way += 1
        transaction = await db.run(record, flight)
        journal.under_way -= 1
        assert transaction.committed is not None, "a flight wrote nothing"
        journal.acknowledge(transaction.committed.commit, flight)
        progress.advance(task)


async def record(tx: headwater.Transaction, flight: Flight) -> headwater.Transaction:
    """One flight: its event, its counters, and a snapshot if one is due."""
    if flight.nth % SNAPSHOT_EVERY == 0:
        loaded = await tx.load(flight.stream, schema=SCHEMA)
        aircraft = _aircraft(loaded).after(flight.type, flight.details)
        tx.save_snapshot(flight.stream, version=flight.nth, state=aircraft.state, schema=SCHEMA)
    tx.append(flight.stream, [flight.event], expect=flight.nth - 1)
    for key in flight.counters:
        tx.add(key, 1)
    return tx


async def kill_and_restart(server: ServerProcess, journal: Journal, console: Console) -> float:
    """Kill the server under load and start it again; return the seconds until it listened."""
    killed = server.pid
    server.kill()
    console.print(
        f"[bold red]kill -9 {killed}[/] after {len(journal.commits):,} acknowledged flights, "
        f"with {journal.under_way} transactions under way."
    )
    restart_s = await asyncio.to_thread(server.start)
    console.print(f"Started again with pid {server.pid}, listening after {restart_s:.2f} s.")
    return restart_s


# Comparing.


async def look(db: headwater.Database, commit: int) -> Moment:
    """The counters at a commit."""
    found: Counter[tuple[str, ...]] = Counter()
    past = db.at(commit=commit)
    for prefix in (("carrier",), ("airport",)):
        async for key, value in past.scan(prefix):
            found[tuple(str(part) for part in key)] = value
    return Moment(commit, found)


async def compare(
    db: headwater.Database, flights: Sequence[Flight], journal: Journal, moment: Moment
) -> list[Finding]:
    """Compare everything in the database with the file."""
    newest = max(commit for commit, _ in journal.commits)
    now = await look(db, newest)
    return [
        await compare_events(db, flights),
        compare_counters("carrier", counters(flights), now.counters),
        compare_counters("airport", counters(flights), now.counters),
        *await compare_aircraft(db, flights),
        compare_past(journal, moment, await look(db, moment.commit)),
    ]


async def compare_events(db: headwater.Database, flights: Sequence[Flight]) -> Finding:
    """Compare every event, in the order of its aircraft, with its row."""
    wanted = by_stream(flights)
    events = right = 0
    async for event in db.read_all(after=0):
        events += 1
        rows = wanted.get(event.stream, [])
        row = rows[event.version - 1] if event.version <= len(rows) else None
        as_in_file = row is not None and (event.type, event.data) == (row.type, row.details)
        right += as_in_file and event.position == events
    return Finding(
        "events, in their order",
        f"{len(flights):,}",
        f"{right:,}" if right == events else f"{right:,} of {events:,}",
        right == events == len(flights),
    )


def compare_counters(
    kind: str, wanted: Counter[tuple[str, ...]], found: Counter[tuple[str, ...]]
) -> Finding:
    """Compare the counters of a kind, one by one."""
    of_file = {key: count for key, count in wanted.items() if key[0] == kind}
    of_database = {key: count for key, count in found.items() if key[0] == kind}
    same = sum(of_database.get(key) == count for key, count in of_file.items())
    return Finding(
        f"{kind} counters",
        f"{len(of_file)}, sum {sum(of_file.values()):,}",
        f"{same}, sum {sum(of_database.values()):,}",
        of_file == of_database,
    )


async def compare_aircraft(db: headwater.Database, flights: Sequence[Flight]) -> list[Finding]:
    """Compare every aircraft, loaded through its snapshot, with all its rows."""
    rows_of = by_stream(flights)
    same = used = replayed = 0
    for stream, rows in rows_of.items():
        loaded = await db.load(stream, schema=SCHEMA)
        wanted = Aircraft()
        for row in rows:
            wanted = wanted.after(row.type, row.details)
        same += _aircraft(loaded) == wanted
        used += loaded.snapshot is not None
        replayed += len(loaded.events)
    count = len(rows_of)
    due = sum(len(rows) >= SNAPSHOT_EVERY for rows in rows_of.values())
    saved = f"{used}, saved {len(flights) - replayed:,} events"
    return [
        Finding("aircraft, as loaded", f"{count:,}", f"{same:,}", same == count),
        Finding("  of them by snapshot", f"{due}", saved, used == due),
    ]


def compare_past(journal: Journal, before: Moment, after: Moment) -> Finding:
    """The counters at a commit before the kill: as read then, as read now, and by the file."""
    wanted = counters(flight for commit, flight in journal.commits if commit <= before.commit)
    return Finding(
        f"counters at commit {before.commit:,}",
        f"sum {sum(wanted.values()):,}",
        f"sum {sum(before.counters.values()):,}, now {sum(after.counters.values()):,}",
        wanted == before.counters == after.counters,
    )


def _aircraft(loaded: headwater.Loaded) -> Aircraft:
    state: list[Any] = loaded.snapshot.state if loaded.snapshot else []
    return Aircraft(*state).after_all(loaded.events)


# Showing.


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Progress]:
    columns = (TextColumn("flights"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        progress.add_task("load", total=total)
        yield progress


def _table(outcome: Outcome) -> Table:
    table = Table(box=SIMPLE)
    for column in ("", "in the file", "in the database", ""):
        table.add_column(column)
    for row in outcome.findings:
        mark = "[green]equal[/]" if row.equal else "[bold red]DIFFERENT[/]"
        table.add_row(row.what, row.file, row.database, mark)
    return table


def _summary(outcome: Outcome, flights: Sequence[Flight]) -> str:
    return (
        f"{len(flights):,} transactions in {outcome.load_s:.1f} s, including a restart of "
        f"{outcome.restart_s:.2f} s."
    )
