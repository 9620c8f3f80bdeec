"""Restarts leases while a consumer works on their events.

Nothing is stored: leases are in memory, and end with the server.
"""

from collections.abc import Sequence

from headwater_protocol.errors import DeliveryLost, NoSuchGroup
from headwater_server.engine.consumer_groups.groups import Groups


def extend_leases(
    groups: Groups, name: str, deliveries: Sequence[tuple[int, int]], now: int
) -> tuple[int, list[int]]:
    """Restart the leases of these deliveries, each given by position and token.

    Returns:
        How long they last, in milliseconds, and the tokens of those that were taken back.

    Raises:
        NoSuchGroup.
    """
    definition = groups.find(name)
    if definition is None:
        raise NoSuchGroup(f"there is no group {name!r}")
    group = groups.active.get(name)
    lost: list[int] = []
    for position, token in deliveries:
        if group is None:
            lost.append(token)
            continue
        try:
            group.extend(group.find(position, token), now)
        except DeliveryLost:
            lost.append(token)
    return definition.settings.lease_ms, lost
