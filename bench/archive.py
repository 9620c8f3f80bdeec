"""What an archive costs: one checkout with and without --archive, measured alternately.

    python -m bench.archive                     base: no archive, new: one on the same disk
    python -m bench.archive --rounds 20 --interval 1

The rows are those of bench/paired.py: a figure is the ratio with/without within a round. "cpu" is
the server's processor time for a request. An archive on the same disk takes its bandwidth twice,
so one on another disk costs less. At the end, the archive is verified and restored, and both rates
are printed.
"""

import argparse
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench import machine
from bench.checkouts import HERE, Checkout, CheckoutFailed, form_name
from bench.load import Load, LoadFailed
from bench.paired import HEADS, Pair, Timing
from headwater_server.cli.restore import open_log
from headwater_server.engine.check.archive import check_archive
from headwater_server.engine.restore_moment import Moment, Opening, restore_moment
from headwater_server.engine.settings import EngineSettings
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.store.rocks_store import RocksStore
from headwater_server.storage.wal.offline import begin_files


def main() -> None:
    """Measure, and print each row when it is ready."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a row, a side and a round")
    parser.add_argument("--interval", type=float, default=5.0, help="--archive-interval, seconds")
    parser.add_argument(
        "--only", default="put-16-deep,append", help="rows of bench.paired, with commas"
    )
    parser.add_argument("--archive", type=Path, help="on another disk (default: the same one)")
    given = parser.parse_args()
    only = set(given.only.split(","))
    with ExitStack() as running:
        directory = Path(
            running.enter_context(tempfile.TemporaryDirectory(prefix="headwater-archive-"))
        )
        archive = given.archive or directory / "archive"
        archive.mkdir(exist_ok=True)
        options = ("--archive", str(archive), "--archive-interval", str(given.interval))
        checkouts = {"base": Checkout("base", HERE), "new": Checkout("new", HERE, options)}
        try:
            print(form_name(checkouts["base"].is_compiled()))
            for name, fact in machine.facts(directory).items():
                print(f"{name}: {fact}")
            load = running.enter_context(Load())
            with ExitStack() as servers:
                pair = Pair(load, checkouts, directory, Timing(given.rounds, given.seconds, 0.5, 1))
                pair.start(servers)
                print(HEADS, flush=True)
                for row in pair.measure(only.__contains__):
                    print(row.line(), flush=True)
        except (CheckoutFailed, LoadFailed) as error:
            sys.exit(str(error))
        _verify(archive, directory / "restored")


def _verify(archive: Path, target: Path) -> None:
    """Verify the archive, and restore it."""
    files = RealFileSystem()
    began = time.perf_counter()
    report = check_archive(files, str(archive))
    took = time.perf_counter() - began
    assert not report.findings, report.findings
    size = report.size / 1e6
    print(f"check: {report.pieces} pieces, {size:,.1f} MB, {size / took:,.1f} MB/s")
    opening = Opening(
        open_store=RocksStore.open,
        open_store_to_read=partial(RocksStore.open, read_only=True),
        open_log=open_log,
        begin_log=begin_files,
        settings=EngineSettings(),
        clock=lambda: time.time_ns() // 1000,
        source=random.Random(),
    )
    began = time.perf_counter()
    restored = restore_moment(
        files, str(target), archive=str(archive), backup=None, moment=Moment(), opening=opening
    )
    took = time.perf_counter() - began
    print(f"restore: {restored.commit:,} commits, {restored.commit / took:,.0f} commits/s")


if __name__ == "__main__":
    main()
