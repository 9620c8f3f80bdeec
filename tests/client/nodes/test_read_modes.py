"""Each row of the table of docs/guide/connecting.md: what a read mode guarantees, tried out."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest
from trio.testing import MockClock

import headwater
from headwater.database import Database
from headwater.transactions.transaction import Transaction
from headwater_protocol.address import READ_MODES
from tests.client.nodes.memory_nodes import channel_of, connected, fail_over, three
from tests.replication.nodes import Nodes, cluster

PAGE: Final = (Path(__file__).parents[3] / "docs/guide/connecting.md").read_text()


def promised() -> dict[tuple[str, str], bool]:
    """The cells of the table, by row and mode."""
    lines = PAGE.partition("| | `leader` | `nearest` | `follower` |\n")[2].splitlines()[1:]
    cells: dict[tuple[str, str], bool] = {}
    for line in lines:
        if not line.startswith("|"):
            break
        row, *columns = [cell.strip() for cell in line.strip("|").split("|")]
        for mode, cell in zip(READ_MODES, columns, strict=True):
            assert cell in ("yes", "no")
            cells[row, mode] = cell == "yes"
    return cells


async def stay_behind(nodes: Nodes) -> None:
    """Let the followers get nothing more from the leader."""
    for follower in "bc":
        nodes.cut.add((follower, "a"))
        await nodes.disconnect(follower, "a")


async def know_all(db: Database) -> None:
    """Let the client know all nodes, with the followers nearer than the leader."""
    await db.nodes()
    for node in channel_of(db).nodes:
        node.round_trip = 1.0 if node.address.host == "a" else 0.1


async def shows_own_writes(nodes: Nodes, db: Database, other: Database) -> bool:
    await know_all(db)
    await stay_behind(nodes)
    await db.put("k", "own")
    return bool(await db.get("k") == "own")


async def never_goes_back(nodes: Nodes, db: Database, other: Database) -> bool:
    await stay_behind(nodes)
    await other.append("s", headwater.Event("Happened"))
    await other.put("k", "new")
    # It reads at the leader, and from then on followers are nearer.
    async with db.transaction() as tx:
        assert await tx.get("k") == "new"
    await know_all(db)
    return bool(await db.get("k") == "new" and await db.version("s") == 1)


async def shows_the_writes_of_others(nodes: Nodes, db: Database, other: Database) -> bool:
    await know_all(db)
    await stay_behind(nodes)
    await other.put("k", "other")
    return bool(await db.get("k") == "other")


async def transactions_are_current(nodes: Nodes, db: Database, other: Database) -> bool:
    async def add(tx: Transaction) -> None:
        tx.put("n", await tx.get("n", 0) + 1)

    await know_all(db)
    await stay_behind(nodes)
    for _ in range(5):
        await other.run(add)
        await db.run(add)
    return bool(await other.get("n") == 10)


async def reads_without_a_leader(nodes: Nodes, db: Database, other: Database) -> bool:
    await know_all(db)
    await nodes.by_name["a"].crash()
    try:
        return bool(await db.get("k") is None)
    except headwater.ConnectionLost:
        return False


async def subscribes_without_a_leader(nodes: Nodes, db: Database, other: Database) -> bool:
    made = await other.append("s", headwater.Event("Happened", 1))
    for name in "bc":
        await nodes.by_name[name].reaches(made.commit)
    await know_all(db)
    await nodes.by_name["a"].crash()
    try:
        async with db.subscribe() as feed:
            return bool((await feed.next_event()).data == 1)
    except headwater.ConnectionLost:
        return False


async def writes_once_across_a_promotion(nodes: Nodes, db: Database, other: Database) -> bool:
    leader, *followers = (nodes.by_name[name] for name in "abc")
    for _ in range(5):
        await db.add("n", 1)
    for follower in followers:
        await follower.reaches(5)
    await fail_over(nodes, leader, followers)
    for _ in range(5):
        await db.add("n", 1)
    return bool(await db.get("n") == 10)


Experiment = Callable[[Nodes, Database, Database], Awaitable[bool]]

EXPERIMENTS: Final[dict[str, Experiment]] = {
    "A read shows this client's own writes": shows_own_writes,
    "A read is never older than what this client has read, received or written before": (
        never_goes_back
    ),
    "A read shows what others had written before it began": shows_the_writes_of_others,
    "A value that a transaction reads and then writes is current, or the commit is a conflict": (
        transactions_are_current
    ),
    "Reads go on while no node leads": reads_without_a_leader,
    "A new subscription begins while no node leads": subscribes_without_a_leader,
    "A write takes effect once, also across a promotion": writes_once_across_a_promotion,
}


def test_the_table_has_an_experiment_for_each_row() -> None:
    assert {row for row, _ in promised()} == EXPERIMENTS.keys()


@pytest.mark.parametrize("mode", READ_MODES)
@pytest.mark.parametrize("row", EXPERIMENTS)
async def test_the_table_says_what_happens(row: str, mode: str, autojump_clock: MockClock) -> None:
    async with cluster() as nodes:
        await three(nodes)
        async with (
            connected(nodes, "abc", read=mode, retry_s=20.0) as db,
            connected(nodes, "a", retry_s=20.0) as other,
        ):
            assert await EXPERIMENTS[row](nodes, db, other) == promised()[row, mode]
