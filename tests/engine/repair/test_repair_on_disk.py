"""Check and repair on real files. Only RocksDB has files that the other tests cannot damage."""

import random
from functools import partial
from pathlib import Path

from headwater_server.engine.check.check import check
from headwater_server.engine.check.findings import Kind
from headwater_server.engine.engine import Engine
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.recovery import open_engine
from headwater_server.engine.repair.repair import perform, plan
from headwater_server.engine.settings import EngineSettings
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.store.rocks_repair import repair_rocks
from headwater_server.storage.store.rocks_store import RocksStore
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog

COMMITS = 60
open_to_check = partial(RocksStore.open, read_only=True)


def opened(path: Path) -> Engine:
    return open_engine(
        RealFileSystem(),
        str(path),
        open_store=RocksStore.open,
        open_log=partial(FileWriteAheadLog.open, segment_size=256 * 1024),
        settings=EngineSettings(disk_reserve_size=0),
        clock=lambda: 1_700_000_000_000_000,
        source=random.Random(1),
    )


def filled(path: Path) -> None:
    engine = opened(path)
    for number in range(COMMITS):
        ticket, _ = engine.execute(
            number.to_bytes(16, "big"),
            user=0,
            conditions=[],
            reads=None,
            writes=[
                *(["put", b"key-%d-%d" % (number, each), bytes(100)] for each in range(40)),
                ["append", f"s-{number % 7}", -1, [[None, "T", b"data %d" % number, b""]] * 5],
            ],
        )
        group = engine.take_group()
        assert group is not None
        engine.make_durable(group)
        engine.publish(group)
        assert ticket.error is None
        if number % 20 == 19:
            checkpoint = engine.begin_checkpoint()
            assert checkpoint is not None
            checkpoint.run()
            engine.finish_checkpoint(checkpoint)
            engine.trim_log()
    engine.close()


def test_a_whole_directory_on_disk_has_no_findings(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    report = check(RealFileSystem(), str(tmp_path / "data"), open_store=open_to_check)
    assert report.findings == []
    assert (report.commits, report.events, report.keys) == (60, 300, 2400)


def test_a_damaged_state_store_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "data"
    filled(path)
    file = max((path / "state").glob("*.sst"), key=lambda each: each.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 4
    file.write_bytes(bytes(data))
    planned = plan(RealFileSystem(), str(path), open_store=open_to_check)
    assert planned.report.has(Kind.STORE)
    assert str(file) in str(planned.report.findings[0])
    outcome = perform(
        RealFileSystem(),
        str(path),
        open_store=RocksStore.open,
        open_store_to_check=open_to_check,
        repair_store=repair_rocks,
    )
    assert outcome.report.findings == []
    engine = opened(path)
    assert engine.published == COMMITS
    page = engine.reader(None).read_all(0, EVERYTHING, 1000, reverse=False)
    assert len(page.events) == 5 * COMMITS
    items = engine.reader(None).scan(b"", None, 10_000, reverse=False).items
    # Only the keys of the damaged block may be lost.
    assert len(items) // 2 > 40 * COMMITS - 200
    engine.close()


def test_a_first_start_that_was_cut_off_is_no_damage(tmp_path: Path) -> None:
    # RocksDB had made some of its files, and not yet the one that names them. A start goes on from
    # there, and check said that the directory was damaged.
    opened(tmp_path / "data").close()
    for made_later in (tmp_path / "data" / "state").iterdir():
        if made_later.name == "CURRENT" or made_later.suffix == ".log":
            made_later.unlink()
    report = check(RealFileSystem(), str(tmp_path / "data"), open_store=open_to_check)
    assert report.findings == []
    assert report.notes[0] == "the database was never opened completely; there is no state yet"
    engine = opened(tmp_path / "data")
    assert engine.published == 0
    engine.close()


def test_a_state_store_without_its_first_file_is_damage_once_there_are_commits(
    tmp_path: Path,
) -> None:
    filled(tmp_path / "data")
    (tmp_path / "data" / "state" / "CURRENT").unlink()
    report = check(RealFileSystem(), str(tmp_path / "data"), open_store=open_to_check)
    assert not report.is_clean
