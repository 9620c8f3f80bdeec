"""What is told of consumer groups: one line of each, or everything of one."""

from collections.abc import Mapping
from typing import Any

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


def info(
    state: State, reader: Reader, definition: Definition, group: ConsumerGroup | None
) -> dict[str, Any]:
    """The settings and figures of a group; *group* if it has members."""
    if group is None:
        view = state.last_commit
        parked = read_parked(state, view, definition.number, 0, PARKED_MAX)
        figures: dict[str, Any] = {
            "position": stored_position(state, view, definition),
            "members": 0,
            "in_flight": 0,
            "retrying": 0,
            "parked": len(parked),
        }
    else:
        figures = group.figures()
    return {
        "name": definition.name,
        "filter": definition.wanted.as_wire(),
        **definition.settings.as_wire(),
        **figures,
        "waiting": WaitingCount().of(state, state.last_commit, reader, definition),
        "newest": reader.position,
    }
