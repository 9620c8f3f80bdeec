"""Comparing a read model with what other code makes of the same events, and explaining a value.

`replayed` runs a handler over the events of a build. `differences` compares its recording with the
stored model. `explain` runs the handler over the last events before a commit, on the model as it
was before them, and tells which of them changed a key.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from headwater.codecs.codec import Codec, RawCodec, decode_with
from headwater.codecs.events import recorded_event
from headwater.errors import HeadwaterError, InvalidArgument, Undecodable
from headwater.projections.failures import Row, reason_of
from headwater.projections.follower import Projection
from headwater.projections.host import Host
from headwater.projections.recording import Change, Recording, RecordingTransaction
from headwater.projections.state import (
    RECORDS,
    Build,
    Progress,
    build_key,
    head_key,
    head_of,
    model_key,
    parked_key,
    skipped_key,
)
from headwater.reads.past import Past
from headwater.transport.tasks import ends_the_task
from headwater_protocol.keys import KeyTuple, decode_key, encode_key, prefix_range

PAGE_EVENTS: Final = 500
"""Events that are read together, and given together to a batched handler."""

EXPLAINED_EVENTS_MAX: Final = 10_000
"""Events that are handled again to explain a value: about a second."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A build as it was at a commit.

    Attributes:
        build: its number, version and filter.
        position: up to which it had processed the events.
        parked: for each parked stream, the position from which on its events were not handled.
        skipped: positions of events that were left out.
    """

    build: Build
    position: int
    parked: dict[str, int]
    skipped: frozenset[int]

    def handles(self, row: Row) -> bool:
        """Whether the build had handled an event."""
        if row[0] > self.position or row[0] in self.skipped:
            return False
        return row[1] not in self.parked or row[0] < self.parked[row[1]]


@dataclass(slots=True)
class Replayed:
    """What a handler made of the events.

    Attributes:
        recording: its writes.
        events: how many it handled.
        failed: events on which it failed: position, stream and reason. Later events of the stream
            were left out.
    """

    recording: Recording
    events: int = 0
    failed: list[tuple[int, str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Difference:
    """A key of a model with two values. None: the key is absent."""

    key: KeyTuple
    first: bytes | None
    second: bytes | None


@dataclass(frozen=True, slots=True)
class Cause:
    """An event that changed a key of a model."""

    position: int
    stream: str
    version: int
    type: str
    change: Change


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which events made the value of a key.

    Attributes:
        causes: the events that changed the key, in order.
        begin: the commit whose model was the start; None: the empty model, before the first event.
        start: the value there. None: absent.
        result: the value after the last event. It equals the stored one if the handler is the one
            that made the model.
        events: how many events were handled again.
    """

    causes: list[Cause]
    begin: int | None
    start: bytes | None
    result: bytes | None
    events: int


def past_of(host: Host, commit: int) -> Past:
    """The database at a commit, with bytes as values."""
    return Past(host.channel, RawCodec(), commit=commit, time=None)


async def newest_commit(host: Host) -> int:
    """The newest commit."""
    commit: int = (await host.channel.read("ping"))[0]
    return commit


async def stored_at(host: Host, name: str, commit: int) -> Stored:
    """The build that readers saw at a commit.

    Raises:
        InvalidArgument: the projection had not run then.
        HistoryGone: the commit is older than the history window.
    """
    past = past_of(host, commit)
    head = await past.get(head_key(name))
    if head is None:
        raise InvalidArgument(f"projection {name!r:.80} had not run at commit {commit}")
    build = head_of(RECORDS.decode(head)).build
    record = await past.get(build_key(name, build.number))
    progress = Progress() if record is None else Progress(**RECORDS.decode(record))
    parked = {
        str(key[3]): int(RECORDS.decode(value)["position"])
        async for key, value in past.scan(parked_key(name, build.number))
        if len(key) == 4
    }
    skipped = frozenset(
        [int(str(key[2])) async for key in past.scan(skipped_key(name), values=False)]
    )
    return Stored(build, progress.position, parked, skipped)


async def replayed(
    host: Host,
    projection: Projection,
    stored: Stored,
    commit: int,
    *,
    after: int = 0,
    begin: int | None = None,
    watched: bytes | None = None,
) -> Replayed:
    """Run a handler over the events that a build had handled, and record what it writes.

    Args:
        host: the database.
        projection: with the handler.
        stored: the build.
        commit: events of later commits are left out, and other keys are read as of it.
        after: only events after this position.
        begin: the commit whose model is the start. None: the empty model.
        watched: an encoded key of which every change is kept.
    """
    done = Replayed(Recording(watched=watched))
    past = past_of(host, commit if begin is None else begin)
    number = stored.build.number
    hidden = prefix_range(model_key(projection.name, number))[0] if begin is None else None
    tx = RecordingTransaction(past, host.codec, projection.name, number, done.recording, hidden)
    left_out: set[str] = set()
    async for rows in _pages(host, stored, after, commit):
        wanted = [row for row in rows if stored.handles(row) and row[1] not in left_out]
        chunks = [wanted] if projection.batched else [[row] for row in wanted]
        for chunk in chunks:
            chunk = [row for row in chunk if row[1] not in left_out]
            if not chunk:
                continue
            done.recording.at = chunk[0][0]
            problem = await _handled(tx, projection, host.codec, chunk)
            done.events += len(chunk)
            if problem is not None:
                done.failed.append((chunk[0][0], chunk[0][1], problem))
                left_out.update(row[1] for row in chunk)
    return done


async def _handled(
    tx: RecordingTransaction, projection: Projection, codec: Codec, rows: list[Row]
) -> str | None:
    """Call the handler. Returns why it failed, or None."""
    try:
        events = [recorded_event(row, codec) for row in rows]
        await projection.handler(tx, events if projection.batched else events[0])
        await tx.apply_waiting()
        tx.keep()
    except BaseException as error:
        if ends_the_task(error) or tx.broken is not None:
            raise
        tx.forget()
        return reason_of(error)
    return None


async def _pages(host: Host, stored: Stored, after: int, commit: int) -> AsyncIterator[list[Row]]:
    """The events of a build's filter up to its position, in pages."""
    more = True
    while more and after < stored.position:
        # Each page ends further on, so this ends.
        _, after, rows, more = await host.channel.fetch(
            "read_all", after, dict(stored.build.wanted), PAGE_EVENTS, False
        )
        yield [row for row in rows if row[0] <= stored.position and row[3] <= commit]


async def differences(
    host: Host, name: str, stored: Stored, commit: int, done: Replayed
) -> AsyncIterator[Difference]:
    """The keys whose stored value is not the one that was recorded, in order of their kind.

    `first` is the stored value, `second` the recorded one.
    """
    prefix = model_key(name, stored.build.number)
    seen: set[bytes] = set()
    async for key, value in past_of(host, commit).scan(prefix):
        encoded = encode_key(key)
        seen.add(encoded)
        recorded = done.recording.values.get(encoded)
        if not same(host.codec, value, recorded):
            yield Difference(key[len(prefix) :], value, recorded)
    first, last = prefix_range(prefix)
    for encoded in done.recording.between(first, last):
        recorded = done.recording.values[encoded]
        if encoded not in seen and recorded is not None:
            yield Difference(decode_key(encoded)[len(prefix) :], None, recorded)


def disagreements(name: str, stored: Stored, one: Replayed, other: Replayed) -> list[Difference]:
    """The keys for which two runs recorded different values."""
    prefix = model_key(name, stored.build.number)
    first, last = prefix_range(prefix)
    keys = {*one.recording.between(first, last), *other.recording.between(first, last)}
    return [
        Difference(decode_key(key)[len(prefix) :], before, after)
        for key in sorted(keys)
        if (before := one.recording.values.get(key)) != (after := other.recording.values.get(key))
    ]


def same(codec: Codec, one: bytes | None, other: bytes | None) -> bool:
    """Whether two stored values are equal, be it in other bytes."""
    if one == other or one is None or other is None:
        return one == other
    try:
        values = decode_with(codec, one, "value"), decode_with(codec, other, "value")
    except Undecodable:
        return False
    return type(values[0]) is type(values[1]) and bool(values[0] == values[1])


async def explain(
    host: Host, projection: Projection, key: KeyTuple, commit: int, oldest: int
) -> Explanation:
    """The events that made the value of a key of a model, as far back as they can be told.

    The handler is run over the last EXPLAINED_EVENTS_MAX events before the commit, on the model as
    it was before them.

    Args:
        host: the database.
        projection: with the handler that made the model.
        key: in the model.
        commit: the commit at which the value is explained.
        oldest: the oldest commit that can be read.
    """
    stored = await stored_at(host, projection.name, commit)
    begin = await _begin(host, projection.name, stored, commit, max(oldest, 1))
    after = 0 if begin is None else (await stored_at(host, projection.name, begin)).position
    watched = encode_key((*model_key(projection.name, stored.build.number), *key))
    start = None if begin is None else await past_of(host, begin)._fetch("get", watched)  # noqa: SLF001
    single = replace(projection, batched=False) if not projection.batched else projection
    done = await replayed(host, single, stored, commit, after=after, begin=begin, watched=watched)
    causes = [await _cause(host, position, change) for position, change in done.recording.changes]
    result = done.recording.values.get(watched, start)
    return Explanation(causes, begin, start, result, done.events)


async def _begin(host: Host, name: str, stored: Stored, commit: int, oldest: int) -> int | None:
    """The commit whose model is the start; None: the events from the first on are few enough."""
    if stored.position <= EXPLAINED_EVENTS_MAX:
        return None
    low, high = oldest, commit
    # Positions of a build ascend with the commits, so this halves.
    while low < high:
        middle = (low + high) // 2
        position = await _position(host, name, stored, middle)
        if position is not None and stored.position - position <= EXPLAINED_EVENTS_MAX:
            high = middle
        else:
            low = middle + 1
    return high


async def _position(host: Host, name: str, stored: Stored, commit: int) -> int | None:
    try:
        then = await stored_at(host, name, commit)
    except HeadwaterError:
        return None
    return then.position if then.build.number == stored.build.number else None


async def _cause(host: Host, position: int, change: Change) -> Cause:
    _, _, rows, *_ = await host.channel.fetch("read_all", position - 1, {}, 1, False)
    row: Any = rows[0]
    return Cause(row[0], row[1], row[2], row[6], change)
