"""Failures: a bug in the server ends the process, a failed read does not.

The law: after an exception that is neither a HeadwaterError nor a read error, the process ends with
that exception, no group is written any more, and every client that waits for a commit is told that
its outcome is unknown, with its transaction's id.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.connection import Failure, Push
from headwater_protocol.errors import (
    CommitUnknown,
    DamagedFile,
    HeadwaterError,
    InternalError,
    ShuttingDown,
)
from headwater_server.net.failures import CommitFailed, Failures
from headwater_server.net.requests import transactions
from tests.net.serving import Client, MemoryServer, serving

MISTAKE = AssertionError("positions are dense")

pytestmark = pytest.mark.source


def broken(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


async def a_read(server: MemoryServer, client: Client, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(server.engine, "get", broken(MISTAKE))
    await client.send("get", None, b"k")


async def a_commit(server: MemoryServer, client: Client, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(server.engine, "execute", broken(MISTAKE))
    await client.send("execute", server.new_id(), [], [], [["put", b"k", b"v"]])


async def a_change_of_users(
    server: MemoryServer, client: Client, patch: pytest.MonkeyPatch
) -> None:
    patch.setattr(server.engine.accounts, "remove", broken(MISTAKE))
    await client.send("user_remove", "ann")


async def a_subscription(server: MemoryServer, client: Client, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(server.engine, "events_page", broken(MISTAKE))
    await client.send("subscribe", 0, {}, 100)


async def a_feed_of_keys(server: MemoryServer, client: Client, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(server.engine, "reader", broken(MISTAKE))
    await client.send("subscribe_keys", b"", None, 0, 100)


async def a_consumer_group(server: MemoryServer, client: Client, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(server.engine.groups, "turn", broken(MISTAKE))
    await client.send("group_join", "g", 1)


async def a_checkpoint(server: MemoryServer, client: Client, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(server.engine, "begin_checkpoint", broken(MISTAKE))
    server.server._checkpointer._tidy = True
    server.server._checkpointer._due.unpark()


async def the_maintenance(server: MemoryServer, client: Client, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(server.engine, "expire", broken(MISTAKE))
    await trio.sleep(server.server._settings.maintenance_ms / 1000)


async def a_rewrite(server: MemoryServer, client: Client, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(server.server._checkpointer, "rewrite", broken(MISTAKE))
    await trio.sleep(server.server._settings.maintenance_ms / 1000)


async def a_backup(server: MemoryServer, client: Client, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(server.server._backups, "_directory", "backups")
    patch.setattr(server.server._checkpointer, "stage_backup", broken(MISTAKE))
    await client.send("backup", "b")


PLACES = [
    a_read,
    a_commit,
    a_change_of_users,
    a_subscription,
    a_feed_of_keys,
    a_consumer_group,
    a_checkpoint,
    the_maintenance,
    a_rewrite,
    a_backup,
]


async def errors_until_closed(client: Client) -> list[HeadwaterError]:
    """All errors that the client receives until the connection is closed."""
    said: list[HeadwaterError] = []
    while True:
        try:
            item = await client.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError, trio.BrokenResourceError):
            return said
        if isinstance(item, Failure):
            said.append(item.error)


@pytest.mark.parametrize("place", PLACES)
async def test_a_bug_in_the_server_ends_the_process_and_tells_waiting_clients(
    place: Callable[[MemoryServer, Client, pytest.MonkeyPatch], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.abc.Clock,
) -> None:
    said: dict[str, list[HeadwaterError]] = {}
    syncs = -1
    with pytest.raises(ExceptionGroup) as ended:
        async with serving() as server:
            waiting, other, faulty = [await server.connect() for _ in range(3)]
            await server.append(other, "a-1", b"")
            await other.ask("group_create", "g", {}, 0, {})
            server.disk.hold()
            transaction = server.new_id()
            await waiting.send("execute", transaction, [], [], [["put", b"k", b"v"]])
            await wait_all_tasks_blocked()
            syncs = server.disk.syncs
            # This commit is sequenced while the previous group is written, and is never written.
            await waiting.send("execute", server.new_id(), [], [], [["put", b"l", b"v"]])
            await wait_all_tasks_blocked()

            async def listen(name: str, client: Client) -> None:
                said[name] = await errors_until_closed(client)

            await place(server, faulty, monkeypatch)
            async with trio.open_nursery() as listening:
                listening.start_soon(listen, "waiting", waiting)
                listening.start_soon(listen, "other", other)
                listening.start_soon(listen, "faulty", faulty)
                await trio.sleep(0.05)
                server.disk.release()
            assert server.disk.syncs == syncs, "nothing is written after a failure"
            await trio.sleep_forever()
    assert ended.group_contains(AssertionError, match="positions are dense")
    unknown = [error for error in said["waiting"] if isinstance(error, CommitUnknown)]
    assert len(unknown) == 2
    assert unknown[0].transaction == transaction
    assert isinstance(said["waiting"][-1], ShuttingDown)
    assert [type(error) for error in said["other"]] == [ShuttingDown]
    if place is a_commit:
        assert isinstance(said["faulty"][0], CommitUnknown)
    if place in (a_read, a_change_of_users):
        assert isinstance(said["faulty"][0], InternalError)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(5, "Input/output error"), InternalError),
        (DamagedFile("events/1: a checksum does not match"), DamagedFile),
    ],
)
async def test_a_failed_read_fails_one_request_and_the_server_continues(
    error: Exception, told: type[HeadwaterError], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server:
        client, other = await server.connect(), await server.connect()
        with monkeypatch.context() as patch:
            patch.setattr(server.engine, "get", broken(error))
            with pytest.raises(told):
                await client.ask("get", None, b"k")
        assert await client.ask("get", None, b"k") is None
        await server.put(other, b"k", b"v")
        assert not server.server.service.failures.failed


@pytest.mark.parametrize("place", ["subscription", "feed of keys", "consumer group"])
async def test_a_failed_read_ends_only_its_feed(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(5, "Input/output error")
    async with serving() as server:
        client, other = await server.connect(), await server.connect()
        await server.append(other, "a-1", b"")
        await other.ask("group_create", "g", {}, 0, {})
        with monkeypatch.context() as patch:
            match place:
                case "subscription":
                    patch.setattr(server.engine, "events_page", broken(error))
                    await client.ask("subscribe", 0, {}, 100)
                case "feed of keys":
                    patch.setattr(server.engine, "reader", broken(error))
                    await client.ask("subscribe_keys", b"", None, 0, 100)
                case _:
                    patch.setattr(server.engine.groups, "turn", broken(error))
                    await client.ask("group_join", "g", 1)
            item = await client.receive()
        assert isinstance(item, Push)
        assert item.payload[0] == "ended"
        assert HeadwaterError.from_payload(item.payload[1]).code == "internal_error"
        await server.put(client, b"k", b"v")


async def test_after_a_failed_read_in_a_commit_the_client_can_ask_for_its_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = OSError(5, "Input/output error")
    async with serving() as server:
        client = await server.connect()
        transaction = server.new_id()
        with monkeypatch.context() as patch:
            patch.setattr(server.engine._state, "head", broken(error))
            with pytest.raises(CommitUnknown) as unknown:
                await client.ask(
                    "execute", transaction, [], [], [["append", "a-1", 0, [[None, "T", b"", b""]]]]
                )
        assert unknown.value.transaction == transaction
        assert (await client.ask("status", transaction, True))[0] == "aborted"
        assert await server.append(client, "a-1", b"")
        assert not server.server.service.failures.failed


async def test_a_disk_failure_during_a_change_of_users_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    with pytest.raises(ExceptionGroup) as ended:
        async with serving() as server:
            client = await server.connect()
            error = OSError(5, "Input/output error")
            monkeypatch.setattr(server.engine.accounts, "remove", broken(error))
            with pytest.raises(InternalError):
                await client.ask("user_remove", "ann")
            await trio.sleep_forever()
    assert ended.group_contains(CommitFailed)


async def test_failing_to_encode_the_answer_to_a_commit_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    with pytest.raises(ExceptionGroup) as ended:
        async with serving() as server:
            client = await server.connect()
            server.disk.hold()
            transaction = server.new_id()
            read = ["get", b"k"]
            await client.send("execute", transaction, [], [read], [["put", b"k", b"v"]])
            await wait_all_tasks_blocked()
            monkeypatch.setattr(transactions, "_encode_executed", broken(MISTAKE))
            server.disk.release()
            item = await client.receive()
            assert isinstance(item, Failure)
            assert isinstance(item.error, CommitUnknown)
            assert item.error.transaction == transaction
            await trio.sleep_forever()
    assert ended.group_contains(AssertionError, match="positions are dense")


async def test_a_bug_after_a_publish_tells_clients_that_wait_for_the_next_group(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    with pytest.raises(ExceptionGroup) as ended:
        async with serving() as server:
            one, two = await server.connect(), await server.connect()
            server.disk.hold()
            first = await one.send("execute", server.new_id(), [], [], [["put", b"k", b"1"]])
            await wait_all_tasks_blocked()
            await two.send("execute", server.new_id(), [], [], [["put", b"k", b"2"]])
            await wait_all_tasks_blocked()
            monkeypatch.setattr(server.server._checkpointer, "published", broken(MISTAKE))
            server.disk.release()
            await one.result(first)
            item = await two.receive()
            assert isinstance(item, Failure)
            assert isinstance(item.error, CommitUnknown)
            await trio.sleep_forever()
    assert ended.group_contains(AssertionError, match="positions are dense")


async def test_the_first_of_two_failures_is_raised(
    autojump_clock: trio.abc.Clock,
) -> None:
    failures = Failures()
    stopped: list[str] = []
    failures.on_failure(lambda: stopped.append("once"))
    failures.end_process(MISTAKE, "a test")
    failures.end_process(ZeroDivisionError(), "a consequence")
    with pytest.raises(AssertionError, match="positions are dense"):
        await failures.run()
    assert stopped == ["once"]
