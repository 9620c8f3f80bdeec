"""Planted defects of several nodes: followers, promotion, fencing, and what the log is kept for.

They are hunted in the worlds of tests/replication/world.py.
"""

from typing import Any, Final

from headwater_server.engine.replication.applier import Applier
from headwater_server.engine.replication.leadership import Leadership
from headwater_server.net.replication.applying import Applying
from headwater_server.net.replication.replication import Replication
from headwater_server.net.replication.shipping import Shipping
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog
from headwater_server.storage.wal.interface import Epoch, WalEntry, WalIndex
from headwater_server.storage.wal.readers import LogReaders
from tests.simulation.planted import Mutant

NODES_LOSS: Final = "was answered, and is lost|showed what was never there|did not reach"
NOT_FENCED: Final = "was not deposed|was answered, and is lost|showed what was never there"


def skipping_an_entry(right: Any) -> Any:
    """Every tenth entry is written, and not applied."""

    def apply(self: Applier, entry: WalEntry) -> int:
        if entry.index % 10 == 0:
            self.index = entry.index
            return 0
        count: int = right(self, entry)
        return count

    return apply


def applying_twice(right: Any) -> Any:
    def apply(self: Applier, entry: WalEntry) -> int:
        right(self, entry)
        count: int = right(self, entry)
        return count

    return apply


def confirmed_by_nobody(_: Any) -> Any:
    async def wait_confirmed(self: Shipping, _index: int) -> bool:
        return not self._stopping

    return wait_confirmed


def without_a_term(_: Any) -> Any:
    """A promotion that takes the next epoch, as a restart does."""
    return property(lambda self: Epoch(self.epoch + 1))


def without_deposing(_: Any) -> Any:
    def depose(_self: Replication, _leader: Any, _epoch: int, _common: Any) -> str:
        return "nothing"

    return depose


def without_readers(_: Any) -> Any:
    def floor(_self: LogReaders, below: WalIndex, _size: int, **_named: Any) -> WalIndex:
        return below

    return floor


def without_syncs(right: Any) -> Any:
    """A copy that calls entries durable before its disk has them."""

    def append_packed(self: FileWriteAheadLog, entries: list[bytes], end: Any) -> None:
        before, self._log.sync = self._log.sync, lambda: None  # type: ignore[method-assign]
        try:
            right(self, entries, end)
        finally:
            self._log.sync = before  # type: ignore[method-assign]

    return append_packed


def forgetting_what_was_written(_: Any) -> Any:
    """After a failed ingest, the entries that it had written are not applied."""

    async def run_logged(self: Applying) -> None:
        self.waiting.clear()

    return run_logged


def not_waiting(_: Any) -> Any:
    def check(_self: Replication) -> None:
        return None

    return check


def answering_what_was_recovered(_: Any) -> Any:
    """A leader answers from its own log what no follower may have."""

    def hold(_self: Replication) -> None:
        return None

    return hold


NODES: Final = (
    Mutant("a follower skips an entry", Applier, "apply", skipping_an_entry, NODES_LOSS, "nodes"),
    Mutant(
        "a follower applies entries twice", Applier, "apply", applying_twice, NODES_LOSS, "nodes"
    ),
    Mutant(
        "a commit is answered before a synchronous follower has it",
        Shipping,
        "wait_confirmed",
        confirmed_by_nobody,
        NODES_LOSS,
        "nodes",
    ),
    Mutant(
        "a promotion takes no new term",
        Leadership,
        "next_term",
        without_a_term,
        NOT_FENCED,
        "nodes",
    ),
    Mutant(
        "an old leader is not fenced", Replication, "_depose", without_deposing, NOT_FENCED, "nodes"
    ),
    Mutant(
        "the log is trimmed under a follower that is away",
        LogReaders,
        "floor",
        without_readers,
        "copied the leader again",
        "nodes",
    ),
    Mutant(
        "a follower confirms what its disk does not have",
        FileWriteAheadLog,
        "_append_packed",
        without_syncs,
        NODES_LOSS + "|DamagedFile",
        "nodes",
    ),
    Mutant(
        "a follower forgets what a failed call has written",
        Applying,
        "run_logged",
        forgetting_what_was_written,
        NODES_LOSS,
        "nodes",
    ),
    Mutant(
        "a leader answers what it recovered before a synchronous follower has it",
        Replication,
        "_hold_recovered",
        answering_what_was_recovered,
        NODES_LOSS,
        "nodes",
    ),
    Mutant(
        "an old leader answers sessions",
        Replication,
        "check_shared",
        not_waiting,
        "showed what was never there",
        "nodes",
    ),
)
