"""The operations between the nodes of a database, and on nodes. See operations.py."""

from typing import Any, Final

from headwater_protocol import limits
from headwater_protocol.fields import (
    Argument,
    Binary,
    Choice,
    Field,
    Integer,
    Nullable,
    Record,
    Text,
)
from headwater_protocol.vocabulary.keys import KEY_READS
from headwater_protocol.vocabulary.looking import LOOKING_OPERATIONS

_NODE: Final = Text(1, limits.NAME_SIZE_MAX)
_NUMBER: Final = Integer(0, limits.NUMBER_MAX)
_HASH: Final = Binary(16, 16)
_COPY: Final = Binary(16, 16)
_DATABASE: Final = Binary(16, 16)
_WAIT_MS: Final = Integer(0, limits.WAIT_MS_MAX)
_SIZE: Final = Integer(1, limits.MIB)

NODE_ANSWER: Final = "[role, leader | nil, commit, epoch, lag_commits, lag_us | nil]"
"""What a node says of itself: the answer to `node`, and a part of those to `hello` and `ping`."""

READS: Final = frozenset(
    {
        *(name for name, _, _, _ in KEY_READS),
        *("stream_version", "read_stream", "read_all", "newest_position", "load"),
        *("commit_at", "position_before", "read_snapshots"),
        *("list_streams", "list_categories"),
        *(name for name, _, _, _ in LOOKING_OPERATIONS),
    }
)
"""The operations that read as of a commit and change nothing: every node can answer them."""

NODE_FEATURE: Final = "node"
"""The feature of those who expect the node in the answers to hello and ping. Before it, clients
refused longer answers. A server that has it has read_at_least, too."""

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
        NODE_ANSWER,
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
                _optional("leader", Nullable(Text(1, 1024)), None, "if it leads: its URL"),
                _optional("database", Nullable(_DATABASE), None, "the id of its database"),
                _optional(
                    "role", Choice(("follower", "copy", "leader")), "follower", "which it is"
                ),
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
    (
        "cluster_status",
        Record(()),
        "{name: value}",
        "The nodes of a cluster as far as this one knows them, and the stream with the log.",
    ),
    (
        "cluster_resign",
        Record(()),
        "nil",
        "Let another node of the cluster lead.",
    ),
)
"""Name, arguments, answer and description of each operation."""


def read_at_least(requests: Field) -> tuple[str, Record, str, str]:
    """The read that waits for a commit; *requests* are the reads that it can be."""
    return (
        "read_at_least",
        Record(
            (
                _required("commit", _NUMBER, "the read sees this commit or a later one"),
                _required("request", requests, "a read outside a transaction, nothing left out"),
                _optional("wait_ms", _WAIT_MS, 1000, "how long to wait for the commit"),
            )
        ),
        "[commit, epoch, answer]; answer: that of the read",
        "Read once this node shows a commit to readers, and tell how far it is.",
    )
