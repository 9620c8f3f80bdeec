"""Accounts: the users of a database, kept in the database.

    03 "n" name       ->  [number, salt, iterations, stored_key, server_key]
    03 "i" number     ->  name, also of removed users: the commit log refers to the number

A password is stored as a SCRAM-SHA-256 verifier (RFC 5802 section 3). The server can check a proof
with it, but nobody can log in with it. A user's number is the number of the commit that added the
user, so no number is used twice.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgpack

from headwater_protocol.errors import InvalidArgument
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.transaction_ids import new_transaction_id
from headwater_server.engine.state.layers import State
from headwater_server.engine.transactions.sequencer import Sequencer, Ticket
from headwater_server.engine.transactions.write_buffer import WriteBuffer

_MEMBERS: Final = 5
"""Members of an account's array. A later version may add some at the end."""

_BY_NAME: Final = keyspaces.ACCOUNTS + b"n"
_BY_NUMBER: Final = keyspaces.ACCOUNTS + b"i"


@dataclass(frozen=True, slots=True)
class Verifier:
    """The data that a server needs to check a SCRAM-SHA-256 proof."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


@dataclass(frozen=True, slots=True)
class Account:
    """A user: its number, which the commit log records, its name, and its verifier."""

    number: int
    name: str
    verifier: Verifier


def find_account(state: State, view: int, name: str) -> Account | None:
    """The account of a user at a commit, or None."""
    stored = state.get(_BY_NAME + name.encode(), view)
    if stored is None:
        return None
    number, *verifier = msgpack.unpackb(stored)[:_MEMBERS]
    return Account(number, name, Verifier(*verifier))


def list_accounts(state: State, view: int) -> list[str]:
    """The names of all users at a commit, in order of their UTF-8 bytes."""
    first, last = _BY_NAME, keyspaces.ACCOUNTS + b"o"
    return [key[len(_BY_NAME) :].decode() for key, _ in state.scan(first, last, view)]


def any_account(state: State, view: int) -> bool:
    """Whether there is a user, so that connections must authenticate."""
    found = state.scan(_BY_NAME, keyspaces.ACCOUNTS + b"o", view)
    return next(found, None) is not None


def account_name(state: State, view: int, number: int) -> str | None:
    """The name of the user with this number, even if the user was removed."""
    stored = state.get(_BY_NUMBER + number.to_bytes(8, "big"), view)
    return None if stored is None else stored.decode()


def write_account(state: State, name: str, verifier: Verifier, *, create: bool) -> WriteBuffer:
    """The writes that add a user, or change the password of an existing one.

    Raises:
        InvalidArgument: with *create*, the user exists; without it, there is no such user.
    """
    newest = state.last_commit
    known = find_account(state, newest, name)
    if create and known is not None:
        raise InvalidArgument(f"there is a user {name!r} already")
    if not create and known is None:
        raise InvalidArgument(f"there is no user {name!r}")
    number = newest + 1 if known is None else known.number
    buffer = WriteBuffer()
    packed = msgpack.packb(
        [number, verifier.salt, verifier.iterations, verifier.stored_key, verifier.server_key]
    )
    buffer.put(_BY_NAME + name.encode(), packed)
    buffer.put(_BY_NUMBER + number.to_bytes(8, "big"), name.encode())
    return buffer


def remove_account(state: State, name: str) -> WriteBuffer:
    """The writes that remove a user.

    Raises:
        InvalidArgument: there is no such user.
    """
    if find_account(state, state.last_commit, name) is None:
        raise InvalidArgument(f"there is no user {name!r}")
    buffer = WriteBuffer()
    buffer.put(_BY_NAME + name.encode(), None)
    return buffer


class Accounts:
    """The users of an open database; changes are ordinary commits."""

    def __init__(
        self,
        state: State,
        sequencer: Sequencer,
        clock: Callable[[], int],
        source: random.Random,
        check_writable: Callable[[], None],
    ) -> None:
        self._state = state
        self._sequencer = sequencer
        self._clock = clock
        self._source = source
        self._check_writable = check_writable

    def find(self, name: str) -> Account | None:
        """The account of a user, or None."""
        return find_account(self._state, self._sequencer.published, name)

    def names(self) -> list[str]:
        """The names of the users, in order."""
        return list_accounts(self._state, self._sequencer.published)

    def any(self) -> bool:
        """Whether there is a user, so that connections must authenticate."""
        return any_account(self._state, self._sequencer.published)

    def set(self, name: str, verifier: Verifier, *, create: bool, user: int = 0) -> Ticket:
        """Add a user, or change a user's password.

        Raises:
            InvalidArgument: with *create*, the user exists; without it, there is no such user.
            ReadOnly: nothing can be written.
        """
        self._check_writable()
        return self._commit(write_account(self._state, name, verifier, create=create), user)

    def remove(self, name: str, *, user: int = 0) -> Ticket:
        """Remove a user.

        Raises:
            InvalidArgument: there is no such user.
            ReadOnly: nothing can be written.
        """
        self._check_writable()
        return self._commit(remove_account(self._state, name), user)

    def _commit(self, buffer: WriteBuffer, user: int) -> Ticket:
        identity = new_transaction_id(self._clock(), self._source)
        return self._sequencer.commit_at_once(identity, user, buffer, [])
