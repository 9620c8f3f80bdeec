"""Idle groups and feeds cost nothing: a commit examines only those that it may concern."""

import random
from typing import Any, cast

import pytest
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.limits import PAGE_ITEMS_MAX
from headwater_server.engine.format import keyspaces
from headwater_server.engine.reads.changes import Change, CommitChanges
from headwater_server.net.push import group_deliveries
from headwater_server.net.push.channels import Owner, Subscriber
from headwater_server.net.push.feeds import Feed
from headwater_server.net.push.key_source import KeyFeed, KeyRange, LiveRanges
from tests.net.serving import Client, MemoryServer, serving

GROUPS = 40


def filter_of(number: int) -> dict[str, Any]:
    """The filter of a group whose events no other group gets. The kinds of filters alternate."""
    kinds: list[dict[str, Any]] = [
        {"category": f"none{number}"},
        {"prefix": f"none{number}-"},
        {"stream": f"none{number}-1"},
        {"types": [f"None{number}"]},
        {"query": [{"tags": [f"none:{number}"]}]},
    ]
    return kinds[number % len(kinds)]


async def join_groups(server: MemoryServer, client: Client) -> None:
    for number in range(GROUPS):
        await client.ask("group_create", f"g{number}", filter_of(number), 0, {})
        await client.ask("group_join", f"g{number}", 10)
        assert (await client.pushed())[0] == "caught_up"
    await wait_all_tasks_blocked()


async def test_a_commit_gives_no_turn_to_groups_that_wait_for_other_events() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await join_groups(server, client)
        deliveries = server.server._group_deliveries
        turns, compared = deliveries.turns, deliveries._index.candidates_count
        for number in range(50):
            await server.append(writer, f"busy-{number}", b"")
            await server.put(writer, b"k", b"%d" % number)
        await wait_all_tasks_blocked()
        assert deliveries.turns == turns
        assert deliveries._index.candidates_count == compared
        # Their positions advance, and each group gets its own events.
        position = server.engine.published_position
        assert (await client.ask("group_info", "g3"))["position"] == position == 50
        assert {row[1] for row in await client.ask("group_list")} == {position}
        for number in (0, 1, 2):
            await server.append(writer, f"none{number}-1", b"x")
            word, [[_, attempt, event]] = await client.pushed()
            assert (word, attempt, event[1]) == ("deliveries", 1, f"none{number}-1")
        assert deliveries.turns - turns <= 12


async def test_a_large_commit_or_many_positions_give_every_group_one_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_deliveries, "COMPACT_POSITIONS_MAX", 30_000)
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await join_groups(server, client)
        deliveries = server.server._group_deliveries
        for count, expected in ((PAGE_ITEMS_MAX, 0), (PAGE_ITEMS_MAX + 1, 1), (PAGE_ITEMS_MAX, 1)):
            turns = deliveries.turns
            await server.append(writer, "busy-1", *[b""] * count)
            await wait_all_tasks_blocked()
            assert GROUPS * expected <= deliveries.turns - turns <= 2 * GROUPS * expected


async def test_a_group_with_a_changed_filter_gets_events_of_the_new_filter_only() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await client.ask("group_create", "g", {"category": "old"}, 0, {})
        await client.ask("group_join", "g", 10)
        await client.pushed()
        await client.ask("group_update", "g", {"category": "new"}, None, {})
        assert (await client.pushed())[0] == "caught_up"
        await server.append(writer, "old-1", b"")
        await server.append(writer, "new-1", b"")
        word, [[_, _, event]] = await client.pushed()
        assert (word, event[1]) == ("deliveries", "new-1")


async def test_a_put_is_not_compared_with_feeds_of_other_keys() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        for number in range(60):
            start = b"feed%03d" % number
            await client.ask("subscribe_keys", start, start + b"\xff", 0, 100)
            assert (await client.pushed())[0] == "caught_up"
        live = server.server._key_feeds._source.live
        assert isinstance(live, LiveRanges)
        compared = live.compared_count
        for number in range(50):
            await server.put(writer, b"other%d" % number, b"v")
        assert live.compared_count == compared
        await server.put(writer, b"feed007x", b"v")
        assert (await client.pushed())[0] == "changes"
        assert live.compared_count == compared + 1


@pytest.mark.parametrize("seed", range(6))
def test_the_ranges_found_for_a_key_equal_those_of_a_comparison_with_all(seed: int) -> None:
    print("seed", seed)
    source = random.Random(seed)

    def name() -> bytes:
        return bytes(source.choices(b"ab\x00\xff", k=source.randrange(4)))

    def some_range() -> KeyRange:
        while True:
            first = keyspaces.USER + name()
            last = source.choice([keyspaces.USER + name(), first + b"\xff", keyspaces.USER_END])
            if first < last:
                return first, last

    live = LiveRanges()
    nobody, nothing = cast(Subscriber, None), cast(Owner, None)
    feeds: list[KeyFeed] = [Feed(nothing, nobody, 1, 0, some_range(), 0) for _ in range(40)]
    for feed in feeds:
        live.add(feed)
    while feeds:
        for size in (1, 3, 60):
            keys = sorted({name() for _ in range(size)})
            commit = CommitChanges(1, [Change(key, None, b"v") for key in keys])
            found = {
                wanted: [change.key for part in parts for change in part.changes]
                for wanted, parts in live.found([commit]).items()
            }
            expected = {
                wanted: inside
                for wanted in live.by_range
                if (inside := [k for k in keys if wanted[0] <= keyspaces.USER + k < wanted[1]])
            }
            assert found == expected
        for _ in range(10):
            live.remove(feeds.pop())
    assert not live.by_range
    assert not live._by_prefix
    assert not live._lengths
