"""The memory that clients take beside their connections: transactions, subscriptions, groups."""

from dataclasses import replace
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.errors import TooMany
from headwater_protocol.frames import encode_frame
from headwater_protocol.limits import KIB, MIB
from headwater_protocol.messages import encode
from headwater_server.engine.consumer_groups import progress
from headwater_server.net.session.memory_budget import MemoryBudget
from headwater_server.net.session.session import open_session
from tests.net.serving import Client, MemoryServer, serving, settings

SIZE_MAX = 8 * MIB


def tags(number: int) -> dict[str, Any]:
    return {"query": [{"tags": [f"{number}-{place}".ljust(200, "x") for place in range(50)]}]}


def memory(server: MemoryServer) -> dict[str, int]:
    figures: dict[str, int] = server.server.service.stats()["memory"]
    return figures


async def test_subscriptions_are_charged_by_their_filters_and_bounded() -> None:
    """20,000 subscriptions with 50 long tags each took 335 MiB that nobody counted."""
    async with serving(replace(settings(), memory_size_max=SIZE_MAX)) as server:
        client, other = await server.connect(), await server.connect()
        opened: list[int] = []
        refused: list[TooMany] = []
        for number in range(1024):
            request_id = await client.send("subscribe", 0, tags(number), 0)
            try:
                await client.result(request_id)
            except TooMany as error:
                refused.append(error)
                break
            opened.append(request_id)
            assert await client.pushed() == ["caught_up", 0]
        assert 100 < len(opened) < 1024
        assert refused[0].retryable
        assert "held for transactions, subscriptions and groups" in refused[0].message
        assert memory(server)["subscriptions"] > SIZE_MAX // 4
        for operation in (("subscribe_keys", b"", None, 0), ("group_join", "g")):
            with pytest.raises(TooMany):
                await other.ask(*operation)
        rows, _ = await other.ask("connection_list")
        assert rows[0][1]["memory"] > 50 * rows[1][1]["memory"], "the list shows who holds it"
        for request_id in opened:
            await client.ask("unsubscribe", request_id)
        assert memory(server)["subscriptions"] == 0
        request_id = await other.send("subscribe", 0, {}, 0)
        assert await other.result(request_id) is None


async def test_what_others_hold_leaves_less_room_for_connections_but_at_least_half() -> None:
    budget = MemoryBudget(1000, stalled_s_max=30, unmoved_s_max=600, monotonic=lambda: 0.0)
    assert budget._room == 1000
    budget.note_others(300)
    assert budget._room == 700
    budget.note_others(5000)
    assert budget._room == 500
    with pytest.raises(TooMany, match="5000 bytes"):
        budget.check_others("subscribe")


async def test_open_transactions_take_a_quarter_of_a_small_budget_at_most() -> None:
    async with serving(replace(settings(), memory_size_max=SIZE_MAX)) as server:
        client = await server.connect()
        held = 0
        with pytest.raises(TooMany):
            for _ in range(10):
                transaction = server.new_id()
                await client.ask("begin", transaction)
                await client.ask("write", transaction, [["put", b"k", bytes(MIB // 2)]])
                held += MIB // 2
        assert held <= SIZE_MAX // 4
        assert 0 < memory(server)["transactions"] <= SIZE_MAX // 4


async def fill_groups(server: MemoryServer, client: Client, count: int, events: int) -> None:
    for number in range(count):
        await client.ask("group_create", f"g{number}", {}, 0, {})
    for begin in range(0, events, 500):
        writes = [
            ["append", f"s-{number}", -1, [[None, "T", b"", b""]]]
            for number in range(begin, begin + 500)
        ]
        await client.ask("execute", server.new_id(), [], [], writes)


async def test_all_groups_together_read_ahead_a_bounded_number_of_positions() -> None:
    """1000 groups with a member each read 4096 positions ahead, and took gigabytes."""
    async with serving(replace(settings(), memory_size_max=SIZE_MAX)) as server:
        client = await server.connect()
        await fill_groups(server, client, 20, 2000)
        member = await server.connect()
        for number in range(20):
            await member.ask("group_join", f"g{number}", 0)
        await wait_all_tasks_blocked()
        read = [group.progress.pending for group in server.engine.groups.active.values()]
        assert sum(read) <= SIZE_MAX // 8 // KIB + 20 * progress.WINDOW_MIN
        assert min(read) >= progress.WINDOW_MIN
        server.server.service.count_memory()
        assert memory(server)["groups"] > 20 * 1024
        for number in range(1, 20):
            await client.ask("group_delete", f"g{number}")
        server.server.service.count_memory()
        assert server.engine.groups.window(0) > progress.WINDOW_MIN, (
            "what is left may read further ahead"
        )


async def test_an_answer_that_is_partly_sent_counts_with_all_that_it_keeps() -> None:
    """The rest was a view of the whole answer, and only the rest was counted."""
    async with serving(settings()) as server:
        client = await server.connect()
        await client.ask("execute", server.new_id(), [], [], [["put", b"k", bytes(MIB)]])
        session = open_session(server.server.service, "by hand", lambda: None)
        session.receive(encode_frame(encode([1, "hello", 1])))
        session.sent(len(session.output()))
        session.receive(encode_frame(encode([2, "get", None, b"k"])))
        whole = session.held_size
        assert whole > MIB
        sent = 0
        while session.output_size:
            size = min(100_000, len(session.output()))
            session.sent(size)
            sent += size
            kept = sum(len(getattr(each, "obj", each)) for each in session._output)
            assert session.held_size == kept
            assert whole - sent <= kept <= 2 * (whole - sent)
        session.close()
