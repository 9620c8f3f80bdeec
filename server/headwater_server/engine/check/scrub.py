"""The scrub: reads everything on the disk again while the server runs.

So damage is found before somebody needs what is damaged, and while a backup still has it.

    events    every event, with its checksum
    commits   every record of the commit log
    state     every entry of the state store; RocksDB verifies the blocks that it reads

A pass is a sequence of steps, each as short as a step of a feed, in the thread of all other reads.
The write-ahead log is not read: every start verifies it, and checkpoints remove it soon.

A pass may take days, and a server may be started again before. So the order of the three parts, and
the event at which a pass begins, are random: then each part is read now and then in any case.
"""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from headwater_protocol.errors import DamagedFile
from headwater_protocol.limits import KIB
from headwater_protocol.numbers import CommitNumber, Position
from headwater_server.engine.state.layers import State
from headwater_server.storage.store.interface import Family

STEP_SIZE: Final = 64 * KIB
"""Bytes of events in a step; it takes less than a millisecond if the disk does."""

STEP_ITEMS: Final = 256
"""Events, records or entries in a step."""


_DAMAGE: Final = (DamagedFile, OSError)
"""What a read of a damaged file, or of a bad sector, raises."""


class ScrubStep(NamedTuple):
    """How many bytes a step has read, about, and what damage it has met."""

    size: int
    damage: DamagedFile | OSError | None = None


def scrub_size(state: State) -> int:
    """About how many bytes a pass reads."""
    files = state.files
    return int(files.event_log.size + files.commit_log.size + files.store.sizes()["file_bytes"])


def scrub_steps(state: State, source: random.Random) -> Iterator[ScrubStep]:
    """The steps of a pass over all files. It may be left off between any two."""
    parts = [_events(state, source), _commits(state), _entries(state)]
    source.shuffle(parts)
    for part in parts:
        yield from part


def _events(state: State, source: random.Random) -> Iterator[ScrubStep]:
    log = state.files.event_log
    first, last = int(log.first_position), int(log.last_position)
    begin = source.randint(first, max(first, last))
    yield from _positions(state, begin, last)
    yield from _positions(state, first, begin - 1)


def _positions(state: State, position: int, last: int) -> Iterator[ScrubStep]:
    while position <= last:
        log = state.files.event_log
        # A rewrite may have removed segments meanwhile.
        position = max(position, int(log.first_position))
        count = min(STEP_ITEMS, last - position + 1)
        if count < 1:
            return
        try:
            found = log.read(Position(position), count, STEP_SIZE)
        except _DAMAGE as error:
            yield ScrubStep(0, error)
            position += 1
            continue
        if not found:
            return
        yield ScrubStep(sum(map(len, found)))
        position += len(found)


def _commits(state: State) -> Iterator[ScrubStep]:
    log = state.files.commit_log
    commit, last = int(log.first_commit), int(log.last_commit)
    count = STEP_ITEMS
    while commit <= last:
        # Trimming may have removed some meanwhile.
        commit = max(commit, int(log.first_commit))
        before = log.size
        try:
            found = log.read_range(CommitNumber(commit), min(count, last - commit + 1))
        except _DAMAGE as error:
            if count == 1:
                yield ScrubStep(0, error)
                commit += 1
            # Read one by one, to come past the damaged record.
            count = 1
            continue
        if not found:
            return
        yield ScrubStep(before * len(found) // max(1, last - int(log.first_commit) + 1))
        commit += len(found)
        count = STEP_ITEMS if count > 1 else 1


def _entries(state: State) -> Iterator[ScrubStep]:
    sizes = state.files.store.sizes()
    # Entries are compressed in the files, so their own sizes would say too much.
    entry_size = sizes["file_bytes"] / max(1, sizes["keys"])
    for family in Family:
        start = b""
        while True:
            try:
                items = list(islice(state.files.store.scan(family, start), STEP_ITEMS))
            except _DAMAGE as error:
                # Where the next sound block begins is not known.
                yield ScrubStep(0, error)
                break
            if not items:
                break
            yield ScrubStep(round(entry_size * len(items)))
            start = items[-1][0] + b"\0"
