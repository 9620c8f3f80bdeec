"""Exit statuses of the command `headwater`: one set for all commands of client and server."""

from typing import Final

DONE: Final = 0
"""The command did what it was asked."""

FAILED: Final = 1
"""It failed, was declined at its prompt, or what it checked is not in order."""

USAGE: Final = 2
"""The command line was wrong. Nothing was done."""

WARNED: Final = 3
"""`check` and `repair`: nothing is damaged, but commits are dated in the future."""

DISK_FAILED: Final = 74
"""`serve`: the disk failed. EX_IOERR of sysexits.h. A restart reads what is durable."""

INTERRUPTED: Final = 130
"""Ctrl-C, as shells report it: 128 and the number of SIGINT."""

MEANINGS: Final = {
    DONE: "done",
    FAILED: "failed, declined at a prompt, or what was checked is not in order",
    USAGE: "wrong usage; nothing was done",
    WARNED: "check and repair: nothing is damaged, but commits are dated in the future",
    DISK_FAILED: "serve: the disk failed; a restart reads what is durable",
    INTERRUPTED: "interrupted by Ctrl-C",
}
"""What each status means, for the help and the guide."""
