"""The checkpointer: beside readers and writers, waiting for room, holding back fast writers."""

from dataclasses import replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from headwater_server.net.settings import ServerSettings
from headwater_server.net.tasks.checkpointer import CheckpointFailed
from headwater_server.storage.errors import DiskFull
from tests.engine.database import SETTINGS
from tests.net.serving import serving, settings


def every(commits: int) -> ServerSettings:
    """Settings that make a checkpoint due after so many commits."""
    return replace(settings(), engine=replace(SETTINGS, memtable_commits_max=commits))


async def test_a_checkpoint_runs_beside_readers_and_writers(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving() as server:
        client = await server.connect()
        for n in range(20):
            await server.append(client, "a-1", b"%d" % n)
        checkpoint = server.server._checkpointer.checkpoint
        async with trio.open_nursery() as nursery:
            nursery.start_soon(checkpoint)
            for n in range(20, 40):
                await server.append(client, "a-1", b"%d" % n)
                _, version, events, _ = await client.ask("read_stream", None, "a-1")
                assert version == len(events) == n + 1
        await checkpoint()
        assert server.engine.stats()["checkpoint_commit"] == 40


async def test_a_checkpoint_is_made_when_it_is_due() -> None:
    async with serving(every(5)) as server:
        client = await server.connect()
        for n in range(12):
            await server.put(client, b"%d" % n, b"")
            await wait_all_tasks_blocked()
        assert server.engine.stats()["checkpoints"] == 2
        assert server.engine.stats()["checkpoint_commit"] == 10


async def test_writers_faster_than_the_checkpoint_are_held_back() -> None:
    async with serving(every(5)) as server:
        client, reader = await server.connect(), await server.connect()
        server.checkpoint_disk.hold()
        requests = []
        for n in range(40):
            writes = [["put", b"%d" % n, b""]]
            requests.append(await client.send("execute", server.new_id(), [], [], writes))
            await wait_all_tasks_blocked()
        # The frozen memtable has 5 commits, and the active one takes up to 10 more.
        assert 10 < server.engine.published <= 16
        assert await reader.ask("get", None, b"1") == b"", "reads must continue"
        server.checkpoint_disk.release()
        for request in requests:
            await client.result(request)
        assert server.engine.published == 40


async def test_writers_of_up_to_two_memtables_during_a_checkpoint_are_not_held_back() -> None:
    # A checkpoint that was fast enough used to hold writers back at its end all the same, which
    # raised the p99 of puts.
    async with serving(every(5)) as server:
        client = await server.connect()
        server.checkpoint_disk.hold()
        for n in range(14):
            await server.put(client, b"%d" % n, b"")
            await wait_all_tasks_blocked()
        assert server.engine.checkpoints.running
        assert server.engine.published == 14
        server.checkpoint_disk.release()


async def test_the_checkpoint_thread_frees_the_memtable() -> None:
    # When the event loop freed it in one piece, it blocked all clients for 10 to 20 ms.
    async with serving() as server:
        client = await server.connect()
        for n in range(20):
            await server.append(client, "a-1", b"%d" % n)
            await server.put(client, b"%d" % n, b"")
        memtable = server.engine._state.active
        await server.server._checkpointer.checkpoint()
        assert server.engine._state.active is not memtable
        assert not any([memtable.chains, memtable.events, memtable.commits, memtable.streams])
        assert await client.ask("get", None, b"7") == b""


async def test_the_last_writes_are_checkpointed_once_the_server_is_idle(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving(every(1000)) as server:
        client = await server.connect()
        await server.put(client, b"k", b"v")
        await trio.sleep(3)
        assert server.engine.stats()["checkpoints"] == 0, "by the engine's clock, no time passed"
        server.database.now += 11_000_000
        await trio.sleep(3)
        assert server.engine.stats()["checkpoint_commit"] == 1
        server.database.now += 11_000_000
        await trio.sleep(5)
        assert server.engine.stats()["checkpoints"] == 1


async def test_a_checkpoint_on_a_full_disk_is_made_once_there_is_room(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving(every(5)) as server:
        client = await server.connect()
        server.checkpoint_disk.error = DiskFull("events", 4096)
        for n in range(8):
            await server.put(client, b"%d" % n, b"v")
        await trio.sleep(5)
        assert server.engine.stats()["checkpoints"] == 0
        assert await client.ask("get", None, b"1") == b"v"
        server.checkpoint_disk.error = None
        await trio.sleep(5)
        assert server.engine.stats()["checkpoint_commit"] == 5


async def test_a_disk_failure_during_a_checkpoint_ends_the_server() -> None:
    with pytest.raises(ExceptionGroup) as ended:
        async with serving(every(1)) as server:
            client = await server.connect()
            server.checkpoint_disk.error = OSError(5, "Input/output error")
            await server.put(client, b"k", b"v")
            await trio.sleep_forever()
    assert ended.group_contains(CheckpointFailed)


async def test_a_rewrite_is_not_begun_after_a_failed_checkpoint(
    autojump_clock: trio.abc.Clock,
) -> None:
    # The rewrite used to get its turn before the failure had ended the server. It found the frozen
    # memtable of the checkpoint, and an assertion replaced the disk's error.
    with pytest.raises(ExceptionGroup) as ended:
        async with serving() as server:
            client = await server.connect()
            await server.append(client, "a-1", b"v")
            checkpointer = server.server._checkpointer
            server.checkpoint_disk.error = OSError(5, "Input/output error")
            server.checkpoint_disk.hold()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(checkpointer.checkpoint)
                await wait_all_tasks_blocked()
                nursery.start_soon(checkpointer.rewrite)
                await wait_all_tasks_blocked()
                server.checkpoint_disk.release()
    assert ended.group_contains(CheckpointFailed, depth=None)
    assert not ended.group_contains(AssertionError, depth=None)


async def test_reopening_a_store_on_a_full_disk_is_retried_until_there_is_room(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The retry used to open the store only once, and a disk that was still full ended the server.
    async with serving(every(5)) as server:
        client = await server.connect()
        attempts = []

        def reopen() -> None:
            attempts.append(trio.current_time())
            if len(attempts) < 4:
                raise DiskFull("state", 4096)
            server.checkpoint_disk.error = None

        monkeypatch.setattr(server.database.store, "reopen", reopen)
        server.checkpoint_disk.error = DiskFull("state", 4096)
        for n in range(5):
            await server.put(client, b"%d" % n, b"v")
        await trio.sleep(60)
        assert len(attempts) == 4
        assert server.engine.stats()["checkpoint_commit"] == 5
