"""Tracks which log entries are still needed by followers and by tasks that copy the log.

    entry      1 ... 40 | 41 ... 900 | 901 ... 2000
               trimmed  |            |
                        the slowest  what a restart needs
                        reader

The log is trimmed below the slowest reader, within a bound: if the log is larger than that, the
slowest reader is let go at each trim. It must then begin again from a copy of the database.

The file READERS has the readers that the next start is to remember. It is written when such a
reader comes, and before each trim. So its positions may be older than the true ones, and then more
of the log is kept.

Readers may be noted in one thread while another trims.
"""

from typing import Final

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.files.file_system import FileSystem, join
from headwater_server.storage.files.sealed_fields import read_fields, write_fields
from headwater_server.storage.wal.interface import WalIndex

READERS_NAME: Final = "READERS"

_SIZE_MAX: Final = 1024 * 1024
"""Bytes of READERS that we read: more than a thousand followers need."""


class LogReaders:
    """The places of the readers of a log, by name."""

    def __init__(
        self, kept_size_max: int, file_system: FileSystem | None = None, directory: str = ""
    ) -> None:
        """*directory* has the file READERS; without a file system, nothing is remembered."""
        self._kept_size_max = kept_size_max
        self._file_system = file_system
        self._directory = directory
        self._needed: dict[str, WalIndex] = {}
        self._remembered: set[str] = set()
        self._saved: dict[str, WalIndex] = {}

    def load(self, first_index: WalIndex) -> None:
        """Remember the readers of before the restart for which the log still has the entries."""
        if self._file_system is None:
            return
        if not self._file_system.exists(join(self._directory, READERS_NAME)):
            return
        try:
            fields = read_fields(
                self._file_system, self._directory, READERS_NAME, size_max=_SIZE_MAX
            )
        except DamagedFile:
            # Then followers that are away may have to copy the database again.
            return
        for name, after in fields.items():
            if isinstance(after, int) and after + 1 >= first_index:
                self.note(name, WalIndex(after), remembered=True)
        self._saved = self._positions()

    def save(self) -> None:
        """Write READERS if the readers to remember have changed; blocks."""
        positions = self._positions()
        if self._file_system is None or positions == self._saved:
            return
        try:
            write_fields(self._file_system, self._directory, READERS_NAME, dict(positions))
        except DiskFull:
            # The older positions keep more of the log. A trim, which makes room, must not fail.
            return
        self._saved = positions

    def _positions(self) -> dict[str, WalIndex]:
        needed = dict(self._needed)
        return {name: needed[name] for name in self._remembered if name in needed}

    def note(self, name: str, after: WalIndex, *, remembered: bool = False) -> None:
        """A reader has everything up to *after*, and needs what follows.

        *remembered*: the log is kept for it after a restart, too.
        """
        self._needed[name] = after
        if remembered:
            self._remembered.add(name)

    def forget(self, name: str) -> None:
        """A reader will not come back."""
        self._needed.pop(name, None)
        self._remembered.discard(name)

    def forget_remembered(self) -> None:
        """This log has no followers any more: it is that of a follower itself."""
        for name in list(self._remembered):
            self.forget(name)

    def knows(self, name: str) -> bool:
        """Whether the entries of a reader are kept: it was noted, and not let go."""
        return name in self._needed

    def any(self) -> bool:
        """Whether there are readers."""
        return bool(self._needed)

    def let_go_below(self, index: WalIndex) -> list[str]:
        """Let go of the remembered readers that lack entries up to *index*; return their names."""
        needed = dict(self._needed)
        slow = [name for name in self._remembered if name in needed and needed[name] < index]
        for name in slow:
            self.forget(name)
        return slow

    def floor(self, below: WalIndex, log_size: int, *, is_scarce: bool = False) -> WalIndex:
        """The index below which a log of this size may be trimmed; *below* without readers.

        *is_scarce*: the disk has no room for a log that is kept.
        """
        needed = dict(self._needed)
        if needed and (is_scarce or log_size > self._kept_size_max):
            slowest = min(needed, key=lambda name: needed[name])
            if needed[slowest] + 1 < below:
                del needed[slowest]
                self.forget(slowest)
        return min([below, *(WalIndex(after + 1) for after in needed.values())])
