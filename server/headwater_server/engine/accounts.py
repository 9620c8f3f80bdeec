"""Accounts: the users of a database, kept in the database.

    03 "n" name       ->  [number, salt, iterations, stored_key, server_key, rights, request_ms]
    03 "i" number     ->  name, also of removed users: the commit log refers to the number
    03 "r" name       ->  [grant, …] of a role
    03 "s"            ->  a secret of 32 bytes, from which the salts of unknown names are made

    request_ms        nil, or how long a request of the user may take
    rights            nil while the user is not restricted, else [[role, …], [grant, …]]

A password is stored as a SCRAM-SHA-256 verifier (RFC 5802 section 3). The server can check a proof
with it, but nobody can log in with it. A user's number is the number of the commit that added the
user, so no number is used twice.

A user may do everything until the first grant or role is given to it. From then on it has what was
given, also after all of that was taken away: taking a right away never adds one.
"""

import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import msgpack

from headwater_protocol.errors import InvalidArgument, TooLarge, TooMany
from headwater_protocol.grants import BUILT_IN_ROLES, Grant
from headwater_protocol.limits import GRANTS_MAX, ROLES_MAX
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.transaction_ids import new_transaction_id
from headwater_server.engine.rights import Rights
from headwater_server.engine.state.layers import State
from headwater_server.engine.transactions.sequencer import Sequencer, Ticket
from headwater_server.engine.transactions.write_buffer import WriteBuffer

_VERIFIER_MEMBERS: Final = 5
"""Members of an account's array up to its verifier. The first version had no others."""

_BY_NAME: Final = keyspaces.ACCOUNTS + b"n"
_BY_NUMBER: Final = keyspaces.ACCOUNTS + b"i"
_ROLES: Final = keyspaces.ACCOUNTS + b"r"
_SECRET: Final = keyspaces.ACCOUNTS + b"s"


@dataclass(frozen=True, slots=True)
class Verifier:
    """The data that a server needs to check a SCRAM-SHA-256 proof."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


@dataclass(frozen=True, slots=True)
class Account:
    """A user.

    Attributes:
        number: what the commit log records.
        name: of the user.
        verifier: of its password.
        restricted: it has only the rights that were given to it.
        roles: names of its roles, in order.
        grants: given to it directly, in order.
        rights: what it may do, by its roles and grants; None: everything.
        request_ms: milliseconds that a request may take; None: as the server's setting says.
    """

    number: int
    name: str
    verifier: Verifier
    restricted: bool = False
    roles: tuple[str, ...] = ()
    grants: tuple[Grant, ...] = ()
    rights: Rights | None = None
    request_ms: int | None = None

    def packed(self) -> bytes:
        """The account as it is stored."""
        verifier = self.verifier
        rights = None
        if self.restricted:
            rights = [list(self.roles), [grant.as_wire() for grant in self.grants]]
        return _pack(
            [
                self.number,
                verifier.salt,
                verifier.iterations,
                verifier.stored_key,
                verifier.server_key,
                rights,
                self.request_ms,
            ]
        )


def account_key(name: str) -> bytes:
    """The key of a user."""
    return _BY_NAME + name.encode()


def role_key(name: str) -> bytes:
    """The key of a role."""
    return _ROLES + name.encode()


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def find_account(state: State, view: int, name: str) -> Account | None:
    """The account of a user at a commit, or None."""
    stored = state.get(account_key(name), view)
    if stored is None:
        return None
    members = msgpack.unpackb(stored)
    number, *verifier = members[:_VERIFIER_MEMBERS]
    # Earlier versions had no rights, or no limit.
    rights, request_ms = [*members[_VERIFIER_MEMBERS:], None, None][:2]
    if rights is None:
        return Account(number, name, Verifier(*verifier), request_ms=request_ms)
    roles, grants = rights
    account = Account(
        number,
        name,
        Verifier(*verifier),
        restricted=True,
        roles=tuple(roles),
        grants=tuple(Grant.from_wire(grant) for grant in grants),
        request_ms=request_ms,
    )
    return replace(account, rights=rights_of(account, stored_roles(state, view)))


def stored_roles(state: State, view: int) -> dict[str, tuple[Grant, ...]]:
    """The roles that were defined, by name, in order of the names' UTF-8 bytes."""
    first, last = _ROLES, keyspaces.ACCOUNTS + b"s"
    return {
        key[len(_ROLES) :].decode(): tuple(map(Grant.from_wire, msgpack.unpackb(stored)))
        for key, stored in state.scan(first, last, view)
    }


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


def write_account(
    state: State, name: str, verifier: Verifier, *, create: bool, secret: Callable[[], bytes]
) -> WriteBuffer:
    """The writes that add a user, or change the password of an existing one.

    *secret* makes the secret of the database, if it has none yet.

    Raises:
        InvalidArgument: with *create*, the user exists; without it, there is no such user.
    """
    newest = state.last_commit
    known = find_account(state, newest, name)
    if create:
        if known is not None:
            raise InvalidArgument(f"there is a user {name!r} already")
        known = Account(newest + 1, name, verifier)
    if known is None:
        raise no_such_user(name)
    buffer = WriteBuffer()
    buffer.put(account_key(name), replace(known, verifier=verifier).packed())
    buffer.put(_BY_NUMBER + known.number.to_bytes(8, "big"), name.encode())
    if state.get(_SECRET, newest) is None:
        buffer.put(_SECRET, secret())
    return buffer


def remove_account(state: State, name: str) -> WriteBuffer:
    """The writes that remove a user.

    Raises:
        InvalidArgument: there is no such user, or it is the only one that may do everything.
    """
    if find_account(state, state.last_commit, name) is None:
        raise no_such_user(name)
    others = [each for each in list_accounts(state, state.last_commit) if each != name]
    buffer = WriteBuffer()
    buffer.put(account_key(name), None)
    if others:
        _check_administered(state, {name: None}, f"the user {name!r} cannot be removed")
    return buffer


def write_rights(
    state: State,
    name: str,
    *,
    grant: bool,
    grants: Iterable[Grant],
    roles: Iterable[str],
) -> WriteBuffer:
    """The writes that give grants and roles to a user, or take them away.

    Raises:
        InvalidArgument: there is no such user or role; or the user does not have what is to be
            taken away; or nobody would be left who may do everything.
        TooLarge: the user would have more grants or roles than it may.
    """
    newest = state.last_commit
    known = find_account(state, newest, name)
    if known is None:
        raise no_such_user(name)
    grants, roles = frozenset(grants), frozenset(roles)
    if grant:
        if unknown := roles - {*BUILT_IN_ROLES, *stored_roles(state, newest)}:
            raise InvalidArgument(f"there is no role {min(unknown)!r}")
        has, plays = grants.union(known.grants), roles.union(known.roles)
    else:
        if lacking := grants.difference(known.grants):
            raise InvalidArgument(f"the user {name!r} was not given {min(lacking)}")
        if absent := roles.difference(known.roles):
            raise InvalidArgument(f"the user {name!r} does not have the role {min(absent)!r}")
        has, plays = frozenset(known.grants) - grants, frozenset(known.roles) - roles
    if len(has) > GRANTS_MAX or len(plays) > ROLES_MAX:
        raise TooLarge(
            f"{len(has)} grants and {len(plays)} roles; "
            f"a user may have {GRANTS_MAX} and {ROLES_MAX}"
        )
    changed = replace(known, restricted=True, roles=tuple(sorted(plays)), grants=tuple(sorted(has)))
    _check_administered(state, {name: changed}, f"the rights of {name!r} cannot be changed so")
    buffer = WriteBuffer()
    buffer.put(account_key(name), changed.packed())
    return buffer


def write_role(state: State, name: str, grants: Iterable[Grant] | None) -> WriteBuffer:
    """The writes that define a role, replace its grants, or remove it (None).

    Raises:
        InvalidArgument: it is a role that every database has; there is no role to remove, or a user
            has it; or nobody would be left who may do everything.
        TooMany: the database has as many roles as it may have.
    """
    newest = state.last_commit
    if name in BUILT_IN_ROLES:
        raise InvalidArgument(f"the role {name!r} is built in and cannot be changed")
    roles = stored_roles(state, newest)
    users = [
        each
        for each in map(partial(find_account, state, newest), list_accounts(state, newest))
        if each is not None and name in each.roles
    ]
    buffer = WriteBuffer()
    if grants is None:
        if name not in roles:
            raise InvalidArgument(f"there is no role {name!r}")
        if users:
            raise InvalidArgument(f"the user {users[0].name!r} has the role {name!r}")
        buffer.put(role_key(name), None)
        return buffer
    if name not in roles and len(roles) >= ROLES_MAX:
        raise TooMany(f"{len(roles)} roles; a database may have {ROLES_MAX}")
    chosen = tuple(sorted(frozenset(grants)))
    changed = {**roles, name: chosen}
    _check_administered(state, {}, f"the role {name!r} cannot be changed so", changed)
    buffer.put(role_key(name), _pack([grant.as_wire() for grant in chosen]))
    return buffer


def rights_of(account: Account, roles: Mapping[str, tuple[Grant, ...]]) -> Rights | None:
    """The rights of a user; None: it may do everything. *roles* are those of the database."""
    if not account.restricted:
        return None
    known = {**roles, **BUILT_IN_ROLES}
    grants = set(account.grants)
    for role in account.roles:
        grants.update(known[role])
    return Rights(grants)


def _check_administered(
    state: State,
    changes: Mapping[str, Account | None],
    refused: str,
    roles: Mapping[str, tuple[Grant, ...]] | None = None,
) -> None:
    """Refuse a change after which users are left, but none that may do everything.

    If there is none before the change either, the change is not to blame and passes.
    """
    newest = state.last_commit
    names = list_accounts(state, newest)
    before = [find_account(state, newest, name) for name in names]
    after = [changes.get(account.name, account) for account in before if account is not None]
    old_roles = stored_roles(state, newest)
    new_roles = old_roles if roles is None else roles
    if any(_administers(account, old_roles) for account in before) and not any(
        _administers(account, new_roles) for account in after
    ):
        raise InvalidArgument(f"{refused}: no user would be left that may do everything")


def _administers(account: Account | None, roles: Mapping[str, tuple[Grant, ...]]) -> bool:
    if account is None:
        return False
    rights = rights_of(account, roles)
    return rights is None or rights.is_admin


def no_such_user(name: str) -> InvalidArgument:
    """The error for the name of a user that does not exist."""
    return InvalidArgument(f"there is no user {name!r}")


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

    def name_of(self, number: int) -> str | None:
        """The name of the user with a number, even if it was removed; None for 0."""
        return account_name(self._state, self._sequencer.published, number) if number else None

    def names(self) -> list[str]:
        """The names of the users, in order."""
        return list_accounts(self._state, self._sequencer.published)

    def verifiers(self) -> list[tuple[str, Verifier]]:
        """The names of the users with their verifiers, in order."""
        # In one scan, and without the rights: there may be many users, and many roles.
        found = self._state.scan(_BY_NAME, keyspaces.ACCOUNTS + b"o", self._sequencer.published)
        return [
            (key[len(_BY_NAME) :].decode(), Verifier(*msgpack.unpackb(stored)[1:_VERIFIER_MEMBERS]))
            for key, stored in found
        ]

    def is_last(self, name: str) -> bool:
        """Whether no other user is left, also of changes that are not durable yet."""
        return list_accounts(self._state, self._state.last_commit) == [name]

    def any(self) -> bool:
        """Whether there is a user, so that connections must authenticate."""
        return any_account(self._state, self._sequencer.published)

    def secret(self) -> bytes | None:
        """The secret of the database, from which the salts of unknown names are made."""
        return self._state.get(_SECRET, self._sequencer.published)

    def roles(self) -> dict[str, tuple[Grant, ...]]:
        """The roles that were defined, by name, in order."""
        return stored_roles(self._state, self._sequencer.published)

    def set(
        self,
        name: str,
        verifier: Verifier,
        *,
        create: bool,
        user: int = 0,
        transaction: bytes | None = None,
    ) -> Ticket:
        """Add a user, or change a user's password.

        Raises:
            InvalidArgument: with *create*, the user exists; without it, there is no such user.
            ReadOnly: nothing can be written.
        """
        self._check_writable()
        buffer = write_account(
            self._state, name, verifier, create=create, secret=lambda: secrets.token_bytes(32)
        )
        return self._commit(buffer, user, transaction)

    def remove(self, name: str, *, user: int = 0, transaction: bytes | None = None) -> Ticket:
        """Remove a user.

        Raises:
            InvalidArgument: there is no such user.
            ReadOnly: nothing can be written.
        """
        self._check_writable()
        return self._commit(remove_account(self._state, name), user, transaction)

    def set_rights(
        self,
        name: str,
        *,
        grant: bool,
        grants: Iterable[Grant],
        roles: Iterable[str],
        user: int = 0,
        transaction: bytes | None = None,
    ) -> Ticket:
        """Give grants and roles to a user, or take them away.

        Raises:
            InvalidArgument, TooLarge: as `write_rights`.
            ReadOnly: nothing can be written.
        """
        self._check_writable()
        buffer = write_rights(self._state, name, grant=grant, grants=grants, roles=roles)
        return self._commit(buffer, user, transaction)

    def set_limit(
        self,
        name: str,
        request_ms: int | None,
        *,
        user: int = 0,
        transaction: bytes | None = None,
    ) -> Ticket:
        """Set how long a request of a user may take; None: as the server's setting says.

        Raises:
            InvalidArgument: there is no such user.
            ReadOnly: nothing can be written.
        """
        self._check_writable()
        known = find_account(self._state, self._state.last_commit, name)
        if known is None:
            raise no_such_user(name)
        buffer = WriteBuffer()
        buffer.put(account_key(name), replace(known, request_ms=request_ms).packed())
        return self._commit(buffer, user, transaction)

    def set_role(
        self,
        name: str,
        grants: Iterable[Grant] | None,
        *,
        user: int = 0,
        transaction: bytes | None = None,
    ) -> Ticket:
        """Define a role, replace its grants, or remove it (None).

        Raises:
            InvalidArgument, TooMany: as `write_role`.
            ReadOnly: nothing can be written.
        """
        self._check_writable()
        return self._commit(write_role(self._state, name, grants), user, transaction)

    def _commit(self, buffer: WriteBuffer, user: int, transaction: bytes | None) -> Ticket:
        identity = transaction or new_transaction_id(self._clock(), self._source)
        return self._sequencer.commit_at_once(identity, user, buffer, [])
