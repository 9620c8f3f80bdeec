"""The memory budget: a bound on the memory that all connections use together.

The law: for any mix of connections that send parts of frames, or send requests and do not read the
answers, the charges stay within the budget. All bytes held stay within the budget plus the free
allowance of each connection, and a well behaved connection is served.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.connection import ClientConnection, Failure
from headwater_protocol.errors import TooMany
from headwater_protocol.frames import encode_frame
from headwater_protocol.limits import KIB, MIB, PROTOCOL_VERSION
from headwater_protocol.messages import encode
from headwater_server.net.session.memory_budget import (
    FREE_SIZE,
    SIZE_DEFAULT_MAX,
    MemoryBudget,
    default_size,
)
from headwater_server.net.session.session import Session, open_session
from headwater_server.net.settings import ServerSettings
from tests.net.serving import MemoryServer, serving, settings

SIZE_MAX = 4 * MIB


class Holder:
    """A connection that holds a number of bytes that the test chooses."""

    def __init__(self, budget: MemoryBudget, *, authenticated: bool = True) -> None:
        self.budget = budget
        self.authenticated = authenticated
        self.size = 0
        self.paused = False
        self.error: TooMany | None = None

    def hold(self, size: int, *, moved: bool = True) -> None:
        self.size = size
        self.budget.hold(self, size, moved=moved)

    def pause(self) -> None:
        assert not self.paused
        self.paused = True

    def resume(self) -> None:
        assert self.paused
        self.paused = False

    def end_over_budget(self, error: TooMany) -> None:
        self.error = error
        self.hold(0)


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 0.0


def budget_of(size_max: int = SIZE_MAX, clock: Clock | None = None) -> MemoryBudget:
    clock = clock or Clock()
    return MemoryBudget(size_max, stalled_s_max=30, unmoved_s_max=600, monotonic=lambda: clock.now)


@pytest.mark.parametrize("seed", range(20))
def test_the_charges_stay_within_the_budget_whatever_connections_hold(seed: int) -> None:
    print(f"{seed=}")
    dice = random.Random(seed)
    budget = budget_of()
    holders = [Holder(budget, authenticated=dice.random() < 0.8) for _ in range(60)]
    modest = [Holder(budget) for _ in range(20)]
    for _ in range(2_000):
        holder = dice.choice(holders)
        if holder.error is None and dice.random() < 0.8:
            # A paused connection is not read from, but its output may still grow.
            holder.hold(dice.choice([holder.size // 2, holder.size + dice.randrange(MIB)]))
        dice.choice(modest).hold(dice.randrange(FREE_SIZE + 1))
        assert budget.used <= SIZE_MAX
        charged = [h.size for h in (*holders, *modest) if h.size > FREE_SIZE]
        assert budget.used == sum(charged)
        assert not any(h.paused or h.error for h in modest)
    assert any(holder.error for holder in holders), "the budget was used up"


def test_a_connection_above_its_fair_share_is_paused_and_resumed_when_there_is_room() -> None:
    budget = budget_of()
    greedy, other = Holder(budget), Holder(budget)
    greedy.hold(2 * MIB)
    other.hold(MIB + 1)
    assert not other.paused, "it is within its fair share"
    greedy.hold(2 * MIB + 100)
    assert greedy.paused
    other.hold(0)
    greedy.hold(2 * MIB)
    assert not greedy.paused


def test_the_largest_connection_is_closed_when_the_budget_is_used_up() -> None:
    budget = budget_of()
    small, large = Holder(budget), Holder(budget)
    large.hold(3 * MIB)
    small.hold(MIB + KIB)
    assert large.error is not None
    assert str(3 * MIB) in large.error.message
    assert str(SIZE_MAX) in large.error.message
    assert small.error is None


def test_an_unauthenticated_connection_is_closed_first_and_told_why() -> None:
    budget = budget_of()
    user, unknown = Holder(budget), Holder(budget, authenticated=False)
    user.hold(3 * MIB)
    unknown.hold(100 * KIB)
    assert unknown.error is not None
    assert "not authenticated" in unknown.error.message
    assert user.error is None


def test_stalled_connections_are_closed_only_while_there_is_no_room() -> None:
    clock = Clock()
    budget = budget_of(clock=clock)
    idle, stalled, moving = Holder(budget), Holder(budget), Holder(budget)
    idle.hold(MIB // 2)
    clock.now = 100
    budget.end_stalled()
    assert idle.error is None, "there is room"
    stalled.hold(2 * MIB)
    moving.hold(MIB)
    clock.now = 129
    moving.hold(MIB + 10)
    stalled.hold(2 * MIB + 10, moved=False)
    clock.now = 130
    budget.end_stalled()
    assert stalled.error is not None
    assert "30 s" in stalled.error.message
    assert moving.error is None


def test_a_connection_that_does_not_move_is_closed_even_while_there_is_room() -> None:
    clock = Clock()
    budget = budget_of(clock=clock)
    small, unmoved, moving = Holder(budget), Holder(budget), Holder(budget)
    small.hold(FREE_SIZE)
    unmoved.hold(100 * KIB)
    moving.hold(100 * KIB)
    clock.now = 599
    moving.hold(100 * KIB + 1)
    budget.end_stalled()
    assert unmoved.error is None
    clock.now = 600
    budget.end_stalled()
    assert unmoved.error is not None
    assert unmoved.error.message == (
        "102400 bytes are held for this connection, and it did not move for 600 s"
    )
    assert moving.error is None
    assert small.error is None, "within the free allowance"


def test_the_default_is_a_quarter_of_the_memory_of_the_container(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(f"{512 * MIB}\n")
    assert default_size(str(limit)) <= 128 * MIB
    limit.write_text("max\n")
    assert default_size(str(limit)) == default_size(str(tmp_path / "none")) <= SIZE_DEFAULT_MAX


# Tests with real sessions.


def small_budget(**session: Any) -> ServerSettings:
    return replace(settings(**session), memory_size_max=SIZE_MAX * 4 // 3)


class Peer:
    """A client that the test drives, usually a badly behaved one."""

    def __init__(self, server: MemoryServer, *, hello: bool = True) -> None:
        self.service = server.server.service
        self.session: Session = open_session(self.service, "by hand", lambda: None)
        self.connection = ClientConnection()
        if hello:
            self.ask("hello", PROTOCOL_VERSION)
            self.take()

    def ask(self, name: str, *arguments: Any) -> None:
        self.send(self.connection.request(name, *arguments)[1])

    def send(self, data: bytes) -> int:
        """Send as much as the server reads; return how much that was."""
        sent = 0
        while sent < len(data) and self.session.wants_input and not self.session.ended:
            self.session.receive(data[sent : sent + 64 * KIB])
            sent += 64 * KIB
            while self.session.runnable:
                self.session.run()
        return min(sent, len(data))

    def take(self) -> list[Any]:
        items: list[Any] = []
        while output := self.session.output():
            self.session.sent(len(output))
            items += self.connection.receive(bytes(output))
        return items

    def close_if_over(self) -> None:
        """Close the session when a driver would."""
        if self.session.closing and (self.session.aborted or not self.session.output_size):
            self.session.close()


@pytest.mark.parametrize("seed", range(6))
async def test_well_behaved_clients_are_served_beside_any_mix_of_others(seed: int) -> None:
    print(f"{seed=}")
    dice = random.Random(seed)
    async with serving(small_budget()) as server:
        good = await server.connect()
        await server.put(good, b"large", bytes(300_000))
        budget = server.server.service.memory_budget
        peers: list[Peer] = []
        for n in range(150):
            if len(peers) < 40:
                peers.append(Peer(server))
            peer = dice.choice(peers)
            match dice.randrange(4):
                case 0:
                    peer.send((16 * MIB).to_bytes(4, "big") + bytes(dice.randrange(MIB)))
                case 1:
                    peer.send(bytes(dice.randrange(MIB)))
                case 2:
                    body = encode([1000 + n, "get", None, b"large", None])
                    peer.send(encode_frame(body) * dice.randrange(5))
                case _ if dice.random() < 0.3:
                    peer.session.close()
            for each in peers:
                each.close_if_over()
            peers = [each for each in peers if not each.session.closed]
            service = server.server.service
            sessions = [each for each in service.sessions if isinstance(each, Session)]
            assert budget.used <= SIZE_MAX
            held = sum(session.held_size for session in sessions)
            assert held <= SIZE_MAX + FREE_SIZE * len(sessions)
            if n % 10 == 0:
                await server.put(good, b"k", b"%d" % n)
                assert await good.ask("get", None, b"k") == b"%d" % n
        for each in peers:
            each.session.close()
        assert budget.used == 0, "some charges were not returned"


async def test_a_request_that_waited_for_room_is_served_completely() -> None:
    async with serving(small_budget()) as server:
        hog, waiting = Peer(server), Peer(server)
        hog.send((16 * MIB).to_bytes(4, "big") + bytes(1_400_000))
        value = bytes(2_500_000)
        transaction = server.new_id()
        _, frame = waiting.connection.request(
            "execute", transaction, [], [], [["put", b"k", value]]
        )
        sent = waiting.send(frame)
        assert sent < len(frame)
        assert not waiting.session.wants_input
        hog.session.close()
        assert waiting.session.wants_input
        assert waiting.send(frame[sent:]) == len(frame) - sent
        await wait_all_tasks_blocked()
        (answer,) = waiting.take()
        assert not isinstance(answer, Failure)
        waiting.session.close()


async def test_a_stalled_half_frame_closes_its_connection_with_a_clear_error(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving(small_budget()) as server:
        hog = Peer(server)
        hog.send((16 * MIB).to_bytes(4, "big") + bytes(4 * MIB))
        assert not hog.session.wants_input
        await trio.sleep(40)
        (last,) = hog.take()
        assert isinstance(last, Failure)
        assert isinstance(last.error, TooMany)
        assert "did not move for 30 s" in last.error.message
        assert server.server.service.memory_budget.used == 0
        hog.session.close()


async def test_unread_answers_are_discarded_when_there_is_no_room() -> None:
    async with serving(small_budget(output_pause_size=8 * MIB)) as server:
        client = await server.connect()
        await server.put(client, b"k", bytes(600_000))
        silent = [Peer(server) for _ in range(10)]
        for peer in silent:
            peer.ask("get", None, b"k", None)
        budget = server.server.service.memory_budget
        assert budget.used <= SIZE_MAX
        assert any(peer.session.aborted for peer in silent)
        assert await client.ask("get", None, b"k") == bytes(600_000)
        for peer in silent:
            peer.session.close()


async def test_results_that_wait_for_a_sync_are_bounded_over_all_connections() -> None:
    # Eight clients held 7 GiB of results with 33 KB of requests: only the requests were counted.
    given = replace(settings(), commits_waiting_size_max=300_000)
    async with serving(given) as server:
        clients = [await server.connect() for _ in range(6)]
        await server.put(clients[0], b"k", bytes(100_000))
        server.disk.hold()
        reads, answered = [["get", b"k"]], []
        for client in clients:
            request: tuple[Any, ...] = (server.new_id(), [], reads, [["put", b"x", b"v"]])
            answered.append((client, await client.send("execute", *request)))
            await wait_all_tasks_blocked()
        assert server.server._group_commit.overloaded
        assert server.server._group_commit.waiting_size < 500_000
        for client, request_id in answered[3:]:
            with pytest.raises(TooMany, match="wait for the disk") as refused:
                await client.result(request_id)
            assert refused.value.retryable
        # What needs no room is served.
        assert await clients[5].ask("get", None, b"none") is None
        server.disk.release()
        for client, request_id in answered[:3]:
            _, [value] = await client.result(request_id)
            assert len(value) == 100_000
        await clients[5].ask("execute", server.new_id(), [], reads, [["put", b"x", b"v"]])


def test_closing_many_connections_does_not_look_through_all_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each that had to be closed was searched for among all: seconds, with thousands of them."""
    budget = MemoryBudget(1000 * KIB * 10, stalled_s_max=30, unmoved_s_max=600, monotonic=_zero)
    looked = 0
    order = budget._eviction_order

    def counted(holder: Any) -> tuple[bool, int]:
        nonlocal looked
        looked += 1
        return order(holder)

    monkeypatch.setattr(budget, "_eviction_order", counted)
    holders = [Holder(budget) for _ in range(3000)]
    for holder in holders:
        holder.hold(10 * KIB)
    closed = sum(holder.error is not None for holder in holders)
    assert closed == 2000
    assert looked < 100 * closed


def _zero() -> float:
    return 0.0
