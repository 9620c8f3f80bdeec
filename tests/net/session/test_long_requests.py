"""Long requests are evaluated in steps: others are served between them, and writers after them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.connection import Answer, ClientConnection, Failure
from headwater_protocol.errors import TooLarge
from headwater_server.engine import work_budget
from headwater_server.engine.transactions import write_buffer
from headwater_server.net.session.session import open_session
from tests.net.serving import Client, MemoryServer, serving, settings

pytestmark = pytest.mark.skipif(
    str(work_budget.__file__).endswith(".so"), reason="a constant of a compiled module is fixed"
)


@pytest.fixture(autouse=True)
def _short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_budget, "AT_ONCE_MAX", 50)
    monkeypatch.setattr(work_budget, "STEP_MAX", 20)
    monkeypatch.setattr(write_buffer, "WRITES_AT_ONCE_MAX", 50)


def event(data: bytes = b"") -> list[Any]:
    return [None, "T", data, b""]


def appends(count: int, stream: str = "s") -> list[Any]:
    return [["append", f"{stream}-{number}", -1, [event()]] for number in range(count)]


async def newest_position(client: Client) -> int:
    position: int = (await client.ask("newest_position", None))[1]
    return position


class ByHand:
    """A session whose turns the test takes, one request or step at a time."""

    def __init__(self, server: MemoryServer) -> None:
        self.session = open_session(server.server.service, "by hand", lambda: None)
        self.connection = ClientConnection()
        self.answers: list[Any] = []
        self.ask("hello", 1)

    def ask(self, name: str, *arguments: Any) -> int:
        request_id, frame = self.connection.request(name, *arguments)
        self.session.receive(frame)
        self.take()
        return request_id

    def take(self) -> list[Any]:
        """Read what is there; all answers so far, errors included."""
        while output := self.session.output():
            for item in self.connection.receive(bytes(output)):
                assert isinstance(item, Answer | Failure)
                self.answers.append(item.payload if isinstance(item, Answer) else item.error)
            self.session.sent(len(output))
        return self.answers

    def until_planning(self, server: MemoryServer) -> int:
        """Take turns until writers have to wait; return how many it took."""
        turns = 0
        while not server.engine.sequencer.planning:
            assert self.session.runnable, "it is not done yet"
            self.session.run()
            turns += 1
        return turns

    def finish(self) -> int:
        """Take all turns; return how many it took."""
        turns = 0
        while self.session.runnable:
            self.session.run()
            turns += 1
            assert turns < 10_000, "it comes to an end"
        return turns


@asynccontextmanager
async def by_hand(**bounds: Any) -> AsyncIterator[tuple[MemoryServer, ByHand, Client]]:
    async with serving(settings(requests_per_turn_max=1, **bounds)) as server:
        yield server, ByHand(server), await server.connect()


async def test_readers_are_served_between_the_steps_and_writers_after_them() -> None:
    async with by_hand() as (server, long, client):
        writer = await server.connect()
        await client.ask("execute", server.new_id(), [], [], [["put", b"k", b"1"]])
        long.ask("execute", server.new_id(), [], [], appends(500))
        turns = long.until_planning(server)
        written = await writer.send("execute", server.new_id(), [], [], [["put", b"k", b"2"]])
        while long.session.runnable:
            assert await client.ask("get", None, b"k") == b"1"
            assert (await client.ask("read_all", None, 0))[2] == []
            long.session.run()
            turns += 1
        assert turns > 20
        assert server.server.service.handlers is server.server.service.long_requests._open
        commit, *_ = (await writer.result(written))[0]
        assert (commit, long.take()[-1][0][0]) == (3, 2), "the long one was first"
        assert await client.ask("get", None, b"k") == b"2"


async def test_many_puts_are_folded_in_steps() -> None:
    async with by_hand() as (server, long, client):
        puts = [["put", b"%03d" % number, b"v"] for number in range(300)]
        long.ask("execute", server.new_id(), [], [], puts)
        assert long.finish() > 4
        await wait_all_tasks_blocked()
        assert long.take()[-1][0][0] == 1
        assert await client.ask("get", None, b"299") == b"v"


async def test_the_reads_of_a_long_execute_are_of_one_commit() -> None:
    async with by_hand() as (server, long, client):
        writer = await server.connect()
        for value in (b"1", b"2"):
            await client.ask("execute", server.new_id(), [], [], [["put", b"k", value]])
        reads = [["get", b"k"], *[["get", b"absent"]] * 300, ["get", b"k"]]
        long.ask("execute", server.new_id(), [], reads, [["put", b"k", b"3"]])
        long.until_planning(server)
        written = await writer.send("execute", server.new_id(), [], [], [["put", b"k", b"4"]])
        await wait_all_tasks_blocked()
        assert long.finish() > 5
        await writer.result(written)
        results = long.take()[-1][1]
        assert (results[0], results[-1]) == (b"2", b"2")
        assert await client.ask("get", None, b"k") == b"4"


async def test_a_commit_is_validated_in_steps_and_has_its_earlier_writes_once() -> None:
    async with by_hand() as (server, long, client):
        transaction = server.new_id()
        long.ask("begin", transaction)
        for number in range(200):
            long.ask("get", transaction, b"key %d" % number)
        long.ask("write", transaction, [["add", b"n", 1]])
        await client.ask("execute", server.new_id(), [], [], [["put", b"other", b"1"]])
        long.ask("commit", transaction, [["add", b"n", 1], *appends(5)])
        assert long.session.runnable, "it is not done"
        assert await client.ask("get", None, b"n") is None
        assert long.finish() > 5
        await wait_all_tasks_blocked()
        assert long.take()[-1][0] == 2
        assert await client.ask("get", None, b"n") == b"\x02"
        assert await newest_position(client) == 5


async def test_a_conflict_is_found_in_steps() -> None:
    async with by_hand() as (server, long, client):
        transaction = server.new_id()
        long.ask("begin", transaction)
        for number in range(200):
            long.ask("get", transaction, b"key %d" % number)
        await client.ask("execute", server.new_id(), [], [], [["put", b"key 199", b"1"]])
        long.ask("commit", transaction, [["put", b"k", b"v"]])
        assert long.session.runnable
        long.finish()
        await wait_all_tasks_blocked()
        assert long.take()[-1].code == "conflict"
        long.ask("rollback", transaction)
        assert server.engine.open_count(long.session) == 0
        assert await client.ask("get", None, b"k") is None


@pytest.mark.parametrize("how", ["close", "end"])
async def test_a_long_request_ends_with_its_session_and_without_effect(how: str) -> None:
    async with by_hand() as (server, long, client):
        long.ask("execute", server.new_id(), [], [], appends(500))
        long.until_planning(server)
        written = await client.send("execute", server.new_id(), [], [], [["put", b"k", b"v"]])
        await wait_all_tasks_blocked()
        if how == "close":
            long.session.close()
        else:
            long.session.end(TooLarge("a test"))
        assert (await client.result(written))[0][0] == 1
        assert not server.engine.sequencer.planning
        assert not server.server.service.long_requests.running
        assert await newest_position(client) == 0


@pytest.mark.parametrize("what", ["checkpoint", "tick", "record"])
async def test_a_plan_that_is_interrupted_begins_again_and_commits_once(what: str) -> None:
    async with by_hand() as (server, long, client):
        await client.ask("execute", server.new_id(), [], [], [["put", b"n", b"\x01"]])
        long.ask("execute", server.new_id(), [], [], [*appends(300), ["add", b"n", 1]])
        interrupted = 0
        while long.session.runnable:
            if server.engine.sequencer.planning and interrupted < 2:
                interrupted += 1
                if what == "checkpoint":
                    await server.server._checkpointer.checkpoint(tidy=True)
                elif what == "tick":
                    server.database.now += 2_000_000
                    server.engine.sequencer._tick(server.database.now)
                else:
                    server.engine.sequencer.commit_stored(server.new_id(), 0, [b"\x01n", b"\x05"])
                assert not server.engine.sequencer.planning
            long.session.run()
        await wait_all_tasks_blocked()
        assert interrupted == 2
        assert (long.take()[-1][0][1:3]) != [None, None]
        assert await newest_position(client) == 300
        assert await client.ask("get", None, b"n") == (b"\x06" if what == "record" else b"\x02")


async def test_a_plan_that_is_always_interrupted_is_made_in_one_stretch() -> None:
    async with by_hand() as (server, long, client):
        long.ask("execute", server.new_id(), [], [], appends(300))
        turns = 0
        while long.session.runnable:
            server.engine.sequencer.interrupt_plan()
            long.session.run()
            turns += 1
            assert turns < 500
        await wait_all_tasks_blocked()
        assert await newest_position(client) == 300


async def test_a_request_that_takes_too_long_is_refused_and_writers_go_on() -> None:
    async with by_hand(request_ms_max=0) as (server, long, client):
        long.ask("execute", server.new_id(), [], [], appends(300))
        long.finish()
        assert isinstance(long.take()[-1], TooLarge)
        await client.ask("execute", server.new_id(), [], [], [["put", b"k", b"v"]])
        assert await newest_position(client) == 0


async def test_a_user_has_a_limit_of_its_own() -> None:
    async with by_hand() as (server, long, client):
        service = server.server.service
        assert service.long_requests.request_ms_max(long.session) == 60_000
        long.session.account = replace(_account(), request_ms=1)
        long.ask("execute", server.new_id(), [], [], appends(300))
        began = service.long_requests.running[long.session].began
        service.long_requests._monotonic = lambda: began + 0.002
        long.finish()
        assert isinstance(long.take()[-1], TooLarge)
        assert "longer than 1 ms" in long.take()[-1].message
        assert await newest_position(client) == 0


async def test_a_client_with_many_long_requests_does_not_shut_out_writers() -> None:
    async with by_hand() as (server, long, client):
        for number in range(4):
            long.ask("execute", server.new_id(), [], [], appends(200, f"l{number}"))
        long.until_planning(server)
        written = await client.send("execute", server.new_id(), [], [], [["put", b"k", b"v"]])
        while long.session.runnable:
            await wait_all_tasks_blocked()
            long.session.run()
        assert (await client.result(written))[0][0] == 2, "after the first long one"
        await wait_all_tasks_blocked()
        assert [answer[0][0] for answer in long.take()[1:]] == [1, 3, 4, 5]


async def test_a_long_request_is_authorized_and_audited_once() -> None:
    async with by_hand() as (server, long, client):
        await client.ask("execute", server.new_id(), [], [], appends(300))
        service = server.server.service
        service.authentication_needed = True
        long.session.account = _account()
        service.strangers.remove(long.session)
        long.ask("execute", server.new_id(), [], [], [["delete_stream", "s-1"], *appends(300)])
        assert long.finish() > 5
        await wait_all_tasks_blocked()
        recorded = [each for each in service.audit.newest(100) if "delete_stream" in str(each)]
        assert len(recorded) == 1


def _account() -> Any:
    from headwater_server.engine.accounts import Account, Verifier

    return Account(1, "ann", Verifier(b"", 1, b"", b""))
