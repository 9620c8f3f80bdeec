"""Errors that cross the wire.

Each class has a code, which is sent on the wire, and a flag `retryable`, which says whether the
same work can succeed if it is begun again. A class registers its code when it is defined, so the
client raises the class that the server raised:

    raise Conflict(…) --as_payload--> ["conflict", message, true, {…}] --from_payload--> Conflict

Mistakes of the user or the peer are HeadwaterErrors. Our own mistakes are assertions.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

_SHOWN_MAX: Final = 60
"""Characters or bytes of a value in a message: enough to recognize it."""


def shown(value: Any) -> str:
    """The start of a value's repr, for a message.

    The whole repr is never computed: for a value of 8 MiB it would take 32 MiB, and for a list
    nested a thousand levels deep it would exhaust the stack.
    """
    match value:
        case str() | bytes() if len(value) > _SHOWN_MAX:
            return f"{value[:_SHOWN_MAX]!a}… ({len(value)})"
        case str() | bytes():
            return f"{value!a}"
        case int() if value.bit_length() > 256:
            return f"of {value.bit_length()} bits"
        case list() | tuple() | dict() | set() | frozenset() | bytearray() | memoryview():
            return f"of {len(value)}"
        case _:
            return f"{value!r:.60}"


_CLASSES: Final[dict[str, "type[HeadwaterError]"]] = {}


class HeadwaterError(Exception):
    """Base of all errors of Headwater.

    Attributes:
        code: identifies the class on the wire.
        retryable: whether the same work can succeed if it is begun again.
        details: more about the error by name, as msgpack types.
    """

    code: ClassVar[str] = "error"
    retryable: bool = False

    def __init_subclass__(cls, *, code: str, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        assert code not in _CLASSES, f"two error classes with the code {code!r}"
        cls.code = code
        _CLASSES[code] = cls

    def __init__(
        self,
        message: str,
        *,
        retryable: bool | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        if retryable is not None:
            self.retryable = retryable

    def as_payload(self) -> list[Any]:
        """The error as the payload of a response: code, message, retryable, details."""
        return [self.code, self.message, self.retryable, self.details]

    @staticmethod
    def from_payload(payload: Any) -> "HeadwaterError":
        """The error that the payload of a response describes.

        An unknown code gives a plain HeadwaterError whose message starts with the code, so errors
        of a newer server are still readable.
        """
        match payload:
            case [str(code), str(message), bool(retryable), dict(details), *_]:
                known = _CLASSES.get(code)
                if known is None:
                    return HeadwaterError(
                        f"{code}: {message}", retryable=retryable, details=details
                    )
                return known(message, retryable=retryable, details=details)
            case _:
                return ProtocolError(f"invalid payload of an error response: {shown(payload)}")


# Wrong bytes and wrong requests.


class ProtocolError(HeadwaterError, code="protocol_error"):
    """The peer violated the protocol. The connection ends."""


class UnknownOperation(HeadwaterError, code="unknown_operation"):
    """There is no operation of this name."""


class InvalidArgument(HeadwaterError, code="invalid_argument"):
    """An argument has a wrong type or is out of bounds; the message says which."""


class NotANumber(InvalidArgument, code="not_a_number"):
    """The stored value of an add, min or max is not a number, or the result exceeds 64 bits."""


class PositionNotReached(InvalidArgument, code="position_not_reached"):
    """No event or commit has this number yet; details["newest"] is the newest one."""


class TooLarge(HeadwaterError, code="too_large"):
    """A frame, value, transaction or count is above its limit."""


# Outcomes of a transaction.


class Conflict(HeadwaterError, code="conflict"):
    """Another transaction committed first. Begin again.

    details["conflicts"] lists all conflicts. Each is a map with `kind` ("read-write",
    "write-write", "expected version", "condition"), its subject (`key`, or `start` and `end`, or
    `stream`, or `query`, or `snapshot`: stream, name and schema), and, if known, `commit` and
    `transaction` of the other transaction.
    """

    retryable = True

    @property
    def conflicts(self) -> list[dict[str, Any]]:
        """All conflicts that were found."""
        found: list[dict[str, Any]] = self.details.get("conflicts", [])
        return found


class WrongVersion(Conflict, code="wrong_version"):
    """A stream does not have the version that an append expected.

    Retryable if the stream had that version when the transaction began and a concurrent commit
    changed it. Not retryable if the expected version was wrong from the start.
    """

    retryable = False


class ConditionFailed(Conflict, code="condition_failed"):
    """A condition of an execute or of an append does not hold.

    In an open transaction, it is retryable if the condition held when the transaction began.
    """

    retryable = False


class TransactionGone(HeadwaterError, code="transaction_gone"):
    """The transaction is not open on this connection: it ended or was never begun."""

    retryable = True


class TransactionAborted(HeadwaterError, code="transaction_aborted"):
    """`status(resolve)` aborted the transaction's id: it can never commit."""

    retryable = True


class TransactionForgotten(HeadwaterError, code="transaction_forgotten"):
    """The transaction's id is older than the server remembers outcomes."""


class CommitUnknown(HeadwaterError, code="commit_unknown"):
    """The connection or the server was lost between commit and its answer.

    details["transaction"] is the transaction's id; `status(id, resolve=True)` tells the outcome.
    """

    @property
    def transaction(self) -> bytes:
        """The id of the transaction whose outcome is unknown, 16 bytes."""
        identity: bytes = self.details["transaction"]
        return identity


class DuplicateEvent(HeadwaterError, code="duplicate_event"):
    """An event id is already in the stream, with other content or without its neighbors."""


class NoSuchEvent(HeadwaterError, code="no_such_event"):
    """An event does not exist: no such version, position or id."""


# Consumer groups.


class NoSuchGroup(HeadwaterError, code="no_such_group"):
    """No consumer group has this name; it may have been deleted."""


class GroupExists(HeadwaterError, code="group_exists"):
    """A consumer group with this name already exists."""


class DeliveryLost(HeadwaterError, code="delivery_lost"):
    """The consumer no longer holds the delivery, so it cannot settle it.

    It was settled before, its lease expired, its connection was lost, or the group was changed.
    A transaction that acknowledges it does not commit.
    """


# Limits and states of the server.


class HistoryGone(HeadwaterError, code="history_gone"):
    """The commit is older than the history window; details["oldest"] is the oldest readable one."""


class NoSuchCommit(HeadwaterError, code="no_such_commit"):
    """The commit does not exist yet, or nothing had been committed at that time."""


class ReadOnly(HeadwaterError, code="read_only"):
    """The server refuses writes at present; the message says why."""

    retryable = True


class NotLeader(HeadwaterError, code="not_leader"):
    """This node follows another one and takes no writes; details["leader"] is its address or None.

    A node that was deposed says so too.
    """

    retryable = True


class Unavailable(HeadwaterError, code="unavailable"):
    """This node leads a cluster, and the log in NATS does not answer, or the lease has run out.

    Nothing was committed by this request. Reads of any age are still served.
    """

    retryable = True


class LogTrimmed(HeadwaterError, code="log_trimmed"):
    """The leader has trimmed entries that this follower needs: it must copy the database again."""


class LogDiverged(HeadwaterError, code="log_diverged"):
    """The log of this node has entries that its leader's lacks.

    details["common"] is the last entry before the leader was promoted, or None, and
    details["hash"] its hash: both nodes have it, unless they went different ways before.
    """


class CommitNotReached(HeadwaterError, code="commit_not_reached"):
    """This node does not have the commit yet; details["newest"] is the newest that it shows."""

    retryable = True


class TooMany(HeadwaterError, code="too_many"):
    """A limit of the server is reached: connections, transactions, subscriptions, memory."""

    retryable = True


class ShuttingDown(HeadwaterError, code="shutting_down"):
    """The server is shutting down and takes no new work."""

    retryable = True


class ConnectionClosed(HeadwaterError, code="connection_closed"):
    """A user has closed this connection. The client may connect again."""

    retryable = True


class BackupFailed(HeadwaterError, code="backup_failed"):
    """The backup failed and nothing of it remains; the message says why."""


class DamagedFile(HeadwaterError, code="damaged_file"):
    """The checksum of stored bytes is wrong; details["file"] and ["offset"] say where."""


class DirectoryInUse(HeadwaterError, code="directory_in_use"):
    """Another process uses the data directory."""


class FormatTooNew(HeadwaterError, code="format_too_new"):
    """A newer version of Headwater wrote the data directory."""


class AuthenticationFailed(HeadwaterError, code="authentication_failed"):
    """The name or password is wrong, or the client has not authenticated."""


class PermissionDenied(HeadwaterError, code="permission_denied"):
    """The user lacks a right; details["right"] names it."""


class ConnectionLost(HeadwaterError, code="connection_lost"):
    """The connection ended before the answer. No commit was in flight."""

    retryable = True


class InternalError(HeadwaterError, code="internal_error"):
    """The server could not read its disk, or has a bug and stops. Its log has more."""


_CLASSES["error"] = HeadwaterError
