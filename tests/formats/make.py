"""Makes the data directories that later versions must be able to open.

    python -m tests.formats.make            writes tests/formats/<number of the format>/

The code of this checkout writes them, so run this once with the last commit of a format, and keep
the result for ever. It makes four directories, each with keys, events, snapshots, users, groups,
retention rules, erasures and aborted transactions:

    stopped       the server was stopped cleanly: its files have everything
    killed        SIGKILL: only the write-ahead log has the newest commits, and it has a torn tail
    interrupted   SIGKILL in the middle of a checkpoint
    backup        a backup

`expected.json.xz` has the results of all reads of each directory, by the version that wrote it.
"""

import json
import lzma
import os
import random
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Final
from uuid import UUID, uuid4

import headwater
from headwater import BlockingDatabase, Event
from headwater.cli.server_process import ServerProcess
from headwater_server.storage.files.directory import FORMAT
from tests.formats.reading import everything

HERE: Final = Path(__file__).parent
EXPECTED: Final = "expected.json.xz"
USER: Final = "ann"
PASSWORD: Final = "correct horse battery staple"
SEED: Final = 4
CENTURY_S: Final = 3_155_760_000
KEEP_ALL: Final = ("--history-window", str(CENTURY_S), "--transaction-retention", str(CENTURY_S))
"""Nothing may expire before the tests open the directory, perhaps years later."""

FORGOTTEN_S: Final = 2
WEEK_S: Final = 604_800
DELIVERIES: Final = 6

KILL_AT_BATCH: Final = 3
HALF_AN_ENTRY: Final = bytes.fromhex("00000140 c0ffee00 0000000000ffffff") + b"torn" * 9


class SmallServer(ServerProcess):
    """A server with small log segments. It runs the source modules, because it patches them."""

    program: ClassVar[tuple[str, ...]] = (
        "env",
        "HEADWATER_PURE=1",
        sys.executable,
        str(HERE / "small_server.py"),
    )

    def connect(self) -> BlockingDatabase:
        """Connect as the user of the filled database."""
        return headwater.connect_blocking(self.url, user=USER, password=PASSWORD)


class Filling:
    """Writes data of every kind into a database.

    Attributes:
        transactions: ids whose status must be known later.
    """

    def __init__(self) -> None:
        self._random = random.Random(SEED)
        self._number = 0
        self.transactions: list[str] = [str(UUID(int=SEED, version=4))]

    def fill(self, db: BlockingDatabase, rounds: int) -> None:
        """Write this many rounds, of about six commits each."""
        for _ in range(rounds):
            self._number += 1
            self._keys(db)
            self._events(db)
            if self._number % 5 == 0:
                self._retention(db)
                self._group_work(db)
            if self._number % 4 == 0:
                aborted = str(uuid4())
                db.status(aborted, resolve=True)
                self.transactions.append(aborted)

    def _keys(self, db: BlockingDatabase) -> None:
        source, number = self._random, self._number
        with db.transaction() as tx:
            tx.put(("account", source.randrange(8)), {"round": number, "balance": number * 10})
            tx.add(("hits",), 1)
            tx.delete(("account", source.randrange(8)))
        self.transactions.append(str(tx.id))
        db.put(("blob", number % 3), source.randbytes(40))
        if number % 6 == 0:
            db.delete_range(("blob",))

    def _events(self, db: BlockingDatabase) -> None:
        source, number = self._random, self._number
        stream = f"account-{number % 4}"
        given = UUID(int=number, version=4)
        opened = Event("Opened", {"by": number}, {"ip": "::1"}, given, ["branch:1", f"n:{number}"])
        changed = [Event("Changed", {"to": source.random()}) for _ in range(source.randint(1, 5))]
        with db.transaction() as tx:
            tx.append(stream, [opened, *changed])
            tx.append(f"note-{number}", Event("Noted", "ä" * number, tags=["branch:2"]))
        version = tx.committed.versions[stream]
        db.save_snapshot(stream, version=version, state={"n": number}, schema=1 + number % 2)
        db.save_snapshot(stream, version=version, state=[number], schema=1, name="view")

    def _retention(self, db: BlockingDatabase) -> None:
        number = self._number
        db.append("clicks-1", [Event("Clicked", {"n": n}) for n in range(6)])
        db.set_retention("clicks-1", max_count=4, max_age=timedelta(seconds=CENTURY_S))
        db.truncate("account-1", before=number // 2)
        db.erase(f"note-{number - 1}", versions=[1])
        db.delete_stream(f"note-{number - 2}")

    def _group_work(self, db: BlockingDatabase) -> None:
        if self._number == 5:
            db.groups.create("mailer", category="account", parked_stream="continue")
            db.groups.create("counter", types=["Noted"], lease=5.0)
        # End after a number of deliveries. The group never catches up, because a stream waits for
        # its retry.
        with db.join("mailer") as group:
            for done, delivery in enumerate(group, start=1):
                if done == DELIVERIES:
                    delivery.park("no address")
                    break
                if done == 1 and self._number in (5, 20):
                    delivery.nack(delay=WEEK_S, reason="no answer")
                else:
                    delivery.ack()


@contextmanager
def _begun(directory: Path) -> Iterator[tuple[SmallServer, Filling]]:
    """A server whose database had users, garbage, forgotten transactions and trimmed logs."""
    short = ("--history-window", "0", "--transaction-retention", str(FORGOTTEN_S))
    filling = Filling()
    server = SmallServer(directory, [*short, "--checkpoint-commits", "30"])
    with server:
        with headwater.connect_blocking(server.url) as db:
            db.add_user(USER, PASSWORD)
        with server.connect() as db:
            db.add_user("bob", "another password")
            filling.fill(db, 12)
            _wait_until_all_may_be_forgotten(db)
            # Write something, so that the server makes a last checkpoint.
            db.put(("last",), None)
    yield SmallServer(directory, [*KEEP_ALL, "--backup-dir", str(directory)]), filling


def _wait_until_all_may_be_forgotten(db: BlockingDatabase) -> None:
    """Wait until the status of an unused transaction id of this moment is "forgotten"."""
    milliseconds = time.time_ns() // 1_000_000
    unused = UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62)
    until = time.monotonic() + 10 * FORGOTTEN_S
    while db.status(unused).state != "forgotten":
        assert time.monotonic() < until


def _read(db: BlockingDatabase, filling: Filling, since: int) -> dict[str, Any]:
    newest = db.ping().commit
    commits = sorted({*range(since, newest, 20), newest})
    return everything(db, commits=commits, transactions=filling.transactions)


def _stopped_and_backup(directory: Path) -> dict[str, Any]:
    found = {}
    with _begun(directory) as (server, filling):
        with server, server.connect() as db:
            since = db.ping().commit
            filling.fill(db, 12)
            found["stopped"] = _read(db, filling, since)
            db.backup("backup")
            found["backup"] = found["stopped"]
        _pack(server.data, "stopped")
        _pack(directory / "backup", "backup")
    return found


def _killed_and_interrupted(directory: Path) -> dict[str, Any]:
    with _begun(directory) as (server, filling):
        with server, server.connect() as db:
            since = db.ping().commit
            filling.fill(db, 12)
            server.kill()
        # A server that runs for some seconds makes a checkpoint, so pack copies made before.
        _tear_and_pack(directory, server.data)
        _interrupt_and_pack(directory, server.data)
        with server, server.connect() as db:
            found = _read(db, filling, since)
    return {"killed": found, "interrupted": found}


def _tear_and_pack(directory: Path, data: Path) -> None:
    copy = directory / "torn"
    shutil.copytree(data, copy)
    _tear(sorted((copy / "wal").glob("*.wal"))[-1])
    _pack(copy, "killed")


def _interrupt_and_pack(directory: Path, data: Path) -> None:
    above = directory / "above"
    shutil.copytree(data, above / "data")
    server = SmallServer(above, KEEP_ALL)
    os.environ["KILL_AT_BATCH"] = str(KILL_AT_BATCH)
    try:
        server.start()
    finally:
        del os.environ["KILL_AT_BATCH"]
    # A server makes a checkpoint when it stops. This one is killed in the middle of it.
    server.stop()
    _pack(server.data, "interrupted")


def _tear(segment: Path) -> None:
    """Write half an entry after the last one, like a write that a crash interrupted."""
    content = segment.read_bytes()
    end = -(-len(content.rstrip(b"\0")) // 8) * 8
    segment.write_bytes(content[:end] + HALF_AN_ENTRY + content[end + len(HALF_AN_ENTRY) :])


def _pack(data: Path, name: str) -> None:
    """Compress a data directory, without files that no server reads."""

    def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        last = Path(entry.name).name
        if (last == "LOCK" and "/state/" not in entry.name) or last.startswith("LOG"):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        # A backup has hard links to files of its database. The archive has plain files.
        return entry

    target = HERE / str(FORMAT) / f"{name}.tar.xz"
    target.parent.mkdir(exist_ok=True)
    with tarfile.open(target, "w:xz", dereference=True, preset=9) as archive:
        archive.add(data, arcname="data", filter=wanted)


def make() -> None:
    """Write all directories, and the results of reading them."""
    target = HERE / str(FORMAT)
    if target.exists():
        sys.exit(f"{target} already exists. The directories of a format never change.")
    expected: dict[str, Any] = {}
    for scenario in (_stopped_and_backup, _killed_and_interrupted):
        directory = Path(tempfile.mkdtemp())
        try:
            expected |= scenario(directory)
        finally:
            shutil.rmtree(directory)
    text = json.dumps(expected, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    with lzma.open(HERE / str(FORMAT) / EXPECTED, "wt") as file:
        file.write(text)


if __name__ == "__main__":
    make()
