"""Transactions that were refused for a conflict, as the server explains them: `db.conflicts()`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from headwater.errors import HeadwaterError
from headwater.records import time_of
from headwater_protocol.keys import KeyTuple, decode_key


@dataclass(frozen=True, slots=True)
class RefusedTransaction:
    """A transaction that was refused for a conflict, and who won.

    Attributes:
        transaction: its id.
        code, message: of the error that its client got.
        time: when it was refused.
        user: who; None without users.
        connection: its address, user and client; None for a transaction in one request.
        isolation: its level; None for a transaction in one request.
        began: the commit of its read view; None for a transaction in one request.
        newest: the newest commit when it was refused.
        read, wrote: what it had read, and what it wanted to write: the first `keys`, `ranges`,
            `streams` and so on, and their `count`.
        conflicts: the first conflicts, as in the details of the error.
        winners: the commits that won: `commit`, and as far as they are known `transaction` and
            `time`; for an administrator also `user`, and the first `keys` and `streams`.
    """

    transaction: UUID
    code: str
    message: str
    time: datetime
    user: str | None
    connection: str | None
    isolation: str | None
    began: int | None
    newest: int
    read: Mapping[str, Any]
    wrote: Mapping[str, Any]
    conflicts: Sequence[Mapping[str, Any]]
    winners: Sequence[Mapping[str, Any]]


def refused_of(row: Mapping[str, Any]) -> RefusedTransaction:
    """A refused transaction of a row of the answer. Members of later versions are left out."""
    return RefusedTransaction(
        transaction=UUID(bytes=row["transaction"]),
        code=row["code"],
        message=row["message"],
        time=time_of(row["time"]),
        user=row["user"],
        connection=row["connection"],
        isolation=row["isolation"],
        began=row["began"],
        newest=row["newest"],
        read=_readable(row["read"]),
        wrote=_readable(row["wrote"]),
        conflicts=[_readable(conflict) for conflict in row["conflicts"]],
        winners=[_readable(winner) for winner in row["winners"]],
    )


def _readable(members: Mapping[str, Any]) -> dict[str, Any]:
    """The same with keys as tuples, ids as UUIDs and times as datetimes."""
    found: dict[str, Any] = dict(members)
    for name, value in members.items():
        match name, value:
            case "keys", list():
                found[name] = [_key(key) for key in value]
            case "key" | "start" | "end", bytes():
                found[name] = _key(value)
            case "ranges", list():
                found[name] = [(_key(start), _key(end)) for start, end in value]
            case "transaction", bytes():
                found[name] = UUID(bytes=value)
            case "time", int():
                found[name] = time_of(value)
    return found


def _key(key: bytes) -> KeyTuple | bytes:
    try:
        return decode_key(key)
    except HeadwaterError:
        # The end of a range is seldom a key.
        return key
