"""Describes consumer groups: one line or some figures for each, or all details of one."""

from collections.abc import Mapping
from typing import Any, Final

from headwater_server.engine.consumer_groups.group import ConsumerGroup
from headwater_server.engine.consumer_groups.progress import PARKED_MAX, stored_position
from headwater_server.engine.consumer_groups.records import (
    Definition,
    list_definitions,
    read_parked,
)
from headwater_server.engine.consumer_groups.waiting import WaitingCount
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.state.layers import State

PARKED_COUNTED_MAX: Final = 1_000
"""Parked events that are counted for the figures of a group without members. Each is read."""

PARKED_COUNTED_TOGETHER_MAX: Final = 10_000
"""The same, for all groups together: about 40 ms."""


def overview(state: State, reader: Reader, active: Mapping[str, ConsumerGroup]) -> list[list[Any]]:
    """Name, position, member count and waiting events of every group, in the order of names."""
    rows: list[list[Any]] = []
    waiting = WaitingCount()
    for definition in list_definitions(state, reader.view):
        group = active.get(definition.name)
        if group is None:
            position = stored_position(state, reader.view, definition)
            members = 0
        else:
            position = group.figures()["position"]
            members = len(group.members)
        behind = waiting.of(state, reader.view, reader, definition)
        rows.append([definition.name, position, members, behind])
    return rows


def all_figures(
    state: State, view: int, active: Mapping[str, ConsumerGroup], count_max: int
) -> tuple[int, list[tuple[str, dict[str, int]]]]:
    """How many groups there are, and the name and figures of the first, in the order of names."""
    definitions = list_definitions(state, view)
    rows: list[tuple[str, dict[str, int]]] = []
    left = PARKED_COUNTED_TOGETHER_MAX
    for definition in definitions[:count_max]:
        group = active.get(definition.name)
        if group is not None:
            rows.append((definition.name, group.figures()))
            continue
        counted_max = min(left, PARKED_COUNTED_MAX)
        parked = read_parked(state, view, definition.number, 0, counted_max) if counted_max else []
        left -= len(parked)
        rows.append((definition.name, _without_members(state, view, definition, len(parked))))
    return len(definitions), rows


def _without_members(
    state: State, view: int, definition: Definition, parked: int
) -> dict[str, int]:
    return {
        "position": stored_position(state, view, definition),
        "members": 0,
        "in_flight": 0,
        "retrying": 0,
        "parked": parked,
    }


def info(
    state: State,
    reader: Reader,
    definition: Definition,
    group: ConsumerGroup | None,
    *,
    newest: bool = False,
) -> dict[str, Any]:
    """The settings and figures of a group; *group* if it has members.

    *newest*: of the newest state, durable or not, instead of that of the reader.
    """
    view = state.last_commit if newest else reader.view
    if group is None:
        parked = read_parked(state, view, definition.number, 0, PARKED_MAX)
        figures = _without_members(state, view, definition, len(parked))
    else:
        figures = group.figures()
    return {
        "name": definition.name,
        "filter": definition.wanted.as_wire(),
        **definition.settings.as_wire(),
        **figures,
        "waiting": WaitingCount().of(state, view, reader, definition),
        "newest": reader.position,
    }
