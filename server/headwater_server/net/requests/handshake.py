"""Requests at the start of a connection: hello, authentication, and ping."""

from functools import partial
from typing import Any

from headwater_protocol.errors import InvalidArgument
from headwater_protocol.limits import PROTOCOL_VERSION
from headwater_protocol.vocabulary.replication import NODE_FEATURE
from headwater_server.net.session.session import Session


def hello(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Agree on a version, and say whether authentication is needed."""
    version, client, features = arguments
    service = session.service
    service.check_running()
    if version < PROTOCOL_VERSION:
        raise InvalidArgument(
            f"hello: version {version} is not supported any more; this server speaks "
            f"{PROTOCOL_VERSION}"
        )
    session.client = client
    session.knows_nodes = NODE_FEATURE in features
    mechanisms = service.authentication.offered(session) if service.authentication_needed else []
    if not mechanisms:
        service.welcome(session)
    answer = [PROTOCOL_VERSION, service.server_name, [], mechanisms, service.engine.database_id]
    if session.knows_nodes:
        answer[2] = [NODE_FEATURE]
        # Where the leader is, and how far, is for users alone.
        answer.append(None if mechanisms else service.replication.node())
    return session.connection.answer(request_id, answer)


def authenticate(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Take one step of the authentication; after failures before it, only after a delay."""
    mechanism, message = arguments
    wait = session.service.authentication.wait_s(session)
    if wait > 0:
        # Whoever else waits may fail first, so this looks at the delay again.
        session.service.do_later(wait, partial(_again, session, request_id, arguments))
        return None
    done, reply = session.service.authentication.step(session, mechanism, message)
    if done:
        session.service.welcome(session)
    return session.connection.answer(request_id, [done, reply])


def _again(session: Session, request_id: int, arguments: list[Any]) -> None:
    if not session.ended:
        session.serve(request_id, "authenticate", arguments)


def ping(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """Answer that the server is alive, and what this node is."""
    service = session.service
    payload: list[Any] = [service.engine.published, service.clock()]
    if session.knows_nodes:
        payload.append(service.replication.node())
    return session.connection.answer(request_id, payload)
