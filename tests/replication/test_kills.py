"""Real servers, a leader and a follower, killed with SIGKILL at random moments under load.

HEADWATER_FOLLOWER_ROUNDS sets the rounds of each test, HEADWATER_FOLLOWER_SEED the seed.
"""

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

import headwater
from headwater.cli.server_process import ServerProcess
from tests.sound_files import check_files

ROUNDS: Final = int(os.environ.get("HEADWATER_FOLLOWER_ROUNDS", "2"))
SEED: Final = int(os.environ.get("HEADWATER_FOLLOWER_SEED", "0")) or random.randrange(2**32)
SETTINGS: Final = ("--checkpoint-commits", "100")
WAIT_S_MAX: Final = 60.0
WRITERS: Final = 3
WRITES_MAX: Final = 200_000
"""Writes to an old leader until it is told, which takes some seconds."""


@dataclass
class Load:
    """Writers in threads, and what was answered to them."""

    url: str
    answered: dict[tuple[int, int], int] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _answered: threading.Condition = field(default_factory=threading.Condition)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        for writer in range(WRITERS):
            self._threads.append(threading.Thread(target=self._write, args=(writer,)))
            self._threads[-1].start()

    def _write(self, writer: int) -> None:
        number = 0
        try:
            with headwater.connect_blocking(self.url, retry_timeout=0.1) as db:
                while not self._stop.is_set():
                    number += 1
                    event = headwater.Event("Written", {"number": number})
                    made = db.append(f"writer-{writer}", event)
                    with self._answered:
                        self.answered[writer, number] = made.commit
                        self._answered.notify()
        except headwater.HeadwaterError:
            # The leader was killed.
            pass

    def wait_for(self, count: int) -> None:
        """Wait until so many writes were answered."""
        with self._answered:
            assert self._answered.wait_for(lambda: len(self.answered) >= count, WAIT_S_MAX)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def load_on(url: str) -> Iterator[Load]:
    load = Load(url)
    load.start()
    try:
        yield load
    finally:
        load.stop()


def wait_until_equal(leader: ServerProcess, follower: ServerProcess) -> int:
    with headwater.connect_blocking(leader.url) as db:
        newest = db.ping().commit
    with headwater.connect_blocking(follower.url) as db:
        return db.wait_commit(newest, timeout=WAIT_S_MAX)


def contents(url: str, commit: int) -> Any:
    with headwater.connect_blocking(url) as db:
        past = db.at(commit=commit)
        events = [(event.stream, event.version, event.data) for event in past.read_all()]
        return list(past.scan()), events


@pytest.mark.slow
def test_a_follower_equals_its_leader_whatever_is_killed(tmp_path: Path) -> None:
    print(f"HEADWATER_FOLLOWER_SEED={SEED}")
    source = random.Random(SEED)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    leader = ServerProcess(tmp_path / "a", SETTINGS)
    leader.start()
    follower = ServerProcess(tmp_path / "b", (*SETTINGS, "--follow", leader.url))
    follower.start()
    try:
        for _ in range(ROUNDS):
            with load_on(leader.url) as load:
                load.wait_for(source.randrange(1, 400))
                victims = source.choice(([leader], [follower], [leader, follower]))
                for victim in victims:
                    victim.kill()
            for victim in victims:
                victim.start()
            newest = wait_until_equal(leader, follower)
            for commit in {1, source.randint(1, newest), newest}:
                assert contents(follower.url, commit) == contents(leader.url, commit)
    finally:
        follower.stop()
        leader.stop()
    check_files(leader)
    check_files(follower)


@pytest.mark.slow
@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_a_leader_that_is_lost_loses_nothing_that_a_synchronous_follower_confirmed(
    tmp_path: Path, round_number: int
) -> None:
    print(f"HEADWATER_FOLLOWER_SEED={SEED}")
    source = random.Random(SEED + round_number)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    leader = ServerProcess(tmp_path / "a", (*SETTINGS, "--sync-followers", "1"))
    leader.start()
    follower = ServerProcess(tmp_path / "b", (*SETTINGS, "--follow", leader.url))
    follower.start()
    try:
        with load_on(leader.url) as load:
            load.wait_for(source.randrange(1, 600))
            leader.kill()
        with headwater.connect_blocking(follower.url) as db:
            assert db.promote().role == "leader"
            found = {
                (int(event.stream.removeprefix("writer-")), event.data["number"]): event.commit
                for event in db.read_all()
            }
            assert load.answered.items() <= found.items()
            db.append("after", headwater.Event("Promoted", {}))
        # The old leader comes back, and is told.
        old = ServerProcess(tmp_path / "a", SETTINGS)
        old.address = leader.address
        old.start()
        try:
            with headwater.connect_blocking(old.url) as db:
                with pytest.raises(headwater.NotLeader):
                    for number in range(WRITES_MAX):
                        db.put("k", number)
                assert db.node().role == "deposed"
        finally:
            old.stop()
    finally:
        follower.stop()
    check_files(follower)
