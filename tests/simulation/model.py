"""The model: keys and streams at every commit, in plain Python.

    Model      the effects of all commits, in order
    View       the model at a commit, with the writes of a transaction: what that transaction reads

The model never removes events. It stores which commits hide or erase them, and applies that when
events are read.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from tests.simulation.ages import Ages, age_us
from tests.simulation.history import (
    Add,
    Append,
    DeleteRange,
    DeleteStream,
    Erase,
    Expire,
    Feed,
    Get,
    Kept,
    Key,
    Listing,
    Load,
    Operation,
    Put,
    Query,
    Read,
    Retain,
    Save,
    Scan,
    Seen,
    Truncate,
    erased_element,
)
from tests.simulation.thinning import EVERYTHING, Rule, Snapshots, first_version, thinned


def fold(schema: int, elements: Iterable[str], state: Any = None) -> dict[str, Any]:
    """The state of an aggregate in the workload `aggregates`.

    It depends on all events and their order, and differs for different schemas.
    """
    count, digest = (0, schema) if state is None else (state["count"], state["digest"])
    for element in elements:
        count += 1
        for letter in element:
            digest = (digest * 31 + ord(letter)) % 1_000_000_007
    return {"schema": schema, "count": count, "digest": digest}


class Model:
    """Keys and streams at every commit."""

    def __init__(self, *, snapshots_kept: int = 1) -> None:
        self.last = 0
        self.times: list[int] = []
        """The times of the commits, in microseconds."""
        self.events: list[Seen] = []
        self._expiries: dict[Key, int] = {}
        """When keys expire, in microseconds, as of the last commit."""
        self._keys: dict[Key, list[tuple[int, Any]]] = defaultdict(list)
        self._streams: dict[str, list[Seen]] = defaultdict(list)
        self._rules: dict[str, list[tuple[int, Rule]]] = defaultdict(list)
        self.snapshots = Snapshots(snapshots_kept)
        self.hidden: dict[int, int] = {}
        """The commit that hid an event, by position."""
        self.erased: dict[int, int] = {}
        """The commit that erased an event, by position."""

    def commit(self, operations: Iterable[Operation], time: int = 0, begun: int = 0) -> None:
        """Apply the next commit, of a transaction that has *begun* then."""
        self.times.append(time)
        view = View(self, self.last)
        for operation in operations:
            view.apply(operation)
        self.last += 1
        for key, value in view.changed.items():
            self._keys[key].append((self.last, value))
            if key not in view.counted or value is None:
                self._expiries.pop(key, None)
        for key, after in view.expiries.items():
            self._expiries.pop(key, None)
            if after is not None and self.value(key, self.last) is not None:
                self._expiries[key] = time + after
        for stream, kind, element in view.order:
            events = self._streams[stream]
            event = Seen(len(self.events) + 1, stream, len(events) + 1, self.last, kind, element)
            events.append(event)
            self.events.append(event)
        for stream, rule in view.rules.items():
            self._rules[stream].append((self.last, rule))
        for stream in {*view.rules, *(stream for stream, _, _ in view.order)}:
            self._hide(stream)
        for operation in operations:
            match operation:
                case Erase(stream, versions):
                    for version in versions:
                        self.erased.setdefault(
                            self._streams[stream][version - 1].position, self.last
                        )
                    self.snapshots.erase(self.last, stream, versions, begun)
                case Save():
                    self.snapshots.save(self.last, operation)

    def expired(self, time: int) -> list[Key]:
        """The keys that must be deleted before any commit of this time."""
        return [key for key, until in self._expiries.items() if until <= time]

    def _hide(self, stream: str) -> None:
        first = self.first(stream, self.last)
        for event in self._streams.get(stream, [])[: first - 1]:
            self.hidden.setdefault(event.position, self.last)

    def rule(self, stream: str, commit: int) -> Rule:
        """The retention of a stream at a commit."""
        rules = self._rules.get(stream, [])
        place = bisect_right(rules, commit, key=lambda rule: rule[0])
        return rules[place - 1][1] if place else EVERYTHING

    def first(self, stream: str, commit: int) -> int:
        """The first readable version of a stream at a commit."""
        return first_version(self.rule(stream, commit), len(self.stream(stream, commit)))

    def shown(self, events: Iterable[Seen]) -> list[Seen]:
        """The events in the form of a final read, without hidden events and erased data."""
        return [
            event._replace(element=erased_element(event.position))
            if event.position in self.erased
            else event
            for event in events
            if event.position not in self.hidden
        ]

    def names(self) -> Iterable[str]:
        return self._streams.keys()

    def value(self, key: Key, commit: int) -> Any:
        versions = self._keys.get(key, [])
        place = bisect_right(versions, commit, key=lambda version: version[0])
        return versions[place - 1][1] if place else None

    def keys(self) -> Iterable[Key]:
        return self._keys.keys()

    def stream(self, stream: str, commit: int) -> list[Seen]:
        events = self._streams.get(stream, [])
        return events[: bisect_right(events, commit, key=lambda event: event.commit)]

    def all_events(self, commit: int) -> list[Seen]:
        return self.events[: bisect_right(self.events, commit, key=lambda event: event.commit)]


class View:
    """The model at a commit, with the writes of a transaction."""

    def __init__(
        self, model: Model, commit: int, *, aging: bool = True, ended: int | None = None
    ) -> None:
        """Without *aging*, any event that expires at some time may be missing.

        *ended* is when the reader ended, if that is known.
        """
        self._ended = ended
        self._model = model
        self._commit = commit
        self._ages = Ages(model.times, commit) if aging else None
        self.changed: dict[Key, Any] = {}
        self.counted: set[Key] = set()
        """Changed keys of which the last write kept the expiry."""
        self.expiries: dict[Key, int | None] = {}
        self.order: list[tuple[str, str, str]] = []
        self.rules: dict[str, Rule] = {}
        self.erased: set[tuple[str, int]] = set()

    def apply(self, operation: Operation) -> None:
        """Apply a write of the transaction."""
        match operation:
            case Put(key, value):
                self._set(key, value)
            case Expire(key, after):
                if self._value(key) is not None:
                    self.expiries[key] = after
            case DeleteRange(prefix):
                for key, _ in self._items(prefix):
                    self._set(key, None)
            case Add(key, number):
                if key not in self.changed:
                    self.counted.add(key)
                self.changed[key] = (self._value(key) or 0) + number
            case Append(stream, elements):
                self.order += [(stream, kind, element) for element, kind in elements]
            case Truncate(stream) | DeleteStream(stream) | Retain(stream):
                version = len(self._all_events(stream))
                self.rules[stream] = thinned(self._rule(stream), version, operation)
            case Erase(stream, versions):
                self.erased |= {(stream, version) for version in versions}
            case _:
                pass

    def expected(self, read: Operation, floor: int = 0) -> Operation | None:
        """The expected result of a read; None if the operation is a write.

        Data that a commit up to *floor* erased must not be returned; data that a later one erased
        may.
        """
        floor = max(floor, self._commit)
        match read:
            case Get(key, _):
                return read._replace(value=self._value(key))
            case Scan(prefix, limit, reverse, _):
                items = self._items(prefix)
                if reverse:
                    items.reverse()
                return read._replace(items=items[:limit])
            case Read(stream, after, _):
                later = [event for event in self._events(stream) if event.version > after]
                later = self._young_enough(later, read.elements)
                return read._replace(elements=self._settled(later, read.elements, floor))
            case Query(after, category, kind, _, tags):
                kinds = (kind,) if kind else ()
                feed = Feed("", 0, category=category, kinds=kinds, tags=tags)
                events = self._model.all_events(self._commit)[after:]
                found = [e for e in events if feed.wants(e) and e.version >= self._first(e.stream)]
                found = self._young_enough(found, read.elements)
                return read._replace(elements=self._settled(found, read.elements, floor))
            case Load(stream, schema, _, _):
                elements = [event.element for event in self._events(stream)]
                return read._replace(version=len(elements), state=fold(schema, elements))
            case Kept():
                return self._kept(read, floor)
            case Listing(prefix, _):
                return read._replace(streams=list(self._listed(prefix)))
            case _:
                return None

    def _set(self, key: Key, value: Any) -> None:
        self.changed[key] = value
        self.counted.discard(key)
        self.expiries.pop(key, None)

    def _value(self, key: Key) -> Any:
        if key in self.changed:
            return self.changed[key]
        return self._model.value(key, self._commit)

    def _items(self, prefix: Key) -> list[tuple[Key, Any]]:
        keys = {*self._model.keys(), *self.changed}
        chosen = sorted(key for key in keys if key[: len(prefix)] == prefix)
        items = [(key, self._value(key)) for key in chosen]
        return [(key, value) for key, value in items if value is not None]

    def _rule(self, stream: str) -> Rule:
        rule = self.rules.get(stream)
        return self._model.rule(stream, self._commit) if rule is None else rule

    def _first(self, stream: str) -> int:
        return first_version(self._rule(stream), len(self._all_events(stream)))

    def _all_events(self, stream: str) -> list[Seen]:
        """All events of a stream, with those of the transaction at position 0."""
        events = list(self._model.stream(stream, self._commit))
        for name, kind, element in self.order:
            if name == stream:
                events.append(Seen(0, stream, len(events) + 1, 0, kind, element))
        return events

    def _events(self, stream: str) -> list[Seen]:
        first = self._first(stream)
        return [event for event in self._all_events(stream) if event.version >= first]

    def _young_enough(self, events: list[Seen], found: list[str]) -> list[Seen]:
        if self._ages is not None:
            return self._ages.readable(events, found)
        return [each for each in events if age_us(each.stream) is None or each.element in found]

    def _settled(self, events: list[Seen], found: list[str], floor: int) -> list[str]:
        """The expected elements. Where two results are right, the one that was read."""
        elements = []
        for place, event in enumerate(events):
            erased = erased_element(event.position)
            commit = self._model.erased.get(event.position)
            late = commit is not None and commit > floor
            seen = place < len(found) and found[place] == erased
            gone = commit is not None and (seen or not late)
            gone = gone or (event.stream, event.version) in self.erased
            elements.append(erased if gone else event.element)
        return elements

    def _kept(self, read: Kept, floor: int) -> Kept:
        stream, base = read.stream, read.base
        rule, first, every = self._rule(stream), self._first(stream), self._all_events(stream)
        known = self._model.snapshots.newest(
            stream, read.schema, self._commit, len(every), self._ended
        )
        if known < max(first - 1, rule.deleted + 1):
            known = 0
        if base is not None and base < max(first - 1, rule.deleted + 1):
            base = None
        erased = [version for name, version in self.erased if name == stream]
        if erased:
            # Its own erasure hides the snapshots that include what it erased. What was erased
            # before is in no snapshot that there is, so erasing it again may leave them.
            known = 0
            before = [self._model.erased.get(every[each - 1].position) for each in erased]
            fresh = [
                version
                for version, commit in zip(erased, before, strict=True)
                if commit is None or commit > self._commit
            ]
            if base is not None and fresh and base >= min(fresh):
                base = None
        if known and (base is None or base < known):
            base = known
        begins = rule.deleted + 1
        from_version = first if base is None else begins
        events = [event for event in every if event.version >= from_version]
        elements = self._settled(events, read.elements, floor)
        version = 0 if rule.deleted == len(every) else len(every)
        return read._replace(version=version, begins=begins, base=base, elements=elements)

    def _listed(self, prefix: str) -> Iterator[tuple[str, int, int, int]]:
        for stream in sorted(self._model.names()):
            version, rule = len(self._all_events(stream)), self._rule(stream)
            if stream.startswith(prefix) and version and rule.deleted != version:
                yield stream, version, self._first(stream), rule.deleted + 1
