"""A follower: an engine that applies the entries of another one, and can be promoted."""

import random
from dataclasses import replace
from typing import Any

import pytest

from headwater_protocol.errors import HeadwaterError, NotLeader
from headwater_protocol.numbers import ANY
from headwater_server.engine.checkpoint.schedule import checkpoint_steps, run_to_end
from headwater_server.engine.consumer_groups.records import GroupSettings
from headwater_server.engine.engine import Engine
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.recovery import open_engine
from headwater_server.engine.settings import SECOND_US, EngineSettings
from headwater_server.storage.wal.interface import WalIndex
from headwater_server.testing.memory_files import MemoryFileSystem
from tests.engine.database import OWNER, SETTINGS, Database, open_test_log
from tests.engine.test_same_log import WINDOW, everything, some_writes


class Copy:
    """A follower of a database: it was made as a copy of its files, and gets its entries."""

    def __init__(
        self, leader: Database, settings: EngineSettings = WINDOW, *, seed: int = 9
    ) -> None:
        self.leader = leader
        self.settings = settings
        self.random = random.Random(seed)
        self.files = leader.files.copy()
        self.store = leader.store.crash()
        self.engine = self._open()

    def _open(self) -> Engine:
        return open_engine(
            self.files,
            "data",
            open_store=lambda path: self.store,
            open_log=open_test_log,
            settings=self.settings,
            clock=lambda: self.leader.now - 3600 * SECOND_US,
            source=self.random,
            leads=False,
        )

    def catch_up(self, size_max: int = 10**6) -> None:
        """Take the entries that are new, and make the checkpoints that are due."""
        applier = self.engine.applier
        cursor = self.leader.engine._log.cursor(WalIndex(applier.index))
        while entries := cursor.take(size_max):
            for entry in applier.ingest(entries, roll_at=self.engine.rewriting.roll_at):
                applier.apply(entry)
            if self.engine.checkpoints.due:
                run_to_end(checkpoint_steps(self.engine))

    def crash(self) -> None:
        self.files = self.files.crash()
        self.store = self.store.crash(self.random)
        self.engine = self._open()


def assert_equal(leader: Engine, follower: Engine, *, every: int = 1) -> None:
    """Compare what is published, as of each commit, or of one of *every*."""
    assert follower.published == leader.published
    assert follower.published_position == leader.published_position
    assert follower.oldest_readable == leader.oldest_readable
    for commit in range(leader.oldest_readable, leader.published + 1, every):
        found, expected = (everything(each.reader(commit)) for each in (follower, leader))
        assert found == expected, f"commit {commit} of {leader.published}"
    assert everything(follower.reader()) == everything(leader.reader())


@pytest.mark.parametrize("seed", range(4))
def test_a_follower_equals_its_leader_at_every_commit_through_crashes(seed: int) -> None:
    source = random.Random(f"follower {seed}")
    leader = Database(replace(WINDOW, log_kept_size_max=10**9), seed=seed)
    copy = Copy(leader, replace(WINDOW, memtable_commits_max=7), seed=seed)
    leader.engine.checkpoints.readers.note("copy", WalIndex(0))
    transactions: list[bytes] = []
    for _ in range(60):
        transactions.append(leader.new_id())
        try:
            leader.execute(*some_writes(source), transaction=transactions[-1])
        except HeadwaterError:
            # For example, a missing event cannot be erased.
            pass
        if source.random() < 0.3:
            leader.wait(source.choice((SECOND_US // 10, SECOND_US, 4 * SECOND_US)))
        if source.random() < 0.1:
            leader.checkpoint()
        if source.random() < 0.3:
            copy.catch_up(source.choice((1, 10**6)))
            assert_equal(leader.engine, copy.engine)
            leader.engine.checkpoints.readers.note("copy", copy.engine.applier.index)
        if source.random() < 0.1:
            copy.crash()
    copy.catch_up()
    assert_equal(leader.engine, copy.engine)
    for transaction in transactions:
        if copy.engine.known(transaction):
            expected = leader.engine.status(transaction, resolve=False)
            found = copy.engine.status(transaction, resolve=False)
            assert (found.state, found.ticket.payload) == (expected.state, expected.ticket.payload)


def test_a_follower_refuses_every_write_with_the_address_of_its_leader() -> None:
    leader = Database()
    leader.execute(["put", b"k", b"1"])
    copy = Copy(leader)
    copy.catch_up()
    engine = copy.engine
    engine.leadership.leader = "headwater://there:4323"

    def execute(*writes: list[Any]) -> None:
        engine.execute(leader.new_id(), user=0, conditions=[], reads=None, writes=list(writes))

    for refused in (
        lambda: execute(["put", b"k", b"2"]),
        lambda: execute(["append", "s", ANY, [[None, "T", b"", b""]]]),
        lambda: execute(["erase", "s", [1]]),
        lambda: engine.begin(leader.new_id(), owner=OWNER),
        lambda: engine.status(leader.new_id(), resolve=True),
        lambda: engine.status(leader.new_id(), resolve=False),
        lambda: engine.accounts.set_role("r", (), user=0, transaction=leader.new_id()),
        lambda: engine.groups.create("g", EVERYTHING, 0, GroupSettings()),
    ):
        with pytest.raises(NotLeader) as raised:
            refused()
        assert raised.value.details == {"leader": "headwater://there:4323"}
    engine.tick()
    engine.seal_log()
    assert engine.take_group() is None
    assert engine._log.last_index == leader.engine._log.last_index
    opened = engine.begin(leader.new_id(), owner=OWNER, read_only=True)
    assert opened.get(b"k") == b"1"


def test_a_promoted_follower_writes_on_and_its_commits_follow_those_of_its_leader() -> None:
    leader = Database()
    for number in range(5):
        leader.execute(["append", "s", ANY, [[None, "T", b"%d" % number, b""]]])
    copy = Copy(leader)
    copy.catch_up()
    engine = copy.engine
    epoch = engine.leadership.epoch
    engine.leadership.lead()
    assert engine.leadership.epoch == epoch + 1
    writes = [["append", "s", 5, [[None, "T", b"5", b""]]]]
    ticket, _ = engine.execute(leader.new_id(), user=0, conditions=[], reads=None, writes=writes)
    group = engine.take_group()
    assert group is not None
    engine.make_durable(group)
    engine.publish(group)
    assert ticket.payload[0] == 6
    # Its clock is behind, and times in the log never go back.
    assert ticket.payload[1] >= leader.engine.sequencer.published_time.time
    copy.crash()
    assert copy.engine.published == 6


def test_an_entry_that_could_not_be_applied_is_applied_when_it_comes_again() -> None:
    leader = Database()
    leader.engine.checkpoints.readers.note("copy", WalIndex(0))
    leader.execute(["put", b"k", b"first"])
    copy = Copy(leader)
    copy.catch_up()
    # One record in several entries.
    leader.execute(["put", b"k", bytes(2_000_000)])
    applier = copy.engine.applier
    entries = applier.ingest(leader.engine._log.cursor(applier.index).take(10**7), roll_at=None)
    assert len(entries) > 2
    failing = True

    def interrupt() -> None:
        if failing:
            raise HeadwaterError("the disk cannot be read")

    copy.engine.sequencer.interrupt_plan = interrupt  # type: ignore[method-assign]
    for entry in entries[:-1]:
        applier.apply(entry)
    for _ in range(2):
        with pytest.raises(HeadwaterError):
            applier.apply(entries[-1])
    failing = False
    applier.apply(entries[-1])
    assert_equal(leader.engine, copy.engine)


def test_erased_data_leaves_the_disk_of_a_follower_that_gets_nothing_more() -> None:
    leader = Database()
    secret = b"a secret of thirty-two characters"
    leader.execute(["append", "s", ANY, [[None, "T", secret, b""]]])
    copy = Copy(leader, SETTINGS)
    leader.execute(["erase", "s", [1]])
    copy.catch_up()
    engine = copy.engine
    for _ in range(5):
        run_to_end(checkpoint_steps(engine))
        rewrite = engine.rewriting.begin()
        if rewrite is not None:
            rewrite.run()
            engine.rewriting.finish(rewrite)
        engine.applier.ingest([], roll_at=engine.rewriting.roll_at)
    assert not engine.rewriting.erasing
    files: MemoryFileSystem = copy.files
    for directory in ("data/wal", "data/events"):
        for name in files.list(directory):
            file = files.open(f"{directory}/{name}", writable=False)
            assert secret not in file.read_at(0, file.size()), name
            file.close()


def test_a_restart_with_a_log_that_is_kept_for_a_reader_loses_and_repeats_nothing() -> None:
    leader = Database(replace(SETTINGS, log_kept_size_max=10**9))
    leader.engine.checkpoints.readers.note("away", WalIndex(0))
    fences: list[bytes] = []
    for number in range(60):
        leader.execute(["add", b"k%d" % (number % 7), 1])
        if number % 10 == 9:
            fences.append(leader.new_id())
            leader.engine.status(fences[-1], resolve=True)
            leader.sync()
        if number == 40:
            leader.checkpoint()
    assert leader.engine._log.first_index == 1
    before = leader.engine.reader().scan(b"", None, 10, False).items
    leader = leader.crash()
    assert leader.engine.published == 60
    assert leader.engine.reader().scan(b"", None, 10, False).items == before
    assert [planned.commit for planned in leader.engine._state.active.commits] == [*range(42, 61)]
    for fence in fences:
        assert leader.engine.status(fence, resolve=False).state == "aborted"
