"""Starts a server, three workers, and looks at what they have done."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import headwater
from headwater.cli.server_process import ServerProcess

JOBS = 20
WORKERS = 3
DEADLY, BAD = 7, 13


def work(url: str, *, mended: bool) -> None:
    """One worker: until every job is done or parked."""
    with headwater.connect_blocking(url) as db, db.join("workers", until_caught_up=True) as group:
        for delivery in group:
            number = delivery.event.data["number"]
            # Not in the transaction: to see how often a job was begun.
            db.add(("begun", number), 1)
            if number == DEADLY and delivery.attempt == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                result = square(number, mended=mended)
            except ValueError as error:
                delivery.nack(delay=0.01, reason=f"ValueError: {error}")
                continue
            with db.transaction() as tx:
                tx.put(("result", number), result)
                tx.add(("results of", number), 1)
                tx.ack(delivery)


def square(number: int, *, mended: bool) -> int:
    """The job itself."""
    if number == BAD and not mended:
        raise ValueError(f"{BAD} brings bad luck")
    return number * number


def start(url: str, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--work", url, *options])


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, ServerProcess(Path(directory)) as server:
        with headwater.connect_blocking(server.url) as db:
            for number in range(1, JOBS + 1):
                db.append(f"job-{number}", headwater.Event("Queued", {"number": number}))
            db.groups.create("workers", category="job", attempts=3)
            ends = [worker.wait() for worker in [start(server.url) for _ in range(WORKERS)]]
            killed = sum(end == -signal.SIGKILL for end in ends)
            print(f"{JOBS} jobs, {WORKERS} workers, {killed} of them killed")
            once = all(count == 1 for _, count in db.scan(("results of",)))
            print(f"results: {db.count(('result',))}, each once: {once}")
            print(f"job {DEADLY} was begun {db.get(('begun', DEADLY))} times")
            for parked in db.groups.parked("workers"):
                assert parked.event is not None
                job = parked.event.data["number"]
                print(f"parked: job {job} after {parked.attempts} attempts: {parked.reason}")
            db.groups.replay("workers")
            start(server.url, "--mended").wait()
            info = db.groups.info("workers")
            results = db.count(("result",))
            print(f"after the bug was mended: {results} results, {info.parked} parked")


if __name__ == "__main__":
    if "--work" in sys.argv:
        work(sys.argv[2], mended="--mended" in sys.argv)
    else:
        main()
