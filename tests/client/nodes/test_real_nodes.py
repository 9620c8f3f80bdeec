"""Real servers, of which the leader is killed under load, and the client of each face.

HEADWATER_FOLLOWER_ROUNDS sets the rounds under load, HEADWATER_FOLLOWER_SEED the seed.
"""

import os
import random
import threading
from pathlib import Path

import pytest

import headwater
from headwater.transactions.transaction import Transaction
from tests.client.faces import FACES, run_on
from tests.client.nodes.real_nodes import WAIT_S_MAX, promote, real_nodes, url_of

ROUNDS = int(os.environ.get("HEADWATER_FOLLOWER_ROUNDS", "1"))
SEED = int(os.environ.get("HEADWATER_FOLLOWER_SEED", "0")) or random.randrange(2**32)
WRITERS = 3


async def count(tx: Transaction) -> None:
    tx.put("count", await tx.get("count", 0) + 1)


@pytest.mark.slow
@pytest.mark.parametrize("face", FACES)
def test_writes_and_a_feed_go_on_at_the_promoted_node(face: str, tmp_path: Path) -> None:
    with real_nodes(tmp_path, followers=1, synchronous=1) as servers:
        leader, follower = servers

        async def scenario(db: headwater.Database) -> None:
            for number in range(1, 11):
                await db.append("s", headwater.Event("Happened", number))
                await db.run(count)
            async with db.subscribe() as feed:
                for number in range(1, 6):
                    assert (await feed.next_event()).data == number
                leader.kill()
                # Reads go on at the follower; writes find it once it leads.
                assert await db.get("count") == 10
                promote(follower)
                for number in range(11, 21):
                    await db.append("s", headwater.Event("Happened", number))
                    await db.run(count)
                for number in range(6, 21):
                    assert (await feed.next_event()).data == number
            assert await db.get("count") == 20
            assert (await db.node()).role == "leader"

        run_on(face, url_of(servers, "nearest"), scenario, retry_timeout=WAIT_S_MAX)


class Load:
    """Threads that write through one database of several nodes, each kind of write."""

    def __init__(self, url: str) -> None:
        self.added = self.counted = 0
        self.errors: list[BaseException] = []
        self._url = url
        self._stop = threading.Event()
        self._answered = threading.Condition()
        self._threads = [
            threading.Thread(target=self._write, args=(each,)) for each in range(WRITERS)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        def change(tx: headwater.BlockingTransaction) -> None:
            tx.put("counted", tx.get("counted", 0) + 1)

        try:
            with headwater.connect_blocking(self._url, retry_timeout=WAIT_S_MAX) as db:
                made = 0
                while not self._stop.is_set():
                    made += 1
                    db.add("added", 1)
                    with self._answered:
                        self.added += 1
                        self._answered.notify_all()
                    db.run(change)
                    with self._answered:
                        self.counted += 1
                    key = (f"own-{number}",)
                    db.put(key, made)
                    assert db.get(key) == made
        except BaseException as error:
            self.errors.append(error)
            raise

    def wait_for(self, count: int) -> None:
        """Wait until there are so many more answers."""
        with self._answered:
            until = self.added + count
            assert self._answered.wait_for(lambda: self.added >= until, WAIT_S_MAX)


@pytest.mark.slow
@pytest.mark.parametrize("round_number", range(ROUNDS))
@pytest.mark.parametrize("mode", ["leader", "nearest", "follower"])
def test_a_leader_killed_under_load_costs_no_write_and_repeats_none(
    mode: str, round_number: int, tmp_path: Path
) -> None:
    print(f"HEADWATER_FOLLOWER_SEED={SEED}")
    source = random.Random(f"{SEED} {round_number}")
    with real_nodes(tmp_path, followers=1, synchronous=1) as servers:
        leader, follower = servers
        with Load(url_of(servers, mode)) as load:
            load.wait_for(source.randrange(1, 200))
            leader.kill()
            promote(follower)
            load.wait_for(source.randrange(1, 200))
        assert load.errors == []
        with headwater.connect_blocking(follower.url) as db:
            assert db.get("added") == load.added
            assert db.get("counted") == load.counted


@pytest.mark.slow
def test_the_old_leader_that_comes_back_is_not_written_to(tmp_path: Path) -> None:
    with real_nodes(tmp_path, followers=1) as servers:
        leader, follower = servers
        with headwater.connect_blocking(url_of(servers)) as db:
            db.put("k", 1)
            with headwater.connect_blocking(follower.url) as other:
                other.wait_commit(db.ping().commit)
            promote(follower)
            # Both nodes are there. The one that was told of the other refuses.
            for number in range(50):
                db.put("k", number)
            assert {name: info and info.role for name, info in db.nodes().items()}[
                follower.address
            ] == "leader"
        leader.stop()
        with headwater.connect_blocking(url_of(servers)) as db:
            db.put("k", "new")
        leader.start()
        with headwater.connect_blocking(follower.url) as db:
            assert db.get("k") == "new"
