"""What threads, and tasks that conflict, get out of one database: ratios within one run.

    python -m bench.connections                     starts a server of its own
    python -m bench.connections --rounds 9

Threads that share a blocking database are compared with threads that have one each, in rounds that
take turns, because the disk of a shared machine changes from second to second. The other figures
are of one database: tasks that increment one key, and the memory of a client that writes much at
once.
"""

import argparse
import asyncio
import resource
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

import headwater
from headwater.cli.server_process import ServerProcess

THREADS: Final = 16
ROUND_S: Final = 1.0
TASKS: Final = 100
VALUE_SIZE: Final = 200_000
VALUES: Final = 500


def rate(databases: list[headwater.BlockingDatabase]) -> float:
    """Puts in a second, of one thread for each database that is given."""
    done = [0] * len(databases)
    stopping = threading.Event()

    def work(number: int) -> None:
        while not stopping.is_set():
            databases[number].put(("thread", number), done[number])
            done[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(databases))]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(ROUND_S)
    stopping.set()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - begin)


def threads(url: str, rounds: int) -> None:
    """Compare one database for all threads with one for each."""
    databases = [headwater.connect_blocking(url).__enter__() for _ in range(THREADS)]
    ratios, shared, each = [], [], []
    for number in range(rounds + 1):
        pair = rate([databases[0]] * THREADS), rate(databases)
        if number:  # The first round opens the connections.
            shared.append(pair[0])
            each.append(pair[1])
            ratios.append(pair[0] / pair[1])
    for database in databases:
        database.close()
    print(
        f"{THREADS} threads: one database {statistics.median(shared):.0f} puts/s, "
        f"one each {statistics.median(each):.0f} puts/s, ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


async def tasks(url: str, rounds: int) -> None:
    """Let tasks increment one key, and then write many large values at once."""
    async with headwater.connect(url) as db:
        times, attempts = [], 0

        async def bump(tx: headwater.Transaction) -> None:
            nonlocal attempts
            attempts += 1
            tx.put("contended", await tx.get("contended", 0) + 1)

        for _ in range(rounds):
            begin = time.perf_counter()
            await asyncio.gather(*(db.run(bump) for _ in range(TASKS)))
            times.append(time.perf_counter() - begin)
        assert await db.get("contended") == rounds * TASKS
        print(
            f"{TASKS} tasks on one key: {statistics.median(times):.2f} s ({min(times):.2f} to "
            f"{max(times):.2f}), {attempts / rounds / TASKS:.1f} attempts each"
        )
        value = bytes(VALUE_SIZE)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await asyncio.gather(*(db.put(("bulk", n % 10), value) for n in range(VALUES)))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"{VALUES} puts of {VALUE_SIZE} bytes at once: {grown / 1024:.0f} MiB more memory")


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as directory, ServerProcess(Path(directory)) as server:
        threads(server.url, rounds)
        asyncio.run(tasks(server.url, rounds))


if __name__ == "__main__":
    main()
