"""Damaged files of RocksDB, on a real disk: `python -m tests.fuzz.store_files --count 2000`.

Like files.py, with the real state store: its directory is copied, one file of it is damaged, and
it is checked and opened. RocksDB's checksums must detect every damage that changes an answer.
"""

import argparse
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Final

from headwater_protocol.errors import HeadwaterError
from headwater_protocol.limits import KIB
from headwater_server.engine.check.check import check
from headwater_server.engine.engine import Engine
from headwater_server.engine.recovery import open_engine
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.store.rocks_store import RocksStore
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog
from tests.engine.database import START_US
from tests.fuzz.files import DAMAGES, SETTINGS, Answers, Base, Wrong, ask, identity

SEGMENT_SIZE: Final = 64 * KIB
COMMITS: Final = 30
CHECKPOINTS: Final = (9, 19, 29)


def open_real(directory: Path) -> Engine:
    """An engine on a real directory."""
    return open_engine(
        RealFileSystem(),
        str(directory),
        open_store=RocksStore.open,
        open_log=partial(FileWriteAheadLog.open, segment_size=SEGMENT_SIZE),
        settings=SETTINGS,
        clock=lambda: START_US + 10**9,
        source=random.Random(1),
    )


def make_real(directory: Path) -> list[Answers]:
    """Make a database whose commits are all in the state store. Returns its answers at each."""
    engine = open_real(directory)
    pictures = [ask(engine, 0)]
    source = random.Random(1)
    for place in range(COMMITS):
        value = b"%d" % place + b"." * source.choice((0, 900))
        writes: list[list[Any]] = [
            ["put", b"key %d" % source.randrange(8), value],
            ["append", f"account-{place % 3}", -1, [[None, "Changed", b"%d" % place, b""]]],
        ]
        engine.execute(identity(place), user=0, conditions=[], reads=None, writes=writes)
        group = engine.take_group()
        assert group is not None
        engine.make_durable(group)
        engine.publish(group)
        if place in CHECKPOINTS:
            checkpoint = engine.begin_checkpoint()
            assert checkpoint is not None
            checkpoint.run()
            engine.finish_checkpoint(checkpoint)
            engine.trim_log()
    pictures += [ask(engine, commit) for commit in range(1, COMMITS + 1)]
    engine.seal_log()
    engine.close()
    return pictures


class StoreFuzzer:
    """Damages copies of one directory.

    Attributes:
        outcomes: counts by kind of file and result.
    """

    def __init__(self, room: Path) -> None:
        self._whole = room / "whole"
        self._copy = room / "copy"
        self._pictures = make_real(self._whole)
        self._files = sorted(
            path.relative_to(self._whole).as_posix()
            for path in (self._whole / "state").iterdir()
            # RocksDB does not read its log and its lock file.
            if path.name not in ("LOCK", "LOG") and not path.name.startswith("LOG.")
            if path.stat().st_size
        )
        self._contents = {name: (self._whole / name).read_bytes() for name in self._files}
        self._base = Base({}, {}, None, [], [])  # type: ignore[arg-type]
        self.outcomes: Counter[str] = Counter()

    def run(self, seed: int) -> str:
        """Damage one file, and judge the result.

        Raises:
            Wrong: the result is not allowed; the message has the details.
        """
        source = random.Random(f"store files {seed}")
        kinds = sorted({_kind(name) for name in self._files})
        kind = source.choice(kinds)
        path = source.choice([name for name in self._files if _kind(name) == kind])
        how = source.choice(sorted(DAMAGES))
        content = DAMAGES[how](self._contents, path, self._base, source)
        if content == self._contents[path]:
            outcome = "nothing was changed"
        else:
            try:
                outcome = self._judge(path, content)
            except Exception as error:
                raise Wrong(f"seed {seed}: {how} in {path}: {error!r}") from error
        self.outcomes[f"{kind}: {outcome}"] += 1
        return outcome

    def _judge(self, path: str, content: bytes) -> str:
        clean = self._prepared(path, content)
        try:
            engine = open_real(self._copy)
        except HeadwaterError as error:
            if clean:
                raise Wrong("check found nothing, and the server refuses") from error
            return "refused"
        try:
            assert engine.published == COMMITS, f"{engine.published} commits of {COMMITS}"
            for commit in (0, COMMITS // 2, COMMITS):
                assert ask(engine, commit) == self._pictures[commit], f"at commit {commit}"
        except HeadwaterError as error:
            if clean:
                raise Wrong("check found nothing, and a read is refused") from error
            return "a read is refused"
        finally:
            engine.close()
        return "all the same"

    def _prepared(self, path: str, content: bytes) -> bool:
        """Put the damaged file in its place. Returns whether the check finds nothing."""
        if self._copy.exists():
            shutil.rmtree(self._copy)
        shutil.copytree(self._whole, self._copy)
        (self._copy / path).write_bytes(content)
        try:
            report = check(
                RealFileSystem(),
                str(self._copy),
                open_store=partial(RocksStore.open, read_only=True),
            )
        except HeadwaterError:
            return False
        return report.is_clean


def _kind(path: str) -> str:
    name = path.rpartition("/")[2]
    return name.rpartition(".")[2] if "." in name else name.partition("-")[0]


def main() -> int:
    """Damage --count files, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first")
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()
    began = time.monotonic()
    wrong = 0
    with tempfile.TemporaryDirectory() as room:
        fuzzer = StoreFuzzer(Path(room))
        for seed in range(options.seed, options.seed + options.count):
            try:
                fuzzer.run(seed)
            except Wrong as error:
                wrong += 1
                print(f"{error}\nreplay: python -m tests.fuzz.store_files --seed {seed} --count 1")
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // KIB
    print(
        f"seeds {options.seed} to {options.seed + options.count - 1}: {wrong} wrong, in "
        f"{time.monotonic() - began:.0f} s, {resident} MiB resident\n"
        f"{dict(sorted(fuzzer.outcomes.items()))}"
    )
    return min(1, wrong)


if __name__ == "__main__":
    sys.exit(main())
