"""Replaying: the records of one entry of the log into the memtable, many at a time.

Most logs are of small commits, a key each, and what a call costs would be most of what they
cost. So runs of such commits go into the memtable together; every other record takes the way that
it took when it was committed (see installing.py), and both leave the same behind.
"""

from collections.abc import Sequence
from itertools import repeat
from typing import Any, Final

from headwater_protocol.errors import DamagedFile
from headwater_server.engine import keyspaces
from headwater_server.engine.installing import install
from headwater_server.engine.records import record_of, unpack_records
from headwater_server.engine.state import State
from headwater_server.storage.commit_log import CommitRecord

_new: Final = tuple.__new__

_TOGETHER_MIN: Final = 4
"""Commits of a run that is installed together: what that costs once is what three cost alone."""


def replay(state: State, encoded: Sequence[bytes], *, path: str, index: int) -> None:
    """Install what is new of the records of the log's entry *index*. Nobody is reading yet.

    Raises:
        DamagedFile: commits between the state's last one and these are missing; *path* is told.
    """
    user_end = keyspaces.USER_END
    commit = state.last_commit
    position = state.last_position
    run: list[tuple[Any, ...]] = []
    for members in unpack_records(encoded):
        if members[0] == commit + 1:
            writes: tuple[Any, ...] = members[4]
            events: tuple[Any, ...] = members[6]
            if (
                not events
                and len(writes) == 2
                and writes[0] < user_end
                and members[5] == position + 1
            ):
                commit += 1
                run.append(members)
                continue
        if run:
            _install_puts(state, run)
            run = []
        record = record_of(members)
        if record.commit > commit + 1:
            raise DamagedFile(
                f"{path}: commit {record.commit} follows commit {commit}; those "
                "between are missing from the log and from the files",
                details={"file": path, "index": index},
            )
        # A fence has no number; to install it twice changes nothing.
        if record.commit == 0 or record.commit > commit:
            install(state, record)
            commit = state.last_commit
            position = state.last_position
    if run:
        _install_puts(state, run)


def _install_puts(state: State, run: Sequence[tuple[Any, ...]]) -> None:
    """Install commits that follow each other and wrote one key each, given as their members."""
    if len(run) < _TOGETHER_MIN:
        for members in run:
            install(state, record_of(members))
        return
    columns = list(zip(*run, strict=False))
    commits, transactions, times, users, writes, positions = columns[:6]
    # As CommitRecord(…) for each, in a fifth of its time.
    fields = zip(commits, transactions, times, users, positions, repeat(0), strict=False)
    records: list[CommitRecord] = list(map(_new, repeat(CommitRecord), fields))
    state.active.add_puts(records, transactions, writes)
