"""A projection, and a process that runs it until it is killed.

    python -m tests.projection_worker URL NAME

The handler computes a chain of hashes for each stream, and one over all streams. They show every
event that is lost, handled twice or out of order.
"""

import sys
from typing import Any, Final

import trio

import headwater

CATEGORY: Final = "account"
BROKEN: Final = 1_000
"""The handler always fails at numbers from here on, so their streams are parked."""


async def chain(tx: headwater.ProjectionTransaction, event: headwater.RecordedEvent) -> None:
    """Add an event to the chains. Only the same events in the same order give the same values."""
    if event.data >= BROKEN:
        tx.model.put(("broken", event.position), "a write that must not stay")
        raise ValueError(f"number {event.data} is broken")
    tx.model.add("events", 1)
    for link in ("all", event.stream):
        before = await tx.model.get(("chain", link), 0)
        tx.model.put(("chain", link), (before * 31 + event.position) % (2**31 - 1))


def define(db: headwater.Database, name: str, **options: Any) -> None:
    """Define the projection."""
    db.projection(name, category=CATEGORY, attempts=1, **options)(chain)


async def main(url: str, name: str) -> None:
    async with headwater.connect(url) as db:
        define(db, name, batch_size=20)
        async with db.run_projections():
            await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
