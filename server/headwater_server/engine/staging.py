"""Staging: the files of the last checkpoint, linked for a backup or for the copy of a follower."""

from headwater_server.engine.backup import STAGE_COPY, Staged, stage
from headwater_server.engine.checkpoint.schedule import CheckpointSchedule
from headwater_server.engine.state.stored_state import StoredState
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.wal.interface import LogEnd, LogReader


class Staging:
    """Links files. Its methods block, and no checkpoint may run meanwhile."""

    def __init__(
        self,
        file_system: FileSystem,
        data: str,
        files: StoredState,
        database_id: bytes,
        checkpoints: CheckpointSchedule,
        log: LogReader,
    ) -> None:
        self._file_system = file_system
        self._data = data
        self._files = files
        self._database_id = database_id
        self._checkpoints = checkpoints
        self._log = log

    def backup(self) -> Staged:
        """Link the files for a backup; see backup.py."""
        return stage(self._file_system, self._data, self._files, self._database_id)

    def copy(self, node: str) -> tuple[Staged, LogEnd]:
        """Link them for a follower; return also the end of the log at which the files end.

        The log after that is kept for *node*.
        """
        after = self._checkpoints.files_end
        self._checkpoints.readers.note(node, after)
        end = self._log.end_at(after)
        data, files, identity = self._data, self._files, self._database_id
        return stage(self._file_system, data, files, identity, name=STAGE_COPY), end
