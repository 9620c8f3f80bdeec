"""The time to load an aggregate: 100 events, 100,000 with a snapshot, 100,000 without.

With a snapshot, the number of events should not matter. The three are loaded alternately, so other
load on the machine affects all of them equally.

    python -m bench.aggregates --events 100000
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

import headwater
from headwater.cli.server_process import ServerProcess

FEW: Final = 100
"""Events of the short stream."""

BATCH: Final = 1000
"""Events of one append while filling."""

ROUNDS: Final = 200
"""Loads of each of the two compared aggregates."""

ROUNDS_WITHOUT: Final = 3
"""Loads without a snapshot. Each reads all events."""


def evolve(state: dict[str, int], event: Any) -> dict[str, int]:
    """A balance and a count."""
    return {"balance": state["balance"] + event.data["amount"], "count": state["count"] + 1}


INITIAL: Final = {"balance": 0, "count": 0}
SNAPSHOTS: Final = headwater.Repository(INITIAL, evolve, snapshot_every=FEW)
NO_SNAPSHOTS: Final = headwater.Repository(INITIAL, evolve, schema=2, snapshot_every=None)


def fill(db: headwater.BlockingDatabase, stream: str, count: int) -> None:
    """Append *count* events through the repository, so that it saves snapshots."""
    for version in range(0, count, BATCH):
        events = [
            headwater.Event("Moved", {"amount": number})
            for number in range(version, min(count, version + BATCH))
        ]
        SNAPSHOTS.on(db).save(stream, events, version)
    # A last decision, like in normal use. It saves the state that it loaded.
    SNAPSHOTS.on(db).decide(stream, lambda _: headwater.Event("Moved", {"amount": 0}))


def timed(work: Callable[[], Any]) -> float:
    """The time of one call in milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


@click.command()
@click.option("--events", default=100_000, help="Events of the long stream.")
def main(events: int) -> None:
    """Load a short and a long aggregate alternately, and compare the times."""
    with (
        tempfile.TemporaryDirectory() as directory,
        ServerProcess(Path(directory)) as server,
        headwater.connect_blocking(server.url) as db,
    ):
        # The short one has no snapshot, so all its events are read.
        db.append("short-1", [headwater.Event("Moved", {"amount": 1}) for _ in range(FEW)])
        fill(db, "long-1", events)
        short, long = [], []
        for _ in range(ROUNDS):
            short.append(timed(lambda: NO_SNAPSHOTS.on(db).load("short-1")))
            long.append(timed(lambda: SNAPSHOTS.on(db).load("long-1")))
        without = [timed(lambda: NO_SNAPSHOTS.on(db).load("long-1")) for _ in range(ROUNDS_WITHOUT)]
        assert SNAPSHOTS.on(db).load("long-1") == NO_SNAPSHOTS.on(db).load("long-1")
    medians = [statistics.median(times) for times in (short, long, without)]
    for name, milliseconds in zip(
        (f"{FEW} events", f"{events:,} with a snapshot", f"{events:,} without"),
        medians,
        strict=True,
    ):
        print(f"{name:>28}: {milliseconds:10.3f} ms")
    print(f"{'ratio of the first two':>28}: {medians[1] / medians[0]:10.3f}")


if __name__ == "__main__":
    main()
