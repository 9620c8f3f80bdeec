"""Errors of the client: those of the protocol, and those that only a client can meet."""

from headwater_protocol.errors import (
    AuthenticationFailed,
    BackupFailed,
    CommitUnknown,
    ConditionFailed,
    Conflict,
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
    PermissionDenied,
    ProtocolError,
    ReadOnly,
    ShuttingDown,
    TooLarge,
    TooMany,
    TransactionAborted,
    TransactionForgotten,
    TransactionGone,
    UnknownOperation,
    WrongVersion,
)


class TimedOut(ConnectionLost, code="timed_out"):
    """No answer came within the timeout. What was asked may still have been done, or be.

    It is a kind of ConnectionLost, since the caller is left in the same position; a commit
    that timed out raises CommitUnknown instead.
    """


class Undecodable(HeadwaterError, code="undecodable"):
    """The codec cannot read what is stored: it was written with another one."""


class StreamTruncated(HeadwaterError, code="stream_truncated"):
    """No state can be made of a stream: events that it needs are hidden, and no snapshot stands in.

    details has `stream`, its `version`, `first`, the version of the first event that is there (one
    above `version` if none is), and `begins`, the one from which they are needed.
    """


class ProjectionBehind(HeadwaterError, code="projection_behind"):
    """A projection has not come as far as it was waited for."""

    retryable = True


class RebuildRefused(HeadwaterError, code="rebuild_refused"):
    """A build was not put in the place of another, since events failed in it.

    details["parked"] has [stream, position, reason] of each stream that is parked in it.
    """


__all__ = [
    "AuthenticationFailed",
    "BackupFailed",
    "CommitUnknown",
    "ConditionFailed",
    "Conflict",
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
    "NoSuchCommit",
    "NoSuchEvent",
    "NoSuchGroup",
    "NotANumber",
    "PermissionDenied",
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
    "UnknownOperation",
    "WrongVersion",
]
