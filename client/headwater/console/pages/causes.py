"""What caused an event, and what it caused: the chain as a tree across streams."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from headwater.console.pages.reading import EventRow, event_row
from headwater.console.visits import Visit

CHAIN_MAX: Final = 200
"""Events of a chain that are shown. A longer one is cut, and says so."""

CAUSES_MAX: Final = 20
"""Causes that are looked up above an event whose chain does not have them."""


@dataclass(slots=True)
class Node:
    """An event of the tree: its row, how deep it is, and whether it is later than the moment."""

    row: EventRow
    depth: int
    later: bool
    since: float | None


@dataclass(slots=True)
class Chain:
    """The chain of an event.

    Attributes:
        nodes: the events, each after its cause, with its depth.
        missing: ids of causes that were not found.
        cut: whether there are more events than are shown.
        begin: the time of the first event.
    """

    nodes: list[Node] = field(default_factory=list)
    missing: list[UUID] = field(default_factory=list)
    cut: bool = False
    begin: datetime | None = None


async def chain_of(visit: Visit, row: EventRow) -> Chain:
    """The tree of causes and effects that an event belongs to."""
    codec = visit.settings.codec
    rows = {row.event.id: row}
    async for event in visit.db.correlated(row.event, limit=CHAIN_MAX + 1):
        rows.setdefault(event.id, event_row(event, codec))
    async for event in visit.db.caused_by(row.event, limit=CHAIN_MAX + 1):
        rows.setdefault(event.id, event_row(event, codec))
    chain = Chain(cut=len(rows) > CHAIN_MAX)
    # The first event of a chain need not carry the correlation, so causes are looked up by id.
    wanted = {one.event.causation for one in rows.values()} - rows.keys() - {None}
    for _ in range(CAUSES_MAX):
        if not wanted:
            break
        identity = wanted.pop()
        assert identity is not None
        found = await visit.db.find_event(identity)
        if found is None:
            chain.missing.append(identity)
            continue
        rows[identity] = event_row(found, codec)
        if found.causation is not None and found.causation not in rows:
            wanted.add(found.causation)
    _arrange(visit, chain, rows)
    return chain


def _arrange(visit: Visit, chain: Chain, rows: dict[UUID, EventRow]) -> None:
    effects: dict[UUID | None, list[EventRow]] = {}
    for one in sorted(rows.values(), key=lambda each: each.event.position):
        cause = one.event.causation
        effects.setdefault(cause if cause in rows else None, []).append(one)
    roots = effects.get(None, [])
    chain.begin = roots[0].event.time if roots else None
    # Depth first, with a stack of its own: chains may be longer than the call stack.
    waiting = [(one, 0) for one in reversed(roots)]
    seen: set[UUID] = set()
    while waiting and len(chain.nodes) < CHAIN_MAX:
        one, depth = waiting.pop()
        if one.event.id in seen:
            continue
        seen.add(one.event.id)
        assert chain.begin is not None
        since = (one.event.time - chain.begin).total_seconds() if chain.nodes else None
        later = one.event.commit > visit.moment.commit
        chain.nodes.append(Node(one, depth, later, since))
        waiting += [(each, depth + 1) for each in reversed(effects.get(one.event.id, []))]
