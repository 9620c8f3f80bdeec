"""Consumer groups: several consumers share the events of a filter; each event goes to one of them.

    create, update, delete, overview, info   administration: ordinary commits and reads
    join, leave, nack, turn                  what a group with members does (group.py)
    acknowledge                              a write of a transaction, evaluated with the others

An acknowledgement is evaluated when its transaction is sequenced. If the lease is still valid, the
transaction's record includes the stream's new entry. If it is not, the whole transaction is
refused. So a consumer's writes and the fact that the event is done commit together or not at all,
which makes consumption exactly once.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from headwater_protocol.errors import (
    DeliveryLost,
    GroupExists,
    InvalidArgument,
    NoSuchGroup,
    PositionNotReached,
    TooMany,
)
from headwater_protocol.limits import GROUP_MEMBERS_MAX, GROUPS_MAX
from headwater_server.engine.consumer_groups import describing
from headwater_server.engine.consumer_groups.erasing import without_reasons
from headwater_server.engine.consumer_groups.group import ConsumerGroup
from headwater_server.engine.consumer_groups.host import Turn
from headwater_server.engine.consumer_groups.progress import PARKED_MAX, WINDOWS_MAX, window_of
from headwater_server.engine.consumer_groups.records import (
    Definition,
    GroupSettings,
    ParkedEntry,
    ReplayEntry,
    definition_key,
    encode_definition,
    encode_entry,
    encode_low_watermark,
    find_definition,
    keys_after,
    list_definitions,
    low_watermark_key,
    parked_key,
    read_low_watermark,
    read_parked,
    replay_key,
    state_keys,
)
from headwater_server.engine.consumer_groups.streams import Lease, Member
from headwater_server.engine.format.transaction_ids import new_transaction_id
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.retention.rules import visibility_at
from headwater_server.engine.state.layers import State
from headwater_server.engine.transactions.sequencer import Sequencer, Ticket

_MS_US: Final = 1000
_TOKEN_BITS: Final = 62

Delivery = Sequence[int]
"""The position of an event and the token of its delivery, as they travel."""


class Groups:
    """The consumer groups of an open database.

    Attributes:
        active: those with members, by name.
        touched: names of groups that a request or a commit has changed since their last turn, for
            whoever gives them turns.
        windows_max: positions that all groups together read ahead.
    """

    def __init__(
        self,
        state: State,
        sequencer: Sequencer,
        reader: Callable[..., Reader],
        clock: Callable[[], int],
        source: random.Random,
        check_writable: Callable[[], None],
    ) -> None:
        self.active: dict[str, ConsumerGroup] = {}
        self.touched: dict[str, None] = {}
        # Positions that all groups have read ahead, counted again every second.
        self._pending, self.windows_max = 0, WINDOWS_MAX
        self.reader = partial(reader, step=True)
        self.wall_clock = clock
        self._state = state
        self._sequencer = sequencer
        self._source = source
        self._check_writable = check_writable
        sequencer.planner.acknowledging = self

    # What a group with members needs (host.Host).

    @property
    def sequence(self) -> int:
        """The newest sequence number."""
        return self._sequencer.sequence

    @property
    def durable_sequence(self) -> int:
        """The newest sequence number that is published."""
        return self._sequencer.durable_sequence

    def window(self, pending: int) -> int:
        """Positions that a group may read ahead that has *pending* ones; see WINDOWS_MAX."""
        return window_of(pending, self.windows_max - self._pending)

    def held_size(self) -> int:
        """About the bytes that the groups with members take in memory. Call this once a second."""
        self._pending = sum(each.progress.pending for each in self.active.values())
        return sum(each.progress.held_size for each in self.active.values())

    def write(self, writes: list[bytes | None]) -> int:
        """Commit key, value, …; return the sequence number at which it is durable."""
        return self._commit(writes).sequence

    def event(self, position: int) -> bytes | None:
        """A stored event; None if it was removed or is hidden."""
        stored = self._state.events([position])[0]
        if self._state.retention.hiding:
            published, newest = self._sequencer.published, self._sequencer.published_position
            if not visibility_at(self._state, published, newest).shows(stored):
                return None
        return stored

    @property
    def hides(self) -> bool:
        """Whether there may be events that can no longer be read."""
        return bool(self._state.retention.hiding)

    def parked_entries(self, number: int, after: int, limit: int) -> list[tuple[int, ParkedEntry]]:
        """Parked events of a group after a position, in order, at most *limit*."""
        return read_parked(self._state, self._state.last_commit, number, after, limit)

    def new_token(self) -> int:
        """A token that is unique, even across restarts."""
        return self._source.getrandbits(_TOKEN_BITS)

    def _commit(
        self, writes: list[bytes | None], user: int = 0, transaction: bytes | None = None
    ) -> Ticket:
        self._check_writable()
        if transaction is None:
            transaction = new_transaction_id(self.wall_clock(), self._source)
        return self._sequencer.commit_stored(transaction, user, writes)

    # Administration.

    def create(
        self,
        name: str,
        wanted: EventFilter,
        after: int | None,
        settings: GroupSettings,
        *,
        user: int = 0,
        transaction: bytes | None = None,
    ) -> Ticket:
        """Create a group that begins after a position; None: after the newest event.

        Raises:
            GroupExists, TooMany, ReadOnly.
            InvalidArgument: the position was not reached yet.
        """
        newest = self._state.last_commit
        if find_definition(self._state, newest, name) is not None:
            raise GroupExists(f"there is a group {name!r} already")
        count = len(list_definitions(self._state, newest))
        if count >= GROUPS_MAX:
            raise TooMany(f"{count} groups; allowed are {GROUPS_MAX}")
        low_watermark = self._check_position(after)
        definition = Definition(name, newest + 1, wanted, settings)
        writes = [
            definition_key(name),
            encode_definition(definition),
            low_watermark_key(definition.number),
            encode_low_watermark(low_watermark),
        ]
        return self._with_payload(self._commit([*writes], user, transaction), [low_watermark])

    def update(
        self,
        name: str,
        wanted: EventFilter | None,
        after: int | None,
        settings: dict[str, Any],
        *,
        user: int = 0,
        transaction: bytes | None = None,
    ) -> Ticket:
        """Change the given properties of a group. Its members lose their deliveries.

        With a position, the group starts over after it. Events after it that were parked, or are to
        be tried again, are delivered again like all others; those before it stay as they are.

        Raises:
            NoSuchGroup, InvalidArgument, ReadOnly.
        """
        old = self._definition(name)
        definition = replace(
            old,
            wanted=old.wanted if wanted is None else wanted,
            settings=replace(old.settings, **settings),
        )
        low_watermark = None if after is None else self._check_position(after)
        self._check_writable()
        group = self.active.get(name)
        if group is not None:
            for member in group.members:
                group.return_leases(member)
            group.close()
        writes: list[bytes | None] = [definition_key(name), encode_definition(definition)]
        if low_watermark is not None:
            writes += (low_watermark_key(old.number), encode_low_watermark(low_watermark))
            for key in keys_after(self._state, self._state.last_commit, old.number, low_watermark):
                writes += (key, None)
        ticket = self._commit(writes, user, transaction)
        if group is not None:
            self.active[name] = ConsumerGroup(self, self._state, definition)
            self.active[name].take_over(group)
        self.touched[name] = None
        return self._with_payload(ticket, [])

    def delete(
        self, name: str, *, user: int = 0, transaction: bytes | None = None
    ) -> tuple[Ticket, list[Member]]:
        """Delete a group with all its state; return its former members.

        Raises:
            NoSuchGroup, ReadOnly.
        """
        definition = self._definition(name)
        writes: list[bytes | None] = [definition_key(name), None]
        for key in state_keys(self._state, self._state.last_commit, definition.number):
            writes += (key, None)
        ticket = self._commit(writes, user, transaction)
        group = self.active.pop(name, None)
        self.touched[name] = None
        return self._with_payload(ticket, []), [] if group is None else list(group.members)

    def overview(self, at_commit: int | None = None) -> list[list[Any]]:
        """A row of every group; see describing.py. At a past commit nobody is a member."""
        active = self.active if at_commit is None else {}
        return describing.overview(self._state, self.reader(at_commit), active)

    def figures(self, count_max: int) -> tuple[int, list[tuple[str, dict[str, int]]]]:
        """How many groups there are, and the figures of the first of them; see describing.py."""
        return describing.all_figures(self._state, self._state.last_commit, self.active, count_max)

    def info(self, name: str, at_commit: int | None = None) -> dict[str, Any]:
        """The settings and figures of a group; at a past commit, what was stored then."""
        reader, newest = self.reader(at_commit), at_commit is None
        definition = self._definition(name, at_commit)
        group = self.active.get(name) if newest else None
        return describing.info(self._state, reader, definition, group, newest=newest)

    def filter_of(self, name: str) -> EventFilter | None:
        """Which events a group delivers; None: there is no such group."""
        definition = self.find(name)
        return None if definition is None else definition.wanted

    def find(self, name: str, view: int | None = None) -> Definition | None:
        """The definition of a group, now or at a commit; None: there is no such group."""
        return find_definition(self._state, self._state.last_commit if view is None else view, name)

    def _definition(self, name: str, view: int | None = None) -> Definition:
        definition = self.find(name, view)
        if definition is None:
            raise NoSuchGroup(f"there is no group {name!r}")
        return definition

    def _check_position(self, after: int | None) -> int:
        newest = self._state.last_position
        if after is None:
            return newest
        if after > newest:
            # The group would silently skip the events up to that position.
            raise PositionNotReached(
                f"after: {after}; the newest position is {newest}", details={"newest": newest}
            )
        return after

    @staticmethod
    def _with_payload(ticket: Ticket, payload: list[Any]) -> Ticket:
        return Ticket(ticket.sequence, ticket.transaction, payload, ticket.error)

    # Parked events.

    def parked(
        self, name: str, after: int, limit: int, at_commit: int | None = None
    ) -> list[tuple[int, ParkedEntry]]:
        """Parked events after a position, in order, now or at a past commit."""
        number, view = self._definition(name, at_commit).number, self.reader(at_commit).view
        return read_parked(self._state, view, number, after, limit)

    def position_created(self, commit: int) -> int:
        """The position after which the group began that a commit has created."""
        return read_low_watermark(self._state, commit, commit)

    def parked_before(self, name: str, commit: int) -> int:
        """How many events of a group were parked before a commit."""
        definition = find_definition(self._state, commit, name)
        if definition is None:
            return 0
        return len(read_parked(self._state, commit - 1, definition.number, 0, PARKED_MAX))

    def replay(
        self,
        name: str,
        positions: Sequence[int] | None,
        *,
        user: int = 0,
        transaction: bytes | None = None,
    ) -> Ticket:
        """Deliver parked events again, in order; None: all of them.

        Raises:
            NoSuchGroup, ReadOnly.
            InvalidArgument: one of the events is not parked; nothing was done.
        """
        return self._unpark(name, positions, user, transaction, again=True)

    def discard(
        self,
        name: str,
        positions: Sequence[int] | None,
        *,
        user: int = 0,
        transaction: bytes | None = None,
    ) -> Ticket:
        """Forget parked events, which then count as done; None: all of them.

        Raises:
            As replay.
        """
        return self._unpark(name, positions, user, transaction, again=False)

    def _unpark(
        self,
        name: str,
        positions: Sequence[int] | None,
        user: int,
        transaction: bytes | None,
        *,
        again: bool,
    ) -> Ticket:
        definition = self._definition(name)
        number = definition.number
        group = self.active.get(name)
        if group is not None and group.progress.unwritten:
            group.progress.flush(self.write)
        parked = dict(read_parked(self._state, self._state.last_commit, number, 0, PARKED_MAX))
        chosen = sorted(parked if positions is None else set(positions))
        for position in chosen:
            if position not in parked:
                raise InvalidArgument(f"group {name!r}: event {position} is not parked")
        self._check_writable()
        if not chosen:
            return Ticket(0, new_transaction_id(self.wall_clock(), self._source), [0])
        writes: list[bytes | None] = []
        for position in chosen:
            writes += (parked_key(number, position), None)
            if again:
                entry = encode_entry(ReplayEntry(parked[position].stream))
                writes += (replay_key(number, position), entry)
        ticket = self._commit(writes, user, transaction)
        if group is not None:
            pairs = [(position, parked[position].stream) for position in chosen]
            if again:
                group.replay(pairs)
            else:
                group.discard(pairs)
        self.touched[name] = None
        return self._with_payload(ticket, [len(chosen)])

    # Members.

    def join(
        self, name: str, owner: object, credit: int, takes: Callable[[], bool]
    ) -> tuple[ConsumerGroup, Member]:
        """Add a member to a group.

        Raises:
            NoSuchGroup, TooMany.
        """
        group = self.active.get(name)
        if group is None:
            group = ConsumerGroup(self, self._state, self._definition(name))
            self.active[name] = group
        if len(group.members) >= GROUP_MEMBERS_MAX:
            raise TooMany(
                f"group {name!r}: {len(group.members)} members; allowed are {GROUP_MEMBERS_MAX}"
            )
        self.touched[name] = None
        return group, group.join(owner, credit, takes)

    def leave(self, name: str, member: Member, *, died: bool) -> None:
        """Remove a member; without members the group becomes inactive."""
        group = self.active.get(name)
        if group is None or member not in group.members:
            return
        group.leave(member, died=died)
        self.touched[name] = None
        if not group.members:
            group.close()
            del self.active[name]

    def turn(self, name: str, now: int) -> Turn:
        """Let a group with members do all pending work."""
        group = self.active[name]
        before = group.progress.pending
        turn = group.turn(now)
        self._pending += group.progress.pending - before
        return turn

    def next_time(self, now: int) -> int | None:
        """When a group will next have work to do if no request comes before."""
        times = (group.next_time(now) for group in self.active.values())
        return min((time for time in times if time is not None), default=None)

    def nack(
        self,
        name: str,
        deliveries: Sequence[Delivery],
        *,
        delay_ms: int | None,
        reason: str,
        park: bool,
        user: int = 0,
        transaction: bytes | None = None,
    ) -> Ticket:
        """Return events, to be retried after a pause or parked.

        Raises:
            NoSuchGroup, ReadOnly.
            DeliveryLost: the consumer no longer holds one of them; nothing was done.
        """
        leases = self._leases([(name, position, token) for position, token in deliveries])
        self._check_writable()
        assert leases, "the vocabulary lets no empty list through"
        delay_us = None if delay_ms is None else delay_ms * _MS_US
        self.touched[name] = None
        sequence = self.active[name].nack(
            leases,
            delay_us=delay_us,
            reason=reason,
            park=park,
            write=lambda writes: self._commit(writes, user=user, transaction=transaction).sequence,
        )
        return Ticket(sequence, new_transaction_id(self.wall_clock(), self._source), [])

    # Acknowledging, in a transaction (sequencer.Acknowledging).

    def evaluate(self, acks: Sequence[tuple[str, int, int]]) -> tuple[list[bytes | None], Any]:
        """The writes of acknowledgements, and what to pass to `settle` once they are sequenced.

        Raises:
            NoSuchGroup: a group does not exist any more.
            DeliveryLost: the consumer no longer holds a delivery.
        """
        leases = self._leases(acks)
        writes: list[bytes | None] = []
        for (name, position, _), lease in zip(acks, leases, strict=True):
            writes += self.active[name].progress.done_writes(lease.stream, position)
        return writes, [(name, lease) for (name, _, _), lease in zip(acks, leases, strict=True)]

    def forget_reasons(self, positions: set[int]) -> list[bytes | None]:
        """The writes that remove what is stored of why these events failed. They are erased."""
        definitions = list_definitions(self._state, self._state.last_commit)
        for group in self.active.values():
            group.progress.forget_reasons(positions)
        return without_reasons(self._state, definitions, positions)

    def settle(self, settled: Any, sequence: int) -> None:
        """The acknowledgements are sequenced, and durable once *sequence* is."""
        for name, lease in settled:
            self.active[name].acknowledged(lease, sequence)
            self.touched[name] = None

    def _leases(self, deliveries: Sequence[tuple[str, int, int]]) -> list[Lease]:
        leases: dict[Lease, None] = {}
        for name, position, token in deliveries:
            group = self.active.get(name)
            if group is None:
                self._definition(name)
                raise DeliveryLost(
                    f"group {name!r}: it has no members; the delivery of event {position} was "
                    "taken back when its consumer left"
                )
            lease = group.find(position, token)
            if lease in leases:
                raise DeliveryLost(f"group {name!r}: event {position} is settled twice at once")
            leases[lease] = None
        return list(leases)
