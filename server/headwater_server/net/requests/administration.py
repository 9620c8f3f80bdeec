"""Administrative requests: statistics, backups, users, rights and roles."""

from typing import Any

from headwater_protocol.connection import ServerConnection
from headwater_protocol.grants import BUILT_IN_ROLES, Grant
from headwater_server.engine.accounts import Verifier, no_such_user
from headwater_server.engine.transactions.explaining import explain_all
from headwater_server.engine.transactions.sequencer import Ticket
from headwater_server.net.session.account_changes import Concerns, nobody_logged_in, role, user
from headwater_server.net.session.authentication import check_name
from headwater_server.net.session.session import Session
from headwater_server.net.session.traces import Traces


def stats(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """The server's statistics."""
    return session.connection.answer(request_id, session.service.stats())


def audit_read(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The newest records of the audit log."""
    return session.connection.answer(request_id, session.service.audit.newest(arguments[0]))


def conflicts(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Transactions refused because of a conflict. Other users than administrators see their own."""
    transaction, limit = arguments
    account = session.account
    sees_all = account is None or account.rights is None or account.rights.is_admin
    engine = session.service.engine
    found = explain_all(
        engine.sequencer.refusals,
        engine.published,
        engine.accounts.name_of,
        transaction,
        limit,
        None if sees_all else session.user_number,
    )
    return session.connection.answer(request_id, found)


def trace(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Note the trace of the following requests, which are those with the next request ids."""
    traceparent, requests = arguments
    if requests and session.service.tells_traces:
        if session.traces is None:
            session.traces = Traces()
        session.traces.announce(request_id + 1, requests, traceparent)
    return session.connection.answer(request_id, None)


def backup(session: Session, request_id: int, arguments: list[Any]) -> None:
    """Make a backup; answered once it is finished, which may take a long time."""
    session.service.check_running()
    session.service.audit.record("backup", session, name=arguments[0])
    session.service.backups.ask(session, request_id, arguments[0])


def user_set(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Add a user or change a password; answered once it is durable and in force."""
    name, salt, iterations, stored_key, server_key, create, transaction = arguments
    service = session.service
    service.check_running()
    if create:
        check_name(name)
    ticket = service.engine.accounts.set(
        name,
        Verifier(salt, iterations, stored_key, server_key),
        create=create,
        user=session.user_number,
        transaction=transaction,
    )
    concerns = user(name) if service.authentication_needed else nobody_logged_in
    return _answer_change(session, request_id, ticket, "user set", name, concerns)


def user_remove(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Remove a user; answered once it is durable and in force."""
    name, transaction = arguments
    service = session.service
    service.check_running()
    service.check_user_removal(name)
    ticket = service.engine.accounts.remove(name, user=session.user_number, transaction=transaction)
    return _answer_change(session, request_id, ticket, "user removed", name, user(name))


def user_list(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """The names of the users."""
    return session.connection.answer(request_id, session.service.engine.accounts.names())


def set_rights(
    grant: bool, session: Session, request_id: int, arguments: list[Any]
) -> bytes | None:
    """Give rights to a user, or take them away; answered once it is durable and in force."""
    name, grants, roles, transaction = arguments
    service = session.service
    service.check_running()
    ticket = service.engine.accounts.set_rights(
        name,
        grant=grant,
        grants=map(Grant.from_wire, grants),
        roles=roles,
        user=session.user_number,
        transaction=transaction,
    )
    what = "rights granted" if grant else "rights revoked"
    return _answer_change(session, request_id, ticket, what, name, user(name))


def user_rights(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The roles and grants of a user."""
    name = arguments[0]
    account = session.account
    if name is not None:
        account = session.service.engine.accounts.find(name)
        if account is None:
            raise no_such_user(name)
    if account is None:
        return session.connection.answer(request_id, [None, False, [], [], None])
    grants = [grant.as_wire() for grant in account.grants]
    return session.connection.answer(
        request_id,
        [account.name, account.restricted, list(account.roles), grants, account.request_ms],
    )


def user_limit(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Set how long a request of a user may take; answered once it is durable and in force."""
    name, request_ms, transaction = arguments
    session.service.check_running()
    ticket = session.service.engine.accounts.set_limit(
        name, request_ms, user=session.user_number, transaction=transaction
    )
    return _answer_change(session, request_id, ticket, "limit set", name, user(name))


def role_set(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Define a role; answered once it is durable and in force."""
    name, grants, transaction = arguments
    session.service.check_running()
    ticket = session.service.engine.accounts.set_role(
        name,
        map(Grant.from_wire, grants),
        user=session.user_number,
        transaction=transaction,
    )
    return _answer_change(session, request_id, ticket, "role set", name, role(name))


def role_remove(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Remove a role; answered once it is durable."""
    name, transaction = arguments
    session.service.check_running()
    ticket = session.service.engine.accounts.set_role(
        name, None, user=session.user_number, transaction=transaction
    )
    return _answer_change(session, request_id, ticket, "role removed", name, role(name))


def role_list(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """The roles and their grants."""
    roles = {**session.service.engine.accounts.roles(), **BUILT_IN_ROLES}
    return session.connection.answer(
        request_id,
        [[name, [grant.as_wire() for grant in grants]] for name, grants in sorted(roles.items())],
    )


def _answer_change(
    session: Session, request_id: int, ticket: Ticket, what: str, name: str, concerns: Concerns
) -> bytes | None:
    def answer(connection: ServerConnection) -> bytes:
        if ticket.error is not None:
            return connection.error(request_id, ticket.error)
        return connection.answer(request_id, None)

    session.service.account_changes.planned(session, ticket, what, name, concerns)
    return session.answer_durable(request_id, ticket, answer)


def user_verifiers(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """The names and verifiers of the users, for a dump."""
    rows = [
        [name, verifier.salt, verifier.iterations, verifier.stored_key, verifier.server_key]
        for name, verifier in session.service.engine.accounts.verifiers()
    ]
    return session.connection.answer(request_id, rows)


def hold_clock(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Hold the log's clock at a fixed time while this connection is open."""
    service = session.service
    service.check_running()
    service.engine.leadership.check_leads()
    service.engine.sequencer.hold_clock(session, arguments[0])
    return session.connection.answer(request_id, None)
