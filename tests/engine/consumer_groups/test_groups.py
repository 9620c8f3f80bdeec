"""Consumer groups: which member gets which event, in which order, exactly once."""

import pytest

from headwater_protocol.errors import (
    DeliveryLost,
    GroupExists,
    InvalidArgument,
    NoSuchGroup,
)
from headwater_server.engine.consumer_groups.records import GroupSettings
from headwater_server.engine.reads.filters import EventFilter
from tests.engine.consumer_groups.consuming import Consuming
from tests.engine.database import Database


def consuming(**settings: object) -> Consuming:
    group = Consuming(Database())
    group.create(**settings)  # type: ignore[arg-type]
    return group


# Order.


def test_one_event_of_a_stream_is_out_at_a_time_and_streams_are_parallel() -> None:
    group = consuming()
    group.append("a-1", b"1", b"2")
    group.append("b-1", b"3")
    member = group.join()
    group.turn()
    assert [repr(one) for one in member.has] == ["a-1@1#1", "b-1@3#1"]
    group.ack(member.has[0])
    group.turn()
    assert [repr(one) for one in member.has] == ["b-1@3#1", "a-1@2#1"]


def test_the_next_event_waits_until_the_acknowledgement_is_published() -> None:
    group = consuming()
    group.append("a-1", b"1", b"2")
    member = group.join()
    [first] = group.turn()
    group.database.engine.execute(
        group.database.new_id(),
        user=0,
        conditions=[],
        reads=None,
        writes=[["ack", group.name, [[first.position, first.token]]]],
    )
    assert group.groups.turn(group.name, group.now).deliveries == {}
    group.database.sync()
    assert len(group.turn()) == 1
    assert member.has


def test_a_group_whose_first_turn_waits_for_a_sync_names_no_time() -> None:
    """It named one that was over, so it got turns without end, and did nothing in them."""
    group = consuming(attempts_max=1)
    group.append("a-1", b"1")
    group.append("b-1", b"2", b"3")
    group.database.execute(["truncate", "b-1", 2])
    member = group.join()
    group.nack(*group.turn())
    group.turn()
    assert group.parked(), "the group looks now and then whether what is parked was hidden"
    group.leave(member)
    group.pass_time(10)
    group.database.engine.execute(
        group.database.new_id(), user=0, conditions=[], reads=None, writes=[["put", b"k", b"v"]]
    )
    group.groups.join(group.name, "another", 100, lambda: True)
    assert group.groups.turn(group.name, group.now).deliveries == {}
    assert group.groups.active[group.name].next_time(group.now) is None
    group.database.sync()
    group.groups.turn(group.name, group.now)
    assert group.groups.active[group.name].next_time(group.now) is not None


def test_every_event_is_delivered_once_in_the_order_of_its_stream() -> None:
    group = consuming()
    members = [group.join(credit=3) for _ in range(4)]
    for n in range(300):
        group.append(f"s-{n % 7}", b"%d" % n)
    done = group.drain()
    assert sorted(one.position for one in done) == list(range(1, 301))
    for stream in range(7):
        positions = [one.position for one in done if one.stream == f"s-{stream}"]
        assert positions == sorted(positions)
    assert all(member.got for member in members)
    assert members[0].caught_up[-1] == 300
    assert group.info()["position"] == 300


def test_a_busy_stream_does_not_keep_the_others_waiting() -> None:
    group = consuming()
    group.append("busy-1", *[b"x"] * 6000)
    group.append("calm-1", b"y")
    group.join()
    assert {one.stream for one in group.turn()} == {"busy-1", "calm-1"}


def test_a_stream_that_fell_behind_is_delivered_completely_and_in_order() -> None:
    group = consuming()
    group.append("busy-1", *[b"x"] * 500)
    group.append("calm-1", b"y")
    group.append("busy-1", *[b"z"] * 100)
    group.join()
    busy = [one.position for one in group.drain() if one.stream == "busy-1"]
    assert busy == [*range(1, 501), *range(502, 602)]
    group.append("busy-1", b"live")
    assert [one.position for one in group.drain()] == [602]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (EventFilter(), [1, 2, 3, 4]),
        (EventFilter(category="a"), [1, 2]),
        (EventFilter(prefix="b"), [3, 4]),
        (EventFilter(stream="a-2"), [2]),
        (EventFilter(types=("U",)), [4]),
    ],
)
def test_a_group_gets_events_that_match_its_filter(
    wanted: EventFilter, expected: list[int]
) -> None:
    group = consuming(wanted=wanted)
    group.join()
    for stream, kind in (("a-1", "T"), ("a-2", "T"), ("b-1", "T"), ("b-2", "U")):
        group.append(stream, b"", kind=kind)
    assert sorted(one.position for one in group.drain()) == expected
    assert group.info()["position"] == 4


def test_a_group_can_have_a_query_even_for_streams_that_fell_behind() -> None:
    wanted = EventFilter.from_wire({"query": [{"tags": ["red"]}]})
    group = consuming(wanted=wanted)
    for n in range(200):
        tags = ["red"] if n % 2 else ["blue"]
        group.database.execute(["append", "a-1", -1, [[None, "T", b"", b"", tags]]])
    group.join()
    assert [one.position for one in group.drain()] == list(range(2, 201, 2))
    assert group.info()["filter"] == {"query": [{"tags": ["red"]}]}


def test_a_group_begins_after_a_position_or_now() -> None:
    group = Consuming(Database())
    group.append("a-1", b"1", b"2", b"3")
    assert group.create(after=2) == [2]
    later = Consuming(group.database, "later")
    assert later.create(after=None) == [3]
    group.join()
    later.join()
    assert [one.position for one in group.drain()] == [3]
    assert later.drain() == []
    group.append("a-1", b"4")
    assert [one.position for one in later.drain()] == [4]


# Settling.


def test_an_acknowledgement_is_a_write_of_its_transaction() -> None:
    group = consuming()
    group.append("a-1", b"1")
    member = group.join()
    group.turn()
    group.ack(member.has[0], writes=[["put", b"seen", b"1"]])
    assert group.database.engine.get(b"seen") == b"1"
    restarted = group.restart(group.database.crash())
    assert restarted.database.engine.get(b"seen") == b"1"
    restarted.join()
    assert restarted.turn() == []


def test_a_transaction_with_a_lost_delivery_does_nothing() -> None:
    group = consuming(lease_ms=1000)
    group.append("a-1", b"1")
    member = group.join()
    [first] = group.turn()
    group.pass_time(2)
    [again] = group.turn()
    assert (again.position, again.attempt) == (1, 2)
    assert member.lost == [first.token]
    with pytest.raises(DeliveryLost, match="event 1 is no longer with this consumer"):
        group.ack(first, writes=[["put", b"seen", b"1"]])
    assert group.database.engine.get(b"seen") is None
    group.ack(again, writes=[["put", b"seen", b"2"]])
    assert group.database.engine.get(b"seen") == b"2"


def test_a_delivery_is_acknowledged_once() -> None:
    group = consuming()
    group.append("a-1", b"1")
    group.join()
    [one] = group.turn()
    with pytest.raises(DeliveryLost, match="event 1 is settled twice at once"):
        group.ack(one, one)
    group.ack(one)
    with pytest.raises(DeliveryLost, match="it was settled before"):
        group.ack(one)
    with pytest.raises(DeliveryLost, match="it was settled before"):
        group.nack(one)


def test_a_token_is_valid_for_its_own_event_only() -> None:
    group = consuming()
    group.append("a-1", b"1")
    group.append("b-1", b"2")
    group.join()
    first, second = group.turn()
    with pytest.raises(DeliveryLost, match="the token is of a delivery of event 2, not of event 1"):
        group.database.execute(["ack", group.name, [[first.position, second.token]]])
    with pytest.raises(DeliveryLost, match="is no longer with this consumer"):
        group.database.execute(["ack", group.name, [[first.position, first.token + 1]]])
    group.ack(first, second)


def test_a_conflict_leaves_the_delivery_with_its_consumer() -> None:
    group = consuming()
    group.append("a-1", b"1")
    group.join()
    [one] = group.turn()
    transaction = group.database.begin()
    transaction.get(b"k")
    group.database.execute(["put", b"k", b"other"])
    with pytest.raises(Exception, match="read-write conflict"):
        group.database.commit(transaction, ["ack", group.name, [[one.position, one.token]]])
    group.ack(one)
    assert group.drain() == []


def test_a_repeated_execute_gives_the_first_answer_and_settles_once() -> None:
    group = consuming()
    group.append("a-1", b"1")
    group.join()
    [one] = group.turn()
    identity = group.database.new_id()
    write = ["ack", group.name, [[one.position, one.token]]]
    first = group.database.execute(write, transaction=identity)
    assert group.database.execute(write, transaction=identity) == first


def test_a_nacked_event_comes_again_after_its_pause_and_before_later_ones() -> None:
    group = consuming(retry_ms=1000)
    group.append("a-1", b"1", b"2")
    member = group.join()
    [one] = group.turn()
    group.nack(one, delay_ms=5000, reason="busy")
    group.pass_time(4.9)
    assert group.turn() == []
    group.pass_time(0.2)
    [again] = group.turn()
    assert (again.position, again.attempt) == (1, 2)
    group.nack(again)
    group.pass_time(1.9)
    assert group.turn() == []
    group.pass_time(0.2)
    [third] = group.turn()
    assert (third.position, third.attempt) == (1, 3)
    group.ack(third)
    assert [one.position for one in group.turn()] == [2]
    assert member.caught_up == []


def test_a_pause_survives_a_restart() -> None:
    group = consuming()
    group.append("a-1", b"1")
    group.join()
    [one] = group.turn()
    group.nack(one, delay_ms=60_000, reason="busy")
    restarted = group.restart(group.database.crash())
    restarted.join()
    assert restarted.turn() == []
    restarted.pass_time(59)
    assert restarted.turn() == []
    restarted.pass_time(2)
    [again] = restarted.turn()
    assert again.attempt == 2


# Parking.


def test_an_event_is_parked_after_its_last_attempt_with_the_reason() -> None:
    group = consuming(attempts_max=3)
    group.append("a-1", b"1", b"2")
    group.join()
    for attempt in (1, 2, 3):
        [one] = group.turn()
        assert one.attempt == attempt
        group.nack(one, reason=f"failed {attempt}")
    assert group.turn() == []
    assert group.parked() == [(1, "failed 3")]
    assert group.info()["parked"] == 1


def test_zero_attempts_means_that_nothing_is_parked() -> None:
    group = consuming(attempts_max=0)
    group.append("a-1", b"1")
    group.join()
    for _ in range(30):
        [one] = group.turn()
        group.nack(one, delay_ms=0)
    assert group.parked() == []


def test_later_events_of_a_stream_wait_for_its_parked_one() -> None:
    group = consuming()
    group.append("a-1", b"1", b"2")
    group.append("b-1", b"3")
    member = group.join()
    for one in group.turn():
        if one.stream == "a-1":
            group.nack(one, reason="broken", park=True)
    group.append("a-1", b"4")
    assert [one.position for one in group.drain()] == [3]
    assert member.caught_up[-1] == 4
    assert group.info()["position"] == 4
    assert group.replay() == 1
    assert [(one.position, one.attempt) for one in group.drain()] == [(1, 1), (2, 1), (4, 1)]
    assert group.parked() == []


def test_later_events_of_a_stream_continue_if_the_group_says_so() -> None:
    group = consuming(parked_stream="continue")
    group.append("a-1", b"1", b"2", b"3")
    group.join()
    [one] = group.turn()
    group.nack(one, reason="broken", park=True)
    [two] = group.turn()
    assert two.position == 2
    group.nack(two, reason="broken too", park=True)
    assert [one.position for one in group.drain()] == [3]
    assert group.parked() == [(1, "broken"), (2, "broken too")]
    assert group.replay() == 2
    assert [one.position for one in group.drain()] == [1, 2]


def test_a_held_stream_stays_held_over_a_restart_and_loses_nothing() -> None:
    group = consuming()
    group.append("a-1", b"1", b"2")
    group.join()
    [one] = group.turn()
    group.nack(one, reason="broken", park=True)
    group.append("b-1", *[b"x"] * 10)
    group.drain()
    group.leave(group.consumers[0])
    restarted = group.restart(group.database.crash())
    restarted.append("a-1", b"3")
    restarted.join()
    assert restarted.drain() == []
    assert restarted.parked() == [(1, "broken")]
    restarted.replay(1)
    assert [one.position for one in restarted.drain()] == [1, 2, 13]


def test_a_discarded_event_releases_its_stream() -> None:
    group = consuming()
    group.append("a-1", b"1", b"2")
    group.join()
    [one] = group.turn()
    group.nack(one, park=True)
    assert group.turn() == []
    assert group.discard(1) == 1
    assert [one.position for one in group.drain()] == [2]
    assert group.parked() == []


def test_parked_events_can_be_replayed_and_discarded_without_members() -> None:
    group = consuming()
    group.append("a-1", b"1", b"2")
    group.append("b-1", b"3", b"4")
    member = group.join()
    group.nack(*group.turn(), park=True)
    group.turn()
    group.leave(member)
    assert group.replay(1) == 1
    assert group.discard(3) == 1
    assert group.discard() == 0
    group.join()
    assert sorted(one.position for one in group.drain()) == [1, 2, 4]


def test_a_replayed_event_that_fails_again_is_parked_again_and_holds_again() -> None:
    group = consuming(attempts_max=2)
    group.append("a-1", b"1", b"2")
    group.join()
    group.nack(*group.turn(), reason="first", park=True)
    group.turn()
    group.replay()
    for _ in range(2):
        [one] = group.turn()
        assert one.position == 1
        group.nack(one, reason="second")
    assert group.turn() == []
    assert group.parked() == [(1, "second")]
    group.replay()
    assert [one.position for one in group.drain()] == [1, 2]


def test_a_replayed_event_that_is_parked_again_is_not_retried() -> None:
    # EventStore (issue 3696) ignored the parking of a replayed event, and retried it.
    group = consuming()
    group.append("a-1", b"1", b"2")
    group.join()
    group.nack(*group.turn(), reason="first", park=True)
    group.turn()
    for reason in ("second", "third"):
        group.replay()
        [one] = group.turn()
        group.nack(one, reason=reason, park=True)
        assert group.turn() == []
        assert group.parked() == [(1, reason)]


def test_replayed_events_of_a_stream_come_in_order_for_any_request() -> None:
    group = consuming(parked_stream="continue")
    group.append("a-1", b"1", b"2", b"3", b"4")
    group.join()
    while delivered := group.turn():
        group.nack(*delivered, park=True)
    for position in (3, 1, 4):
        group.replay(position)
    assert [one.position for one in group.drain()] == [1, 3, 4]


def test_deleted_and_truncated_events_are_not_delivered_and_count_as_done() -> None:
    group = consuming()
    group.append("a-1", b"1", b"2", b"3")
    group.append("b-1", b"4", b"5")
    group.append("c-1", b"6")
    group.join()
    first, second, third = group.turn()
    group.nack(third, park=True)
    group.database.execute(["truncate", "a-1", 3], ["delete_stream", "b-1"])
    group.database.execute(["delete_stream", "c-1"])
    # A consumer keeps the events that it already has.
    group.ack(first, second)
    assert [one.position for one in group.drain()] == [3]
    group.replay()
    assert group.drain() == []
    assert group.parked() == []
    group.append("b-1", b"again")
    assert [one.data for one in group.drain()] == [b"again"]
    assert group.info()["position"] == 7


def test_attempts_of_a_replay_survive_a_restart() -> None:
    group = consuming(attempts_max=2)
    group.append("a-1", b"1", b"2")
    group.join()
    group.nack(*group.turn(), reason="first", park=True)
    group.turn()
    group.replay()
    group.nack(*group.turn(), reason="second")
    restarted = group.restart(group.database.crash())
    restarted.join()
    [one] = restarted.turn()
    assert (one.position, one.attempt) == (1, 2)
    restarted.nack(one, reason="third")
    assert restarted.parked() == [(1, "third")]


def test_a_position_that_is_not_parked_cannot_be_replayed_or_discarded() -> None:
    group = consuming()
    group.append("a-1", b"1")
    group.append("b-1", b"2")
    group.join()
    first, _ = group.turn()
    group.nack(first, park=True)
    for act in (group.replay, group.discard):
        with pytest.raises(InvalidArgument, match="event 2 is not parked"):
            act(1, 2)
    assert group.parked() == [(1, "")]


# Administration.


def test_missing_and_existing_groups_have_errors_of_their_own() -> None:
    group = consuming()
    with pytest.raises(GroupExists, match="there is a group 'mailer' already"):
        group.create()
    nobody = Consuming(group.database, "nobody")
    for act in (
        nobody.join,
        nobody.info,
        nobody.parked,
        nobody.replay,
        nobody.discard,
        lambda: nobody.groups.delete("nobody"),
        lambda: nobody.groups.update("nobody", None, None, {}),
        lambda: group.database.execute(["ack", "nobody", [[1, 1]]]),
        lambda: nobody.groups.nack("nobody", [[1, 1]], delay_ms=None, reason="", park=False),
    ):
        with pytest.raises(NoSuchGroup, match="there is no group 'nobody'"):
            act()
    with pytest.raises(InvalidArgument, match="after: 7; the newest position is 0"):
        nobody.create(after=7)


def test_a_group_is_listed_with_its_position_and_described_with_its_settings() -> None:
    group = consuming(lease_ms=5000, wanted=EventFilter(category="a"))
    group.append("a-1", b"1", b"2")
    assert group.groups.overview() == [["mailer", 0, 0, 0]]
    group.join()
    group.drain()
    assert group.groups.overview() == [["mailer", 2, 1, 0]]
    assert group.info() == {
        "name": "mailer",
        "filter": {"category": "a"},
        "lease_ms": 5000,
        "attempts_max": 10,
        "retry_ms": 0,
        "parked_stream": "hold",
        "position": 2,
        "newest": 2,
        "members": 1,
        "in_flight": 0,
        "retrying": 0,
        "parked": 0,
        "waiting": 0,
    }


def test_a_group_created_again_under_an_old_name_has_no_old_state() -> None:
    group = consuming()
    group.append("a-1", b"1", b"2")
    group.append("b-1", b"3")
    group.join()
    first, second = group.turn()
    group.ack(second)
    group.nack(first, park=True)
    ticket, members = group.groups.delete(group.name)
    group.database.settle(ticket)
    assert [member.owner for member in members] == group.consumers
    with pytest.raises(NoSuchGroup):
        group.info()
    fresh = Consuming(group.database)
    fresh.create()
    fresh.join()
    assert sorted(one.position for one in fresh.drain()) == [1, 2, 3]
    assert fresh.parked() == []


def test_a_changed_filter_applies_to_unfinished_events() -> None:
    group = consuming()
    group.append("a-1", b"1")
    group.append("b-1", b"2")
    group.append("a-2", b"3")
    member = group.join()
    first, *_ = group.turn()
    group.ack(first)
    ticket = group.groups.update(group.name, EventFilter(category="a"), None, {})
    group.database.settle(ticket)
    assert [(one.position, one.attempt) for one in group.turn()] == [(3, 1)]
    assert len(member.lost) == 2
    assert group.info()["filter"] == {"category": "a"}
    with pytest.raises(DeliveryLost):
        group.ack(member.got[1])


def test_changed_settings_apply_to_later_deliveries() -> None:
    group = consuming(lease_ms=60_000)
    group.append("a-1", b"1")
    group.join()
    group.turn()
    ticket = group.groups.update(group.name, None, None, {"lease_ms": 1000, "attempts_max": 1})
    group.database.settle(ticket)
    [again] = group.turn()
    assert again.attempt == 1
    group.pass_time(1.5)
    group.turn()
    assert group.parked() == [(1, "not settled within 1000 ms")]


def test_a_group_can_start_over_at_another_position() -> None:
    group = consuming()
    group.append("a-1", b"1", b"2", b"3")
    group.join()
    group.drain()
    group.database.settle(group.groups.update(group.name, None, 1, {}))
    assert [one.position for one in group.drain()] == [2, 3]


@pytest.mark.parametrize("mode", ["hold", "continue"])
@pytest.mark.parametrize("replayed", [False, True])
@pytest.mark.parametrize("joined", [False, True])
def test_a_group_that_starts_over_delivers_parked_events_again_in_their_order(
    mode: str, replayed: bool, joined: bool
) -> None:
    """They stayed parked, so that the start of their stream was not delivered, or came late."""
    group = consuming(parked_stream=mode)
    group.append("a-1", b"1", b"2", b"3")
    member = group.join()
    [first] = group.turn()
    group.ack(first)
    [second] = group.turn()
    group.nack(second, reason="broken", park=True)
    if replayed:
        group.replay()
    if not joined:
        group.leave(member)
    group.database.settle(group.groups.update(group.name, None, 0, {}))
    if not joined:
        group.join()
    assert [one.position for one in group.drain()] == [1, 2, 3]
    assert group.parked() == []
    group = group.restart(group.database.crash())
    group.join()
    assert group.drain() == []


def test_a_group_that_starts_over_after_a_parked_event_leaves_it_parked() -> None:
    group = consuming(parked_stream="continue")
    group.append("a-1", b"1", b"2", b"3")
    group.join()
    [first] = group.turn()
    group.nack(first, reason="broken", park=True)
    group.drain()
    group.database.settle(group.groups.update(group.name, None, 1, {}))
    assert [one.position for one in group.drain()] == [2, 3]
    assert group.parked() == [(1, "broken")]


def test_a_pause_that_is_longer_than_a_minute_is_kept() -> None:
    """It was told as it was set, and cut to a minute."""
    group = consuming(retry_ms=100_000)
    group.append("a-1", b"1")
    group.join()
    for _ in range(2):
        [one] = group.turn()
        group.nack(one)
        group.pass_time(99)
        assert group.turn() == []
        group.pass_time(1.1)


def test_the_settings_have_the_defaults_of_the_protocol() -> None:
    assert GroupSettings().as_wire() == {
        "lease_ms": 30_000,
        "attempts_max": 10,
        "retry_ms": 1_000,
        "parked_stream": "hold",
    }
