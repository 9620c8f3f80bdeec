"""Keys that expire: the workload, and planted defects of the server.

The model (model.py) knows from the log when each key expires. The deletion must be a commit of its
own that no client made, and no client's commit at or after that time may come before it.
"""

from collections.abc import Sequence
from typing import Any, Final

import trio

import headwater
from headwater_server.engine.expiring import Expiring
from headwater_server.engine.format import keyspaces
from headwater_server.engine.state.layers import NO_EXPIRY, State
from headwater_server.engine.transactions import evaluation
from tests.simulation.planted import Mutant
from tests.simulation.recorder import Recorder

LEASES: Final = 4
TIMES_MS: Final = (20, 200, 1000, 3000)


async def leases(recorder: Recorder) -> None:
    """Take a lease that is free, renew it, take its expiry away, or give it back."""
    dice = recorder.dice
    key = ("lease", dice.randrange(LEASES))
    ttl_ms = dice.choice(TIMES_MS)
    if dice.random() < 0.2:
        async with recorder.reading("leases") as reading:
            await reading.get(key)
        return
    isolation: headwater.Isolation = dice.choice(("serializable", "serializable", "snapshot"))
    async with recorder.transaction("leases", isolation=isolation) as transaction:
        holder = await transaction.get(key)
        if dice.random() < 0.3:
            await trio.sleep(dice.expovariate(1 / 0.2))
        if holder is None:
            transaction.put(key, recorder.client, ttl_ms=ttl_ms)
            return
        match dice.choice(("renew", "renew", "keep", "replace", "count", "give back", "clear")):
            case "renew":
                transaction.expire(key, ttl_ms)
            case "keep":
                transaction.expire(key, None)
            case "replace":
                transaction.put(key, f"{recorder.client} for good")
            case "count":
                transaction.add(("leases counted",), 1)
            case "give back":
                transaction.delete(key)
            case _:
                transaction.delete_range(("lease",))
        if dice.random() < 0.3:
            await transaction.scan(("lease",))


def expiring_only_when_idle(right: Any) -> Any:
    def step(self: Expiring) -> bool:
        now = self._sequencer.clock.now()
        if now < self.next_time + 500_000:
            return False
        return bool(right(self))

    return step


def forgetting_in_a_restart(right: Any) -> Any:
    def initialize(self: Expiring, state: State, *arguments: Any) -> None:
        right(self, state, *arguments)
        state.due_from, state.next_expiry = keyspaces.DUE_END, NO_EXPIRY

    return initialize


EXPIRIES: Final[Sequence[Mutant]] = (
    Mutant(
        "keys expire half a second late",
        Expiring,
        "step",
        expiring_only_when_idle,
        "had expired before commit",
        "calm",
    ),
    Mutant(
        "a new value keeps the expiry of the old one",
        evaluation,
        "evaluate_expiries",
        lambda right: (
            lambda state, buffer, writes, now: (
                right(state, buffer, writes, now) if buffer.expiries or None in writes else None
            )
        ),
        "belongs to no attempt",
        "calm",
    ),
    Mutant(
        "expiries are forgotten in a restart",
        Expiring,
        "__init__",
        forgetting_in_a_restart,
        "had expired before commit",
        "crashes",
    ),
)
