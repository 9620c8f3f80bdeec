"""The real server under bad conditions: stopped, slow or full disk, no descriptors, idle
connections.

HEADWATER_IDLERS is the number of idle connections: 400 by default, 10,000 in `make torture`.
"""

import contextlib
import os
import resource
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest
import trio

import headwater
from headwater_protocol.frames import encode_frame
from headwater_protocol.keys import encode_key
from headwater_protocol.limits import KIB, MIB, PROTOCOL_VERSION
from headwater_protocol.messages import encode
from tests.fuzz.live import close_sending
from tests.sound_files import check_files
from tests.test_kill import settle_and_check, work
from tests.torture.failpoints import FaultyServer, new_ledger

IDLERS: Final = int(os.environ.get("HEADWATER_IDLERS", "400"))
A_CONNECTION_MAX: Final = 32 * KIB
"""Bytes of memory that an idle connection may take in the server, without the kernel's."""

HELLO: Final = encode_frame(bytes(encode([1, "hello", PROTOCOL_VERSION, "hard times"])))
WAIT_S_MAX: Final = 20.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyServer]:
    made = FaultyServer(tmp_path, ["--checkpoint-commits", "200"])
    yield made
    with contextlib.suppress(AssertionError):
        made.kill()


def dial(server: FaultyServer) -> socket.socket:
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=WAIT_S_MAX)


@contextlib.contextmanager
def crowd_of(server: FaultyServer, count: int, *, served: bool) -> Iterator[None]:
    """Open *count* connections that send hello and nothing else."""
    with contextlib.ExitStack() as crowd:
        for _ in range(count):
            one = crowd.enter_context(dial(server))
            one.sendall(HELLO)
            if served:
                assert one.recv(4096)
        yield


def eventually(what: str, condition: object, wait_s: float = WAIT_S_MAX) -> None:
    """Wait until the condition holds."""
    assert callable(condition)
    end = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < end, f"not within {wait_s} s: {what}"
        time.sleep(0.02)  # a process of its own is not on our clock


def can_write(server: FaultyServer) -> bool:
    try:
        with headwater.connect_blocking(server.url, retry_timeout=0) as database:
            database.add("tries", 1)
    except headwater.HeadwaterError:
        return False
    return True


# Stopped.


def test_a_server_that_is_stopped_for_some_time_loses_nothing(server: FaultyServer) -> None:
    server.start_with()
    ledger = new_ledger(1)

    async def stop_and_continue() -> None:
        for _ in range(3):
            await trio.sleep(0.2)
            os.kill(server.pid, signal.SIGSTOP)
            # Longer than the clients' timeouts.
            await trio.sleep(0.8)
            os.kill(server.pid, signal.SIGCONT)
            await trio.sleep(0.2)

    async def load() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(go_on)
            await stop_and_continue()
            nursery.cancel_scope.cancel()

    async def go_on() -> None:
        # Every error that ends a worker tells the outcome of its transaction.
        while True:
            with contextlib.suppress(headwater.ConnectionLost):
                async with headwater.connect(
                    server.url, request_timeout=0.3, connect_timeout=0.3, retry_timeout=0
                ) as database:
                    await work(database, ledger, trio.Event(), 10**9)
            await trio.sleep(0.01)

    trio.run(load)
    # Interrupted transactions are as unknown as those whose error said so.
    settled = set(ledger.acknowledged) | ledger.lost
    ledger.unknown |= {number for number in ledger.ids if number not in settled}
    ledger.lost |= {number for number in ledger.plans if number not in ledger.ids}
    assert len(ledger.acknowledged) > 20
    trio.run(settle_and_check, server, ledger)
    server.stop()
    check_files(server)


# Slow.


def test_reads_are_fast_while_a_slow_disk_syncs(server: FaultyServer) -> None:
    sync_s = 0.15
    server.start_with(slow={"operation": "sync", "path": "/wal/", "seconds": sync_s})
    ended = threading.Event()
    write_s: list[float] = []

    def write() -> None:
        with headwater.connect_blocking(server.url) as database:
            while not ended.is_set():
                began = time.monotonic()
                database.add("written", 1)
                write_s.append(time.monotonic() - began)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    read_s: list[float] = []
    with headwater.connect_blocking(server.url) as database:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            began = time.monotonic()
            database.get("written")
            read_s.append(time.monotonic() - began)
    ended.set()
    for writer in writers:
        writer.join()
    assert statistics.median(write_s) >= sync_s
    # Nearly every read happens during an fsync. If reads had to wait, most of them would.
    assert statistics.median(read_s) < sync_s / 3
    assert len(read_s) > 3 * len(write_s)


# Full disk.


def reason_of(database: headwater.BlockingDatabase) -> headwater.HeadwaterError | None:
    try:
        database.add("tries", 1)
    except headwater.HeadwaterError as error:
        return error
    return None


def check_that_it_becomes_read_only_and_writable_again(
    server: FaultyServer, fill: Callable[[], None], free: Callable[[], None]
) -> None:
    with headwater.connect_blocking(server.url, request_timeout=30) as database:
        database.put("before", "it was full")
        fill()
        seen: list[headwater.HeadwaterError] = []

        def is_refused() -> bool:
            found = reason_of(database)
            if found is not None:
                seen.append(found)
            return found is not None

        eventually("writes are refused", is_refused)
        print(f"refused: {seen[0].code}: {seen[0].message}")
        assert seen[0].code == "read_only", seen[0]
        assert "bytes" in seen[0].message
        assert database.get("before") == "it was full"
        assert database.stats()["commit"] > 0
        free()
        eventually("writes are taken again", lambda: reason_of(database) is None)
        tries = database.get("tries")
    server.kill()
    check_files(server)
    server.start_with()
    with headwater.connect_blocking(server.url) as database:
        assert database.get("tries") == tries
    server.stop()


def test_a_full_disk_makes_the_server_read_only_until_there_is_space(
    server: FaultyServer, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    server.start_with(full_while=str(full))
    check_that_it_becomes_read_only_and_writable_again(server, full.touch, full.unlink)


def test_a_really_full_file_system_makes_the_server_read_only_until_there_is_space(
    tmp_path: Path,
) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    options = ["-t", "tmpfs", "-o", "size=320m", "tmpfs", str(mounted)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    server = FaultyServer(mounted)
    filling = mounted / "filling"

    def fill() -> None:
        with filling.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(64 * KIB))
                file.flush()

    try:
        server.start_with()
        check_that_it_becomes_read_only_and_writable_again(server, fill, filling.unlink)
    finally:
        with contextlib.suppress(AssertionError):
            server.kill()
        subprocess.run(["umount", str(mounted)], check=True)


# No descriptors.


def test_a_server_without_free_descriptors_survives_and_recovers(server: FaultyServer) -> None:
    server.start_with(files=96)
    with headwater.connect_blocking(server.url) as early:
        early.put("n", 0)
        with crowd_of(server, 200, served=False):
            eventually("it takes no more", lambda: "connection refused" in server.log.read_text())
            # Connected clients continue, even during checkpoints, which need descriptors too.
            for number in range(600):
                early.put("n", number)
            assert early.get("n") == 599
        eventually("new clients are served", lambda: can_write(server))
    server.stop()
    assert "Traceback" not in server.log.read_text()
    check_files(server)


# Idle and slow clients.


def raised_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"{wanted} descriptors are needed, and {hard} are allowed")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def test_thousands_of_idle_connections_take_little_memory_and_slow_nobody_down(
    server: FaultyServer,
) -> None:
    raised_limit(IDLERS + 500)
    server.start_with()
    resident = psutil.Process(server.pid).memory_info
    with headwater.connect_blocking(server.url) as database:
        database.put("k", 1)
        before = resident().rss
        with crowd_of(server, IDLERS - 5, served=True):
            cost = (resident().rss - before) / IDLERS
            began = time.monotonic()
            for number in range(200):
                database.put("k", number)
                assert database.get("k") == number
            took = (time.monotonic() - began) / 400
            print(f"{IDLERS} idle: {cost / KIB:.1f} KiB each; {took * 1000:.2f} ms a request")
            assert cost < A_CONNECTION_MAX
            assert database.stats()["connections"] >= IDLERS - 5
        eventually("they are gone", lambda: database.stats()["connections"] < 10)
    server.stop()


def most_resident(pid: int) -> int:
    """The peak memory of a process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * KIB
    raise AssertionError("no such figure")


def test_a_client_that_never_reads_takes_a_bounded_amount_of_memory(server: FaultyServer) -> None:
    server.start_with()
    process = psutil.Process(server.pid)
    with headwater.connect_blocking(server.url) as database:
        database.put("large", b"x" * MIB)
        before = process.memory_info().rss
        with dial(server) as greedy:
            greedy.sendall(HELLO)
            greedy.settimeout(1)
            key = encode_key(("large",))
            # The server stops reading from a client that does not read its answers, or disconnects
            # it.
            with pytest.raises((TimeoutError, ConnectionError)):
                for number in range(2, 10**6):
                    greedy.sendall(encode_frame(bytes(encode([number, "get", None, key]))))
            for number in range(50):
                database.put("polite", number)
                assert database.get("polite") == number
            growth = most_resident(server.pid) - before
            print(f"grown by {growth / MIB:.1f} MiB at most")
            # By default 64 MiB of answers end the connection; one more may be in progress.
            assert growth < 100 * MIB
    server.stop()


def test_a_client_that_sends_one_byte_at_a_time_is_disconnected_and_slows_nobody_down(
    server: FaultyServer,
) -> None:
    server.start_with(hello_ms=1500)
    with headwater.connect_blocking(server.url) as database, dial(server) as slow:
        began = time.monotonic()
        sent = 0
        slowest = 0.0
        # The server closes the connection meanwhile.
        with contextlib.suppress(ConnectionError):
            for at in range(len(HELLO)):
                slow.sendall(HELLO[at : at + 1])
                sent += 1
                asked = time.monotonic()
                database.put("beside", sent)
                slowest = max(slowest, time.monotonic() - asked)
                time.sleep(0.3)  # this test needs a slow client
        took = time.monotonic() - began
        print(f"dismissed after {took:.1f} s, {sent} bytes; others waited {slowest:.3f} s at most")
        assert sent < len(HELLO)
        assert 1.5 <= took < 1.5 + 10
        assert database.get("beside") == sent or sent == 0
    # After hello, a client may be slow.
    with dial(server) as patient:
        patient.sendall(HELLO)
        assert patient.recv(4096)
        for byte in encode_frame(bytes(encode([2, "ping"]))):
            patient.sendall(bytes([byte]))
            time.sleep(0.15)  # this test needs a slow client
        assert patient.recv(4096)
        close_sending(patient)
    server.stop()
