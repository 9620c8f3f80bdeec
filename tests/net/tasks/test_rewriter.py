"""The rewriter: erased data leaves the disk within seconds, beside readers and writers."""

from dataclasses import replace

import trio

from headwater_server.net.settings import ServerSettings
from tests.engine.database import SETTINGS
from tests.engine.retention.test_rewriting import is_on_disk
from tests.net.serving import serving, settings

SECRET = b"the data that must go"


def small(window_us: int = 1_000_000) -> ServerSettings:
    engine = replace(SETTINGS, event_segment_size=4096 + 1500, history_window_us=window_us)
    return replace(settings(), engine=engine)


async def test_erased_data_is_off_the_disk_in_seconds_while_others_write(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving(small()) as server:
        client = await server.connect()
        for n in range(30):
            await server.append(client, "a-1" if n % 3 else "b-1", SECRET if n == 4 else b"%d" % n)
        assert is_on_disk(server.database, SECRET)
        await client.ask("execute", server.new_id(), [], [], [["erase", "a-1", [3]]])
        _, _, events, _ = await client.ask("read_stream", None, "a-1", 2, 1)
        assert events[0][7:9] == [None, None]
        for n in range(5):
            await trio.sleep(1)
            await server.append(client, "b-1", b"%d" % n)
        await trio.sleep(5)
        assert not is_on_disk(server.database, SECRET)
        assert not server.engine.rewriting.erasing
        _, version, events, _ = await client.ask("read_stream", None, "a-1")
        assert version == len(events) == 20
        assert [event[7] is None for event in events] == [n == 2 for n in range(20)]


async def test_hidden_events_free_their_space_in_a_minute_or_two(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving(small()) as server:
        client = await server.connect()
        for n in range(60):
            await server.append(client, "a-1", b"%d" % n * 50)
        await client.ask("execute", server.new_id(), [], [], [["truncate", "a-1", 61]])
        await server.server._checkpointer.checkpoint()
        server.database.now += 10_000_000
        await trio.sleep(180)
        assert server.engine.rewriting.removed >= 50
        assert (await client.ask("read_all", None, 0))[1:] == [60, [], False]


async def test_on_a_full_disk_a_rewrite_waits_for_room(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving(small()) as server:
        client = await server.connect()
        await server.append(client, "a-1", SECRET)
        await server.server._checkpointer.checkpoint()
        server.database.files.faults.capacity = server.database.files.used
        await client.ask("execute", server.new_id(), [], [], [["erase", "a-1", [1]]])
        await trio.sleep(20)
        _, _, events, _ = await client.ask("read_stream", None, "a-1")
        assert events[0][7] is None
        assert is_on_disk(server.database, SECRET)
        server.database.files.faults.capacity = None
        await trio.sleep(20)
        assert not is_on_disk(server.database, SECRET)
