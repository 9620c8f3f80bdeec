"""Group commit: a failed sync ends the server and is not retried; on a full disk groups wait."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.connection import Failure
from headwater_protocol.errors import CommitUnknown, ReadOnly
from headwater_server.net.failures import CommitFailed
from headwater_server.storage.errors import DiskFull
from tests.net.serving import serving


async def test_a_failed_sync_tells_waiting_clients_that_the_outcome_is_unknown_and_ends_the_server(
    autojump_clock: trio.abc.Clock,
) -> None:
    told: list[bytes] = []
    with pytest.raises(ExceptionGroup) as ended:
        async with serving() as server:
            one, two, reader = [await server.connect() for _ in range(3)]
            server.disk.hold()
            first, second = server.new_id(), server.new_id()
            await one.send("execute", first, [], [], [["put", b"k", b"1"]])
            await wait_all_tasks_blocked()
            await two.send("execute", second, [], [], [["put", b"k", b"2"]])
            await wait_all_tasks_blocked()
            server.disk.error = OSError(5, "Input/output error")
            server.disk.release()
            for client in (one, two):
                item = await client.receive()
                assert isinstance(item, Failure)
                assert isinstance(item.error, CommitUnknown)
                told.append(item.error.transaction)
            assert await reader.ask("get", None, b"k") is None, (
                "a commit was published although its sync failed"
            )
            syncs = server.disk.syncs
            await trio.sleep(60)
            assert server.disk.syncs == syncs, "a failed sync must not be retried"
    assert ended.group_contains(CommitFailed)
    assert told == [first, second]


async def test_a_commit_that_comes_after_a_failed_sync_is_unknown_too(
    autojump_clock: trio.abc.Clock,
) -> None:
    with pytest.raises(ExceptionGroup):
        async with serving() as server:
            client = await server.connect()
            server.disk.error = OSError(5, "Input/output error")
            for n in range(2):
                with pytest.raises(CommitUnknown):
                    await server.put(client, b"%d" % n, b"")
            await trio.sleep(1)


async def test_a_group_waits_for_room_on_a_full_disk(autojump_clock: trio.abc.Clock) -> None:
    async with serving() as server:
        client = await server.connect()
        server.disk.error = DiskFull("wal/1", 4096)
        request = await client.send("execute", server.new_id(), [], [], [["put", b"k", b"v"]])
        await trio.sleep(5)
        assert server.engine.published == 0
        assert await client.ask("get", None, b"k") is None, "reads must continue"
        server.disk.error = None
        await client.result(request)
        assert await client.ask("get", None, b"k") == b"v"


async def test_a_full_disk_makes_the_server_read_only_and_room_makes_it_writable_again(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving() as server:
        client = await server.connect()
        await server.put(client, b"k", b"v")
        files = server.database.files
        files.faults.capacity = files.used
        with pytest.raises(ReadOnly) as refused:
            # The spare segment is used up first; there is no room for another.
            for _ in range(40):
                await server.put(client, b"k", b"v" * 5_000)
                await trio.sleep(1.5)
        assert "disk" in str(refused.value)
        assert refused.value.retryable
        assert await client.ask("get", None, b"k") is not None
        files.faults.capacity = None
        await trio.sleep(2.5)
        await server.put(client, b"k", b"again")


async def test_the_end_of_the_log_is_sealed_when_the_server_is_idle(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving() as server:
        client = await server.connect()
        await server.put(client, b"k", b"v")
        before = server.disk.syncs
        await trio.sleep(5)
        assert server.disk.syncs == before + 1, "sealed once, not every second"
