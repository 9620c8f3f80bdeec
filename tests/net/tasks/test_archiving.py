"""The log is archived every few seconds, and an archive that fails is never in the way."""

import errno
import random
from dataclasses import replace
from typing import Any

import trio
from structlog.testing import capture_logs

from headwater_server.net.monitoring.samples import _archive
from headwater_server.net.settings import ServerSettings
from headwater_server.storage.errors import DiskFull
from headwater_server.testing.memory_files import Call
from tests.engine.database import SETTINGS
from tests.engine.retention.test_rewriting import is_on_disk
from tests.net.serving import Client, MemoryServer, serving, settings


def archived(interval_ms: int = 5_000, kept: int = 10**9, **engine: Any) -> ServerSettings:
    return replace(
        settings(),
        archive_directory="archive",
        archive_interval_ms=interval_ms,
        engine=replace(SETTINGS, log_kept_size_max=kept, **engine),
    )


def make_archive(server: MemoryServer) -> None:
    server.database.files.make_directory("archive")
    server.database.files.sync_directory("")


def figures(server: MemoryServer) -> dict[str, Any]:
    found: dict[str, Any] = server.server.service.stats()["archive"]
    return found


async def put(server: MemoryServer, client: Client, count: int = 1) -> None:
    for _ in range(count):
        await server.put(client, b"k", b"x" * 100)


async def test_every_commit_is_archived_within_the_interval(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving(archived()) as server:
        make_archive(server)
        client = await server.connect()
        draw = random.Random(1)
        for _ in range(30):
            await put(server, client)
            commit = server.engine.published
            await trio.sleep(draw.random() * 3)
            await put(server, client)
            await trio.sleep(7)
            assert figures(server)["commit"] >= commit
        await trio.sleep(10)
        told = figures(server)
        assert (told["entries_behind"], told["behind_s"], told["failure"]) == (0, 0.0, None)
        pieces = told["pieces"]
        await trio.sleep(60)
        assert figures(server)["pieces"] == pieces, "without commits there is nothing to write"


async def test_much_written_is_archived_before_the_interval_ends(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving(archived(interval_ms=3_600_000)) as server:
        make_archive(server)
        client = await server.connect()
        await put(server, client)
        await trio.sleep(3)
        first = figures(server)["commit"]
        await put(server, client)
        await trio.sleep(3)
        assert figures(server)["commit"] == first
        for _ in range(20):
            await server.put(client, b"large", b"x" * 1_000_000)
        await trio.sleep(3)
        assert figures(server)["commit"] >= 17


async def test_a_full_archive_raises_an_alarm_each_minute_and_is_caught_up_with(
    autojump_clock: trio.abc.Clock,
) -> None:
    full = True

    def fill(call: Call) -> None:
        if full and call.operation == "write" and call.path.startswith("archive/timeline"):
            raise DiskFull(call.path, call.size)

    async with serving(archived()) as server:
        make_archive(server)
        client = await server.connect()
        server.database.files.faults.before = fill
        with capture_logs() as logged:
            for _ in range(20):
                await put(server, client, 3)
                await trio.sleep(10)
            told = figures(server)
            assert told["commit"] == 0
            assert told["behind_s"] > 180
            assert "no room" in told["failure"]
            scraped: dict[str, Any] = {
                name: value for name, _, value in _archive(server.server.service)
            }
            assert (scraped["archive_enabled"], scraped["archive_failing"]) == (True, True)
            assert scraped["archive_behind_seconds"] > 180
            assert scraped["archive_behind_entries"] >= 60
            alarms = [each for each in logged if each["event"] == "the log is not archived"]
            assert 3 <= len(alarms) <= 5
            assert alarms[-1]["behind_s"] > 100
            full = False
            await trio.sleep(10)
        assert figures(server)["commit"] == 60
        assert [each["event"] for each in logged].count("the log is archived again") == 1


async def test_the_log_of_an_archive_that_is_away_is_kept_up_to_the_bound_and_the_gap_is_told(
    autojump_clock: trio.abc.Clock,
) -> None:
    bound = 400_000
    async with serving(archived(kept=bound, memtable_commits_max=50)) as server:
        # The directory is missing, as without its mount.
        client = await server.connect()
        log = server.engine.archived.log
        with capture_logs() as logged:
            while log.size < bound - 150_000:
                for _ in range(50):
                    await server.put(client, b"k", b"x" * 1000)
                await trio.sleep(5)
            assert log.first_index == 1
            for _ in range(400):
                await server.put(client, b"k", b"x" * 1000)
            await trio.sleep(30)
            events = [each["event"] for each in logged]
            assert log.first_index > 1
            assert log.size < bound
            assert sum("has a gap" in event for event in events) == 1
            make_archive(server)
            await trio.sleep(10)
        assert figures(server)["entries_behind"] == 0
        assert any("make a backup now" in each["event"] for each in logged)
        # From here on the log is kept again.
        first = log.first_index
        for _ in range(100):
            await server.put(client, b"k", b"x" * 1000)
        assert figures(server)["entries_behind"] > 0
        assert log.first_index <= figures(server)["entry"] + 1
        assert first <= log.first_index


async def test_an_archive_that_hangs_holds_up_neither_the_start_nor_commits_nor_the_stop(
    autojump_clock: trio.abc.Clock,
) -> None:
    hanging = trio.Event()

    class Hanging(MemoryServer):
        def _worker(self, name: str) -> Any:
            async def hang(_call: Any) -> None:
                await hanging.wait()

            return hang if name == "archive" else super()._worker(name)

    server = Hanging(archived())
    async with trio.open_nursery() as nursery:
        server.nursery = nursery
        assert server.server.archiving is not None
        began = trio.current_time()
        with capture_logs() as logged:
            await server.server.archiving.begin()
            assert trio.current_time() - began < 11
            await nursery.start(server.server.run)
            client = await server.connect()
            await put(server, client, 5)
            await trio.sleep(20)
            await put(server, client, 5)
            await client.close()
            began = trio.current_time()
            await server.server.stop()
        assert trio.current_time() - began < 11
        assert "does not answer" in next(
            each["reason"] for each in logged if each["event"] == "the log is not archived"
        )
        assert any("stopped before all was archived" in each["event"] for each in logged)
        nursery.cancel_scope.cancel()


async def test_an_orderly_stop_archives_the_last_commit(autojump_clock: trio.abc.Clock) -> None:
    async with serving(archived(interval_ms=3_600_000)) as server:
        make_archive(server)
        client = await server.connect()
        await put(server, client)
        await trio.sleep(5)
        await put(server, client, 5)
        await client.close()
        await server.server.stop()
        assert figures(server)["commit"] == 6
        assert figures(server)["entries_behind"] == 0


async def test_an_archive_that_fails_with_any_error_of_the_disk_does_not_end_the_server(
    autojump_clock: trio.abc.Clock,
) -> None:
    draw = random.Random(3)
    numbers = [errno.EIO, errno.ESTALE, errno.EROFS, errno.ETIMEDOUT, errno.ENOENT, errno.EDQUOT]

    def fail(call: Call) -> None:
        if call.path.startswith("archive") and draw.random() < 0.2:
            raise OSError(draw.choice(numbers), "the archive failed", call.path)

    async with serving(archived()) as server:
        make_archive(server)
        client = await server.connect()
        server.database.files.faults.before = fail
        for _ in range(40):
            await put(server, client)
            await trio.sleep(6)
        server.database.files.faults.before = None
        await trio.sleep(12)
        assert figures(server)["commit"] == 40


async def test_erased_data_leaves_the_log_once_it_is_archived_and_the_log_does_not_roll_meanwhile(
    autojump_clock: trio.abc.Clock,
) -> None:
    secret = b"the data that must go"
    given = archived(event_segment_size=4096 + 1500, history_window_us=1_000_000)
    async with serving(given) as server:
        client = await server.connect()
        for n in range(30):
            await server.append(client, "a-1", secret if n == 4 else b"%d" % n)
        await client.ask("execute", server.new_id(), [], [], [["erase", "a-1", [5]]])
        await trio.sleep(60)
        # The archive is away, and needs the entries.
        assert is_on_disk(server.database, secret)
        segments = server.database.files.list("data/wal")
        await trio.sleep(60)
        assert server.database.files.list("data/wal") == segments
        assert len([each for each in segments if each.endswith(".wal")]) <= 3
        make_archive(server)
        await trio.sleep(60)
        assert not server.engine.rewriting.erasing
        assert not any(
            secret in server.database.files.open(f"data/wal/{name}").read_at(0, 10**7)
            for name in server.database.files.list("data/wal")
        )
