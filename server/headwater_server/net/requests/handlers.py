"""One function an operation: from the arguments of a request to the frame of its answer.

The arguments were checked against the vocabulary, and are complete. A handler returns the frame,
or None if the answer comes later, after a sync mostly; what it raises becomes the request's error.
Stored events are spliced into answers as they are.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from headwater_protocol.answers import (
    begun_frame,
    commit_answer,
    committed_frame,
    execute_answer,
    executed_frame,
    scanned_frame,
    value_frame,
)
from headwater_protocol.connection import ServerConnection
from headwater_protocol.errors import InvalidArgument, TooLarge, TooMany
from headwater_protocol.limits import BODY_SIZE_MAX, KIB, PROTOCOL_VERSION
from headwater_protocol.messages import array_header, encode
from headwater_protocol.operations import OPERATIONS
from headwater_server.engine.accounts import Verifier
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.transactions.sequencer import Ticket
from headwater_server.net.push.feeds import Feed
from headwater_server.net.push.key_source import key_range
from headwater_server.net.requests.group_handlers import GROUP_HANDLERS
from headwater_server.net.service import Handler
from headwater_server.net.session.authentication import MECHANISM
from headwater_server.net.session.session import Session

RESULTS_SIZE_MAX: Final = BODY_SIZE_MAX - 64 * KIB
"""Bytes of the results of an execute: with the commit's own answer they must fit a body."""


# Saying hello.


def hello(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Agree on a version, and say whether authentication is needed."""
    version, client, _features = arguments
    service = session.service
    service.check_running()
    if version < PROTOCOL_VERSION:
        raise InvalidArgument(
            f"hello: version {version} is not spoken any more; this server speaks "
            f"{PROTOCOL_VERSION}"
        )
    session.client = client
    mechanisms = [MECHANISM] if service.authentication_needed else []
    if not mechanisms:
        service.welcome(session)
    return session.connection.answer(
        request_id,
        [PROTOCOL_VERSION, service.server_name, [], mechanisms, service.engine.database_id],
    )


def authenticate(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Take one step of the proof."""
    _mechanism, message = arguments
    done, reply = session.service.authentication.step(session, message)
    if done:
        session.service.welcome(session)
    return session.connection.answer(request_id, [done, reply])


def ping(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """Say that the server is there."""
    service = session.service
    return session.connection.answer(request_id, [service.engine.published, service.clock()])


# Transactions.


def begin(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Open a transaction that belongs to this connection."""
    transaction, isolation, read_only, at_commit = arguments
    service = session.service
    service.check_running()
    count = service.engine.open_count(session)
    if count >= service.settings.session.transactions_max:
        raise TooMany(
            f"{count} open transactions on this connection; "
            f"allowed are {service.settings.session.transactions_max}"
        )
    opened = service.engine.begin(
        transaction,
        owner=session,
        user=session.user_number,
        isolation=isolation,
        read_only=read_only,
        at_commit=at_commit,
    )
    return session.connection.answer_frame(request_id, begun_frame(request_id, opened.view))


def write(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Add to a transaction's buffer."""
    transaction, writes = arguments
    session.service.engine.write(transaction, session, writes)
    return session.connection.answer(request_id, None)


def commit(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Commit; answered once it is durable."""
    transaction, writes = arguments
    ticket = session.service.engine.commit(transaction, session, writes)
    known = None
    if ticket.error is None:
        if ticket.commit:
            known = committed_frame(request_id, ticket.commit, ticket.time)
        else:
            known = commit_answer(request_id, ticket.payload)
    return session.answer_durable(
        request_id, ticket, known or partial(_answer_committed, request_id, ticket)
    )


def _answer_committed(request_id: int, ticket: Ticket, connection: ServerConnection) -> bytes:
    if ticket.error is not None:
        return connection.error(request_id, ticket.error)
    try:
        return connection.answer(request_id, ticket.payload)
    except TooLarge:
        # 100,000 streams with long names. The commit stands; the versions can be read.
        return connection.answer(request_id, [*ticket.payload[:4], {}])


def rollback(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Forget a transaction."""
    session.service.engine.rollback(arguments[0], session)
    return session.connection.answer(request_id, None)


def execute(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """A whole transaction; answered once what it did, and what it read, is durable."""
    transaction, conditions, reads, writes = arguments
    service = session.service
    if service.stopping:
        service.check_running()
    ticket, results = service.engine.execute(
        transaction,
        user=session.user_number,
        conditions=conditions,
        reads=partial(_read_all_of, reads) if reads else None,
        writes=writes,
    )
    known = None
    if ticket.error is None and not results:
        if ticket.commit:
            known = executed_frame(request_id, ticket.commit, ticket.time)
        else:
            known = execute_answer(request_id, ticket.payload)
    return session.answer_durable(
        request_id, ticket, known or partial(_answer_executed, request_id, ticket, results)
    )


def _read_all_of(reads: list[list[Any]], reader: Reader) -> list[bytes]:
    """The results of an execute's reads, encoded; bounded before anything is committed."""
    parts: list[bytes] = []
    size = 0
    for read in reads:
        result = READS[read[0]](reader, read[1:])
        parts += result
        size += sum(map(len, result))
        if size > RESULTS_SIZE_MAX:
            raise TooLarge(
                f"execute: results of more than {size} bytes; allowed are {RESULTS_SIZE_MAX}; "
                "read in smaller pages"
            )
    return [array_header(len(reads)), *parts]


def _answer_executed(
    request_id: int, ticket: Ticket, results: list[bytes], connection: ServerConnection
) -> bytes:
    if ticket.error is not None:
        return connection.error(request_id, ticket.error)
    try:
        return _encode_executed(request_id, ticket.payload, results, connection)
    except TooLarge:
        return _encode_executed(request_id, [*ticket.payload[:4], {}], results, connection)


def _encode_executed(
    request_id: int, committed: list[Any], results: list[bytes], connection: ServerConnection
) -> bytes:
    if not results:
        return connection.answer(request_id, (committed, ()))
    return connection.answer_encoded(request_id, array_header(2), encode(committed), *results)


def status(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Say what became of a transaction; a fence is answered once it is durable."""
    transaction, resolve = arguments
    fate = session.service.engine.status(transaction, resolve=resolve, user=session.user_number)
    payload = [fate.state, fate.ticket.payload if fate.state == "committed" else None]
    return session.answer_durable(
        request_id, fate.ticket, lambda connection: connection.answer(request_id, payload)
    )


# Reads.


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


def _read(name: str, session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Any other read: the transaction stands before its arguments, the commit behind."""
    reader = _reader(session, arguments[0], arguments[-1])
    return session.connection.answer_encoded(request_id, *READS[name](reader, arguments[1:-1]))


def scan(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """A page of keys, which is packed as it goes out."""
    transaction, start, end, limit, reverse, at_commit = arguments
    reader = _reader(session, transaction, at_commit)
    page = reader.scan(start, end, limit, reverse)
    frame = scanned_frame(request_id, reader.view, page.key_count, page.packed, more=page.more)
    return session.connection.answer_frame(request_id, frame)


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


def _load_parts(reader: Reader, arguments: list[Any]) -> list[bytes]:
    stream, name, schema = arguments
    loaded = reader.load(stream, name, schema)
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


READS: Final[Mapping[str, Callable[[Reader, list[Any]], list[bytes]]]] = {
    "get": _get_parts,
    "scan": _scan_parts,
    "read_stream": _read_stream_parts,
    "read_all": _read_all_parts,
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
    after, limit = arguments
    commits = session.service.engine.read_commits(after, limit)
    return session.connection.answer(request_id, commits)


def read_snapshots(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """A page of all stored snapshots."""
    after, limit, at_commit = arguments
    snapshots, cursor = session.service.engine.read_snapshots(after, limit, at_commit)
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


# Subscriptions.


def subscribe(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Open a subscription; its first push comes after this answer."""
    after, members, credit = arguments
    session.service.check_running()
    session.service.subscriptions.open(
        session, request_id, after, EventFilter.from_wire(members), credit
    )
    return session.connection.answer(request_id, None)


def subscribe_keys(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Open a feed of a range of keys; its first push comes after this answer."""
    start, end, after, credit = arguments
    session.service.check_running()
    wanted = key_range(start, end)
    session.service.key_feeds.open(session, request_id, after, wanted, credit)
    return session.connection.answer(request_id, None)


def grant_credit(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Allow a feed, or a member of a consumer group, more items."""
    identity, credit = arguments
    channel = session.feeds.get(identity)
    if channel is None:
        raise InvalidArgument(f"credit: there is no subscription {identity}")
    channel.owner.grant(channel, credit)
    return session.connection.answer(request_id, None)


def unsubscribe(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """End a feed."""
    channel = session.feeds.get(arguments[0])
    if not isinstance(channel, Feed):
        raise InvalidArgument(f"unsubscribe: there is no subscription {arguments[0]}")
    channel.owner.close(channel)
    return session.connection.answer(request_id, None)


# Administration.


def stats(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """Figures of the server."""
    return session.connection.answer(request_id, session.service.stats())


def backup(session: Session, request_id: int, arguments: list[Any]) -> None:
    """Make a backup; answered once it is there, which may take long."""
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


HANDLERS: Final[Mapping[str, Handler]] = {
    "hello": hello,
    "authenticate": authenticate,
    "ping": ping,
    "begin": begin,
    "write": write,
    "commit": commit,
    "rollback": rollback,
    "execute": execute,
    "status": status,
    "get": get,
    "scan": scan,
    "read_stream": partial(_read, "read_stream"),
    "read_all": partial(_read, "read_all"),
    "load": partial(_read, "load"),
    "commit_at": commit_at,
    "position_before": position_before,
    "read_commits": read_commits,
    "read_snapshots": read_snapshots,
    "list_streams": list_streams,
    "list_categories": list_categories,
    "subscribe": subscribe,
    "subscribe_keys": subscribe_keys,
    "credit": grant_credit,
    "unsubscribe": unsubscribe,
    **GROUP_HANDLERS,
    "stats": stats,
    "backup": backup,
    "user_set": user_set,
    "user_remove": user_remove,
    "user_list": user_list,
}
"""What serves each operation of the vocabulary."""

assert HANDLERS.keys() == OPERATIONS.keys(), "every operation has a handler"
