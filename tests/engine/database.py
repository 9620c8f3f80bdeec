"""A database in memory for tests of the engine: files that can crash, a clock that is set by hand.

database = Database()
database.execute(["put", b"k", b"v"])          # commits, makes durable, publishes
database = database.crash()                    # power loss, then recovery
"""

import random
from collections.abc import Callable
from typing import Any

from headwater_protocol.limits import PAGE_ITEMS_MAX
from headwater_protocol.operations import WRITES
from headwater_server.engine.checkpoint.schedule import checkpoint_steps, run_to_end
from headwater_server.engine.engine import Engine
from headwater_server.engine.format.transaction_ids import new_transaction_id
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.recovery import open_engine
from headwater_server.engine.settings import SECOND_US, EngineSettings
from headwater_server.engine.transactions.sequencer import Ticket
from headwater_server.engine.transactions.transaction import Transaction
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog
from headwater_server.storage.wal.interface import WalIndex, WriteAheadLog
from headwater_server.testing.memory_files import MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore

OWNER = "the test"
START_US = 1_700_000_000_000_000
SEGMENT_SIZE = 64 * 1024
SETTINGS = EngineSettings(disk_reserve_size=0)

STEP_US_MAX = 365 * 24 * 3600 * 1_000_000
"""A step of `now` up to this counts as time that passes. A larger one, or one back, is a jump."""


class Database:
    """An engine over simulated files, driven one step at a time.

    Attributes:
        now: the wall clock, in microseconds. Set it to let time pass.
    """

    def __init__(
        self,
        settings: EngineSettings = SETTINGS,
        *,
        seed: int = 1,
        files: MemoryFileSystem | None = None,
        store: MemoryStore | None = None,
        now: int = START_US,
        path: str = "data",
    ) -> None:
        self.path = path
        self.settings = settings
        self.random = random.Random(seed)
        self.files = files or MemoryFileSystem(random.Random(seed))
        self.store = store or MemoryStore()
        self._now = now
        self._passed = 0
        self._transactions = 0
        self.engine = self._open()

    @property
    def now(self) -> int:
        return self._now

    @now.setter
    def now(self, now: int) -> None:
        if 0 <= now - self._now <= STEP_US_MAX:
            self._passed += now - self._now
        self._now = now

    def jump(self, step: int) -> None:
        """Set the wall clock forward or back, without time passing."""
        self._now += step

    def wait(self, us: int) -> None:
        """Let time pass, and the engine notice it as the server would, once a second."""
        self.now += us
        self.engine.tick()
        self.sync()

    def _open(self) -> Engine:
        return open_engine(
            self.files,
            self.path,
            open_store=lambda path: self.store,
            open_log=open_test_log,
            settings=self.settings,
            clock=lambda: self._now,
            monotonic=lambda: self._passed,
            source=self.random,
        )

    # Calls that a server would make.

    def new_id(self) -> bytes:
        """An unused transaction id: alternately one with the time and a random one."""
        self._transactions += 1
        if self._transactions % 2:
            return new_transaction_id(self.now, self.random)
        return self.random.randbytes(8) + self._transactions.to_bytes(8, "big")

    def sync(self) -> None:
        """Make all sequenced commits durable and publish them."""
        group = self.engine.take_group()
        if group is not None:
            self.engine.make_durable(group)
            self.engine.publish(group)

    def settle(self, ticket: Ticket) -> list[Any]:
        """Sync, then return the answer of the ticket or raise its error."""
        self.sync()
        assert self.engine.durable_sequence >= ticket.sequence
        if ticket.error is not None:
            raise ticket.error
        return ticket.payload

    def begin(self, *, isolation: str = "serializable", **rest: Any) -> Transaction:
        """An open transaction with an id of its own."""
        return self.engine.begin(self.new_id(), owner=OWNER, isolation=isolation, **rest)

    def commit(self, transaction: Transaction, *writes: list[Any]) -> list[Any]:
        """Commit with these last writes; return the answer or raise the error."""
        WRITES(list(writes), "test")
        return self.settle(self.engine.commit(transaction.id, OWNER, list(writes)))

    def execute(
        self,
        *writes: list[Any],
        transaction: bytes | None = None,
        conditions: list[list[Any]] | None = None,
        reads: Callable[[Reader], list[Any]] | None = None,
    ) -> list[Any]:
        """Execute a whole transaction; return the answer or raise the error."""
        WRITES(list(writes), "test")
        ticket, _ = self.engine.execute(
            transaction or self.new_id(),
            user=0,
            conditions=conditions or [],
            reads=reads,
            writes=list(writes),
        )
        return self.settle(ticket)

    def checkpoint(self, *, tidy: bool = False) -> None:
        """Make a checkpoint if there is anything to write or, with *tidy*, garbage to collect."""
        if self.settings.history_window_us < SECOND_US:
            # The history window moves with the log's clock, which ticks once a second.
            self.wait(SECOND_US)
        self.sync()
        run_to_end(checkpoint_steps(self.engine, tidy=tidy))

    def rewrite(self) -> None:
        """Remove hidden events and erased data from disk."""
        self.checkpoint()
        for _ in range(100):
            rewrite = self.engine.rewriting.begin()
            if rewrite is None:
                return
            rewrite.run()
            self.engine.rewriting.finish(rewrite)
            if self.engine.rewriting.wants_roll:
                self.engine.seal_log()
                run_to_end(checkpoint_steps(self.engine))
            elif rewrite.complete and not self.engine.rewriting.erasing:
                return
        raise AssertionError("rewriting does not end")

    # Restarts.

    def reopen(self, settings: EngineSettings | None = None) -> "Database":
        """Close the database cleanly and open it again."""
        self.engine.close()
        return Database(
            settings or self.settings,
            seed=self.random.getrandbits(32),
            files=self.files,
            store=self.store.crash(self.random),
            now=self.now,
            path=self.path,
        )

    def crash(self) -> "Database":
        """Lose the power, then open what is on the disk."""
        return Database(
            self.settings,
            seed=self.random.getrandbits(32),
            files=self.files.crash(),
            store=self.store.crash(self.random),
            now=self.now,
            path=self.path,
        )


def all_events(
    reader: Reader, after: int, wanted: EventFilter, limit: int = 10**6, *, reverse: bool = False
) -> list[bytes]:
    """Up to *limit* events, over as many pages as it takes: each may end early."""
    found: list[bytes] = []
    while True:
        page = reader.read_all(after, wanted, min(limit - len(found), PAGE_ITEMS_MAX), reverse)
        found += page.events
        if not page.more or len(found) == limit:
            return found
        onward = after - page.position if reverse else page.position - after
        assert onward > 0 or (reverse and after == 0), "every page advances"
        after = page.position


def open_test_log(
    file_system: FileSystem,
    path: str,
    *,
    database_id: bytes,
    random: random.Random,
    known_durable: WalIndex,
) -> WriteAheadLog:
    """The log on files, in segments small enough that tests cross them."""
    return FileWriteAheadLog.open(
        file_system,
        path,
        database_id=database_id,
        random=random,
        segment_size=SEGMENT_SIZE,
        # So small that the replay of a longer log needs a checkpoint.
        kept_size_max=SEGMENT_SIZE // 4,
        known_durable=known_durable,
    )
