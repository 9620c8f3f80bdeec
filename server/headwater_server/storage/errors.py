"""Errors of storage that never cross the wire as they are.

What a user can act on is a HeadwaterError of the protocol (DamagedFile, DirectoryInUse,
FormatTooNew). The classes here are between storage and the engine, which decides what they mean:
a full disk turns the server read-only, a failed log ends the process.
"""

import errno

from headwater_protocol.errors import DamagedFile


class DiskFull(OSError):
    """The disk has no room. What was asked was not done, and may be tried again later."""

    def __init__(self, path: str, size: int) -> None:
        super().__init__(errno.ENOSPC, f"no room on the disk for {size} bytes more", path)
        self.path = path
        self.size = size


class NoRoomToStart(DiskFull):
    """A start needs room on the disk: to replay the log, or to keep a copy of its torn tail."""

    def __init__(self, path: str, size: int) -> None:
        super().__init__(path, size)
        self.strerror = (
            f"the disk is full, and a start needs room: free {size} bytes or more, and start "
            "again; nothing is lost"
        )


class LogFailed(Exception):
    """A write or a sync of the log failed before; what it holds now, only a restart can tell.

    A sync that failed is not tried again: the operating system may have dropped the pages and
    would report success (PostgreSQL's "fsyncgate" of 2018).
    """


class NotClaimed(Exception):
    """The right to write was not claimed, or another claim has taken it away since."""


class LogGoesOn(Exception):
    """A claim named an index that is not the last one: there are entries it has not read."""


def reason_of(error: DamagedFile) -> str:
    """The message of a DamagedFile without the place, which stands beside it."""
    file = str(error.details.get("file", ""))
    message = error.message
    for prefix in (f"{file} at offset {error.details.get('offset')}: ", f"{file}: "):
        message = message.removeprefix(prefix)
    return message
