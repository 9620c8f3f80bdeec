"""Tests of an application under faults find the bugs that production finds.

Each application below has one planted bug, of a kind that every project has had. A test that looks
at the result must fail for some of the first 200 seeds, and the repaired application for none of
those that are tried.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headwater
from headwater_testing.faults import FAULTS_MAX, RETRY_TIMEOUT_S, FaultPlan
from headwater_testing.machine import MemoryMachine

SEEDS_MAX = 200
SOUND_SEEDS = 8

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def machine() -> Iterator[MemoryMachine]:
    machine = MemoryMachine()
    yield machine
    machine.close()


@dataclass
class World:
    """What an application has outside of the database."""

    mails: list[str] = field(default_factory=list)


Application = Callable[[headwater.BlockingDatabase, World], None]
"""An application with its own check: raises AssertionError if the result is wrong."""


def survives(machine: MemoryMachine, application: Application, seed: int) -> bool:
    """Whether an application gives the right result with the faults of a seed."""
    plan = FaultPlan(seed)
    with connected(machine, plan) as db:
        try:
            application(db, World())
        except AssertionError:
            return False
    return True


@contextlib.contextmanager
def connected(machine: MemoryMachine, plan: FaultPlan) -> Iterator[headwater.BlockingDatabase]:
    with (
        machine.database(faults=plan) as served,
        headwater.connect_blocking(served.url, retry_timeout=RETRY_TIMEOUT_S) as db,
    ):
        yield db


def patiently(db: headwater.BlockingDatabase, act: Callable[[], Any]) -> Any:
    """Try again what is known not to have happened, and ask if it is unknown."""
    for _ in range(2 * FAULTS_MAX):
        try:
            return act()
        except headwater.CommitUnknown as error:
            if committed(db, error):
                return None
        except headwater.HeadwaterError as error:
            if not error.retryable:
                raise
    raise AssertionError("still failing")


def committed(db: headwater.BlockingDatabase, error: headwater.CommitUnknown) -> bool:
    """What became of a commit whose outcome was unknown."""
    transaction = error.transaction
    status = patiently(db, lambda: db.status(transaction, resolve=True))
    return bool(status.state == "committed")


def read(db: headwater.BlockingDatabase, key: tuple[str | int, ...], default: Any = None) -> Any:
    return patiently(db, lambda: db.get(key, default))


# An effect inside of a transaction's function happens once for each attempt.


def mails_in_the_transaction(db: headwater.BlockingDatabase, world: World) -> None:
    def order(tx: headwater.BlockingTransaction) -> None:
        number = tx.get(("orders",), 0) + 1
        tx.put(("orders",), number)
        world.mails.append(f"order {number}")

    patiently(db, lambda: db.run(order))
    assert len(world.mails) == 1


def mails_after_the_commit(db: headwater.BlockingDatabase, world: World) -> None:
    def order(tx: headwater.BlockingTransaction) -> int:
        number: int = tx.get(("orders",), 0) + 1
        tx.put(("orders",), number)
        return number

    patiently(db, lambda: db.run(order))
    world.mails.append("order 1")
    assert len(world.mails) == 1


# What is asked for again after an error may have happened the first time.


def tries_again_blindly(db: headwater.BlockingDatabase, world: World) -> None:
    for _ in range(2 * FAULTS_MAX):
        try:
            db.append("account-ann", headwater.Event("Deposited", 10))
            break
        except headwater.HeadwaterError:
            continue
    balance = patiently(db, lambda: sum(event.data for event in db.read("account-ann")))
    assert balance == 10


def tries_again_with_an_id(db: headwater.BlockingDatabase, world: World) -> None:
    patiently(db, lambda: db.append("account-ann", headwater.Event("Deposited", 10)))
    assert patiently(db, lambda: sum(event.data for event in db.read("account-ann"))) == 10


# Not every error means that nothing happened.


def takes_unknown_for_no(db: headwater.BlockingDatabase, world: World) -> None:
    try:
        db.run(lambda tx: tx.put(("paid",), tx.get(("paid",), 0) + 1))
        told = True
    except headwater.HeadwaterError:
        told = False
    assert (read(db, ("paid",), 0) == 1) == told


def asks_what_became_of_it(db: headwater.BlockingDatabase, world: World) -> None:
    try:
        db.run(lambda tx: tx.put(("paid",), tx.get(("paid",), 0) + 1))
        told = True
    except headwater.CommitUnknown as error:
        told = committed(db, error)
    except headwater.HeadwaterError:
        told = False
    assert (read(db, ("paid",), 0) == 1) == told


# Redelivery changes the order between streams.


def consume(db: headwater.BlockingDatabase, handle: Callable[[Any, Any], None]) -> None:
    """Handle three payments and three orders from a consumer group, each exactly once."""
    for number in range(3):
        for stream in ("order", "payment"):
            event = headwater.Event(f"{stream} {number}", number)
            patiently(db, partial(db.append, f"{stream}-{number}", event))
    with contextlib.suppress(headwater.GroupExists):
        patiently(db, lambda: db.groups.create("mails", after=0, lease=0.5, retry_delay=0.001))
    for _ in range(2 * FAULTS_MAX):
        with contextlib.suppress(headwater.HeadwaterError):
            _consume_until_caught_up(db, handle)
            if len(list(db.scan(("done",)))) == 6:
                return
    raise AssertionError("not all were handled")


def _consume_until_caught_up(
    db: headwater.BlockingDatabase, handle: Callable[[Any, Any], None]
) -> None:
    with db.join("mails", credit=4, until_caught_up=True) as member:
        for delivery in member:

            def work(tx: headwater.BlockingTransaction, d: Any = delivery) -> None:
                handle(tx, d.event)
                tx.ack(d)

            try:
                db.run(work, attempts=1)
            except headwater.Conflict:
                # It comes again later; meanwhile others have their turn.
                delivery.nack(reason="conflict")


def assumes_an_order(db: headwater.BlockingDatabase, world: World) -> None:
    def handle(tx: Any, event: headwater.RecordedEvent) -> None:
        if tx.get(("done", event.type)):
            return
        kind, _, number = event.type.partition(" ")
        if kind == "payment":
            assert tx.get(("done", f"order {number}")), "a payment without an order"
        tx.put(("done", event.type), True)

    consume(db, handle)


def waits_for_what_belongs_together(db: headwater.BlockingDatabase, world: World) -> None:
    def handle(tx: Any, event: headwater.RecordedEvent) -> None:
        if not tx.get(("done", event.type)):
            tx.put(("done", event.type), True)

    consume(db, handle)
    for number in range(3):
        assert read(db, ("done", f"order {number}"))


# A state that was loaded before a conflict is stale after it.


def keeps_a_state_in_memory(db: headwater.BlockingDatabase, world: World) -> None:
    _withdraw_twice(db, cached=True)


def loads_the_state_again(db: headwater.BlockingDatabase, world: World) -> None:
    _withdraw_twice(db, cached=False)


def _withdraw_twice(db: headwater.BlockingDatabase, *, cached: bool) -> None:
    patiently(db, lambda: db.put(("balance",), 10))
    state: dict[str, int] = {}

    def withdraw(tx: headwater.BlockingTransaction) -> None:
        if not cached or "balance" not in state:
            state["balance"] = tx.get(("balance",))
        else:
            tx.get(("balance",))
        state["balance"] -= 4
        tx.put(("balance",), state["balance"])

    patiently(db, lambda: db.run(withdraw))
    assert read(db, ("balance",)) == 6


PLANTED: dict[str, tuple[Application, Application]] = {
    "an effect before the commit": (mails_in_the_transaction, mails_after_the_commit),
    "no idempotency": (tries_again_blindly, tries_again_with_an_id),
    "an unknown outcome taken for a no": (takes_unknown_for_no, asks_what_became_of_it),
    "an assumed order": (assumes_an_order, waits_for_what_belongs_together),
    "a stale state": (keeps_a_state_in_memory, loads_the_state_again),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_the_bug_is_found_within_the_seeds(machine: MemoryMachine, bug: str) -> None:
    planted, _ = PLANTED[bug]
    seed = next((n for n in range(1, SEEDS_MAX + 1) if not survives(machine, planted, n)), None)
    assert seed is not None
    print(f"{bug}: found with seed {seed}")


@pytest.mark.parametrize("bug", PLANTED)
def test_the_repaired_application_survives(machine: MemoryMachine, bug: str) -> None:
    _, repaired = PLANTED[bug]
    failing = [n for n in range(1, SOUND_SEEDS + 1) if not survives(machine, repaired, n)]
    assert failing == []


@given(st.integers(1, 10_000), st.lists(st.sampled_from(["get", "commit", "execute", "ack"])))
def test_the_same_seed_gives_the_same_faults(seed: int, operations: list[str]) -> None:
    def schedule(seed: int, operations: list[str]) -> list[str]:
        plan = FaultPlan(seed)
        for operation in operations:
            plan.draw(operation, may_conflict=operation == "commit")
        return plan.schedule().splitlines()

    first = schedule(seed, operations)
    assert schedule(seed, operations) == first
    # Requests of other operations in between change nothing, while the faults are few.
    others = [each for name in operations for each in (name, "scan", "hello")]
    if len(schedule(seed, others)) < FAULTS_MAX:
        mixed = [line for line in schedule(seed, others) if not line.startswith("scan")]
        assert mixed == first or first == ["no fault happened"]


def test_different_seeds_give_different_faults() -> None:
    def schedule(seed: int) -> str:
        plan = FaultPlan(seed)
        for _ in range(30):
            plan.draw("commit", may_conflict=True)
        return plan.schedule()

    assert len({schedule(seed) for seed in range(50)}) > 40


def test_every_kind_of_fault_happens(machine: MemoryMachine) -> None:
    kinds = set()
    for seed in range(1, 100):
        plan = FaultPlan(seed)
        for _ in range(30):
            plan.draw("commit", may_conflict=True)
            plan.draw("get", may_conflict=False)
        assert len(plan.happened) <= FAULTS_MAX
        kinds |= {fault.kind for fault in plan.happened}
    assert kinds == {
        *("conflict", "lost request", "lost answer", "slow", "restart", "outage", "clock")
    }


def test_faults_can_be_switched_off_and_restricted() -> None:
    off, some = FaultPlan(1, active=False), FaultPlan(1, kinds=frozenset({"slow"}))
    for plan in (off, some):
        for _ in range(200):
            plan.draw("commit", may_conflict=True)
    assert off.happened == []
    assert {fault.kind for fault in some.happened} == {"slow"}


def test_what_is_acknowledged_under_faults_is_kept(machine: MemoryMachine) -> None:
    for seed in range(1, 15):
        kept = []
        with connected(machine, FaultPlan(seed)) as db:
            for number in range(20):
                with contextlib.suppress(headwater.HeadwaterError):
                    db.put(("n", number), number)
                    kept.append(number)
            assert kept
            assert [read(db, ("n", number)) for number in kept] == kept
