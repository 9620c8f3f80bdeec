"""A lease that is extended ends later, and the others when they would have."""

import random

import pytest

from headwater_protocol.errors import NoSuchGroup
from headwater_server.engine.consumer_groups.extending import extend_leases
from tests.engine.consumer_groups.consuming import Consuming
from tests.engine.database import Database

LEASE_S = 10


@pytest.mark.parametrize("seed", range(10))
def test_each_lease_ends_one_lease_after_it_was_last_extended(seed: int) -> None:
    source = random.Random(seed)
    group = Consuming(Database())
    group.create(lease_ms=LEASE_S * 1000, parked_stream="hold")
    for number in range(5):
        group.append(f"a-{number}", b"1")
    group.join(credit=5)
    held = {one.token: one for one in group.turn()}
    assert len(held) == 5
    ends = dict.fromkeys(held, LEASE_S)
    now = 0
    lost: set[int] = set()
    while len(lost) < 5 and now < 200:
        step = source.randrange(1, 4)
        now += step
        group.pass_time(step)
        group.turn()
        lost |= {token for token, end in ends.items() if end <= now}
        for token in source.sample(sorted(held), 2 if now < 100 else 0):
            one = held[token]
            lease_ms, gone = extend_leases(
                group.database.engine.groups, group.name, [(one.position, token)], group.now
            )
            assert lease_ms == LEASE_S * 1000
            assert gone == ([token] if token in lost else [])
            if not gone:
                ends[token] = now + LEASE_S
    assert len(lost) == 5


def test_an_unknown_group_or_delivery_is_told() -> None:
    group = Consuming(Database())
    groups = group.database.engine.groups
    with pytest.raises(NoSuchGroup):
        extend_leases(groups, "nobody", [(1, 1)], 0)
    group.create()
    assert extend_leases(groups, group.name, [(1, 1), (2, 2)], 0) == (30_000, [1, 2])
