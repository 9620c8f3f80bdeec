"""The state of a stream at a version, and what an event changed in it.

With the application's repository (`--aggregate`) it is the aggregate's state, made as the
application makes it: from the newest snapshot and the events after it. Without one it is the newest
value of each field of the events' data.
"""

from dataclasses import dataclass
from typing import Any, Final

from headwater.aggregates.repository import Repository
from headwater.codecs.codec import decode_with, encode_with
from headwater.console.pages.reading import category_of, event_row, with_codec
from headwater.console.visits import Visit
from headwater.console.words import signed

FOLDED_EVENTS_MAX: Final = 10_000
"""Events that are replayed for a page, some tenths of a second. Snapshots make it fewer."""

MERGED_EVENTS_MAX: Final = 1_000
"""Events whose fields are merged if no fold is known."""

_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Change:
    """A field before and after: kind is "add", "del", "ch" or "" (unchanged)."""

    kind: str
    name: str
    before: Any
    after: Any
    difference: str


@dataclass(frozen=True, slots=True)
class Folded:
    """A state and how it was made.

    Attributes:
        version, base: of the state, and of the state that it is compared with.
        changes: its fields.
        made_by: which code made it.
        snapshot: the version of the snapshot from which it was made; None: from the first event.
        agrees: whether that snapshot equals a replay of the events before it; None: not compared.
        problem: why there is no state.
    """

    version: int
    base: int
    changes: list[Change]
    made_by: str = ""
    snapshot: int | None = None
    agrees: bool | None = None
    problem: str = ""


def difference(before: Any, after: Any) -> list[Change]:
    """The fields of two states, each with what happened to it."""
    old = before if isinstance(before, dict) else {} if before is None else {"value": before}
    new = after if isinstance(after, dict) else {} if after is None else {"value": after}
    return [
        _change(str(name), old.get(name, _ABSENT), new.get(name, _ABSENT)) for name in old | new
    ]


def _change(name: str, before: Any, after: Any) -> Change:
    if before is _ABSENT:
        return Change("add", name, None, after, "")
    if after is _ABSENT:
        return Change("del", name, before, None, "")
    if type(before) is type(after) and before == after:
        return Change("", name, before, after, "")
    numbers = all(type(each) in (int, float) for each in (before, after))
    return Change("ch", name, before, after, signed(after - before) if numbers else "")


async def folded(visit: Visit, stream: str, version: int, base: int) -> Folded:
    """The state of a stream at *version*, compared with that at *base*."""
    repository = visit.settings.folds.get(category_of(stream))
    try:
        if repository is None:
            return await _merged(visit, stream, version, base)
        return await _replayed(visit, stream, version, base, repository)
    except Exception as error:
        # The application's code may raise anything. The page shows the events without a state.
        return Folded(version, base, [], problem=f"{type(error).__name__}: {error}")


async def _replayed(
    visit: Visit, stream: str, version: int, base: int, repository: Repository[Any]
) -> Folded:
    db, codec = with_codec(visit.db, visit.settings.codec), visit.settings.codec

    def plain(state: Any) -> Any:
        # A copy: `evolve` may change the state that it was given.
        data = encode_with(codec, repository.dump_state(state), "state")
        return decode_with(codec, data, "state")

    first = min(version, base)
    loaded = await db.load(stream, schema=repository.schema, name=repository.name, upto=first)
    if len(loaded.events) + abs(version - base) > FOLDED_EVENTS_MAX:
        problem = f"more than {FOLDED_EVENTS_MAX:,} events would have to be replayed"
        return Folded(version, base, [], problem=problem)
    snapshot = loaded.snapshot
    start = repository.initial() if snapshot is None else repository.load_state(snapshot.state)
    state = repository.replay(start, repository.needed(stream, loaded))
    states = {first: plain(state)}
    last = max(version, base)
    rest = [event async for event in db.read(stream, after=first, limit=last - first)]
    states[last] = plain(repository.replay(state, [one for one in rest if one.version <= last]))
    agrees = None
    if snapshot is not None and snapshot.version <= FOLDED_EVENTS_MAX:
        whole = await db.load(
            stream,
            schema=repository.schema,
            name=repository.name,
            upto=snapshot.version,
            snapshot_below=1,
        )
        if whole.is_whole:
            again = repository.replay(repository.initial(), whole.events)
            agrees = plain(again) == plain(repository.load_state(snapshot.state))
    return Folded(
        version,
        base,
        difference(states[base], states[version]),
        made_by=f"{repository.name or category_of(stream)}, schema {repository.schema}",
        snapshot=None if snapshot is None else snapshot.version,
        agrees=agrees,
    )


async def _merged(visit: Visit, stream: str, version: int, base: int) -> Folded:
    fields: dict[str, Any] = {}
    states: dict[int, dict[str, Any]] = {}
    begin = max(0, min(version, base) - MERGED_EVENTS_MAX)
    limit = min(max(version, base) - begin, 2 * MERGED_EVENTS_MAX)
    async for event in visit.db.read(stream, after=begin, limit=limit):
        for wanted in (version, base):
            if event.version > wanted and wanted not in states:
                states[wanted] = dict(fields)
        data = event_row(event, visit.settings.codec).data
        if isinstance(data, dict):
            fields |= {str(name): member for name, member in data.items()}
    for wanted in (version, base):
        states.setdefault(wanted, dict(fields))
    return Folded(version, base, difference(states[base], states[version]))
