"""Requests that look into the database: what happened, when, and by whom."""

from typing import Any

from headwater_protocol.messages import array_header, encode
from headwater_server.net.session.session import Session


def find_event(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The event with an id."""
    view, stored = session.service.engine.looking.find_event(*arguments)
    event = encode(None) if stored is None else stored
    return session.connection.answer_encoded(request_id, array_header(2), encode(view), event)
