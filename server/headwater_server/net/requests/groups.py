"""Requests of consumer groups. A change of a group is answered once it is durable."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from headwater_protocol.connection import ServerConnection
from headwater_protocol.errors import InvalidArgument, NoSuchGroup
from headwater_protocol.limits import PAGE_SIZE_MAX
from headwater_protocol.messages import array_header, encode
from headwater_server.engine.consumer_groups.extending import extend_leases
from headwater_server.engine.consumer_groups.records import GroupSettings, definition_key
from headwater_server.engine.engine import Engine
from headwater_server.engine.format import keyspaces
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.transactions.sequencer import Ticket
from headwater_server.net.push.group_deliveries import Membership
from headwater_server.net.requests.identified import identified
from headwater_server.net.session.session import Session


def _answer(session: Session, request_id: int, ticket: Ticket, payload: Any = None) -> bytes | None:
    def answer(connection: ServerConnection) -> bytes:
        if ticket.error is not None:
            return connection.error(request_id, ticket.error)
        return connection.answer(request_id, payload)

    return session.answer_durable(request_id, ticket, answer)


def create(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Make a group."""
    name, members, after, settings, transaction = arguments
    service = session.service
    service.check_running()
    ticket = service.engine.groups.create(
        name,
        EventFilter.from_wire(members),
        after,
        GroupSettings(**settings),
        user=session.user_number,
        transaction=transaction,
    )
    return _answer(session, request_id, ticket, ticket.payload)


def update(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Change a group."""
    name, members, after, settings, transaction = arguments
    service = session.service
    service.check_running()
    wanted = None if members is None else EventFilter.from_wire(members)
    ticket = service.engine.groups.update(
        name, wanted, after, settings, user=session.user_number, transaction=transaction
    )
    if wanted is not None:
        service.account_changes.group_delivers_others()
    service.group_deliveries.wake()
    return _answer(session, request_id, ticket)


def delete(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Remove a group, and tell its members."""
    name, transaction = arguments
    service = session.service
    service.check_running()
    ticket, members = service.engine.groups.delete(
        name, user=session.user_number, transaction=transaction
    )
    service.group_deliveries.end_members(members, NoSuchGroup(f"the group {name!r} was deleted"))
    return _answer(session, request_id, ticket)


def list_groups(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The groups."""
    found = session.service.engine.groups.overview(*arguments)
    return session.connection.answer(request_id, found)


def info(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """The details of a group."""
    return session.connection.answer(request_id, session.service.engine.groups.info(*arguments))


def join(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Become a member; the first push comes after this answer."""
    name, credit = arguments
    session.service.check_running()
    session.service.check_memory("group_join")
    session.service.engine.leadership.check_leads()
    session.service.group_deliveries.join(session, request_id, name, credit)
    return session.connection.answer(request_id, None)


def leave(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """End a membership."""
    membership = session.feeds.get(arguments[0])
    if not isinstance(membership, Membership):
        raise InvalidArgument(f"group_leave: there is no membership {arguments[0]}")
    membership.owner.close(membership)
    return session.connection.answer(request_id, None)


def nack(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Give events back."""
    name, deliveries, delay_ms, reason, park, transaction = arguments
    service = session.service
    ticket = service.engine.groups.nack(
        name,
        deliveries,
        delay_ms=delay_ms,
        reason=reason,
        park=park,
        user=session.user_number,
        transaction=transaction,
    )
    service.group_deliveries.wake()
    return _answer(session, request_id, ticket)


def extend(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Restart leases, and return those that were taken back."""
    name, deliveries = arguments
    service = session.service
    service.engine.leadership.check_leads()
    lease_ms, lost = extend_leases(
        service.engine.groups, name, deliveries, service.group_deliveries.now()
    )
    return session.connection.answer(request_id, [lease_ms, lost])


def parked(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """A page of parked events, in stored form."""
    name, after, limit, at_commit = arguments
    groups = session.service.engine.groups
    found = groups.parked(name, after, limit + 1, at_commit)
    parts: list[bytes] = []
    count = size = 0
    for position, entry in found[:limit]:
        stored = groups.event(position)
        if count and stored is not None and size + len(stored) > PAGE_SIZE_MAX:
            break
        size += 0 if stored is None else len(stored)
        count += 1
        parts += (
            array_header(5),
            encode(position),
            encode(entry.attempts),
            encode(entry.reason),
            encode(entry.time),
            encode(None) if stored is None else stored,
        )
    return session.connection.answer_encoded(
        request_id, array_header(2), array_header(count), *parts, encode(count < len(found))
    )


def replay(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Deliver parked events again."""
    name, positions, transaction = arguments
    service = session.service
    service.check_running()
    ticket = service.engine.groups.replay(
        name, positions, user=session.user_number, transaction=transaction
    )
    service.group_deliveries.wake()
    return _answer(session, request_id, ticket, ticket.payload)


def discard(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Discard parked events."""
    name, positions, transaction = arguments
    service = session.service
    service.check_running()
    ticket = service.engine.groups.discard(
        name, positions, user=session.user_number, transaction=transaction
    )
    service.group_deliveries.wake()
    return _answer(session, request_id, ticket, ticket.payload)


def _position_created(engine: Engine, commit: int, _arguments: list[Any]) -> list[int]:
    return [engine.groups.position_created(commit)]


def _unparked(engine: Engine, commit: int, arguments: list[Any]) -> list[int]:
    name, positions, _ = arguments
    if positions is not None:
        return [len(set(positions))]
    return [engine.groups.parked_before(name, commit)]


def _definition(arguments: list[Any]) -> bytes:
    return definition_key(arguments[0])


def _any_of_groups(_arguments: list[Any]) -> bytes:
    # The other keys have the group's number, which a group that was deleted has no more.
    return keyspaces.GROUPS


GROUP_HANDLERS: Final[Mapping[str, Callable[[Session, int, list[Any]], bytes | None]]] = {
    "group_create": identified(create, _definition, _position_created),
    "group_update": identified(update, _definition),
    "group_delete": identified(delete, _definition),
    "group_list": list_groups,
    "group_info": info,
    "group_join": join,
    "group_leave": leave,
    "nack": identified(nack, _any_of_groups),
    "group_extend": extend,
    "group_parked": parked,
    "group_replay": identified(replay, _any_of_groups, _unparked),
    "group_discard": identified(discard, _any_of_groups, _unparked),
}
"""The handler of each operation of consumer groups."""
