"""What a transaction's own appends, retention writes and erasures change for its own reads.

They are applied in the order of the request, as at commit: an append after a deletion begins the
stream again, and a cap pushes out events once later appends exceed it. The state that they start
from is that of the read view.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.events import decode_event, erase_event
from headwater_server.engine.format.stored_rules import Rule
from headwater_server.engine.retention.rules import first_version
from headwater_server.engine.retention.writes import RetentionWrite, changed_rule, note_lowest
from headwater_server.engine.state.layers import State
from headwater_server.engine.transactions.write_buffer import Append, WriteBuffer


@dataclass(slots=True)
class Erasures:
    """The events that a transaction erases.

    Attributes:
        positions: of stored events.
        versions: of all events, by stream; those that the transaction appends have no position.
        lowest: by stream, the place of each erasing write, and the lowest version that it erases.
    """

    positions: set[int] = field(default_factory=set)
    versions: dict[str, set[int]] = field(default_factory=dict)
    lowest: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def masked(self, stored: bytes) -> bytes:
        """A stored event, without its data if it is erased."""
        return erase_event(stored) if decode_event(stored).position in self.positions else stored


class OwnWrites:
    """The appends and retention writes of one transaction, by stream."""

    __slots__ = ("_appends", "_buffer", "_counted", "_erasures", "_position", "_state", "_writes")

    def __init__(self, state: State, buffer: WriteBuffer, position: int) -> None:
        self._state = state
        self._buffer = buffer
        self._position = position
        self._counted = (0, 0)
        self._appends: dict[str, list[tuple[int, Append]]] = {}
        self._writes: dict[str, list[RetentionWrite]] = {}
        self._erasures: Erasures | None = None

    def thins(self, stream: str) -> bool:
        """Whether the transaction itself writes the rule of a stream."""
        if not self._buffer.retention:
            return False
        self._count()
        return stream in self._writes

    def stream(
        self, name: str, rule: Callable[[str], Rule], time: int
    ) -> tuple[Rule, list[list[Any]]]:
        """The rule of a stream, and the events that the transaction appends to it, in order.

        *rule* gives the rule at the read view. Events that are stored already are left out.
        """
        found, placed = self._placed(name, rule, time)
        return found, [event for append in placed for event in append[1].events]

    def _placed(
        self, name: str, rule: Callable[[str], Rule], time: int
    ) -> tuple[Rule, list[tuple[int, Append]]]:
        """The rule of a stream, and the appends that add events to it, with their places."""
        self._count()
        appends, writes = self._appends.get(name, ()), deque(self._writes.get(name, ()))
        found = rule(name)
        placed: list[tuple[int, Append]] = []
        if not appends and not writes:
            return found, placed
        head = self._state.head(name)
        stored = version = self._state.version_at(name, head, self._position)
        for place, append in appends:
            while writes and writes[0].place <= place:
                found = changed_rule(self._state, writes.popleft(), name, found, version, time)
            if append.has_ids and stored and self._is_done(append, found, stored, version, time):
                continue
            placed.append((place, append))
            version += len(append.events)
        for write in writes:
            found = changed_rule(self._state, write, name, found, version, time)
        return found, placed

    def _is_done(self, append: Append, rule: Rule, stored: int, version: int, time: int) -> bool:
        """Whether all events of an append are stored already, by their ids."""
        if any(event[0] is None for event in append.events):
            return False
        state, stream = self._state, append.stream
        head = state.head(stream)
        first = first_version(state, stream, head, version, rule, time) if rule.may_hide else 1
        found = (state.event_version(stream, head, event[0]) for event in append.events)
        return all(number is not None and first <= number <= stored for number in found)

    def _count(self) -> None:
        """Sort the writes that were added since the last call by their streams."""
        buffer = self._buffer
        appends, writes = self._counted
        for place in range(appends, len(buffer.appends)):
            append = buffer.appends[place]
            self._appends.setdefault(append.stream, []).append((place, append))
        for write in buffer.retention[writes:]:
            if write.stream is not None and not write.erased_count:
                self._writes.setdefault(write.stream, []).append(write)
        self._counted = (len(buffer.appends), len(buffer.retention))
        if len(buffer.retention) > writes:
            self._erasures = None

    # Erasures.

    def holds_erased(self, key: bytes, rule: Callable[[str], Rule], time: int) -> bool:
        """Whether a snapshot holds data that the transaction erases after it was saved."""
        erasures, snapshot = self.erasures(rule, time), keyspaces.parse_snapshot_key(key)
        if erasures is None or snapshot.stream not in erasures.lowest:
            return False
        own = [each.place for each in self._buffer.snapshots if each.key == key]
        place = own[-1] if own else 0
        return any(
            each >= place and snapshot.version >= lowest
            for each, lowest in erasures.lowest[snapshot.stream]
        )

    def erasures(self, rule: Callable[[str], Rule], time: int) -> Erasures | None:
        """The events that the transaction erases, or None; *rule* as for `stream`."""
        if not self._buffer.erased:
            return None
        self._count()
        if self._erasures is None:
            erasures = self._erasures = Erasures()
            own: dict[str, dict[bytes, tuple[int, int]]] = {}
            for place, write in enumerate(self._buffer.retention):
                stream = write.stream
                if write.word == "erase_ids" and stream is not None and stream not in own:
                    own[stream] = self._own_ids(stream, rule, time)
                if write.erased_count:
                    self._note_erased(erasures, place, write, own)
        return self._erasures

    def _own_ids(
        self, stream: str, rule: Callable[[str], Rule], time: int
    ) -> dict[bytes, tuple[int, int]]:
        """The place and version of the events that the transaction appends, by their ids."""
        own: dict[bytes, tuple[int, int]] = {}
        version = self._state.version_at(stream, self._state.head(stream), self._position)
        for place, append in self._placed(stream, rule, time)[1]:
            for event in append.events:
                version += 1
                own[event[0]] = place, version
        return own

    def _note_erased(
        self,
        erasures: Erasures,
        place: int,
        write: RetentionWrite,
        own: dict[str, dict[bytes, tuple[int, int]]],
    ) -> None:
        state, stream = self._state, write.stream
        if stream is None:
            wanted = sorted({each for each in write.arguments[0] if each <= self._position})
            for stored in filter(None, state.each_event(wanted)):
                event = decode_event(stored)
                if event.data is not None and event.position not in erasures.positions:
                    _add(erasures, place, event.stream, event.version, event.position)
            return
        head = state.head(stream)
        last = state.version_at(stream, head, self._position)
        for version in self._versions(write, stream, last, own):
            # An event is erased once: snapshots that are saved after that do not contain its data.
            if version > last:
                if version not in erasures.versions.get(stream, ()):
                    _add(erasures, place, stream, version, 0)
                continue
            position = state.stream_positions(stream, head, version, version)[0]
            stored = state.events([position])[0]
            if stored and (position in erasures.positions or decode_event(stored).data is None):
                continue
            # A removed event has no data, but snapshots may contain it.
            _add(erasures, place, stream, version, position)

    def _versions(
        self,
        write: RetentionWrite,
        stream: str,
        last: int,
        own: dict[str, dict[bytes, tuple[int, int]]],
    ) -> list[int]:
        """The versions of a stream that a write erases; those that do not exist may be missing."""
        if write.word == "erase":
            return list(write.arguments[1])
        head = self._state.head(stream)
        versions: list[int] = []
        for event_id in write.arguments[1]:
            place, version = own[stream].get(event_id, (write.place, 0))
            found: int | None = version
            if place >= write.place:
                # Appended later or not at all, so the write means the stored event.
                found = self._state.event_version(stream, head, event_id) if last else None
            if found is not None:
                versions.append(found)
        return versions


def _add(erasures: Erasures, place: int, stream: str, version: int, position: int) -> None:
    if position:
        erasures.positions.add(position)
    erasures.versions.setdefault(stream, set()).add(version)
    note_lowest(erasures.lowest.setdefault(stream, []), place, version)
