"""Requests that open feeds, grant them credit, and end them."""

from typing import Any

from headwater_protocol.errors import InvalidArgument
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.net.push.feeds import Feed
from headwater_server.net.push.key_source import key_range
from headwater_server.net.session.session import Session


def subscribe(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Open a subscription; its first push comes after this answer."""
    after, members, credit = arguments
    session.service.check_running()
    session.service.check_memory("subscribe")
    session.service.subscriptions.open(
        session, request_id, after, EventFilter.from_wire(members), credit
    )
    return session.connection.answer(request_id, None)


def subscribe_keys(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """Open a feed of a range of keys; its first push comes after this answer."""
    start, end, after, credit = arguments
    session.service.check_running()
    session.service.check_memory("subscribe_keys")
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
