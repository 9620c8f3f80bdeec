"""Which entries of the log its readers still need: followers, and whoever copies it elsewhere.

    entry      1 ... 40 | 41 ... 900 | 901 ... 2000
               trimmed  |            |
                        the slowest  what a restart needs
                        reader

The log is trimmed below the slowest reader, within a bound: if the log is larger than that, the
slowest reader is let go at each trim. It must then begin again from a copy of the database.

Readers may be noted in one thread while another trims.
"""

from headwater_server.storage.wal.interface import WalIndex


class LogReaders:
    """The places of the readers of a log, by name."""

    def __init__(self, kept_size_max: int) -> None:
        self._kept_size_max = kept_size_max
        self._needed: dict[str, WalIndex] = {}

    def note(self, name: str, after: WalIndex) -> None:
        """A reader has everything up to *after*, and needs what follows."""
        self._needed[name] = after

    def forget(self, name: str) -> None:
        """A reader will not come back."""
        self._needed.pop(name, None)

    def knows(self, name: str) -> bool:
        """Whether the entries of a reader are kept: it was noted, and not let go."""
        return name in self._needed

    def floor(self, below: WalIndex, log_size: int) -> WalIndex:
        """The index below which a log of this size may be trimmed; *below* without readers."""
        needed = dict(self._needed)
        if needed and log_size > self._kept_size_max:
            slowest = min(needed, key=lambda name: needed[name])
            if needed[slowest] + 1 < below:
                del needed[slowest]
                self.forget(slowest)
        return min([below, *(WalIndex(after + 1) for after in needed.values())])
