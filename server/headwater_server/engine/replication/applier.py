"""The applier: from the entries of the log to what readers see.

    entry --> records --> plan --> apply --> publish

There is one way to apply a commit. The node that leads plans from requests, and applies by the same
function. Recovery reads the entries from its own log, a follower gets them from its leader. What
was read from a log is durable, so it is published as it is applied. Whoever drives the applier
makes checkpoints beside it, and wakes the feeds.
"""

from collections.abc import Sequence

from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.planned import TICK, Planned
from headwater_server.engine.format.records import decode_record
from headwater_server.engine.state.layers import State
from headwater_server.engine.transactions.replaying import plan_entry
from headwater_server.engine.transactions.sequencer import Sequencer
from headwater_server.storage.errors import Truncated
from headwater_server.storage.wal.interface import (
    RecordAssembler,
    WalEntry,
    WalIndex,
    WriteAheadLog,
    records_by_entry,
)


class Applier:
    """Applies consecutive entries of the log.

    Attributes:
        index: the newest entry that was applied.
        watches_accounts: somebody wants to know of changes of users and their rights.
        accounts_changed: whether accounts changed; the caller that handles this sets it to False.
    """

    def __init__(
        self, state: State, sequencer: Sequencer, log: WriteAheadLog, *, path: str
    ) -> None:
        """*path* is that of the log, for errors."""
        self.index = WalIndex(log.first_index - 1)
        self._state = state
        self._sequencer = sequencer
        self._log = log
        self._path = path
        self._assembler = RecordAssembler()
        self._in_files = True
        self.watches_accounts = False
        self.accounts_changed = False

    def apply(self, entry: WalEntry) -> int:
        """Apply and publish the records that an entry completes; return how many there are.

        Raises:
            DamagedFile: commits between the state's last one and these are missing.
            FormatTooNew: a newer version of Headwater wrote them.
        """
        encoded = self._assembler.add(entry)
        if encoded:
            try:
                return self.apply_records(entry.index, encoded)
            except BaseException:
                # Its last part would be dropped if the entry came again without the others.
                self._assembler.undo()
                raise
        if self._assembler.is_between_records:
            # A claim or a seal: the log may be trimmed beyond it.
            self._sequencer.replayed(entry.index, 0, 0)
        self.index = entry.index
        return 0

    def apply_records(self, index: WalIndex, encoded: list[bytes]) -> int:
        """The same, with the records that the entry *index* completes."""
        self._in_files = self._in_files and self._is_in_files(encoded)
        commits_and_fences = 0
        if not self._in_files:
            state = self._state
            run = plan_entry(state, encoded, path=self._path, index=index)
            self._sequencer.interrupt_plan()
            state.apply(run)
            if self.watches_accounts and any(map(_changes_accounts, run)):
                self.accounts_changed = True
            commits_and_fences = len(run) - sum(planned.kind == TICK for planned in run)
        self._sequencer.replayed(index, len(encoded), commits_and_fences)
        self.index = index
        return len(encoded)

    def ingest(self, entries: Sequence[bytes], *, roll_at: int | None) -> list[WalEntry]:
        """Append entries of the leader to this node's log, durably; return those that are new.

        Blocks; may run in another thread, one at a time. *roll_at*: erased data must be trimmed
        from the log up to this index, so a new segment begins after it.

        Raises:
            Diverged, DamagedFile, DiskFull: see WriteAheadLog.ingest.
        """
        new = self._log.ingest(entries)
        if roll_at is not None:
            self._log.begin_segment(WalIndex(roll_at))
        return new

    def commits_after(self, index: WalIndex) -> tuple[int, int] | None:
        """The first and the last commit in the log after an entry, 0 for none; None: trimmed."""
        first = last = 0
        try:
            for _, encoded in records_by_entry(self._log.read(index)):
                for commit in (decode_record(record).commit for record in encoded):
                    first, last = first or commit, commit or last
        except Truncated:
            return None
        return first, last

    def _is_in_files(self, encoded: list[bytes]) -> bool:
        """Whether the files have all of these: the log may be kept for others for long.

        A fence or tick beside the newest commit of the files may have come after their checkpoint.
        """
        applied = self._state.files.applied_commit
        for record in reversed(encoded):
            commit = decode_record(record).commit
            if commit:
                return commit < applied
        return False


def _changes_accounts(planned: Planned) -> bool:
    keys = planned.writes[::2]
    return any(key is not None and key.startswith(keyspaces.ACCOUNTS) for key in keys)
