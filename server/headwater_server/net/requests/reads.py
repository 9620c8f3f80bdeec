"""Requests that read: keys, streams, the log, and listings.

Stored events are copied into answers without decoding them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from headwater_protocol.answers import (
    scanned_frame,
    value_frame,
)
from headwater_protocol.errors import InvalidArgument
from headwater_protocol.messages import array_header, encode
from headwater_server.engine.format.keyspaces import parse_expiry
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.key_names import KeysPage
from headwater_server.engine.reads.reading import Reader
from headwater_server.net.session.session import Session


def _reader(session: Session, transaction: bytes | None, at_commit: int | None) -> Reader:
    engine = session.service.engine
    if transaction is None:
        return engine.reader(at_commit)
    if at_commit is not None:
        raise InvalidArgument("at_commit: a transaction reads at its own commit; leave it out")
    return engine.transaction(transaction, session)


def get(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The value of a key."""
    transaction, key, at_commit = arguments
    if transaction is None and at_commit is None:
        value = session.service.engine.get(key)
    else:
        value = _reader(session, transaction, at_commit).get(key)
    frame = None if value is None else value_frame(request_id, value)
    if frame is not None:
        return session.connection.answer_frame(request_id, frame)
    return session.connection.answer(request_id, value)


def read(name: str, session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Any other read. The arguments are [transaction, …, at_commit]."""
    reader = _reader(session, arguments[0], arguments[-1])
    return session.connection.answer_encoded(request_id, *READS[name](reader, arguments[1:-1]))


def scan(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """A page of keys. The engine packs it in wire format."""
    transaction, start, end, limit, reverse, at_commit = arguments
    reader = _reader(session, transaction, at_commit)
    page = reader.scan(start, end, limit, reverse)
    frame = scanned_frame(request_id, reader.view, page.key_count, page.packed, more=page.more)
    return session.connection.answer_frame(request_id, frame)


def newest_position(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The position of the newest event that matches a filter."""
    transaction, after, members, at_commit = arguments
    reader = _reader(session, transaction, at_commit)
    position, more = reader.newest_position(after, EventFilter.from_wire(members))
    return session.connection.answer(request_id, [reader.view, position, more])


def _get_parts(reader: Reader, arguments: list[Any]) -> list[bytes]:
    return [encode(reader.get(arguments[0]))]


def _scan_parts(reader: Reader, arguments: list[Any]) -> list[bytes]:
    start, end, limit, reverse = arguments
    page = reader.scan(start, end, limit, reverse)
    return [
        array_header(3),
        encode(reader.view),
        array_header(2 * page.key_count),
        page.packed,
        encode(page.more),
    ]


def _read_stream_parts(reader: Reader, arguments: list[Any]) -> list[bytes]:
    stream, after, limit, reverse = arguments
    page = reader.read_stream(stream, after, limit, reverse)
    return [
        array_header(4),
        encode(reader.view),
        encode(page.version),
        array_header(len(page.events)),
        *page.events,
        encode(page.more),
    ]


def _read_all_parts(reader: Reader, arguments: list[Any]) -> list[bytes]:
    after, members, limit, reverse = arguments
    page = reader.read_all(after, EventFilter.from_wire(members), limit, reverse)
    return [
        array_header(4),
        encode(reader.view),
        encode(page.position),
        array_header(len(page.events)),
        *page.events,
        encode(page.more),
    ]


def _stream_version_parts(reader: Reader, arguments: list[Any]) -> list[bytes]:
    return [encode([reader.view, reader.stream_version(arguments[0])])]


def _load_parts(reader: Reader, arguments: list[Any]) -> list[bytes]:
    stream, name, schema, below = arguments
    loaded = reader.load(stream, name, schema, below)
    return [
        array_header(6),
        encode(reader.view),
        encode(loaded.version),
        encode(loaded.snapshot),
        array_header(len(loaded.events)),
        *loaded.events,
        encode(loaded.more),
        encode(loaded.begins),
    ]


def _get_entry_parts(reader: Reader, arguments: list[Any]) -> list[bytes]:
    key = arguments[0]
    value = reader.get(key)
    return [encode(None if value is None else [value, reader.expiry(key), reader.time])]


def _get_expiry_parts(reader: Reader, arguments: list[Any]) -> list[bytes]:
    key = arguments[0]
    exists = reader.get(key) is not None
    return [encode([reader.expiry(key), reader.time] if exists else None)]


def _get_many_parts(reader: Reader, arguments: list[Any]) -> list[bytes]:
    return [encode([reader.view, reader.get_many(arguments[0])])]


def _scan_keys_parts(reader: Reader, arguments: list[Any]) -> list[bytes]:
    start, end, limit, reverse = arguments
    return _keys_page(reader, reader.scan_keys(start, end, limit, reverse))


def _scan_prefixes_parts(reader: Reader, arguments: list[Any]) -> list[bytes]:
    start, end, size, delimiter, limit = arguments
    return _keys_page(reader, reader.scan_prefixes(start, end, size, delimiter, limit))


def _keys_page(reader: Reader, page: KeysPage) -> list[bytes]:
    # Without the byte of the key space.
    rest = None if page.rest is None else page.rest[1:]
    return [encode([reader.view, [key[1:] for key in page.keys], rest])]


def _count_keys_parts(reader: Reader, arguments: list[Any]) -> list[bytes]:
    start, end = arguments
    page = reader.count_keys(start, end)
    return [encode([reader.view, page.key_count, None if page.rest is None else page.rest[1:]])]


def _scan_expiries_parts(reader: Reader, arguments: list[Any]) -> list[bytes]:
    start, end, limit, reverse = arguments
    page = reader.scan_expiries(start, end, limit, reverse)
    items: list[Any] = list(page.items)
    items[1::2] = [parse_expiry(stored) for stored in page.items[1::2]]
    return [encode([reader.view, items, page.more])]


READS: Final[Mapping[str, Callable[[Reader, list[Any]], list[bytes]]]] = {
    "get": _get_parts,
    "get_entry": _get_entry_parts,
    "get_expiry": _get_expiry_parts,
    "scan": _scan_parts,
    "get_many": _get_many_parts,
    "scan_keys": _scan_keys_parts,
    "count_keys": _count_keys_parts,
    "scan_prefixes": _scan_prefixes_parts,
    "scan_expiries": _scan_expiries_parts,
    "read_stream": _read_stream_parts,
    "read_all": _read_all_parts,
    "stream_version": _stream_version_parts,
    "load": _load_parts,
}
"""From a reader and a read's own arguments to its encoded answer, in parts."""


def commit_at(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The newest commit at a time."""
    return session.connection.answer(request_id, session.service.engine.commit_at(arguments[0]))


def position_before(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The last position before a time."""
    position = session.service.engine.position_before(arguments[0])
    return session.connection.answer(request_id, position)


def read_commits(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """A page of the commit log."""
    commits = session.service.engine.looking.read_commits(*arguments)
    return session.connection.answer(request_id, commits)


def read_snapshots(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """A page of all stored snapshots."""
    after, limit, at_commit = arguments
    snapshots, cursor = session.service.engine.looking.read_snapshots(after, limit, at_commit)
    return session.connection.answer(request_id, [snapshots, cursor])


def list_streams(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """A page of streams, in order of name."""
    prefix, after, limit, at_commit = arguments
    reader = session.service.engine.reader(at_commit)
    page = reader.list_streams(prefix, after, limit)
    return session.connection.answer(request_id, [reader.view, *page])


def list_categories(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """A page of categories, in order of name."""
    after, limit, at_commit = arguments
    reader = session.service.engine.reader(at_commit)
    page = reader.list_categories(after, limit)
    return session.connection.answer(request_id, [reader.view, *page])
