"""Backups on request: made beside writers and checkpoints, with everything acknowledged before."""

import random
from dataclasses import replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.errors import BackupFailed, InvalidArgument, ShuttingDown, TooMany
from headwater_protocol.messages import decode
from headwater_server.engine.check.check import check
from headwater_server.engine.engine import Engine
from headwater_server.engine.recovery import open_engine
from headwater_server.net.settings import ServerSettings
from tests.engine.database import SETTINGS, open_test_log
from tests.net.serving import Client, MemoryServer, serving, settings

ACCOUNTS = 5


def with_backups(commits: int = 100_000) -> ServerSettings:
    """Settings with a directory for backups, and a checkpoint every *commits* commits."""
    return replace(
        settings(),
        backup_directory="backups",
        engine=replace(SETTINGS, memtable_commits_max=commits, event_segment_size=8192),
    )


def make_place(server: MemoryServer) -> None:
    """Make the directory for backups, as an operator does."""
    server.database.files.make_directory("backups")
    server.database.files.sync_directory("")


def opened(server: MemoryServer, name: str) -> Engine:
    """Check a backup, and open it as a database."""
    store = server.database.store.checkpoints["data/backup.tmp/state"]
    files = server.database.files.crash()
    report = check(files, f"backups/{name}", open_store=lambda _: store)
    assert report.is_clean, [str(finding) for finding in report.findings]
    return open_engine(
        files,
        f"backups/{name}",
        open_store=lambda _: store.crash(),
        open_log=open_test_log,
        settings=SETTINGS,
        clock=lambda: server.database.now,
        source=random.Random(1),
    )


async def transfer(server: MemoryServer, client: Client, source: random.Random) -> int:
    """Move an amount from one account to another, with an event; return the commit."""
    payer, payee = source.sample(range(ACCOUNTS), 2)
    writes = [
        ["add", b"balance-%d" % payer, -1],
        ["add", b"balance-%d" % payee, 1],
        ["append", f"account-{payer}", -1, [[None, "Moved", b"x" * 300, b""]]],
    ]
    committed, _ = await client.ask("execute", server.new_id(), [], [], writes)
    commit: int = committed[0]
    return commit


async def test_a_backup_under_load_is_of_one_commit_and_has_everything_acknowledged_before(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving(with_backups(40)) as server:
        make_place(server)
        acknowledged = 0

        async def write(seed: int) -> None:
            nonlocal acknowledged
            source = random.Random(seed)
            client = await server.connect()
            while True:
                acknowledged = max(acknowledged, await transfer(server, client, source))

        async with trio.open_nursery() as nursery:
            for seed in range(4):
                nursery.start_soon(write, seed)
            admin = await server.connect()
            for number in range(3):
                while acknowledged < 60 * (number + 1):
                    await trio.lowlevel.checkpoint()
                before = acknowledged
                commit, position, size = await admin.ask("backup", f"b{number}")
                assert before <= commit <= server.engine.published
                engine = opened(server, f"b{number}")
                assert engine.published == commit == position == engine.published_position
                assert size > 300 * commit
                reader = engine.reader()
                items = reader.scan(b"", None, 100, False).items
                balances = dict(zip(items[::2], items[1::2], strict=True))
                assert len(balances) == ACCOUNTS
                assert sum(msgpack_int(value) for value in balances.values()) == 0
                versions = [
                    reader.read_stream(f"account-{n}", 0, 1, False).version for n in range(ACCOUNTS)
                ]
                assert sum(versions) == commit
                engine.close()
            nursery.cancel_scope.cancel()


def msgpack_int(value: bytes) -> int:
    """An integer that `add` wrote."""
    number = decode(value, unscanned_size_max=9, items_max=1)
    assert isinstance(number, int)
    return number


async def test_writers_and_checkpoints_continue_while_a_backup_is_copied() -> None:
    async with serving(with_backups(5)) as server:
        make_place(server)
        client, admin = await server.connect(), await server.connect()
        for n in range(7):
            await server.append(client, "a-1", b"%d" % n)
        server.backup_disk.hold()
        request = await admin.send("backup", "monday")
        await wait_all_tasks_blocked()
        for n in range(30):
            await server.append(client, "a-1", b"%d" % n)
            await wait_all_tasks_blocked()
        assert server.engine.stats()["checkpoint_commit"] >= 35
        assert await admin.ask("ping")
        server.backup_disk.release()
        commit, position, _ = await admin.result(request)
        assert (commit, position) == (7, 7)
        engine = opened(server, "monday")
        assert engine.reader().read_stream("a-1", 0, 100, False).version == 7
        engine.close()


async def test_one_backup_is_made_at_a_time() -> None:
    async with serving(with_backups()) as server:
        make_place(server)
        client = await server.connect()
        server.backup_disk.hold()
        request = await client.send("backup", "monday")
        await wait_all_tasks_blocked()
        with pytest.raises(TooMany, match="'monday' is running"):
            await client.ask("backup", "tuesday")
        server.backup_disk.release()
        await client.result(request)
        assert (await client.ask("backup", "tuesday"))[0] == 0
        assert server.database.files.list("backups") == ["monday", "tuesday"]


async def test_a_server_without_a_directory_for_backups_says_which_setting_is_missing() -> None:
    async with serving() as server:
        client = await server.connect()
        with pytest.raises(BackupFailed, match="--backup-dir"):
            await client.ask("backup", "monday")
        assert await client.ask("ping")


async def test_a_failed_backup_is_reported_and_the_server_continues() -> None:
    async with serving(with_backups()) as server:
        client = await server.connect()
        with pytest.raises(InvalidArgument, match="does not begin with"):
            await client.ask("backup", "../data")
        with pytest.raises(BackupFailed, match="backups is missing"):
            await client.ask("backup", "monday")
        make_place(server)
        await client.ask("backup", "monday")
        with pytest.raises(BackupFailed, match="already"):
            await client.ask("backup", "monday")
        server.database.files.faults.capacity = server.database.files.used + 5000
        with pytest.raises(BackupFailed, match="no room"):
            await client.ask("backup", "tuesday")
        assert server.database.files.list("backups") == ["monday"]


async def test_a_backup_is_finished_even_if_the_client_has_gone() -> None:
    async with serving(with_backups()) as server:
        make_place(server)
        client = await server.connect()
        server.backup_disk.hold()
        await client.send("backup", "monday")
        await wait_all_tasks_blocked()
        await client.close()
        await wait_all_tasks_blocked()
        server.backup_disk.release()
        await wait_all_tasks_blocked()
        assert server.database.files.list("backups") == ["monday"]
        assert await (await server.connect()).ask("ping")


async def test_a_stopping_server_aborts_the_backup_and_leaves_no_files() -> None:
    async with serving(with_backups()) as server:
        make_place(server)
        client = await server.connect()
        await server.append(client, "a-1", b"x")
        server.backup_disk.hold()
        request = await client.send("backup", "monday")
        await wait_all_tasks_blocked()
        server.server._backups.stop()
        server.backup_disk.release()
        with pytest.raises(ShuttingDown):
            await client.result(request)
        assert server.database.files.list("backups") == []
        assert "backup.tmp" not in server.database.files.list("data")
