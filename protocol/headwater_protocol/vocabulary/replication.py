"""The operations between the nodes of a database, and on nodes. See operations.py."""

from typing import Any, Final

from headwater_protocol import limits
from headwater_protocol.fields import Argument, Binary, Field, Integer, Nullable, Record, Text

_NODE: Final = Text(1, limits.NAME_SIZE_MAX)
_NUMBER: Final = Integer(0, limits.NUMBER_MAX)
_HASH: Final = Binary(16, 16)
_COPY: Final = Binary(16, 16)
_WAIT_MS: Final = Integer(0, limits.WAIT_MS_MAX)
_SIZE: Final = Integer(1, limits.MIB)


_COPY_ANSWER: Final = (
    "[copy, format, database_id, commit, position, after, epoch, hash, log_index, "
    "[[part, name, size], …]]"
)


def _required(name: str, field: Field, why: str = "") -> Argument:
    return Argument(name, field, why=why)


def _optional(name: str, field: Field, default: Any, why: str = "") -> Argument:
    return Argument(name, field, required=False, default=default, why=why)


REPLICATION_OPERATIONS: Final[tuple[tuple[str, Record, str, str], ...]] = (
    (
        "node",
        Record(()),
        "[role, leader | nil, commit, epoch, lag_commits, lag_us]",
        "The role of this node, and how far it is behind its leader.",
    ),
    (
        "wait_commit",
        Record(
            (
                _required("commit", _NUMBER),
                _optional("wait_ms", _WAIT_MS, limits.WAIT_MS_MAX // 2, "how long to wait"),
            )
        ),
        "commit",
        "Answer once this node shows a commit to readers, with its newest commit.",
    ),
    (
        "replicate",
        Record(
            (
                _required("node", _NODE, "identifies the follower"),
                _required("epoch", _NUMBER, "of its log"),
                _required("index", _NUMBER, "the last entry of its log"),
                _required("hash", _HASH, "of that entry"),
                _optional("leader", Nullable(Text(1, 1024)), None, "if it was promoted: its URL"),
            )
        ),
        "[epoch, first_index, last_index]",
        "A follower greets its leader, or one that was promoted its former leader.",
    ),
    (
        "log_read",
        Record(
            (
                _required("node", _NODE),
                _required("after", _NUMBER, "the follower has all entries up to this, durably"),
                _optional("size_max", _SIZE, 256 * limits.KIB, "about how many bytes"),
                _optional("wait_ms", _WAIT_MS, 1000, "how long to wait for an entry"),
            )
        ),
        "[[entry, …], last_index, commit, time, now]",
        "The entries of the log after an index; none if none came in that time.",
    ),
    (
        "copy_begin",
        Record(
            (
                _required("node", _NODE),
                _optional("copy", Nullable(_COPY), None, "goes on with this copy"),
            )
        ),
        _COPY_ANSWER,
        "Keep the files of one commit, so that a follower can copy them.",
    ),
    (
        "copy_read",
        Record(
            (
                _required("copy", _COPY),
                _required("file", Integer(0, 2**32 - 1), "its place in the list"),
                _required("offset", _NUMBER),
                _required("size", _SIZE),
            )
        ),
        "bytes",
        "A part of a file of a copy.",
    ),
    (
        "promote",
        Record(()),
        "[epoch, commit]",
        "Make a follower the leader. Its former leader must not write any more.",
    ),
)
"""Name, arguments, answer and description of each operation."""
