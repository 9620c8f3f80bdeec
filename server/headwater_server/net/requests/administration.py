"""Administrative requests: statistics, backups, users."""

from typing import Any

from headwater_protocol.connection import ServerConnection
from headwater_server.engine.accounts import Verifier
from headwater_server.engine.transactions.sequencer import Ticket
from headwater_server.net.session.session import Session


def stats(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """The server's statistics."""
    return session.connection.answer(request_id, session.service.stats())


def backup(session: Session, request_id: int, arguments: list[Any]) -> None:
    """Make a backup; answered once it is finished, which may take long."""
    session.service.check_running()
    session.service.backups.ask(session, request_id, arguments[0])


def user_set(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Add a user or change a password; answered once it is durable and in force."""
    name, salt, iterations, stored_key, server_key, create = arguments
    service = session.service
    service.check_running()
    ticket = service.engine.accounts.set(
        name,
        Verifier(salt, iterations, stored_key, server_key),
        create=create,
        user=session.user_number,
    )
    return _answer_account_change(session, request_id, ticket, name, removed=False)


def user_remove(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Remove a user; answered once it is durable and in force."""
    name = arguments[0]
    service = session.service
    service.check_running()
    service.check_user_removal(name)
    ticket = service.engine.accounts.remove(name, user=session.user_number)
    return _answer_account_change(session, request_id, ticket, name, removed=True)


def _answer_account_change(
    session: Session, request_id: int, ticket: Ticket, name: str, *, removed: bool
) -> bytes | None:
    def answer(connection: ServerConnection) -> bytes:
        if ticket.error is not None:
            return connection.error(request_id, ticket.error)
        return connection.answer(request_id, None)

    session.service.account_changes(session, ticket, name, removed=removed)
    return session.answer_durable(request_id, ticket, answer)


def user_list(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """The names of the users."""
    return session.connection.answer(request_id, session.service.engine.accounts.names())
