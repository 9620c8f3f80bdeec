"""A live feed that gets nothing is told now and then how far it is."""

from typing import Any

import pytest
import trio
import trio.testing

from headwater_server.net.push.quiet_feeds import QUIET_S, QuietFeeds, quiet_seconds
from tests.net.serving import serving


@pytest.mark.parametrize(
    ("request_of_it", "noise"),
    [
        (
            ("subscribe", 0, {"category": "a"}, 10),
            ["append", "b-1", -1, [[None, "T", b"", b""]]],
        ),
        (("subscribe_keys", b"a", b"b", 0, 10), ["put", b"c", b""]),
    ],
    ids=["events", "keys"],
)
async def test_a_feed_that_gets_nothing_is_told_how_far_it_is(
    request_of_it: tuple[Any, ...],
    noise: list[Any],
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await client.result(await client.send(*request_of_it))
        assert await client.pushed() == ["caught_up", 0]
        for _ in range(3):
            await writer.ask("execute", server.new_id(), [], [], [noise])
        began = trio.current_time()
        assert await client.pushed() == ["caught_up", 3]
        assert trio.current_time() - began <= QUIET_S
        await writer.ask("execute", server.new_id(), [], [], [noise])
        assert await client.pushed() == ["caught_up", 4]


async def test_without_publishes_nothing_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as server:
        client = await server.connect()
        await client.result(await client.send("subscribe", 0, {}, 10))
        assert await client.pushed() == ["caught_up", 0]
        with trio.move_on_after(1000) as waited:
            await client.pushed()
        assert waited.cancelled_caught


class Fed:
    """A live feed."""

    def __init__(self) -> None:
        self.live = self.quiet = self.is_open = True
        self.told = 0
        self.session = self
        self.output_blocked = False
        self.pushes: list[list[Any]] = []

    def push(self, payload: list[Any]) -> None:
        self.pushes.append(payload)


async def test_only_quiet_feeds_are_told_and_busy_ones_when_they_are_quiet_again(
    mock_clock: trio.testing.MockClock,
) -> None:
    feeds = [Fed() for _ in range(600)]
    quiet, busy, blocked, closed = feeds[:4]
    busy.quiet = False
    blocked.output_blocked = True
    closed.is_open = False
    told = QuietFeeds(10)
    assert not told.is_due
    assert told.note_publish()
    assert not told.note_publish()
    mock_clock.jump(10)
    while told.is_due:
        told.tell(lambda: feeds, 7)
    assert quiet.pushes == [["caught_up", 7]]
    assert [busy.pushes, blocked.pushes, closed.pushes] == [[], [], []]
    assert all(feed.pushes for feed in feeds[4:])
    mock_clock.jump(10)
    while told.is_due:
        told.tell(lambda: feeds, 7)
    assert busy.pushes == [["caught_up", 7]]
    assert quiet.pushes == [["caught_up", 7]], "it is told once"


def test_feeds_are_told_well_inside_of_the_history_window() -> None:
    assert quiet_seconds(3_600_000_000) == QUIET_S
    assert quiet_seconds(2_000_000) == 0.5
