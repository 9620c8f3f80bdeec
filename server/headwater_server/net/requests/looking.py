"""Requests that look into the database: what happened, when, and by whom."""

from typing import Any, Final

from headwater_protocol.messages import array_header, encode
from headwater_server.engine.format.events import decode_event
from headwater_server.net.session.session import Session

_EVENTS_MAX: Final = 1_000
"""Events in one page of a history. The commit of each is looked up."""


def find_event(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The event with an id."""
    view, stored = session.service.engine.looking.find_event(*arguments)
    event = encode(None) if stored is None else stored
    return session.connection.answer_encoded(request_id, array_header(2), encode(view), event)


def key_history(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The commits that wrote a key."""
    found = session.service.engine.looking.key_history(*arguments)
    return session.connection.answer(request_id, [*found])


def stream_history(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The events of a stream, with who appended them."""
    stream, before, limit, at_commit = arguments
    engine = session.service.engine
    reader = engine.reader(at_commit)
    page = reader.read_stream(stream, before, min(limit, _EVENTS_MAX), True)
    users = engine.looking.users_of([decode_event(stored).commit for stored in page.events])
    return session.connection.answer_encoded(
        request_id,
        array_header(5),
        encode(reader.view),
        encode(page.version),
        array_header(len(page.events)),
        *page.events,
        encode(users),
        encode(page.more),
    )


def read_commit(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """A commit with what it wrote."""
    found = session.service.engine.looking.read_commit(arguments[0])
    return session.connection.answer(request_id, found)


def commit_changes(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """What a commit did to keys."""
    changes, rest = session.service.engine.looking.commit_changes(*arguments)
    return session.connection.answer(request_id, [[list(change) for change in changes], rest])


def count_commits(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The ends of slices of a span."""
    marks = session.service.engine.looking.count_commits(*arguments)
    return session.connection.answer(request_id, [list(mark) for mark in marks])


def known_span(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """How far back the database goes."""
    return session.connection.answer(request_id, session.service.engine.looking.known_span())


def position_at(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The newest position at a commit."""
    position = session.service.engine.looking.position_at(arguments[0])
    return session.connection.answer(request_id, position)


def list_snapshots(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The snapshots of a stream."""
    found = session.service.engine.looking.list_snapshots(*arguments)
    return session.connection.answer(request_id, [*found])


def scan_branches(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """A level of the tree of keys."""
    view, found, rest = session.service.engine.looking.branches(*arguments)
    return session.connection.answer(request_id, [view, [list(each) for each in found], rest])


def describe_streams(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """A page of streams with their newest events."""
    prefix, after, limit, at_commit = arguments
    reader = session.service.engine.reader(at_commit)
    page = reader.list_streams(prefix, after, limit)
    rows: list[list[Any]] = []
    for entry in page.streams:
        newest = reader.read_stream(entry.stream, 0, 1, True).events
        event = decode_event(newest[0]) if newest else None
        told = None if event is None else [event.position, event.time, event.type]
        rows.append([*entry, told])
    return session.connection.answer(request_id, [reader.view, rows, page.cursor])
