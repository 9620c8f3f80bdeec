"""What an archiver needs of a running database."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from headwater_protocol.errors import DamagedFile, HistoryGone, NoSuchCommit
from headwater_protocol.numbers import CommitNumber
from headwater_server.engine.archive.archiver import Archiver, Begun
from headwater_server.engine.archive.spans import NO_ID
from headwater_server.engine.state.stored_state import StoredState
from headwater_server.engine.transactions.sequencer import Sequencer
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.wal.interface import WalIndex, WriteAheadLog


@dataclass(frozen=True, slots=True)
class ArchiveSource:
    """The parts of an engine that are archived."""

    file_system: FileSystem
    log: WriteAheadLog
    sequencer: Sequencer
    files: StoredState
    database_id: bytes
    created: int
    source: random.Random

    @property
    def published(self) -> int:
        """The newest commit that readers see."""
        return self.sequencer.published

    @property
    def before_first(self) -> WalIndex:
        """The index before the oldest entry of the log."""
        return WalIndex(self.log.first_index - 1)

    def commit_id(self, commit: int) -> bytes:
        """The transaction of a commit that is in the files; NO_ID if it is not known any more.

        Safe in any thread, as reads of the commit log are.
        """
        try:
            return self.files.commit_log.read(CommitNumber(commit)).transaction
        except (HistoryGone, NoSuchCommit, DamagedFile):
            return NO_ID

    def archiver(self, path: str, begun: Callable[[Begun], None] = lambda _: None) -> Archiver:
        """An archiver of this database for the archive at *path*."""
        return Archiver(
            self.file_system,
            path,
            log=self.log,
            newest=self,
            database_id=self.database_id,
            created=self.created,
            owner=self.source.randbytes(16),
            begun=begun,
        )
