"""`headwater user --data DIR`: the users of a data directory while no server runs.

It opens the directory as a server would, so it fails while a server owns it. Each change is a
durable commit when the call returns.
"""

import builtins
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import click
from scramp import ScramException, ScramMechanism

from headwater_protocol.grants import Grant
from headwater_protocol.mechanisms import SCRAM
from headwater_server.cli.failures import one_line
from headwater_server.engine.accounts import Verifier, no_such_user
from headwater_server.engine.engine import Engine
from headwater_server.engine.transactions.sequencer import Ticket
from headwater_server.net import logs
from headwater_server.net.process import open_directory
from headwater_server.net.session.authentication import check_name
from headwater_server.net.settings import ServerSettings
from headwater_server.storage.files.private_files import private_files

ITERATIONS: Final = 15_000
"""Iterations of the password hash: about 5 ms for a client at each login, and for an attacker at
each guess."""


def add(data: str, name: str, password: str) -> None:
    """Add a user."""
    with _opened(data) as engine:
        check_name(name)
        _settle(engine, engine.accounts.set(name, _verifier(password), create=True))


def set(data: str, name: str, password: str) -> None:  # noqa: A001 - the name is agreed upon
    """Change a user's password."""
    with _opened(data) as engine:
        _settle(engine, engine.accounts.set(name, _verifier(password), create=False))


def remove(data: str, name: str) -> None:
    """Remove a user."""
    with _opened(data) as engine:
        _settle(engine, engine.accounts.remove(name))


def set_rights(
    data: str, name: str, grants: Iterable[str], roles: Iterable[str], *, grant: bool
) -> None:
    """Give grants and roles to a user, or take them away."""
    with _opened(data) as engine:
        ticket = engine.accounts.set_rights(
            name, grant=grant, grants=map(Grant.parse, grants), roles=roles
        )
        _settle(engine, ticket)


def rights(data: str, name: str) -> tuple[bool, builtins.list[str], builtins.list[str]]:
    """Whether a user is restricted, and its roles and grants, in order."""
    with _opened(data) as engine:
        account = engine.accounts.find(name)
        if account is None:
            raise no_such_user(name)
        return account.restricted, [*account.roles], [*map(str, account.grants)]


def list(data: str) -> builtins.list[str]:  # noqa: A001 - as above
    """The names of the users, in order."""
    with _opened(data) as engine:
        return engine.accounts.names()


@contextmanager
def _opened(data: str) -> Iterator[Engine]:
    # Do not log the replay, only problems with it.
    logs.configure("console", "warning")
    with one_line(), private_files():
        engine = open_directory(ServerSettings(data=data))
        try:
            yield engine
        finally:
            engine.close()


def _settle(engine: Engine, ticket: Ticket) -> None:
    group = engine.take_group()
    if group is not None:
        engine.make_durable(group)
        engine.publish(group)
        engine.seal_log()
    if ticket.error is not None:
        raise click.ClickException(ticket.error.message)


def _verifier(password: str) -> Verifier:
    try:
        salt, stored_key, server_key, iterations = ScramMechanism(SCRAM).make_auth_info(
            password, iteration_count=ITERATIONS
        )
    except ScramException as error:
        raise click.ClickException(f"password: {error}") from error
    return Verifier(salt, iterations, stored_key, server_key)
