"""Errors of the client: those of the protocol, and those that only a client raises."""

from headwater_protocol.errors import (
    AuthenticationFailed,
    BackupFailed,
    CommitNotReached,
    CommitUnknown,
    ConditionFailed,
    Conflict,
    ConnectionClosed,
    ConnectionLost,
    DamagedFile,
    DeliveryLost,
    DirectoryInUse,
    DuplicateEvent,
    FormatTooNew,
    GroupExists,
    HeadwaterError,
    HistoryGone,
    InternalError,
    InvalidArgument,
    NoSuchCommit,
    NoSuchEvent,
    NoSuchGroup,
    NotANumber,
    NotLeader,
    PermissionDenied,
    PositionNotReached,
    ProtocolError,
    ReadOnly,
    ShuttingDown,
    TooLarge,
    TooMany,
    TransactionAborted,
    TransactionForgotten,
    TransactionGone,
    Unavailable,
    UnknownOperation,
    WrongVersion,
)


class TimedOut(ConnectionLost, code="timed_out"):
    """No answer came within the timeout. The server may have processed the request, or still may.

    It is a ConnectionLost, because the caller knows as little as after a lost connection. A commit
    that times out raises CommitUnknown instead.
    """


class Undecodable(HeadwaterError, code="undecodable"):
    """The codec cannot decode stored bytes. They were probably written with another codec."""


class StreamTruncated(HeadwaterError, code="stream_truncated"):
    """The state of a stream cannot be built: events are hidden, and no snapshot replaces them.

    details has `stream`; its `version`; `first`, the version of the first visible event (one above
    `version` if none is visible); and `begins`, the version from which events are needed.
    """


class LockLost(HeadwaterError, code="lock_lost"):
    """A lock has expired, or could not be renewed in time. Another process may hold it."""


class ProjectionBehind(HeadwaterError, code="projection_behind"):
    """A projection did not reach a position in time."""

    retryable = True


class RebuildRefused(HeadwaterError, code="rebuild_refused"):
    """A new build did not replace the current one.

    Events failed in it: details["parked"] has [stream, position, reason] for each stream that is
    parked in it. Or streams were truncated that the current build has seen whole:
    details["truncated"] has [stream, first visible version, first version] for up to 100 of them.
    """


__all__ = [
    "AuthenticationFailed",
    "BackupFailed",
    "CommitNotReached",
    "CommitUnknown",
    "ConditionFailed",
    "Conflict",
    "ConnectionClosed",
    "ConnectionLost",
    "DamagedFile",
    "DeliveryLost",
    "DirectoryInUse",
    "DuplicateEvent",
    "FormatTooNew",
    "GroupExists",
    "HeadwaterError",
    "HistoryGone",
    "InternalError",
    "InvalidArgument",
    "LockLost",
    "NoSuchCommit",
    "NoSuchEvent",
    "NoSuchGroup",
    "NotANumber",
    "NotLeader",
    "PermissionDenied",
    "PositionNotReached",
    "ProjectionBehind",
    "ProtocolError",
    "ReadOnly",
    "RebuildRefused",
    "ShuttingDown",
    "StreamTruncated",
    "TimedOut",
    "TooLarge",
    "TooMany",
    "TransactionAborted",
    "TransactionForgotten",
    "TransactionGone",
    "Undecodable",
    "Unavailable",
    "UnknownOperation",
    "WrongVersion",
]
