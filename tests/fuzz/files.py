"""Damaged data directories, in memory: `python -m tests.fuzz.files --count 100000`.

A small database with data of every kind is closed, cleanly or by a power loss, and one of its files
is damaged. Then it is checked and opened, and all reads are compared with those of the undamaged
database. These results are allowed:

    a HeadwaterError             that names the file
    the same answers             the damaged bytes are not used
    missing commits at the end   only if a byte of each missing log entry was damaged, which looks
                                 like a torn tail

Other answers, other exceptions, and memory that grows with a damaged length are wrong. If the check
finds nothing, the server must open the database and answer as without damage.
"""

import argparse
import random
import resource
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from headwater_protocol.errors import HeadwaterError
from headwater_protocol.limits import KIB, MIB
from headwater_server.engine.check.check import check
from headwater_server.engine.engine import Engine
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.recovery import open_engine
from headwater_server.engine.settings import EngineSettings
from headwater_server.storage.log.log_segment import ENTRY_HEADER_SIZE, SEGMENT_HEADER_SIZE
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog
from headwater_server.testing.memory_disk import PAGE_SIZE, SECTOR_SIZE
from headwater_server.testing.memory_files import MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.database import START_US, all_events

SEGMENT_SIZE: Final = 8 * KIB
"""Segment size of the write-ahead log, so that a small database has several segments."""

COMMITS: Final = 18
CHECKPOINTS: Final = (5, 11)
"""Commits after which a checkpoint is made. Later commits are only in the write-ahead log."""

BASES: Final = 12
"""Number of undamaged databases. Each is made once and damaged many times."""

ADDRESS_SPACE: Final = 1024 * MIB
"""Memory limit of the process in long runs. Code that trusts a large length exceeds it."""

SETTINGS: Final = EngineSettings(disk_reserve_size=0, history_window_us=10**12)

Files = dict[str, bytes]


class Answers(NamedTuple):
    """The answers of a database at a commit."""

    keys: Any
    events: list[bytes]
    stream: Any
    loaded: Any


def ask(engine: Engine, commit: int) -> Answers:
    """Read everything at a commit."""
    reader = engine.reader(commit)
    keys = reader.scan(b"", None, 1000, False)
    return Answers(
        keys.items,
        all_events(reader, 0, EVERYTHING),
        reader.read_stream("account-1", 0, 1000, False),
        reader.load("account-0", "", 1),
    )


@dataclass(frozen=True, slots=True)
class Base:
    """An undamaged database.

    Attributes:
        files: all files except the lock, after the close.
        earlier: the same files at an earlier time, for lost writes.
        store: the state store after the close.
        pictures: the answers at each commit, by number.
        entries: the entries of the write-ahead log, in order.
    """

    files: Files
    earlier: Files
    store: MemoryStore
    pictures: list[Answers]
    entries: "list[Entry]"


class Entry(NamedTuple):
    """An entry of the write-ahead log: the place of its bytes, and its content."""

    path: str
    start: int
    end: int
    number: int


def identity(place: int) -> bytes:
    """The transaction id of the commit at a place."""
    return b"transaction %04d" % place


def _open(files: MemoryFileSystem, store: MemoryStore, now: Callable[[], int]) -> Engine:
    def open_log(file_system: Any, path: str, **rest: Any) -> FileWriteAheadLog:
        return FileWriteAheadLog.open(file_system, path, segment_size=SEGMENT_SIZE, **rest)

    return open_engine(
        files,
        "data",
        open_store=lambda _: store,
        open_log=open_log,
        settings=SETTINGS,
        clock=now,
        source=random.Random(1),
    )


def _writes(source: random.Random, place: int) -> list[list[Any]]:
    stream = f"account-{source.randrange(3)}"
    filling = b"." * source.choice((0, 10, 400, 1500))
    writes: list[list[Any]] = [
        ["put", b"key %d" % source.randrange(6), b"%d" % place + filling],
        ["delete", b"key %d" % source.randrange(6)],
        ["add", b"number", 1],
        ["append", stream, -1, [[None, "Changed", b"%d" % place + filling, b"meta"]]],
    ]
    if place % 3 == 2:
        given = [b"%016d" % place, "Opened", b"", b""]
        writes.append(["append", "account-0", -1, [given]])
    if place % 5 == 4:
        writes.append(["delete_range", b"key 3", b"key 5"])
    return writes


def make_base(seed: int) -> Base:
    """Make the database of a seed. Every second one is not closed cleanly."""
    source = random.Random(f"base {seed}")
    disk, store = MemoryFileSystem(random.Random(seed)), MemoryStore(random.Random(seed))
    clock = [START_US]
    engine = _open(disk, store, lambda: clock[0])
    pictures = [ask(engine, 0)]
    earlier: Files = {}
    for place in range(COMMITS):
        clock[0] += 1000
        writes = _writes(source, place)
        head = engine.reader().read_stream("account-0", 0, 1, reverse=True)
        if place % 4 == 3 and head.version:
            writes.append(["save_snapshot", "account-0", "", 1, head.version, b"%d" % place])
        engine.execute(identity(place), user=0, conditions=[], reads=None, writes=writes)
        if source.random() < 0.8 or place in CHECKPOINTS or place == COMMITS - 1:
            _sync(engine)
        if place in CHECKPOINTS:
            checkpoint = engine.begin_checkpoint()
            assert checkpoint is not None
            checkpoint.run()
            engine.finish_checkpoint(checkpoint)
            engine.trim_log()
        if place == COMMITS - 4:
            earlier = _contents(disk)
    pictures += [ask(engine, commit) for commit in range(1, COMMITS + 1)]
    if seed % 2 == 0:
        engine.seal_log()
    engine.close()
    files = _contents(disk)
    return Base(files, earlier, store, pictures, list(_entries(files)))


def _sync(engine: Engine) -> None:
    group = engine.take_group()
    assert group is not None
    engine.make_durable(group)
    engine.publish(group)


def _contents(disk: MemoryFileSystem) -> Files:
    found = {}
    for part in ("", "wal", "commits", "events"):
        directory = f"data/{part}".rstrip("/")
        for name in disk.list(directory):
            path = f"{directory}/{name}"
            if name != "LOCK" and name not in ("wal", "commits", "events", "state"):
                found[path] = disk.content(path)
    return found


_ENTRY_HEADER: Final = struct.Struct(">IIQ")


def _entries(files: Files) -> Iterator[Entry]:
    """The entries of the write-ahead log, found by their lengths."""
    for path in sorted(path for path in files if path.startswith("data/wal/")):
        content, at = files[path], SEGMENT_HEADER_SIZE
        while at + ENTRY_HEADER_SIZE <= len(content):
            length, _, index = _ENTRY_HEADER.unpack_from(content, at)
            if not length:
                break
            end = at + (ENTRY_HEADER_SIZE + length + 7) // 8 * 8
            yield Entry(path, at, end, index)
            at = end


# Kinds of damage. Each function changes one or two files.


class Damage(NamedTuple):
    """A damage of the files."""

    kind: str
    path: str
    files: Files


def _flip(files: Files, path: str, base: Base, source: random.Random) -> bytes:
    content = bytearray(files[path])
    for _ in range(source.choice((1, 1, 1, 2, 8))):
        content[_somewhere(content, source)] ^= 1 << source.randrange(8)
    return bytes(content)


def _somewhere(content: bytes | bytearray, source: random.Random) -> int:
    """A random offset, mostly before the zeros at the end of the file."""
    used = len(content.rstrip(b"\0")) if source.random() < 0.8 else len(content)
    return source.randrange(max(1, min(used + 8, len(content))))


def _truncate(files: Files, path: str, base: Base, source: random.Random) -> bytes:
    return files[path][: _somewhere(files[path], source)]


def _extend(files: Files, path: str, base: Base, source: random.Random) -> bytes:
    more = source.choice((1, 8, 64, SECTOR_SIZE, PAGE_SIZE))
    return files[path] + source.choice((bytes(more), source.randbytes(more)))


def _overwrite(files: Files, path: str, base: Base, source: random.Random) -> bytes:
    content = bytearray(files[path])
    at = _somewhere(content, source)
    size = source.choice((1, 2, 4, 8, 16, 64, 300, SECTOR_SIZE))
    filling = source.choice((bytes(size), b"\xff" * size, source.randbytes(size)))
    content[at : at + size] = filling[: len(content) - at]
    return bytes(content)


def _number(files: Files, path: str, base: Base, source: random.Random) -> bytes:
    """Change a number: a length, a count, an index."""
    content = bytearray(files[path])
    width = source.choice((4, 8))
    at = _somewhere(content, source) // 4 * 4
    value = source.choice((0, 1, 2**31, 2**32 - 1, 2**40, 2**63, source.getrandbits(32)))
    there = content[at : at + width]
    wanted = (value % 2 ** (8 * width)).to_bytes(width, "big")
    content[at : at + width] = wanted[: len(there)]
    return bytes(content)


def _blocks(content: bytes | bytearray, source: random.Random) -> tuple[int, int, int]:
    size = source.choice((SECTOR_SIZE, PAGE_SIZE))
    first = _somewhere(content, source) // size * size
    second = _somewhere(content, source) // size * size
    return size, first, second


def _swap(files: Files, path: str, base: Base, source: random.Random) -> bytes:
    content = bytearray(files[path])
    size, first, second = _blocks(content, source)
    size = min(size, len(content) - max(first, second))
    one, other = content[first : first + size], content[second : second + size]
    content[first : first + size], content[second : second + size] = other, one
    return bytes(content)


def _zero(files: Files, path: str, base: Base, source: random.Random) -> bytes:
    content = bytearray(files[path])
    size, first, _ = _blocks(content, source)
    content[first : first + size] = bytes(len(content[first : first + size]))
    return bytes(content)


def _stale(files: Files, path: str, base: Base, source: random.Random) -> bytes:
    """Replace a block by its earlier content, as after a lost write."""
    content = bytearray(files[path])
    size, first, _ = _blocks(content, source)
    before = base.earlier.get(path, b"")[first : first + size]
    size = len(content[first : first + size])
    content[first : first + size] = before[:size] + bytes(size - len(before[:size]))
    return bytes(content)


def _misdirect(files: Files, path: str, base: Base, source: random.Random) -> bytes:
    """Overwrite a block with one that belongs to another place, in this file or another."""
    meant = files[source.choice(sorted(files))]
    content = bytearray(files[path])
    size, first, _ = _blocks(content, source)
    start = _somewhere(meant, source) // size * size
    block = meant[start : start + size]
    content[first : first + len(block)] = block[: len(content) - first]
    return bytes(content)


def _move(files: Files, path: str, base: Base, source: random.Random) -> bytes:
    """Insert or remove bytes, so that all later bytes move."""
    content = bytearray(files[path])
    at = _somewhere(content, source)
    size = source.choice((1, 8, 64))
    if source.random() < 0.5:
        del content[at : at + size]
    else:
        content[at:at] = content[at : at + size]
    return bytes(content)


def _replace(files: Files, path: str, base: Base, source: random.Random) -> bytes:
    """Replace a file by another of its kind, or remove it."""
    folder = path.rpartition("/")[0]
    others = [each for each in sorted(files) if each.rpartition("/")[0] == folder]
    return source.choice((b"", files[source.choice(others)], base.earlier.get(path, b"")))


DAMAGES: Final[dict[str, Callable[[Files, str, Base, random.Random], bytes]]] = {
    "flipped bits": _flip,
    "truncated": _truncate,
    "extended": _extend,
    "overwritten": _overwrite,
    "a number": _number,
    "swapped blocks": _swap,
    "zeroed block": _zero,
    "lost write": _stale,
    "misdirected write": _misdirect,
    "moved": _move,
    "replaced": _replace,
}


def kind_of(path: str) -> str:
    """The kind of a file."""
    return path.rpartition(".")[2] if "." in path else path.rpartition("/")[2]


def damage(base: Base, source: random.Random) -> Damage:
    """Damage one file of a base. All kinds of files are equally likely."""
    kinds: dict[str, list[str]] = {}
    for path in sorted(base.files):
        kinds.setdefault(kind_of(path), []).append(path)
    path = source.choice(kinds[source.choice(sorted(kinds))])
    name = source.choice(sorted(DAMAGES))
    files = dict(base.files)
    if source.random() < 0.03:
        del files[path]
        return Damage("missing", path, files)
    files[path] = DAMAGES[name](files, path, base, source)
    return Damage(name, path, files)


# The judgement.


class Wrong(Exception):
    """The database gave a wrong answer or failed."""


class Fuzzer:
    """Damages databases and judges the results.

    Attributes:
        outcomes: counts by kind of file and result.
        damages: counts by kind of damage.
    """

    def __init__(self, bases: int = BASES) -> None:
        self.bases = [make_base(seed) for seed in range(bases)]
        self.outcomes: Counter[str] = Counter()
        self.damages: Counter[str] = Counter()

    def run(self, seed: int) -> str:
        """Damage one file and return the result.

        Raises:
            Wrong: the result is not allowed; the message has the details.
        """
        source = random.Random(f"files {seed}")
        base = source.choice(self.bases)
        done = damage(base, source)
        if done.files == base.files:
            outcome = "nothing was changed"
        else:
            try:
                outcome = self._judge(base, done, source)
            except Exception as error:
                told = f"seed {seed}: {done.kind} in {done.path}: {error!r}"
                raise Wrong(told) from error
        self.outcomes[f"{kind_of(done.path)}: {outcome}"] += 1
        self.damages[done.kind] += 1
        return outcome

    def _judge(self, base: Base, done: Damage, source: random.Random) -> str:
        clean = self._check(base, done)
        try:
            engine = _open(*disk_of(base, done.files), lambda: START_US + 10**9)
        except HeadwaterError as error:
            if clean:
                raise Wrong("check found nothing, and the server refuses") from error
            return "refused"
        try:
            return self._ask(engine, base, done, clean, source)
        finally:
            engine.close()

    def _check(self, base: Base, done: Damage) -> bool:
        disk, store = disk_of(base, done.files)
        try:
            report = check(disk, "data", open_store=lambda _: store)
        except HeadwaterError:
            return False
        return report.is_clean

    def _ask(
        self, engine: Engine, base: Base, done: Damage, clean: bool, source: random.Random
    ) -> str:
        recovered = engine.published
        assert recovered <= COMMITS, "more commits than were made"
        if recovered < COMMITS:
            self._must_be_torn(base, done, recovered)
        refused = False
        for commit in {recovered, engine.oldest_readable, source.randint(0, recovered)}:
            try:
                found = ask(engine, commit)
            except HeadwaterError:
                refused = True
                continue
            assert found == base.pictures[commit], f"at commit {commit} of {recovered}"
        try:
            for place in range(COMMITS):
                state = engine.status(identity(place), resolve=False).state
                wanted = "committed" if place < recovered else "open"
                assert state == wanted, f"transaction {place + 1} is {state}"
            commits = [record[:2] for record in engine.looking.read_commits(0, 100)]
            assert commits == [[n + 1, identity(n)] for n in range(recovered)], "another history"
        except HeadwaterError:
            refused = True
        assert not (refused and clean), "check found nothing, and a read is refused"
        if refused:
            return "a read is refused"
        return "a torn tail" if recovered < COMMITS else "all the same"

    def _must_be_torn(self, base: Base, done: Damage, recovered: int) -> None:
        """Commits are missing: a byte of every entry from the first missing one must be damaged."""
        whole = [
            entry
            for entry in base.entries
            if done.files.get(entry.path, b"")[entry.start : entry.end]
            == base.files[entry.path][entry.start : entry.end]
        ]
        hit = [entry.number for entry in base.entries if entry not in whole]
        assert hit, f"{COMMITS - recovered} commits are missing, and the log is as it was"
        after = [entry.number for entry in whole if entry.number > hit[0]]
        assert not after, f"from entry {hit[0]} on all is lost, though {after} are whole"
        assert recovered >= CHECKPOINTS[-1] + 1, "commits of a checkpoint cannot be missing"


def disk_of(base: Base, files: Files) -> tuple[MemoryFileSystem, MemoryStore]:
    """A disk with these files, and a copy of the base's state store."""
    disk = MemoryFileSystem(1)
    for directory in ("data", "data/wal", "data/commits", "data/events", "data/state"):
        disk.make_directory(directory)
        disk.sync_directory(directory.rpartition("/")[0])
    for path, content in files.items():
        disk.put(path, content)
    store = MemoryStore(random.Random(1))
    store._live = base.store._live.copy()
    store._durable = store._live.copy()
    return disk, store


def main() -> int:
    """Damage --count files, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first")
    parser.add_argument("--count", type=int, default=10_000)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    fuzzer = Fuzzer()
    began = time.monotonic()
    wrong = 0
    for seed in range(options.seed, options.seed + options.count):
        try:
            fuzzer.run(seed)
        except Wrong as error:
            wrong += 1
            print(f"{error}\nreplay: python -m tests.fuzz.files --seed {seed} --count 1")
    seconds = time.monotonic() - began
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // KIB
    print(
        f"seeds {options.seed} to {options.seed + options.count - 1}: {wrong} wrong, in "
        f"{seconds:.0f} s, {resident} MiB resident\n{dict(sorted(fuzzer.outcomes.items()))}\n"
        f"{dict(sorted(fuzzer.damages.items()))}"
    )
    return min(1, wrong)


if __name__ == "__main__":
    sys.exit(main())
