"""Errors of storage that are never sent to a client.

Errors that a user can act on are HeadwaterErrors of the protocol (DamagedFile, DirectoryInUse,
FormatTooNew). The engine handles the errors here: a full disk makes the server read-only, and a
failed log ends the process.
"""

import errno

from headwater_protocol.errors import DamagedFile


class DiskFull(OSError):
    """The disk is full. The operation was not done; try it again later."""

    def __init__(self, path: str, size: int) -> None:
        super().__init__(errno.ENOSPC, f"no room on the disk for {size} more bytes", path)
        self.path = path
        self.size = size


class NoRoomToStart(DiskFull):
    """A start needs room on the disk, to replay the log or to keep a copy of its torn tail."""

    def __init__(self, path: str, size: int) -> None:
        super().__init__(path, size)
        self.strerror = (
            f"the disk is full, and the start needs room: free at least {size} bytes and start "
            "again; nothing is lost"
        )


class LogFailed(Exception):
    """A write or sync of the log failed before. Only a restart can tell what the log holds.

    A failed sync is never retried: the operating system may have dropped the pages, and would
    report success (PostgreSQL's "fsyncgate" of 2018).
    """


class NotClaimed(Exception):
    """The right to write was not claimed, or a later claim has taken it."""


class Fenced(NotClaimed):
    """A later claim took the right to write. Nothing of the group is in the log, or ever will be.

    The writer's other groups may be in the log up to the claim: read it.
    """


class Unavailable(Exception):
    """No answer of the log: whether the group is durable is unknown. Confirm it again."""


class Truncated(Exception):
    """The entries that a reader needs were trimmed.

    Attributes:
        first_index: the oldest entry that is left.
    """

    def __init__(self, wanted: int, first_index: int) -> None:
        super().__init__(f"entry {wanted} was trimmed; the log begins with entry {first_index}")
        self.first_index = first_index


class Diverged(Exception):
    """A copy of a log has entries that the other log lacks, or has others in their place.

    Attributes:
        index: the first entry that does not fit.
    """

    def __init__(self, index: int, why: str) -> None:
        super().__init__(f"entry {index} does not continue this log: {why}")
        self.index = index


class LogGoesOn(Exception):
    """A claim named an index below the last: its writer has not read all entries."""


def reason_of(error: DamagedFile) -> str:
    """The message of a DamagedFile without the file and offset in front of it."""
    file = str(error.details.get("file", ""))
    message = error.message
    for prefix in (f"{file} at offset {error.details.get('offset')}: ", f"{file}: "):
        message = message.removeprefix(prefix)
    return message
