"""Requests of transactions: begin, write, commit, rollback, execute and status.

A commit is answered once it is durable.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from headwater_protocol.answers import (
    begun_frame,
    commit_answer,
    committed_frame,
    execute_answer,
    executed_frame,
)
from headwater_protocol.connection import ServerConnection
from headwater_protocol.errors import TooLarge, TooMany
from headwater_protocol.limits import BODY_SIZE_MAX, KIB
from headwater_protocol.messages import array_header, encode
from headwater_server.engine.engine import Engine
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.transactions.searching_ahead import SearchesAhead
from headwater_server.engine.transactions.sequencer import Ticket
from headwater_server.engine.work_budget import Cutting, InSteps, SearchAhead
from headwater_server.net.requests.reads import READS
from headwater_server.net.service import Searching
from headwater_server.net.session.failed_requests import ServeAgain
from headwater_server.net.session.session import Session

_AT_ONCE: Final = Cutting()
"""Requests are first evaluated without interruption, and in steps if that takes too long."""

RESULTS_SIZE_MAX: Final = BODY_SIZE_MAX - 64 * KIB
"""Bytes of the results of an execute: with the commit's answer, they must fit into a body."""


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
    """Add writes to a transaction's buffer."""
    transaction, writes = arguments
    session.service.engine.write(transaction, session, writes)
    return session.connection.answer(request_id, None)


def commit(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Commit; answered once it is durable."""
    transaction, writes = arguments
    service = session.service
    ticket: Ticket | None = None
    if service.long_requests.running:
        ticket = service.long_requests.step(session, request_id)
    if ticket is None:
        try:
            ticket = service.engine.commit(transaction, session, writes, cutting=_AT_ONCE)
        except InSteps:
            call = partial(_commit_in_steps, service.engine, transaction, session)
            raise service.long_requests.begin(session, request_id, call) from None
    if ticket.committed_by is not None:
        service.check_answer(session, ticket)
    known = None
    if ticket.error is None:
        if ticket.commit:
            known = committed_frame(request_id, ticket.commit, ticket.time)
        else:
            known = commit_answer(request_id, ticket.payload)
    return session.answer_durable(
        request_id, ticket, known or partial(_answer_committed, request_id, ticket)
    )


def _commit_in_steps(
    engine: Engine, transaction: bytes, session: Session, cutting: Cutting | None
) -> Ticket:
    # The transaction has the writes of the request already.
    return engine.commit(transaction, session, [], cutting=cutting)


def _answer_committed(request_id: int, ticket: Ticket, connection: ServerConnection) -> bytes:
    if ticket.error is not None:
        return connection.error(request_id, ticket.error)
    try:
        return connection.answer(request_id, ticket.payload)
    except TooLarge:
        # 100,000 streams with long names: leave their versions out. The commit stands, and the
        # client can read the versions.
        return connection.answer(request_id, [*ticket.payload[:4], {}])


def rollback(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Roll back a transaction."""
    session.service.engine.rollback(arguments[0], session)
    return session.connection.answer(request_id, None)


def execute(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """A whole transaction; answered once its writes, and what it read, are durable."""
    transaction, conditions, reads, writes = arguments
    service = session.service
    try:
        done: tuple[Ticket, list[Any]] | None = None
        if service.long_requests.running:
            done = service.long_requests.step(session, request_id)
        if done is None:
            if service.stopping:
                service.check_running()
            if reads and service.group_commit.overloaded:
                # The results would wait in memory, too. The client may try again.
                raise TooMany(
                    "execute: too many results and commits wait for the disk; try again later"
                )
            proven = _search_on(session, request_id) if service.searches else {}
            done = service.engine.execute(
                transaction,
                user=session.user_number,
                conditions=conditions,
                reads=partial(_read_all_of, reads) if reads else None,
                writes=writes,
                proven=proven,
                cutting=_AT_ONCE,
            )
        ticket, results = done
    except InSteps:
        call = partial(_execute_in_steps, session, arguments, proven)
        raise service.long_requests.begin(session, request_id, call) from None
    except SearchAhead:
        reader = partial(service.engine.reader, step=True)
        searches = SearchesAhead(reader, conditions, writes)
        service.searches[session] = Searching(
            request_id, searches, service.monotonic(), session.account
        )
        raise ServeAgain from None
    if ticket.committed_by is not None:
        service.check_answer(session, ticket)
    known = None
    if results:
        session.held_for_commit += sum(map(len, results))
    if ticket.error is None and not results:
        if ticket.commit:
            known = executed_frame(request_id, ticket.commit, ticket.time)
        else:
            known = execute_answer(request_id, ticket.payload)
    return session.answer_durable(
        request_id, ticket, known or partial(_answer_executed, request_id, ticket, results)
    )


def _execute_in_steps(
    session: Session, arguments: list[Any], proven: Mapping[Any, int], cutting: Cutting | None
) -> tuple[Ticket, list[Any]]:
    transaction, conditions, reads, writes = arguments
    return session.service.engine.execute(
        transaction,
        user=session.user_number,
        conditions=conditions,
        reads=partial(_read_all_of, reads) if reads else None,
        writes=writes,
        proven=proven,
        cutting=cutting,
    )


def _search_on(session: Session, request_id: int) -> Mapping[Any, int]:
    """Search one more page for a request that is served again; return what was proven.

    Raises:
        ServeAgain: the searches are not over.
        TooLarge: they have taken too long.
    """
    service = session.service
    searching = service.searches.get(session)
    if searching is None or searching.request_id != request_id:
        return {}
    done = searching.searches.step()
    request_ms_max = service.long_requests.request_ms_max(session)
    if not done and service.monotonic() - searching.began < request_ms_max / 1000:
        raise ServeAgain
    del service.searches[session]
    if not done:
        raise TooLarge(
            f"execute: its conditions took longer than {request_ms_max} ms; give later positions, "
            "or query by rarer types and tags"
        )
    return searching.searches.proven


def _read_all_of(reads: list[list[Any]], reader: Reader) -> list[bytes]:
    """The encoded results of an execute's reads; their size is checked before the commit."""
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
    """The status of a transaction; a fence is answered once it is durable."""
    transaction, resolve = arguments
    found = session.service.engine.status(transaction, resolve=resolve, user=session.user_number)
    session.service.check_status(session, found.ticket)
    payload = [found.state, found.ticket.payload if found.state == "committed" else None]
    return session.answer_durable(
        request_id, found.ticket, lambda connection: connection.answer(request_id, payload)
    )
