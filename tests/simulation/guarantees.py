"""Planted defects in what is promised about the edges.

Undecodable events harm nobody else, positions never pass over what was not seen, what was sent has
an unknown outcome, acknowledged means recorded, and whatever is hidden holds nobody up.
"""

from collections.abc import Sequence
from typing import Any, Final

import headwater
from headwater.codecs.events import recorded_event
from headwater.errors import CommitUnknown, ConnectionLost, HeadwaterError
from headwater.feeds.subscription import Subscription
from headwater.groups.membership import Membership
from headwater.projections.failures import EventFailed
from headwater.projections.follower import Follower
from headwater.projections.state import ProjectionTransaction
from headwater.transport.channel import Channel
from headwater_server.engine.consumer_groups.hidden import HiddenEvents
from headwater_server.engine.transactions.sequencer import Sequencer
from tests.simulation.planted import (
    CONSUMED,
    FEED,
    LOSS,
    PROJECTED,
    Mutant,
)


def passing_over_what_failed(right: Any) -> Any:
    async def is_given_up(self: Follower, row: Any) -> bool:
        failure = self._failures.find(self.build, row)
        return failure is not None or await right(self, row)

    return is_given_up


def handing_out_none(_: Any) -> Any:
    def decoded(self: Follower, row: Any, _index: int) -> Any:
        event = recorded_event(row, self._codec)
        try:
            event.data  # noqa: B018
        except headwater.Undecodable:
            return event.with_parts(None, None)
        return event

    return decoded


def taking_an_empty_page_for_the_end(_: Any) -> Any:
    async def events(self: Any, wanted: Any, after: int, upto: int, limit: int) -> Any:
        _, _, rows, _ = await self._fetch("read_all", after, dict(wanted), limit, False)
        return [row for row in rows if row[0] <= upto]

    return events


def blaming_the_connection(right: Any) -> Any:
    """Retryable errors that a handler raises count as errors of its transaction."""

    async def handle(self: Follower, tx: Any, given: Any, index: Any) -> None:
        try:
            await right(self, tx, given, index)
        except EventFailed as failed:
            if isinstance(failed.cause, HeadwaterError) and failed.cause.retryable:
                raise failed.cause from None
            raise

    return handle


def acknowledging_what_it_cannot_decode(right: Any) -> Any:
    async def following(self: Membership) -> Any:
        while True:
            delivery = await right(self)
            try:
                delivery.event.data  # noqa: B018
            except headwater.Undecodable:
                await delivery.ack()
            else:
                return delivery

    return following


def keeping_the_position_of_the_batch(_: Any) -> Any:
    """`next_event` moves the position with each batch and not with each event."""

    async def next_event(self: Subscription) -> Any:
        while not self._rest:
            item = await self._next_item()
            self.position = item.position
            if isinstance(item, headwater.EventBatch):
                self._rest.extend(item)
        return self._rest.popleft()

    return next_event


class Blind:
    """The host of a consumer group, as if no rule of retention hid anything."""

    hides = False

    def __init__(self, host: Any) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)


def blind_to_what_is_hidden(right: Any) -> Any:
    def init(self: HiddenEvents, host: Any, *arguments: Any) -> None:
        right(self, Blind(host), *arguments)

    return init


def denying_what_was_sent(right: Any) -> Any:
    async def persist(self: Channel, transaction: bytes, name: str, *arguments: Any) -> Any:
        try:
            return await right(self, transaction, name, *arguments)
        except CommitUnknown as error:
            raise ConnectionLost("nothing was being committed") from error

    return persist


def without_commits_of_nothing(right: Any) -> Any:
    """A commit whose writes change nothing is answered with the newest commit."""

    def apply(self: Sequencer, planned: Any) -> Any:
        if planned.writes or planned.events or planned.settled is not None:
            return right(self, planned)
        return self._read_only_ticket(planned.transaction, self._state.last_commit)

    return apply


GUARANTEES: Final[Sequence[Mutant]] = (
    Mutant(
        "a projection passes over an event that failed, and parks nothing",
        Follower,
        "_is_given_up",
        passing_over_what_failed,
        PROJECTED,
        "calm",
    ),
    Mutant(
        "a projection is given an event that cannot be decoded without its data",
        Follower,
        "decoded",
        handing_out_none,
        PROJECTED,
        "calm",
    ),
    Mutant(
        "a retry takes an empty page for the end of the stream",
        ProjectionTransaction,
        "events",
        taking_an_empty_page_for_the_end,
        PROJECTED,
        "calm",
    ),
    Mutant(
        "retryable errors of a handler are never counted",
        Follower,
        "handle",
        blaming_the_connection,
        PROJECTED + "|nothing was logged",
        "calm",
    ),
    Mutant(
        "a consumer acknowledges events that it cannot decode",
        Membership,
        "__anext__",
        acknowledging_what_it_cannot_decode,
        CONSUMED,
        "calm",
    ),
    Mutant(
        "the position of a subscription passes over events that were not handed out",
        Subscription,
        "next_event",
        keeping_the_position_of_the_batch,
        FEED,
        "calm",
    ),
    Mutant(
        "a parked event that is hidden holds its stream",
        HiddenEvents,
        "__init__",
        blind_to_what_is_hidden,
        CONSUMED + "|stays parked",
        "calm",
    ),
    Mutant(
        "a commit that was sent and not answered counts as not sent",
        Channel,
        "persist",
        denying_what_was_sent,
        LOSS,
        "network",
    ),
    Mutant(
        "a commit that changes nothing has no number of its own",
        Sequencer,
        "_apply",
        without_commits_of_nothing,
        LOSS,
        "calm",
    ),
)
