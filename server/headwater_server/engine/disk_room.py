"""Room on the disk: when nothing may be written, and what may still be.

    free space     |<-- written and read -->|<-- read, and make room -->|<-- read -->|
                                     disk_reserve_size            a half of it       0

The reserve lets a checkpoint finish. Half of it is also for writes that make room: a database whose
own data fills the disk could otherwise not be helped but by a larger disk.
"""

from headwater_protocol.errors import ReadOnly
from headwater_protocol.limits import MIB
from headwater_server.engine.transactions.write_buffer import WriteBuffer
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.wal.interface import WriteAheadLog

CLEARING_SIZE_MAX = MIB
"""Bytes of one transaction that makes room. It is in the log and in the state store before any room
is made, so it must be small against the reserve."""


class DiskRoom:
    """Knows whether the disk has room for writes; it is asked for again by `measure`.

    Attributes:
        read_only_reason: why nothing can be written, or None.
        may_clear: whether writes that make room are possible even so.
        free_size: bytes that were free at the last measurement.
    """

    def __init__(
        self, file_system: FileSystem, path: str, log: WriteAheadLog, *, reserve_size: int
    ) -> None:
        self.read_only_reason: str | None = None
        self.may_clear = False
        self.free_size = 0
        self._file_system = file_system
        self._path = path
        self._log = log
        self._reserve_size = reserve_size

    def measure(self) -> None:
        """Allocate space for the log in advance. Blocks; may run in another thread.

        A full disk makes the engine read-only; free space makes it writable again.
        """
        try:
            self._log.prepare()
        except DiskFull as error:
            self.may_clear = False
            self.free_size = 0
            self.read_only_reason = f"the disk is full: {error}"
            return
        free = self.free_size = self._file_system.free_bytes(self._path)
        self.may_clear = free >= self._reserve_size // 2
        if free < self._reserve_size:
            self.read_only_reason = (
                f"the disk is nearly full: {free} bytes are free, and {self._reserve_size} are "
                "kept for checkpoints"
            )
        else:
            self.read_only_reason = None

    def check_writable(self, buffer: WriteBuffer | None = None) -> None:
        """Raise unless there is room to write; *buffer* has the writes of a user.

        Raises:
            ReadOnly: there is not.
        """
        if self.read_only_reason is None:
            return
        if buffer is not None and self.may_clear and buffer.only_removes:
            if buffer.size <= CLEARING_SIZE_MAX:
                return
        hint = ""
        if self.may_clear:
            hint = (
                f". Transactions of up to {CLEARING_SIZE_MAX} bytes that only delete, truncate or "
                "erase, or set a retention, are possible"
            )
        raise ReadOnly(f"the server is read-only for now: {self.read_only_reason}{hint}")

    def is_scarce(self) -> bool:
        """Whether the disk is full, or nearly so."""
        return self.read_only_reason is not None

    @property
    def may_tick(self) -> bool:
        """Whether the log's clock may be written: without it, no history ever ends."""
        return self.read_only_reason is None or self.may_clear
