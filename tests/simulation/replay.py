"""A history against the commit log: is everything that was seen what commits, in order, make?

The database says more of itself than an order that must be guessed: it numbers its commits, and
claims that this is the order in which they took place, that serializable transactions happened
there and nowhere else, and that every read was of a commit. Elle (elle.py) does not look at
these claims. This does: it replays what clients asked to be written, commit by commit, in a
model of a page, and compares.

    every read            the model at the commit that it was of, with the reader's own writes
    serializable          the same reads once more, right before its own commit
    what was acknowledged is in the commit log, under the number that was told; what was aborted
                          is not; what is unknown may be
    who began later       reads at, and commits after, all that was acknowledged before
    numbers               of commits, positions, versions: each once, none left out
    subscriptions         each the events that it asked for, in order, up to where it came
    the end               what the database holds is what the model holds
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from tests.simulation.history import (
    Add,
    Append,
    Attempt,
    DeleteRange,
    Dump,
    Feed,
    Get,
    History,
    Key,
    Load,
    NoEvents,
    Operation,
    Outcome,
    Put,
    Query,
    Read,
    Scan,
    Seen,
)


def fold(schema: int, elements: Iterable[str], state: Any = None) -> dict[str, Any]:
    """The aggregate of the aggregates' workload.

    It forgets nothing, not even the order, and code of another schema comes to another state.
    """
    count, digest = (0, schema) if state is None else (state["count"], state["digest"])
    for element in elements:
        count += 1
        for letter in element:
            digest = (digest * 31 + ord(letter)) % 1_000_000_007
    return {"schema": schema, "count": count, "digest": digest}


class Model:
    """Keys and streams at every commit."""

    def __init__(self) -> None:
        self.last = 0
        self.events: list[Seen] = []
        self._keys: dict[Key, list[tuple[int, Any]]] = defaultdict(list)
        self._streams: dict[str, list[Seen]] = defaultdict(list)

    def commit(self, operations: Iterable[Operation]) -> None:
        """The next commit."""
        view = View(self, self.last)
        for operation in operations:
            view.apply(operation)
        self.last += 1
        for key, value in view.changed.items():
            self._keys[key].append((self.last, value))
        for stream, kind, element in view.order:
            events = self._streams[stream]
            event = Seen(len(self.events) + 1, stream, len(events) + 1, self.last, kind, element)
            events.append(event)
            self.events.append(event)

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
    """The model at a commit, with the writes of a transaction on top."""

    def __init__(self, model: Model, commit: int) -> None:
        self._model = model
        self._commit = commit
        self.changed: dict[Key, Any] = {}
        self.order: list[tuple[str, str, str]] = []

    def apply(self, operation: Operation) -> None:
        """Write."""
        match operation:
            case Put(key, value):
                self.changed[key] = value
            case DeleteRange(prefix):
                for key, _ in self._items(prefix):
                    self.changed[key] = None
            case Add(key, number):
                self.changed[key] = (self._value(key) or 0) + number
            case Append(stream, elements):
                self.order += [(stream, kind, element) for element, kind in elements]
            case _:
                pass

    def expected(self, read: Operation) -> Operation | None:
        """The read as it should have been; None if it is a write."""
        match read:
            case Get(key, _):
                return read._replace(value=self._value(key))
            case Scan(prefix, limit, reverse, _):
                items = self._items(prefix)
                if reverse:
                    items.reverse()
                return read._replace(items=items[:limit])
            case Read(stream, after, _):
                return read._replace(elements=self._elements(stream)[after:])
            case Query(after, category, kind, _, tags):
                kinds = (kind,) if kind else ()
                feed = Feed("", 0, category=category, kinds=kinds, tags=tags)
                events = self._model.all_events(self._commit)[after:]
                found = [event.element for event in events if feed.wants(event)]
                return read._replace(elements=found)
            case Load(stream, schema, _, _):
                elements = self._elements(stream)
                return read._replace(version=len(elements), state=fold(schema, elements))
            case _:
                return None

    def _value(self, key: Key) -> Any:
        if key in self.changed:
            return self.changed[key]
        return self._model.value(key, self._commit)

    def _items(self, prefix: Key) -> list[tuple[Key, Any]]:
        keys = {*self._model.keys(), *self.changed}
        chosen = sorted(key for key in keys if key[: len(prefix)] == prefix)
        items = [(key, self._value(key)) for key in chosen]
        return [(key, value) for key, value in items if value is not None]

    def _elements(self, stream: str) -> list[str]:
        elements = [event.element for event in self._model.stream(stream, self._commit)]
        return elements + [element for name, _, element in self.order if name == stream]


def misfit(model: Model, attempt: Attempt, commit: int) -> str | None:
    """The first read of an attempt that is not of a commit, or None."""
    view = View(model, commit)
    for operation in attempt.operations:
        expected = view.expected(operation)
        if expected is None:
            view.apply(operation)
        elif expected != operation:
            return f"{attempt}: {operation} is not what commit {commit} has: {expected}"
    return None


def check_history(history: History, dump: Dump) -> list[str]:
    """What is wrong with a history that ended with *dump*; empty if nothing is."""
    problems = [*_numbers(dump)]
    if problems:
        return problems
    by_identity = {
        attempt.identity: attempt for attempt in history.attempts if attempt.identity is not None
    }
    by_commit = {
        attempt.commit: attempt for attempt in history.attempts if attempt.commit is not None
    }
    model = Model()
    for logged in dump.commits:
        attempt = by_identity.get(logged.transaction) or by_commit.get(logged.commit)
        if attempt is None and history.grouped and not logged.events:
            # Of a consumer group: no key of a client may have changed by it.
            model.commit([])
            continue
        if attempt is None:
            return [f"commit {logged.commit} is of nobody: {logged.transaction.hex()}"]
        problems += _told(attempt, logged.commit)
        attempt.commit = logged.commit
        problems += _conditions(model, attempt)
        model.commit(attempt.operations)
        if len(model.all_events(logged.commit)) - len(model.all_events(logged.commit - 1)) != (
            logged.events
        ):
            problems.append(f"commit {logged.commit} has {logged.events} events; {attempt}")
    problems += _acknowledged(history, dump)
    problems += _fates(history, dump)
    problems += _reads(history, model)
    problems += _real_time(history)
    problems += _end(model, dump)
    for feed in history.feeds:
        problems += feed_problems(feed, dump.events)
    return problems


def _numbers(dump: Dump) -> Iterator[str]:
    """Numbers are dense, times do not go back."""
    time = 0
    position = 0
    for place, logged in enumerate(dump.commits, 1):
        if logged.commit != place:
            yield f"commit {logged.commit} in the place of commit {place}"
        if logged.time < time:
            yield f"commit {logged.commit} is of a time before that of the commit before"
        if logged.events and logged.first_position != position + 1:
            yield f"commit {logged.commit} begins at {logged.first_position}, not {position + 1}"
        position += logged.events
        time = logged.time
    if len({logged.transaction for logged in dump.commits}) != len(dump.commits):
        yield "a transaction is twice in the commit log"
    versions: dict[str, int] = defaultdict(int)
    for place, event in enumerate(dump.events, 1):
        versions[event.stream] += 1
        if event.position != place:
            yield f"position {event.position} in the place of position {place}"
        if event.version != versions[event.stream]:
            yield f"{event} has not version {versions[event.stream]}"


def _told(attempt: Attempt, commit: int) -> Iterator[str]:
    """Whether its client was told what the commit log has."""
    if attempt.outcome is Outcome.ABORTED:
        yield f"{attempt} is in the commit log as {commit}"
    if attempt.commit not in (None, commit):
        yield f"{attempt} is in the commit log as {commit}"
    if attempt.floor >= commit:
        yield f"{attempt} is in the commit log as {commit}, but began later"


def _conditions(model: Model, attempt: Attempt) -> Iterator[str]:
    """Conditions of an attempt that did not hold at the end of the model, when it committed."""
    for operation in attempt.operations:
        if isinstance(operation, NoEvents):
            unwanted = Feed("", 0, tags=operation.tags)
            for event in filter(unwanted.wants, model.events[operation.after :]):
                yield f"{attempt} committed on condition of {operation}, against {event}"
                break


def _acknowledged(history: History, dump: Dump) -> Iterator[str]:
    last = len(dump.commits)
    for attempt in history.attempts:
        if attempt.outcome is Outcome.COMMITTED and attempt.writes:
            if attempt.commit is None or attempt.commit > last:
                yield f"lost: {attempt}; the newest commit is {last}"
            elif attempt.identity not in (None, dump.commits[attempt.commit - 1].transaction):
                yield f"lost: {attempt}; its commit is of another transaction"
    if history.acknowledged > last:
        yield f"lost: commit {history.acknowledged} was acknowledged; the newest is {last}"


def _fates(history: History, dump: Dump) -> Iterator[str]:
    """What was said of transactions to those who asked."""
    commits = {logged.transaction: logged.commit for logged in dump.commits}
    for fate in history.fates:
        commit = commits.get(fate.transaction)
        if fate.state == "committed" and fate.commit != commit:
            yield f"{fate} was told; it is commit {commit}"
        if fate.state == "aborted" and commit is not None:
            yield f"{fate} was told, but it is commit {commit}"


def _reads(history: History, model: Model) -> Iterator[str]:
    for attempt in history.attempts:
        if attempt.view is not None:
            if attempt.view > model.last:
                yield f"{attempt} read at a commit that never was; the newest is {model.last}"
                continue
            problem = misfit(model, attempt, attempt.view)
            if problem is not None:
                yield problem
        elif attempt.commit is None and attempt.operations and not attempt.writes:
            # Read outside of a transaction: of some commit that was not older than allowed.
            views = range(attempt.floor, model.last + 1)
            problems = [misfit(model, attempt, view) for view in views]
            if all(problems):
                yield f"at no commit from {attempt.floor} on: {problems[:1]}"
        if attempt.commit is not None and attempt.isolation == "serializable":
            problem = misfit(model, attempt, attempt.commit - 1)
            if problem is not None:
                yield f"not serializable: {problem}"


def _real_time(history: History) -> Iterator[str]:
    for attempt in history.attempts:
        if attempt.view is not None and attempt.view < attempt.floor and attempt.name != "past":
            yield f"{attempt} read at {attempt.view}, though {attempt.floor} was acknowledged"


def _end(model: Model, dump: Dump) -> Iterator[str]:
    if dump.events != model.events:
        wrong = [
            (found, expected)
            for found, expected in zip(dump.events, model.events, strict=False)
            if found != expected
        ]
        yield (
            f"{len(dump.events)} events at the end, and not {len(model.events)}; "
            f"the first that differs: {wrong[:1]}"
        )
    expected = View(model, model.last).expected(Scan((), None, False, []))
    assert isinstance(expected, Scan)
    if dump.keys != expected.items:
        differing = [item for item in dump.keys if item not in expected.items]
        missing = [item for item in expected.items if item not in dump.keys]
        yield f"keys at the end that should not be there: {differing}; missing: {missing}"
    for stream, events in dump.streams.items():
        if events != model.stream(stream, model.last):
            yield f"{stream} at the end: {events}, not {model.stream(stream, model.last)}"


def feed_problems(feed: Feed, events: list[Seen]) -> Iterator[str]:
    """What is wrong with a subscription, which may have ended anywhere."""
    wanted = [event for event in events if event.position > feed.after and feed.wants(event)]
    if feed.events != wanted[: len(feed.events)]:
        place = next(
            place
            for place, found in enumerate(feed.events)
            if place >= len(wanted) or found != wanted[place]
        )
        yield (
            f"{feed.client}, subscribed after {feed.after} to {feed.category or feed.stream}: "
            f"event {place} was {feed.events[place]}, not {wanted[place : place + 1]}"
        )
    reached = feed.events[-1].position if feed.events else feed.after
    missed = [event for event in wanted if reached < event.position <= feed.caught_up]
    if missed:
        yield f"{feed.client} was told that it had caught up with {feed.caught_up}: {missed[:1]}"
