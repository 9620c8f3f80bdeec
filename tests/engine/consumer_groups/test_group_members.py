"""Members of a consumer group: leases, quarantine, rebalancing, and what a restart forgets."""

import pytest

from headwater_protocol.errors import DeliveryLost, ReadOnly
from headwater_server.engine.consumer_groups import progress, records
from headwater_server.engine.engine import Engine
from headwater_server.engine.reads.filters import EventFilter
from tests.engine.consumer_groups.consuming import Consuming
from tests.engine.database import Database


def consuming(**settings: object) -> Consuming:
    group = Consuming(Database())
    group.create(**settings)  # type: ignore[arg-type]
    return group


def stored_entries(group: Consuming) -> int:
    """The stored keys of the group, except its definition and its low watermark."""
    engine: Engine = group.database.engine
    state = engine._state
    number = records.list_definitions(state, state.last_commit)[0].number
    return len(records.state_keys(state, state.last_commit, number)) - 1


# Which member gets an event.


def test_streams_are_shared_by_members_with_credit() -> None:
    group = consuming()
    ann, bob = group.join(credit=3), group.join(credit=3)
    for n in range(10):
        group.append(f"s-{n}", b"")
    group.turn()
    assert (len(ann.has), len(bob.has)) == (3, 3)
    group.ack(ann.has[0])
    group.turn()
    assert (len(ann.has), len(bob.has)) == (3, 3)


def test_a_stream_stays_with_the_member_that_had_it() -> None:
    group = consuming()
    ann, bob = group.join(), group.join()
    for n in range(4):
        group.append(f"s-{n}", *[b""] * 5)
    group.drain()
    for member in (ann, bob):
        assert len(member.got) == 5 * len({one.stream for one in member.got})


def test_a_member_without_credit_is_skipped() -> None:
    group = consuming()
    full, free = group.join(), group.join()
    full.takes = False
    for n in range(5):
        group.append(f"s-{n}", b"")
    group.turn()
    assert (len(full.has), len(free.has)) == (0, 5)


def test_a_new_member_gets_the_events_that_a_stuck_member_cannot_take() -> None:
    group = consuming()
    stuck = group.join(credit=1)
    for n in range(4):
        group.append(f"s-{n}", b"", b"")
    group.turn()
    assert len(stuck.has) == 1
    quick = group.join(credit=1)
    while group.turn():
        group.ack(*quick.has)
    assert len(quick.got) == 6
    group.ack(*stuck.has)
    group.turn()
    assert len(stuck.got) + len(quick.got) == 8


# Leases.


def test_a_lease_begins_with_its_delivery_and_ends_after_its_time() -> None:
    group = consuming(lease_ms=5000)
    group.append("a-1", b"")
    member = group.join()
    [first] = group.turn()
    group.pass_time(4.9)
    assert group.turn() == []
    assert group.groups.next_time(group.now) <= group.now + 100_000
    group.pass_time(0.2)
    [again] = group.turn()
    assert (again.attempt, member.lost) == (2, [first.token])


def test_a_silent_member_gets_only_its_credit_and_others_continue() -> None:
    group = consuming(lease_ms=1000)
    silent, busy = group.join(credit=2), group.join(credit=2)
    for n in range(20):
        group.append(f"s-{n}", b"")
    done: set[int] = set()
    for _ in range(40):
        group.turn()
        for one in list(busy.has):
            group.ack(one)
            done.add(one.position)
        group.pass_time(0.2)
    assert len(silent.got) == 2
    assert done == set(range(1, 21))


def test_events_of_a_dead_member_are_retried_alone() -> None:
    group = consuming()
    doomed = group.join()
    for n in range(3):
        group.append(f"s-{n}", b"")
    group.turn()
    assert len(doomed.has) == 3
    group.leave(doomed, died=True)
    other = group.join()
    group.append("new-1", b"")
    group.turn()
    for attempt in range(3):
        [one] = other.has
        assert (one.attempt, attempt < 3) == (2, True)
        group.ack(one)
        group.turn()
    assert [one.stream for one in other.has] == ["new-1"]


def test_an_event_that_kills_its_consumers_is_parked_and_other_events_are_not() -> None:
    group = consuming(attempts_max=4)
    for n in range(8):
        group.append(f"s-{n}", b"poison" if n == 3 else b"fine")
    done: list[int] = []
    for _ in range(60):
        member = group.join()
        group.turn()
        while member.has and member.has[0].data != b"poison":
            one = member.has[0]
            group.ack(one)
            done.append(one.position)
            group.turn()
        if not member.has:
            break
        group.leave(member, died=True)
        group.pass_time(1)
    assert sorted(done) == [1, 2, 3, 5, 6, 7, 8]
    assert group.parked() == [(4, "the consumer's connection was lost")]


def test_attempts_of_a_poison_event_survive_restarts() -> None:
    group = consuming(attempts_max=4)
    group.append("a-1", b"poison")
    for attempt in (1, 2, 3, 4):
        member = group.join()
        [one] = group.turn()
        assert one.attempt == attempt
        group.leave(member, died=True)
        group = group.restart(group.database.crash())
    assert group.parked() == [(1, "the consumer's connection was lost")]
    group.join()
    assert group.turn() == []


def test_an_attempt_counts_even_if_the_server_dies_as_soon_as_it_is_handed_out() -> None:
    """Only attempts of more than a second were recorded, so such an event never ended."""
    group = consuming(attempts_max=2)
    group.append("a-1", b"takes the machine down", b"next")
    group.append("b-1", b"beside it")
    beside: list[int] = []
    for attempt in (1, 2):
        group.join(credit=1)
        [one] = group.turn()
        assert (one.position, one.attempt) == (1, attempt)
        group = group.restart(group.database.crash())
    group.join()
    beside += [one.attempt for one in group.turn()]
    assert group.parked() == [(1, "the server ended during its last attempt")]
    assert beside == [1], "its neighbour was never handed out"


def test_an_attempt_is_durable_before_it_is_handed_out_and_a_turn_costs_one_write() -> None:
    group = consuming()
    for n in range(10):
        group.append(f"s-{n}", b"")
    group.join()
    before = group.database.engine.published
    assert group.groups.turn(group.name, group.now).deliveries == {}
    group.database.sync()
    assert len(group.turn()) == 10
    assert group.database.engine.published == before + 1


@pytest.mark.parametrize("died", [False, True])
def test_a_delivery_that_was_never_sent_does_not_count(died: bool) -> None:
    group = consuming(attempts_max=1)
    group.append("a-1", b"")
    member = group.join()
    group.groups.turn(group.name, group.now)
    group.leave(member, died=died)
    group.join()
    [one] = group.turn()
    assert one.attempt == 1
    assert group.parked() == []


def test_a_token_from_before_a_restart_is_invalid() -> None:
    group = consuming()
    group.append("a-1", b"")
    group.join()
    [one] = group.turn()
    restarted = group.restart(group.database.crash())
    with pytest.raises(DeliveryLost, match="it has no members"):
        restarted.ack(one)
    restarted.join()
    [again] = restarted.turn()
    with pytest.raises(DeliveryLost, match="is no longer with this consumer"):
        restarted.ack(one)
    restarted.ack(again)


def test_a_member_that_leaves_returns_events_in_order_and_uncounted() -> None:
    group = consuming()
    for n in range(4):
        group.append(f"s-{n}", b"")
    member = group.join()
    group.turn()
    group.pass_time(1.5)
    group.turn()
    group.leave(member)
    group.join()
    assert [(one.position, one.attempt) for one in group.turn()] == [
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 1),
    ]


# Stored progress.


def test_finished_events_leave_only_the_low_watermark() -> None:
    group = consuming()
    member = group.join()
    for n in range(200):
        group.append(f"s-{n}", b"")
    group.drain()
    assert stored_entries(group) > 0
    group.pass_time(2)
    group.turn()
    assert stored_entries(group) == 0
    assert group.progress_streams == 0
    group.leave(member)
    assert group.info()["position"] == 200


def test_a_stuck_event_does_not_let_the_state_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "ENTRIES_MAX", 50)
    group = consuming(lease_ms=3_600_000)
    group.append("stuck-1", b"")
    group.join()
    [stuck] = group.turn()
    for n in range(500):
        group.append(f"s-{n}", b"")
        for one in group.turn():
            group.ack(one)
        if n % 20 == 0:
            group.pass_time(1.1)
            group.turn()
    group.pass_time(1.1)
    group.turn()
    assert stored_entries(group) < 60
    assert group.groups.active[group.name].progress.low_watermark > 400
    group = group.restart(group.database.crash())
    group.join()
    assert [one.position for one in group.drain()] == [stuck.position]


def test_events_that_do_not_match_move_the_position_too() -> None:
    group = consuming(wanted=EventFilter(category="rare"))
    member = group.join()
    for _ in range(10):
        group.append("common-1", *[b""] * 1000)
    group.turn()
    group.leave(member)
    assert group.info()["position"] == 10_000


def test_a_position_is_always_one_that_was_read() -> None:
    group = consuming()
    member = group.join()
    group.append("a-1", b"")
    group.drain()
    group.leave(member)
    # It must not be 2, the next position: the event that gets it would be skipped.
    assert group.info()["position"] == 1
    group.append("a-1", b"")
    group.join()
    assert [one.position for one in group.drain()] == [2]


@pytest.mark.parametrize("leaves", [False, True])
def test_the_position_stays_below_unfinished_events_of_a_stream(
    leaves: bool,
) -> None:
    # The group used to report a lag of 0 as soon as a stream had one acknowledgement.
    group = consuming()
    member = group.join(credit=1)
    group.append("a-1", *[b""] * 10)
    group.append("b-1", b"")
    [first] = group.turn()
    assert group.info()["position"] == 0
    group.ack(first)
    if leaves:
        group.leave(member)
    assert group.info()["position"] == 1
    assert group.groups.overview()[0][1] == 1
    if leaves:
        group.join()
    group.drain()
    assert group.info()["position"] == 11


@pytest.mark.parametrize("leaves", [False, True])
def test_the_position_does_not_wait_for_events_held_by_a_parked_one(leaves: bool) -> None:
    group = consuming()
    member = group.join(credit=2)
    group.append("a-1", *[b""] * 3)
    group.append("b-1", b"")
    first, other = group.turn()
    group.ack(other)
    group.nack(first, park=True)
    group.turn()
    if leaves:
        group.leave(member)
    assert group.info()["position"] == 4
    group.replay()
    assert group.info()["position"] == 1


def test_failed_events_wait_while_the_disk_is_full_and_none_is_lost() -> None:
    group = consuming(lease_ms=1000, attempts_max=1)
    group.append("a-1", b"1", b"2")
    member = group.join()
    [one] = group.turn()
    group.database.engine.room.read_only_reason = "the disk is full"
    for act in (lambda: group.ack(one), lambda: group.nack(one)):
        with pytest.raises(ReadOnly):
            act()
    group.pass_time(2)
    assert group.turn() == []
    assert member.lost == [one.token]
    assert group.parked() == []
    assert group.groups.next_time(group.now) > group.now, "it waits before it tries again"
    group.database.engine.room.read_only_reason = None
    group.pass_time(2)
    assert group.turn() == []
    assert group.parked() == [(1, "not settled within 1000 ms")]
    group.replay()
    assert [one.position for one in group.drain()] == [1, 2]


def test_a_position_that_cannot_be_written_is_tried_again_after_a_while() -> None:
    group = consuming()
    group.append("a-1", b"1", b"2")
    group.join()
    group.drain()
    group.database.engine.room.read_only_reason = "the disk is full"
    for _ in range(3):
        group.pass_time(1.1)
        group.turn()
        assert group.groups.next_time(group.now) > group.now
    group.database.engine.room.read_only_reason = None
    group.pass_time(1.1)
    group.turn()
    assert stored_entries(group) == 0
    assert group.groups.next_time(group.now) is None


def test_a_group_full_of_parked_events_keeps_retrying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater_server.engine.consumer_groups.group.PARKED_MAX", 2)
    group = consuming(attempts_max=1)
    for n in range(3):
        group.append(f"s-{n}", b"")
    group.join()
    for one in group.turn():
        group.nack(one, reason="broken")
    assert group.turn() == []
    assert [position for position, _ in group.parked()] == [1, 2]
    group.discard()
    group.pass_time(61)
    assert group.turn() == []
    assert group.parked() == [(3, "not parked, because 2 others are: broken")]
