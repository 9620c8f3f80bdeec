"""Requests about connections: identify this one, list all, and close one."""

from typing import Any

import structlog

from headwater_protocol.errors import ConnectionClosed, InvalidArgument
from headwater_server.net.push.group_deliveries import Membership
from headwater_server.net.session.session import Session

_log = structlog.get_logger(__name__)


def whoami(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """The number, user and address of this connection."""
    number = session.service.sessions[session].number
    return session.connection.answer(request_id, [number, session.user or None, session.peer])


def connection_list(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """A page of the open connections, in order of their numbers."""
    after, limit = arguments
    service = session.service
    rows: list[list[Any]] = []
    more = False
    for each, entered in service.sessions.items():
        if entered.number <= after:
            continue
        if len(rows) == limit:
            more = True
            break
        assert isinstance(each, Session)
        memberships = sum(isinstance(channel, Membership) for channel in each.feeds.values())
        figures = {
            "address": each.peer,
            "user": each.user or None,
            "client": each.client,
            "age_ms": round((service.monotonic() - entered.at) * 1000),
            "memory": each.held_size
            + service.engine.open_size(each)
            + sum(channel.size for channel in each.feeds.values()),
            "transactions": service.engine.open_count(each),
            "subscriptions": len(each.feeds) - memberships,
            "memberships": memberships,
        }
        rows.append([entered.number, figures])
    return session.connection.answer(request_id, [rows, more])


def connection_close(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """End a connection. If it is the caller's own, it receives only the error as its answer."""
    number = arguments[0]
    for each, entered in session.service.sessions.items():
        if entered.number == number:
            assert isinstance(each, Session)
            _log.info("connection closed by a user", closed=str(each), by=str(session))
            session.service.audit.record("connection closed", session, closed=str(each))
            error = ConnectionClosed(f"{session.user or 'a user'} has closed this connection")
            each.end(error, request_id=request_id if each is session else 0)
            return None if each is session else session.connection.answer(request_id, None)
    raise InvalidArgument(f"connection_close: there is no connection {number}")
