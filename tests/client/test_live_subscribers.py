"""Many live subscribers of a real server, and one that stops reading for a while."""

import random
import socket
import uuid
from pathlib import Path

import trio

import headwater
from headwater.cli.server_process import ServerProcess
from headwater_protocol.connection import ClientConnection, Push
from headwater_protocol.limits import MIB, PROTOCOL_VERSION

SUBSCRIBERS = 1_000
CONNECTIONS = 20
EVENTS = 60


async def test_a_thousand_live_subscribers_of_a_category_receive_every_event(
    real_server: ServerProcess,
) -> None:
    category = uuid.uuid4().hex
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    received: list[list[int]] = [[] for _ in range(SUBSCRIBERS)]
    live = 0
    all_live = trio.Event()

    async def follow(db: headwater.Database, mine: list[int]) -> None:
        nonlocal live
        async with db.subscribe(category=category) as feed:
            async for item in feed:
                match item:
                    case headwater.CaughtUp() if not mine:
                        live += 1
                        if live == SUBSCRIBERS:
                            all_live.set()
                    case headwater.EventBatch():
                        mine += [event.position for event in item]
                        if len(mine) >= EVENTS:
                            return

    async def follow_many(numbers: range) -> None:
        async with (
            headwater.connect(real_server.url) as db,
            trio.open_nursery() as nursery,
        ):
            for number in numbers:
                nursery.start_soon(follow, db, received[number])

    async with trio.open_nursery() as nursery:
        each = SUBSCRIBERS // CONNECTIONS
        for first in range(0, SUBSCRIBERS, each):
            nursery.start_soon(follow_many, range(first, first + each))
        await all_live.wait()
        appended: list[int] = []
        async with headwater.connect(real_server.url) as db:
            while len(appended) < EVENTS:
                if chosen.random() < 0.3:
                    await db.append(f"other-{category}", [headwater.Event("Noted")])
                    continue
                events = [headwater.Event("Noted")] * min(
                    chosen.randrange(1, 4), EVENTS - len(appended)
                )
                done = await db.append(f"{category}-{chosen.randrange(9)}", events)
                assert done.first_position is not None
                assert done.last_position is not None
                appended += range(done.first_position, done.last_position + 1)
    assert len(appended) == EVENTS
    assert all(mine == appended for mine in received)


def test_a_subscriber_that_does_not_read_for_a_while_loses_nothing_and_costs_little(
    tmp_path: Path,
) -> None:
    size, count = 500_000, 640
    with ServerProcess(tmp_path) as server, headwater.connect_blocking(server.url) as db:
        address = db.address
        with socket.create_connection((address.host, address.port)) as slow:
            connection = ClientConnection()
            for operation, arguments in (
                ("hello", (PROTOCOL_VERSION,)),
                ("subscribe", (0, {}, 1_000_000)),
            ):
                _, frame = connection.request(operation, *arguments)
                slow.sendall(frame)
                while not connection.receive(slow.recv(1 << 16)):
                    pass
            before = resident_size(server.pid)
            for _ in range(count):
                db.append("s-1", [headwater.Event("Noted", b"\0" * size)])
            # The events are 305 MiB in total. Two memtables, the output of a checkpoint, and the
            # caches take 130 MiB, with or without a subscriber.
            grown = (resident_size(server.pid) - before) // MIB
            print(f"{grown} MiB more")
            assert grown < 220, f"{grown} MiB more"
            slow.settimeout(30)
            seen: list[int] = []
            while len(seen) < count:
                for item in connection.receive(slow.recv(1 << 20)):
                    if isinstance(item, Push) and item.payload[0] == "events":
                        seen += [event[0] for event in item.payload[1]]
            assert seen == list(range(1, count + 1))


def resident_size(pid: int) -> int:
    """Bytes of memory that only this process has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024
