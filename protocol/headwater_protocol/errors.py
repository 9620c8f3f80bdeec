"""Errors that cross the wire.

Each class has a code, which is what travels, and says whether the same request can succeed if
it is sent again (`retryable`). A class registers its code when it is defined, so the client
raises what the server raised:

    raise Conflict(…) --as_payload--> ["conflict", message, true, {…}] --from_payload--> Conflict

What the user or the peer did wrong is a HeadwaterError. What we did wrong is an assertion.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

_SHOWN_MAX: Final = 60
"""Characters or bytes of a value in a message: enough to know it again."""


def shown(value: Any) -> str:
    """The start of a value's repr, for a message.

    Only so much of it is looked at: the repr of a value of 8 MiB would take 32 MiB, and that of
    a list nested a thousand deep would exhaust the stack.
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
        code: the word that travels on the wire, one a class.
        retryable: whether the same work, begun again, can succeed.
        details: more about it, of msgpack types, by name.
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
        """The error that a response's payload tells of.

        A code that this version does not know gives a plain HeadwaterError whose message
        starts with that code, so a newer server's errors are still readable.
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
                return ProtocolError(f"an error response with the payload {shown(payload)}")


# What is wrong with the bytes or the words.


class ProtocolError(HeadwaterError, code="protocol_error"):
    """The peer sent what the protocol does not allow. The connection ends after it."""


class UnknownOperation(HeadwaterError, code="unknown_operation"):
    """There is no operation of this name."""


class InvalidArgument(HeadwaterError, code="invalid_argument"):
    """An argument is of the wrong type or out of bounds; the message says which."""


class NotANumber(InvalidArgument, code="not_a_number"):
    """An add, min or max met a stored value that is no number, or left the 64-bit range."""


class TooLarge(HeadwaterError, code="too_large"):
    """A frame, value, transaction or count is above its bound."""


# What became of a transaction.


class Conflict(HeadwaterError, code="conflict"):
    """Another transaction committed first. Begin again.

    details["conflicts"] lists all of them, each a map with `kind` ("read-write",
    "write-write", "expected version", "condition"), what it was about (`key`, or `start` and
    `end`, or `stream`, or `query`, or `snapshot`: its stream, name and schema), and `commit` and
    `transaction` of the winner where there is one and it is remembered.
    """

    retryable = True

    @property
    def conflicts(self) -> list[dict[str, Any]]:
        """Every conflict that was found, not only the first."""
        found: list[dict[str, Any]] = self.details.get("conflicts", [])
        return found


class WrongVersion(Conflict, code="wrong_version"):
    """A stream is not at the version that an append expected.

    It is retryable if the expectation held when the transaction began, and a concurrent commit
    broke it; it is not if it was wrong from the start.
    """

    retryable = False


class ConditionFailed(Conflict, code="condition_failed"):
    """A condition of an execute, or of an append, does not hold.

    In a transaction that was begun, it is retryable if the condition held at its beginning.
    """

    retryable = False


class TransactionGone(HeadwaterError, code="transaction_gone"):
    """The transaction is not open on this connection: timed out, rolled back, or never begun."""

    retryable = True


class TransactionAborted(HeadwaterError, code="transaction_aborted"):
    """The transaction's id was fenced by `status(resolve)`: it can never commit."""

    retryable = True


class TransactionForgotten(HeadwaterError, code="transaction_forgotten"):
    """The transaction's id is older than the retention of the commit log."""


class CommitUnknown(HeadwaterError, code="commit_unknown"):
    """The connection or the server went away between commit and its answer.

    details["transaction"] is the transaction's id; `status(id, resolve=True)` settles it.
    """

    @property
    def transaction(self) -> bytes:
        """The id of the transaction whose fate is unknown, 16 bytes."""
        identity: bytes = self.details["transaction"]
        return identity


class DuplicateEvent(HeadwaterError, code="duplicate_event"):
    """An event id is already in the stream, with other content or without its neighbours."""


class NoSuchEvent(HeadwaterError, code="no_such_event"):
    """There is no event where one is to be erased: no such version, position or id."""


# Consumer groups.


class NoSuchGroup(HeadwaterError, code="no_such_group"):
    """There is no consumer group of this name; it may have been deleted."""


class GroupExists(HeadwaterError, code="group_exists"):
    """There is a consumer group of this name already."""


class DeliveryLost(HeadwaterError, code="delivery_lost"):
    """A delivery is not the consumer's any more, so it can be settled no more.

    It was settled before, its lease ran out, its connection was lost, or the group was changed.
    A transaction with its acknowledgement does nothing.
    """


# What the server cannot do, now or ever.


class HistoryGone(HeadwaterError, code="history_gone"):
    """The commit is older than the history window; details["oldest"] can still be read."""


class NoSuchCommit(HeadwaterError, code="no_such_commit"):
    """The commit number was not given yet, or nothing was committed at that time."""


class ReadOnly(HeadwaterError, code="read_only"):
    """The server takes no writes for now; the message says why."""

    retryable = True


class TooMany(HeadwaterError, code="too_many"):
    """A bound of the server is used up: connections, transactions, subscriptions, memory."""

    retryable = True


class ShuttingDown(HeadwaterError, code="shutting_down"):
    """The server is going down and takes no new work."""

    retryable = True


class BackupFailed(HeadwaterError, code="backup_failed"):
    """The backup was not made, and nothing is left of it; the message says why."""


class DamagedFile(HeadwaterError, code="damaged_file"):
    """Stored bytes fail their checksum; details["file"] and ["offset"] say where."""


class DirectoryInUse(HeadwaterError, code="directory_in_use"):
    """Another process owns the data directory."""


class FormatTooNew(HeadwaterError, code="format_too_new"):
    """The data directory was written by a newer Headwater."""


class AuthenticationFailed(HeadwaterError, code="authentication_failed"):
    """Name or password are wrong, or the operation needs a user and there is none."""


class PermissionDenied(HeadwaterError, code="permission_denied"):
    """The user may not do this."""


class ConnectionLost(HeadwaterError, code="connection_lost"):
    """The connection ended before the answer. Nothing was being committed."""

    retryable = True


class InternalError(HeadwaterError, code="internal_error"):
    """The server could not read its disk, or made a mistake and ends. Its log has more."""


_CLASSES["error"] = HeadwaterError
