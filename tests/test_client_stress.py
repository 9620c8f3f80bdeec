"""Clients that are cancelled, interrupted, forked, closed and cut off, against a ledger.

Each entry is a key that is written once. What the client said of it must be true in the end: an
acknowledged write is there, a refused one is not, and an unknown one is what `status` says.

    HEADWATER_CLIENT_STRESS=rounds      how many rounds of disturbances each face has (default 3)
"""

import asyncio
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio
import uvloop

import headwater
from headwater.cli.server_process import ServerProcess
from headwater.database import Database
from headwater.transport.stepping import step
from tests.client.transport.test_forking import Child

ROUNDS: Final = int(os.environ.get("HEADWATER_CLIENT_STRESS", "3"))
TASKS: Final = 24
THREADS: Final = 6
WRITES: Final = 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(60 + 60 * ROUNDS),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as server:
        yield server


@pytest.fixture
def dice() -> random.Random:
    seed = int(os.environ.get("HEADWATER_SEED", random.randrange(1 << 32)))
    print(f"HEADWATER_SEED={seed}")
    return random.Random(seed)


class Interruption(BaseException):
    """What a signal handler raises."""


class Ledger:
    """What clients were told of their writes.

    "there", "refused", the id of a transaction whose outcome is unknown, or "interrupted".
    """

    def __init__(self) -> None:
        self.said: dict[str, str | bytes] = {}

    async def write(self, db: Database, entry: str, way: int) -> None:
        """Write an entry in one of three ways, and note what is known of it."""
        assert entry not in self.said
        self.said[entry] = "refused"
        try:
            await [self._at_once, self._in_transaction, self._in_run][way](db, entry)
        except BaseException as error:
            unknown: bytes | None = getattr(error, "transaction", None)
            if unknown is not None:
                self.said[entry] = unknown
            elif isinstance(error, Interruption):
                # It may have come just after the answer, before this ledger could note it.
                self.said[entry] = "interrupted"
            if not isinstance(error, headwater.HeadwaterError):
                raise
        else:
            self.said[entry] = "there"

    async def _at_once(self, db: Database, entry: str) -> None:
        await db.put(("ledger", entry), 1)

    async def _in_transaction(self, db: Database, entry: str) -> None:
        async with db.transaction() as tx:
            await tx.get(("ledger", entry))
            tx.put(("ledger", entry), 1)

    async def _in_run(self, db: Database, entry: str) -> None:
        async def bump(tx: headwater.Transaction) -> None:
            tx.put(("ledger", entry), await tx.get(("ledger", entry), 0) + 1)
            tx.add("all", 1)

        await db.run(bump)

    def check(self, url: str) -> None:
        """Compare what was said with what is there."""
        with headwater.connect_blocking(url) as db:
            expected = set()
            for entry, said in self.said.items():
                if said == "there" or (
                    isinstance(said, bytes) and db.status(said, resolve=True).state == "committed"
                ):
                    expected.add(entry)
            # Read after that, because a write can take effect until its status is resolved.
            found = {key[1]: value for key, value in db.scan(("ledger",))}
        interrupted = {entry for entry, said in self.said.items() if said == "interrupted"}
        # Each is there once, and `run` counted none twice.
        assert set(found) - interrupted == expected
        assert set(found.values()) <= {1}
        kinds = Counter(
            "unknown" if isinstance(said, bytes) else said for said in self.said.values()
        )
        print(dict(kinds))
        assert kinds["there"]


def restart(server: ServerProcess) -> None:
    server.kill()
    server.start()


async def on_asyncio(server: ServerProcess, ledger: Ledger, dice: random.Random) -> None:
    for number in range(ROUNDS):
        async with headwater.connect(server.url) as db:
            tasks = [
                asyncio.ensure_future(ledger.write(db, f"{number}-{task}", task % 3))
                for task in range(TASKS)
            ]
            await asyncio.sleep(dice.uniform(0, 0.03))
            match number % 3:
                case 0:
                    for task in dice.sample(tasks, TASKS // 2):
                        task.cancel()
                case 1:
                    await asyncio.to_thread(restart, server)
                    tasks[0].cancel()
                case _:
                    await db.close()
            await asyncio.gather(*tasks, return_exceptions=True)


async def in_scope(
    scope: trio.CancelScope, ledger: Ledger, db: Database, entry: str, way: int
) -> None:
    with scope:
        await ledger.write(db, entry, way)


async def on_trio(server: ServerProcess, ledger: Ledger, dice: random.Random) -> None:
    for number in range(ROUNDS):
        async with headwater.connect(server.url) as db, trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(TASKS)]

            for task, scope in enumerate(scopes):
                nursery.start_soon(in_scope, scope, ledger, db, f"{number}-{task}", task % 3)
            await trio.sleep(dice.uniform(0, 0.03))
            match number % 3:
                case 0:
                    for scope in dice.sample(scopes, TASKS // 2):
                        scope.cancel()
                case 1:
                    await trio.to_thread.run_sync(restart, server)
                    scopes[0].cancel()
                case _:
                    await db.close()


@pytest.mark.parametrize("face", ["trio", "asyncio", "uvloop"])
def test_what_tasks_were_told_of_their_writes_is_true(
    face: str, server: ServerProcess, dice: random.Random
) -> None:
    ledger = Ledger()
    if face == "trio":
        trio.run(on_trio, server, ledger, dice)
    else:
        factory = uvloop.new_event_loop if face == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(on_asyncio(server, ledger, dice))
    ledger.check(server.url)


def in_threads(
    db: headwater.BlockingDatabase, ledger: Ledger, number: int
) -> list[threading.Thread]:
    """Threads that write entries until all are written."""

    def work(thread: int) -> None:
        for write in range(WRITES):
            step(ledger.write(db._core, f"{number}-{thread}-{write}", write % 3))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    return threads


def interrupted(
    db: headwater.BlockingDatabase, ledger: Ledger, number: int, dice: random.Random
) -> None:
    """Write in this thread, while signals interrupt it at random."""

    def interrupt(*_: object) -> None:
        raise Interruption

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for write in range(WRITES * 2):
            try:
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.0001, 0.004))
                step(ledger.write(db._core, f"{number}-signals-{write}", write % 3))
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interruption:
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def forked(db: headwater.BlockingDatabase, ledger: Ledger, number: int) -> None:
    """Let a child write entries of its own, and close its copy of the database."""

    def write() -> dict[str, str]:
        own = Ledger()
        for entry in range(WRITES):
            step(own.write(db._core, f"{number}-child-{entry}", entry % 3))
        db.close()
        return {entry: str(said) for entry, said in own.said.items()}

    said = Child(write).result()
    assert set(said.values()) == {"there"}
    ledger.said.update(said)


def test_what_threads_were_told_of_their_writes_is_true(
    server: ServerProcess, dice: random.Random
) -> None:
    ledger = Ledger()
    for number in range(ROUNDS):
        with headwater.connect_blocking(server.url) as db:
            threads = in_threads(db, ledger, number)
            interrupted(db, ledger, number, dice)
            match number % 3:
                case 0:
                    forked(db, ledger, number)
                case 1:
                    restart(server)
                case _:
                    db.close()
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads)
    ledger.check(server.url)
