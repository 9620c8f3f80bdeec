"""Feeds of keys over a session: history into live, whole commits, credit, falling behind."""

from dataclasses import replace
from typing import Any

import pytest

from headwater_protocol.errors import HistoryGone, InvalidArgument, TooMany
from headwater_protocol.limits import MIB, VALUE_SIZE_MAX
from tests.engine.database import SETTINGS
from tests.net.serving import Client, MemoryServer, serving, settings


async def feed(client: Client, *arguments: Any) -> int:
    request_id = await client.send("subscribe_keys", *arguments)
    await client.result(request_id)
    return request_id


async def write(server: MemoryServer, client: Client, *writes: list[Any]) -> None:
    await client.ask("execute", server.new_id(), [], [], list(writes))


def put(key: bytes, value: bytes = b"v") -> list[Any]:
    return ["put", key, value]


async def test_history_then_caught_up_then_live_with_old_and_new_values() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await write(server, writer, put(b"a", b"1"), put(b"z"))
        await write(server, writer, put(b"z"))
        await write(server, writer, put(b"a", b"2"), put(b"b", b"5"))
        await feed(client, b"a", b"c", 0, 100)
        assert await client.pushed() == [
            "changes",
            [
                [1, [[b"a", None, b"1"]], False],
                [3, [[b"a", b"1", b"2"], [b"b", None, b"5"]], False],
            ],
        ]
        assert await client.pushed() == ["caught_up", 3]
        await write(server, writer, put(b"z"))
        await write(server, writer, ["delete", b"a"], put(b"c"))
        assert await client.pushed() == ["changes", [[5, [[b"a", b"2", None]], False]]]


async def test_a_commit_is_pushed_whole_and_overdraws_the_credit() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await write(server, writer, *(put(b"%d" % n) for n in range(5)))
        await write(server, writer, put(b"x"))
        request_id = await feed(client, b"", None, 0, 2)
        [_, [[commit, changes, more]]] = await client.pushed()
        assert (commit, len(changes), more) == (1, 5, False)
        # The credit is -3, so the next commit is pushed only after more than 3 is granted.
        await client.ask("credit", request_id, 3)
        await client.ask("ping")
        await client.ask("credit", request_id, 1)
        assert await client.pushed() == ["changes", [[2, [[b"x", None, b"v"]], False]]]
        assert await client.pushed() == ["caught_up", 2]


async def test_a_feed_without_credit_falls_behind_and_loses_nothing() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        request_id = await feed(client, b"", None, 0, 1)
        assert await client.pushed() == ["caught_up", 0]
        await write(server, writer, put(b"a", b"1"))
        assert (await client.pushed())[1][0][0] == 1
        for n in range(2, 5):
            await write(server, writer, put(b"a", b"%d" % n))
        assert await client.pushed() == ["fell_behind", 1]
        await client.ask("credit", request_id, 100)
        commits = (await client.pushed())[1]
        assert [[commit, changes[0][1:]] for commit, changes, _ in commits] == [
            [n, [b"%d" % (n - 1), b"%d" % n]] for n in range(2, 5)
        ]
        assert await client.pushed() == ["caught_up", 4]
        await client.ask("unsubscribe", request_id)
        await write(server, writer, put(b"a"))
        await client.ask("ping")
        assert server.server._key_feeds.count == 0


async def test_a_commit_too_large_for_a_frame_comes_in_parts() -> None:
    async with serving(settings(output_size_max=200 * MIB)) as server:
        client, writer = await server.connect(), await server.connect()
        large = bytes(VALUE_SIZE_MAX)
        await write(server, writer, put(b"a", large))
        await write(server, writer, put(b"a", b"x" + large[1:]), put(b"b"))
        await feed(client, b"", None, 1, 100)
        found: list[Any] = []
        while True:
            [_, [[commit, changes, more]]] = await client.pushed()
            assert commit == 2
            found += changes
            if not more:
                break
        assert [[entry[0], len(entry)] for entry in found] == [[b"a", 2], [b"a", 2], [b"b", 3]]
        assert [found[0][1], found[1][1]] == [large, b"x" + large[1:]]


async def _whole_commit(client: Client, request_id: int, commit: int) -> list[bytes]:
    """The keys of a commit that comes in parts, with at most one `fell_behind` before it."""
    keys: list[bytes] = []
    parts = 0
    while True:
        word, pushed = await client.pushed()
        if word == "fell_behind":
            assert (parts, pushed) == (0, commit - 1)
            continue
        [[number, entries, more]] = pushed
        assert number == commit
        parts += 1
        keys += [entry[0] for entry in entries]
        if not more:
            assert parts > 1
            return keys


async def test_a_commit_larger_than_the_output_may_be_passes_live_and_later() -> None:
    """All of it was put into the output at once, which ended the connection, each time again."""
    async with serving(settings(output_size_max=4 * MIB)) as server:
        client, writer = await server.connect(), await server.connect()
        other = await server.connect()
        keys = [b"k%02d" % number for number in range(12)]
        for key in keys:
            await write(server, writer, put(key, bytes(MIB)))
        live = await feed(client, b"k", b"l", 12, 1)
        await feed(other, b"m", b"n", 12, 100)
        assert await client.pushed() == ["caught_up", 12]
        assert await other.pushed() == ["caught_up", 12]
        await write(server, writer, ["delete_range", b"k", b"l"])
        assert await _whole_commit(client, live, 13) == keys
        assert await client.pushed() == ["caught_up", 13]
        # A feed of other keys stays live, and hears nothing of the large commit.
        await write(server, writer, put(b"m"))
        assert await other.pushed() == ["changes", [[14, [[b"m", None, b"v"]], False]]]
        again = await feed(client, b"k", b"l", 12, 100)
        assert await _whole_commit(client, again, 13) == keys


async def test_a_feed_cannot_begin_before_the_history_window() -> None:
    short = replace(settings(), engine=replace(SETTINGS, history_window_us=1_000_000))
    async with serving(short) as server:
        client, writer = await server.connect(), await server.connect()
        for n in range(5):
            await write(server, writer, put(b"a", b"%d" % n))
            server.database.now += 1_000_000
        await server.server._checkpointer.checkpoint()
        oldest = server.engine.oldest_readable
        assert oldest > 1
        with pytest.raises(HistoryGone, match=f"start at commit {oldest} or later"):
            await feed(client, b"", None, oldest - 1, 100)
        # A feed that waits too long for credit gets the error at its next grant.
        await write(server, writer, put(b"a"))
        request_id = await feed(client, b"", None, server.engine.oldest_readable, 0)
        for n in range(5):
            await write(server, writer, put(b"a", b"%d" % n))
            server.database.now += 1_000_000
        await server.server._checkpointer.checkpoint()
        await client.ask("credit", request_id, 100)
        ended = await client.pushed()
        assert (ended[0], ended[1][0]) == ("ended", "history_gone")


async def test_meaningless_arguments_are_refused() -> None:
    async with serving(settings(subscriptions_max=1)) as server:
        client = await server.connect()
        with pytest.raises(InvalidArgument, match="the newest commit is 0"):
            await feed(client, b"", None, 1)
        with pytest.raises(InvalidArgument, match="not below"):
            await feed(client, b"b", b"a", 0)
        await feed(client, b"", None, 0)
        assert await client.pushed() == ["caught_up", 0]
        with pytest.raises(TooMany):
            await feed(client, b"", None, 0)
