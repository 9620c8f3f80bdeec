"""Planted defects of a cluster: they show that the worlds detect bugs.

    python -m tests.cluster.mutants            all of them
    python -m tests.cluster.mutants "a name"   one

Each is a bug that a cluster could have. Worlds are lived through until one of them shows a problem.
"""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any, Final

# Defects are planted into the sources. This must be set before our modules are imported, see
# headwater_protocol/compiled.py.
os.environ["HEADWATER_PURE"] = "1"

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.state.layers import State
from headwater_server.net import server as server_module
from headwater_server.net.cluster.tailing import Tailing
from headwater_server.net.cluster.watching import Watching
from headwater_server.storage.jetstream import cluster_log
from headwater_server.storage.jetstream.cluster_log import ClusterLog
from headwater_server.storage.jetstream.log import JetStreamCursor, JetStreamLog
from headwater_server.storage.jetstream.stream import Outcome, Stream
from headwater_server.storage.wal.entry import ChainEnd
from headwater_server.storage.wal.interface import WalIndex
from tests.cluster.worlds import problem_of
from tests.simulation.determinism import replaced

SEEDS_MAX: Final = 12
"""Worlds for each defect. Most need one or two."""

WORLD_S: Final = 30.0

Planted = tuple[Any, str, Any]


def _acknowledges_before_the_stream() -> list[Planted]:
    return [(Stream, "outcome", staticmethod(lambda _reply, _index: Outcome.STORED))]


def _skips_a_gap() -> list[Planted]:
    ask_leader = JetStreamCursor._ask_leader

    def goes_on(cursor: JetStreamCursor, later: bool) -> Any:
        try:
            return ask_leader(cursor, later)
        except DamagedFile:
            cursor._next = WalIndex(cursor._next + 1)
            return []

    return [
        (JetStreamCursor, "_ask_leader", goes_on),
        (ChainEnd, "check_continued", lambda _chain, _entry: None),
    ]


def _ignores_the_epoch() -> list[Planted]:
    return [(JetStreamLog, "_is_stored", lambda _log, _first: True)]


def _claims_while_behind() -> list[Planted]:
    claim = ClusterLog.claim

    def behind(log: ClusterLog, _after: WalIndex, **rest: Any) -> Any:
        last = log.stream.refresh_last()
        if last > log._copy.last_index:
            log.stream._end = None
            return log.stream.claim(last, **rest)
        return claim(log, log._copy.last_index, **rest)

    return [(ClusterLog, "claim", behind)]


def _keeps_the_lease_too_long() -> list[Planted]:
    return [(cluster_log, "LEASE_S", 5.0)]


def _reads_without_the_lease() -> list[Planted]:
    return [(server_module, "leased", lambda handlers, _reads: handlers)]


def _trims_too_early() -> list[Planted]:
    async def trims(watching: Watching, state: Any) -> None:
        if watching._engine.leadership.leads and state.last > state.first:
            await watching._trim(WalIndex(state.last))

    async def helps_nobody(_tailing: Tailing, _addresses: list[str]) -> bool:
        return False

    return [(Watching, "_trim_needless", trims), (Tailing, "mend", helps_nobody)]


def _applies_twice() -> list[Planted]:
    # A write that is sent again to the next leader is applied again.
    return [(State, "transaction", lambda _state, _transaction: None)]


def _puts_back_under_the_old_ids() -> list[Planted]:
    def with_old_id(log: JetStreamLog, index: WalIndex, packed: bytes) -> None:
        log.stream.append(index, packed[24:40].hex(), packed).wait()

    return [(JetStreamLog, "put_again", with_old_id)]


MUTANTS: Final[dict[str, Callable[[], list[Planted]]]] = {
    "acknowledges before the stream": _acknowledges_before_the_stream,
    "skips a gap": _skips_a_gap,
    "ignores the epoch": _ignores_the_epoch,
    "claims while behind": _claims_while_behind,
    "keeps the lease too long": _keeps_the_lease_too_long,
    "reads without the lease": _reads_without_the_lease,
    "trims too early": _trims_too_early,
    "applies a write twice": _applies_twice,
    "puts back under the old ids": _puts_back_under_the_old_ids,
}


def hunt(name: str) -> tuple[str, int, str | None]:
    """Live through worlds with a defect; the seed and the problem of the first that shows it."""
    with ExitStack() as planted:
        for owner, attribute, value in MUTANTS[name]():
            planted.enter_context(replaced(owner, attribute, value))
        for seed in range(1, SEEDS_MAX + 1):
            _, problem, _ = problem_of(seed, world_s=WORLD_S)
            if problem is not None:
                return name, seed, problem
    return name, SEEDS_MAX, None


def main() -> int:
    """Hunt some defects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(MUTANTS))
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    missed = 0
    with get_context("spawn").Pool(given.processes, maxtasksperchild=1) as pool:
        for name, seed, problem in pool.imap_unordered(hunt, given.names):
            missed += problem is None
            found = "NOT DETECTED" if problem is None else f"{problem[:150]}"
            print(f"{name}: seed {seed}: {found}", flush=True)
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
