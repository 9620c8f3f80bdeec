"""Retention writes: how they change a stream's rule, and which keys their commit writes.

    ["truncate", stream, before]             ["erase", stream, [version…]]
    ["delete_stream", stream]                ["erase_positions", [position…]]
    ["set_retention", stream, count, age]    ["erase_ids", stream, [id…]]

They are evaluated in the order of the request, between the appends of their transaction. So an
append after a deletion begins the stream again.

The same commit deletes the snapshots that become unusable: all of a deleted stream, those before a
truncation whose next events are hidden, and those that contain erased data.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from headwater_protocol.errors import InvalidArgument, NoSuchEvent
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.format.stored_rules import NO_RULE, Rule, encode_rule
from headwater_server.engine.retention.rules import (
    NO_LIMIT,
    Visibility,
    first_version,
    hiding_rule,
    stored_rule,
)
from headwater_server.engine.state.layers import State
from headwater_server.engine.work_budget import WorkBudget

WORDS: Final = frozenset(
    {"truncate", "delete_stream", "set_retention", "erase", "erase_positions", "erase_ids"}
)
"""The writes that this module handles."""


@dataclass(frozen=True, slots=True)
class RetentionWrite:
    """A retention write of a request.

    Attributes:
        place: how many appends come before it in the transaction.
    """

    word: str
    arguments: list[Any]
    place: int

    @property
    def stream(self) -> str | None:
        """The stream that it names, if any."""
        return None if self.word == "erase_positions" else self.arguments[0]

    @property
    def erased_count(self) -> int:
        """How many events it erases."""
        return len(self.arguments[-1]) if self.word.startswith("erase") else 0


def changed_rule(
    state: State, write: RetentionWrite, stream: str, rule: Rule, version: int, now: int
) -> Rule:
    """The rule of a stream at *version*, after a write that is not an erasure.

    Raises:
        InvalidArgument: a truncation after the stream's end.
    """
    # Hidden events stay hidden, even if the new rule would show them.
    first = first_version(state, stream, state.head(stream), version, rule, now)
    rule = rule._replace(before=max(rule.before, first))
    match write.word:
        case "truncate":
            before = write.arguments[1]
            if before > version + 1:
                raise InvalidArgument(
                    f"truncate: stream {stream!r} before version {before}; it is at version "
                    f"{version}"
                )
            return rule._replace(before=max(rule.before, before))
        case "delete_stream":
            if not version:
                return rule
            return rule._replace(before=version + 1, deleted=version, count_max=0, age_us_max=0)
        case "set_retention":
            _, count, age = write.arguments
            return rule._replace(count_max=count or 0, age_us_max=age or 0)
        case word:
            raise AssertionError(f"a write {word!r} that sets no rule")


_STREAM_UNITS: Final = 5
"""Units of work for an event that is erased, and for the snapshots of a stream."""


@dataclass(slots=True)
class _Stream:
    """The changes of one stream."""

    before: Rule
    rule: Rule
    is_deleted: bool = False


@dataclass(slots=True)
class RetentionEvaluator:
    """Evaluates the writes of one transaction, on the newest state.

    Attributes:
        deleted: the streams that the transaction deletes, with their versions at that point.
    """

    state: State
    now: int
    budget: WorkBudget | None = None
    deleted: dict[str, int] = field(default_factory=dict)
    _streams: dict[str, _Stream] = field(default_factory=dict)
    _erased: dict[int, None] = field(default_factory=dict)
    _count: int = 0
    _lowest_erased: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """By stream, the place of each erasing write, and the lowest version that it erases."""

    def apply(
        self, write: RetentionWrite, version: int, erased_own: Sequence[tuple[str, int]] = ()
    ) -> None:
        """Apply one write; *version* is its stream's version, including earlier appends.

        *erased_own* are the streams and versions of those events of the transaction itself that it
        erases. They are not in the state, so they are not in *write*.

        Raises:
            InvalidArgument, NoSuchEvent.
        """
        self._count += 1
        name = write.stream
        for own_stream, number in erased_own:
            self._note_erased(own_stream, number)
        if write.word.startswith("erase"):
            positions, versions = self._places(write)
            self._erase(name, positions, versions)
            return
        assert name is not None
        stream = self._stream(name)
        stream.rule = changed_rule(self.state, write, name, stream.rule, version, self.now)
        if write.word == "delete_stream" and version:
            stream.is_deleted = True
            self.deleted[name] = version

    def visibility(self, own: Callable[[str], int]) -> Visibility:
        """Which events can be read after the writes so far, in the newest state.

        *own* gives the number of events that the transaction has appended to a stream.
        """
        return Visibility(
            self.state, self.state.last_position, rule_of=self._rule, now=self.now, own=own
        )

    def _rule(self, name: str) -> Rule:
        stream = self._streams.get(name)
        if stream is not None:
            return stream.rule
        return hiding_rule(self.state, name, self.state.last_commit)

    def erases(self, position: int) -> bool:
        """Whether the transaction has erased the stored event at a position so far."""
        return position in self._erased

    def may_hold_erased(self, stream: str, version: int, place: int) -> bool:
        """Whether a snapshot that was saved before the write *place* holds data erased since."""
        lowest = self._lowest_erased.get(stream, ())
        return any(each >= place and version >= low for each, low in lowest)

    def writes(self, taken: Iterable[bytes]) -> Iterator[tuple[bytes, bytes | None]]:
        """Keys and values to write; keys of retention come last.

        *taken* are keys that the transaction itself writes; they are left out.
        """
        keys = set(taken)
        for name, stream in self._streams.items():
            if stream.rule == stream.before:
                continue
            self._step(_STREAM_UNITS)
            for key in self._useless_snapshots(name, stream):
                if key not in keys:
                    yield key, None
        for name, stream in self._streams.items():
            if stream.rule != stream.before:
                yield keyspaces.retention_key(name), encode_rule(stream.rule)
        for position in self._erased:
            yield keyspaces.erasure_key(position), b""

    def _stream(self, name: str) -> _Stream:
        stream = self._streams.get(name)
        if stream is None:
            rule = NO_RULE
            if self.state.retention.in_use:
                rule = stored_rule(self.state, name, self.state.last_commit)
            stream = self._streams[name] = _Stream(rule, rule)
        return stream

    def _useless_snapshots(self, name: str, stream: _Stream) -> Iterator[bytes]:
        first, last = keyspaces.snapshots_of(name)
        rule = stream.rule
        # Snapshots that were made since earlier erasures do not hold what those erased.
        lowest = min((low for _, low in self._lowest_erased.get(name, ())), default=NO_LIMIT)
        for key, _ in self.state.scan(first, last, self.state.last_commit):
            version = keyspaces.parse_snapshot_key(key).version
            if stream.is_deleted or version < rule.before - 1 or version >= lowest:
                yield key

    # Erasing.

    def _places(self, write: RetentionWrite) -> tuple[list[int], list[int]]:
        """The positions of the events, and their versions if the write names a stream, else 0."""
        state = self.state
        if write.word == "erase_positions":
            (positions,) = write.arguments
            for position in positions:
                if not 1 <= position <= state.last_position:
                    raise NoSuchEvent(
                        f"erase: there is no event at position {position}; the newest is at "
                        f"{state.last_position}"
                    )
            return list(positions), [0] * len(positions)
        stream, members = write.arguments
        head = state.head(stream)
        if write.word == "erase_ids":
            versions = []
            for event_id in members:
                version = state.event_version(stream, head, event_id) if head.version else None
                if version is None:
                    raise NoSuchEvent(
                        f"erase: stream {stream!r} has no event with the given id {event_id.hex()}"
                    )
                versions.append(version)
        else:
            versions = members
            for version in versions:
                if not 1 <= version <= head.version:
                    raise NoSuchEvent(
                        f"erase: stream {stream!r} has no version {version}; it is at version "
                        f"{head.version}"
                    )
        positions = [state.stream_positions(stream, head, each, each)[0] for each in versions]
        return positions, list(versions)

    def _erase(self, name: str | None, positions: list[int], versions: list[int]) -> None:
        state = self.state
        pending = {position for _, position in state.retention.pending}
        wanted = sorted(set(zip(positions, versions, strict=True)))
        events = state.each_event([position for position, _ in wanted])
        for (position, version), stored in zip(wanted, events, strict=True):
            if not stored:
                # A removed event has nothing left to erase, but snapshots may contain its data.
                if name is not None:
                    self._note_erased(name, version)
                continue
            if position in pending or position in self._erased:
                continue
            self._step(_STREAM_UNITS)
            event = decode_event(stored)
            if event.data is None:
                continue
            self._erased[position] = None
            self._note_erased(event.stream, event.version)

    def _step(self, units: int) -> None:
        if self.budget is not None:
            self.budget.step(units)

    def _note_erased(self, name: str, version: int) -> None:
        stream, place = self._stream(name), self._count - 1
        note_lowest(self._lowest_erased.setdefault(name, []), place, version)
        ever = stream.rule.erased_from
        stream.rule = stream.rule._replace(
            erased_from=min(ever, version) if ever else version,
            erased_commit=self.state.last_commit + 1,
        )


def note_lowest(lowest: list[tuple[int, int]], place: int, version: int) -> None:
    """Note the version of an event that the write at *place* erases; see _lowest_erased."""
    if lowest and lowest[-1][0] == place:
        lowest[-1] = (place, min(version, lowest[-1][1]))
    else:
        lowest.append((place, version))
