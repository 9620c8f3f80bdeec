"""Replaying: the records of one entry of the log into the memtable, many at a time.

Most logs are of small commits, a key each, and what a call costs would be most of what they
cost. So runs of such commits go into the memtable together; every other record takes the way that
it took when it was committed (see installing.py), and both leave the same behind.
"""

from collections.abc import Sequence

from headwater_protocol.errors import DamagedFile
from headwater_server.engine import keyspaces
from headwater_server.engine.installing import install
from headwater_server.engine.records import record_of, unpack_record
from headwater_server.engine.state import State
from headwater_server.storage.commit_log import CommitRecord


def replay(state: State, encoded: Sequence[bytes], *, path: str, index: int) -> None:
    """Install what is new of the records of the log's entry *index*. Nobody is reading yet.

    Raises:
        DamagedFile: commits between the state's last one and these are missing; *path* is told.
    """
    user_end = keyspaces.USER_END
    commit = state.last_commit
    position = state.last_position
    run: list[CommitRecord] = []
    run_writes: list[bytes | None] = []
    for data in encoded:
        members = unpack_record(data)
        if members[0] == commit + 1:
            number, transaction, time, user, writes, first_position, events, _ = members
            if (
                not events
                and len(writes) == 2
                and writes[0] < user_end
                and first_position == position + 1
            ):
                commit = number
                run.append(CommitRecord(commit, transaction, time, user, first_position, 0))
                run_writes += writes
                continue
        if run:
            state.active.add_puts(run, run_writes)
            run, run_writes = [], []
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
        state.active.add_puts(run, run_writes)
