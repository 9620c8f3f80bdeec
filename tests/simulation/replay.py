"""The replay: compares a history with the commit log.

The database numbers its commits and claims that this is their serial order, that serializable
transactions read as of their commit, and that every read is of one commit. Elle (elle.py) does not
use these claims. This checker does: it replays the clients' writes, commit by commit, in a model
(model.py), and compares.

    every read            equals the model at its commit, with the reader's own writes
    serializable reads    also equal the model just before their own commit
    acknowledged commits  are in the commit log with their numbers, even if they changed nothing;
                          aborted ones are not; unknown ones may be
    later transactions    read at, and commit after, everything that was acknowledged before
    numbers               of commits, positions and versions have no gaps or duplicates
    subscriptions         receive exactly their events, in order, up to where they ended
    hidden, erased        events are in no read after the commit that hid or erased them; see
                          thinning.py
    expiring events       are returned while young enough, the same in all reads of a view; see
                          ages.py
    keys that expire      are deleted by a commit of the database, before any commit of that time
    the final state       of the database equals the model
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from tests.simulation.ages import NEVER, age_us
from tests.simulation.history import (
    Append,
    Attempt,
    DeleteStream,
    Dump,
    Feed,
    History,
    NoEvents,
    Outcome,
    Put,
    Retain,
    Scan,
    Seen,
    StatusAnswer,
    Truncate,
    erased_element,
)
from tests.simulation.model import Model, View


def wrong_read(model: Model, attempt: Attempt, commit: int, *, aging: bool = True) -> str | None:
    """The first read of an attempt that differs from the commit, or None."""
    view = View(model, commit, aging=aging, ended=attempt.ended)
    for place, operation in enumerate(attempt.operations):
        expected = view.expected(operation, attempt.floors.get(place, attempt.floor))
        if expected is None:
            view.apply(operation)
        elif expected != operation:
            return f"{attempt}: {operation} is not what commit {commit} has: {expected}"
    return None


def check_history(history: History, dump: Dump) -> list[str]:
    """The problems of a history that ended with *dump*; empty if there are none."""
    thinning = Truncate | DeleteStream | Retain
    whole = not any(
        isinstance(each, thinning) or (isinstance(each, Append) and age_us(each.stream) is not None)
        for attempt in history.attempts
        for each in attempt.operations
    )
    problems = [*_numbers(dump, whole=whole)]
    if problems:
        return problems
    by_identity = {
        attempt.identity: attempt for attempt in history.attempts if attempt.identity is not None
    }
    by_commit = {
        attempt.commit: attempt
        for attempt in history.attempts
        if attempt.commit is not None and attempt.identity is None
    }
    model = Model(snapshots_kept=history.snapshots_kept)
    for logged in dump.commits:
        attempt = by_identity.get(logged.transaction) or by_commit.get(logged.commit)
        if attempt is None and (history.grouped or history.projecting) and not logged.events:
            # A commit of a consumer group or a projection. It must not change any key of a client.
            model.commit([], logged.time)
            continue
        expired = model.expired(logged.time)
        if attempt is None and expired and not logged.events:
            # The database deletes keys that have expired, all of them at once.
            model.commit([Put(key, None) for key in expired], logged.time)
            continue
        if expired:
            problems.append(f"keys {expired} had expired before commit {logged.commit}; {attempt}")
        if attempt is None:
            return [f"commit {logged.commit} belongs to no attempt: {logged.transaction.hex()}"]
        problems += _told(attempt, logged.commit)
        attempt.commit = logged.commit
        problems += _conditions(model, attempt)
        model.commit(attempt.operations, logged.time, attempt.begun)
        if len(model.all_events(logged.commit)) - len(model.all_events(logged.commit - 1)) != (
            logged.events
        ):
            problems.append(f"commit {logged.commit} has {logged.events} events; {attempt}")
    problems += _acknowledged(history, dump)
    problems += _status_answers(history, dump)
    problems += _reads(history, model)
    problems += _real_time(history)
    problems += _end(model, dump)
    aged = {each.position: NEVER for each in model.events if age_us(each.stream) is not None}
    for feed in history.feeds:
        problems += feed_problems(feed, model.events, aged | model.hidden, model.erased)
    return problems


def _numbers(dump: Dump, *, whole: bool) -> Iterator[str]:
    """Check numbers and times. If not *whole*, some events are hidden."""
    time = 0
    position = 0
    for place, logged in enumerate(dump.commits, 1):
        if logged.commit != place:
            yield f"commit {logged.commit} instead of commit {place}"
        if logged.time < time:
            yield f"commit {logged.commit} has an earlier time than the commit before it"
        if logged.events and logged.first_position != position + 1:
            yield f"commit {logged.commit} begins at {logged.first_position}, not {position + 1}"
        position += logged.events
        time = logged.time
    if len({logged.transaction for logged in dump.commits}) != len(dump.commits):
        yield "a transaction is twice in the commit log"
    versions: dict[str, int] = defaultdict(int)
    if not whole:
        return
    for place, event in enumerate(dump.events, 1):
        versions[event.stream] += 1
        if event.position != place:
            yield f"position {event.position} instead of position {place}"
        if event.version != versions[event.stream]:
            yield f"{event} should have version {versions[event.stream]}"


def _told(attempt: Attempt, commit: int) -> Iterator[str]:
    """Compare the outcome that the client was told with the commit log."""
    if attempt.outcome is Outcome.ABORTED:
        yield f"{attempt} is in the commit log as {commit}"
    if attempt.commit not in (None, commit):
        yield f"{attempt} is in the commit log as {commit}"
    if attempt.floor >= commit:
        yield f"{attempt} is in the commit log as {commit}, but began later"


def _conditions(model: Model, attempt: Attempt) -> Iterator[str]:
    """Conditions of an attempt that the model violates, just before the attempt's commit."""
    for operation in attempt.operations:
        if isinstance(operation, NoEvents):
            unwanted = Feed("", 0, tags=operation.tags)
            for event in filter(unwanted.wants, model.events[operation.after :]):
                if event.position in model.hidden:
                    continue
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


def _status_answers(history: History, dump: Dump) -> Iterator[str]:
    """Check the answers to `status` requests."""
    commits = {logged.transaction: logged.commit for logged in dump.commits}
    aborted: dict[bytes, StatusAnswer] = {}
    for answer in history.status_answers:
        commit = commits.get(answer.transaction)
        if answer.state == "committed" and answer.commit != commit:
            yield f"{answer} was told; it is commit {commit}"
        if answer.state == "aborted" and commit is not None:
            yield f"{answer} was told, but it is commit {commit}"
        if answer.state == "aborted":
            aborted.setdefault(answer.transaction, answer)
        earlier = aborted.get(answer.transaction)
        if answer.state == "open" and earlier is not None and earlier.told < answer.asked:
            yield f"{answer} was told, after {earlier}"
        if answer.state == "open" and commit is not None and commit <= answer.floor:
            yield f"{answer} was told after it was acknowledged as commit {commit}"


def _reads(history: History, model: Model) -> Iterator[str]:
    for attempt in history.attempts:
        if attempt.view is not None:
            if attempt.view > model.last:
                yield f"{attempt} read at a commit that does not exist; the newest is {model.last}"
                continue
            problem = wrong_read(model, attempt, attempt.view)
            if problem is not None:
                yield problem
        elif attempt.commit is None and attempt.operations and not attempt.writes:
            # A read outside a transaction may be of any commit that is new enough.
            views = range(attempt.floor, model.last + 1)
            problems = [wrong_read(model, attempt, view) for view in views]
            if all(problems):
                yield f"at no commit from {attempt.floor} on: {problems[:1]}"
        if attempt.commit is not None and attempt.isolation == "serializable":
            # Events that expired since the view are not a conflict.
            problem = wrong_read(model, attempt, attempt.commit - 1, aging=False)
            if problem is not None:
                yield f"not serializable: {problem}"


def _real_time(history: History) -> Iterator[str]:
    for attempt in history.attempts:
        if attempt.view is not None and attempt.view < attempt.floor and attempt.name != "past":
            yield f"{attempt} read at {attempt.view}, though {attempt.floor} was acknowledged"


def _end(model: Model, dump: Dump) -> Iterator[str]:
    # Which expiring events remain depends on the time of the read.
    shown = [event for event in model.shown(model.events) if age_us(event.stream) is None]
    if dump.events != shown:
        wrong = [
            (found, expected)
            for found, expected in zip(dump.events, shown, strict=False)
            if found != expected
        ]
        yield (
            f"{len(dump.events)} events at the end, not {len(shown)}; "
            f"the first that differs: {wrong[:1]}"
        )
    expected = View(model, model.last).expected(Scan((), None, False, []))
    assert isinstance(expected, Scan)
    if dump.keys != expected.items:
        differing = [item for item in dump.keys if item not in expected.items]
        missing = [item for item in expected.items if item not in dump.keys]
        yield f"keys at the end that should not be there: {differing}; missing: {missing}"
    for stream, events in dump.streams.items():
        there = model.shown(model.stream(stream, model.last))
        if events != there:
            yield f"{stream} at the end: {events}, not {there}"


def feed_problems(
    feed: Feed,
    events: list[Seen],
    hidden: Mapping[int, int] = MappingProxyType({}),
    erased: Mapping[int, int] = MappingProxyType({}),
) -> Iterator[str]:
    """The problems of a subscription, which may have ended anywhere.

    Events that were *hidden* at some commit may be missing, and must be if that had been told of
    before it was subscribed; so it is with the data of those that were *erased*.
    """
    name = f"{feed.client}, subscribed after {feed.after} to {feed.category or feed.stream}"
    wanted = [event for event in events if event.position > feed.after and feed.wants(event)]
    place = 0
    for number, found in enumerate(feed.events):
        floor = feed.floors[number] if number < len(feed.floors) else 0
        while place < len(wanted) and wanted[place].position < found.position:
            if wanted[place].position not in hidden:
                break
            place += 1
        expected = wanted[place : place + 1]
        commit = erased.get(found.position)
        if expected and commit is not None:
            gone = expected[0]._replace(element=erased_element(found.position))
            if commit <= floor or found == gone:
                expected = [gone]
        if expected != [found]:
            yield f"{name}: event {number} was {found}, not {expected}"
            break
        if hidden.get(found.position, floor + 1) <= floor:
            yield f"{name}: {found} came, which commit {hidden[found.position]} had hidden"
        place += 1
    reached = feed.events[-1].position if feed.events else feed.after
    missed = [
        event
        for event in wanted
        if reached < event.position <= feed.caught_up and event.position not in hidden
    ]
    if missed:
        yield f"{feed.client} was told that it had caught up with {feed.caught_up}: {missed[:1]}"
