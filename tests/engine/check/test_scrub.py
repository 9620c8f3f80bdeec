"""The scrub reads every event, record and entry, and finds what is damaged on the disk."""

import random
from collections.abc import Iterator

import pytest
import trio

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.check.scrub import STEP_ITEMS, scrub_size, scrub_steps
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.net.tasks.scrubber import Scrubber
from headwater_server.storage.store.interface import Family
from tests.engine.database import Database


@pytest.fixture
def source() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
def database() -> Database:
    """A database of several steps for each part, all of it in the files."""
    filled = Database()
    for n in range(2 * STEP_ITEMS + 10):
        filled.execute(
            ["put", b"key-%d" % n, bytes(50)],
            ["append", f"s-{n % 7}", -1, [[None, "Happened", b"%08d" % n, b""]]],
        )
    filled.checkpoint()
    return filled


def damage_of(database: Database, source: random.Random) -> list[DamagedFile]:
    """The damage that a pass finds."""
    steps = scrub_steps(database.engine.state, source)
    return [step.damage for step in steps if isinstance(step.damage, DamagedFile)]


def flip(database: Database, folder: str, suffix: str, part: float) -> str:
    """Flip a bit in the first file of a folder of the data directory; return its path."""
    names = database.files.list(f"data/{folder}")
    path = next(f"data/{folder}/{name}" for name in names if name.endswith(suffix))
    database.files.flip_bit(path, int(len(database.files.content(path)) * part))
    return path


def test_a_sound_database_has_no_damage_and_is_read_whole(
    database: Database, source: random.Random
) -> None:
    steps = list(scrub_steps(database.engine.state, source))
    assert all(step.damage is None for step in steps)
    assert len(steps) >= 3 * 3, "each part takes several steps"
    page = database.engine.reader().read_all(0, EVERYTHING, 10_000, False)
    assert sum(step.size for step in steps) > sum(map(len, page.events))


def test_each_damaged_event_and_record_is_found_wherever_a_pass_begins(
    database: Database, source: random.Random
) -> None:
    paths = {flip(database, "events", ".events", 0.4), flip(database, "commits", "", 0.6)}
    for _ in range(5):
        found = {str(damage.details["file"]) for damage in damage_of(database, source)}
        assert found == paths


def test_damage_of_the_state_store_is_found(
    database: Database, source: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = database.engine.state.files.store
    scan = store.scan

    def damaged(family: Family, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        if family is Family.LATEST and start:
            raise DamagedFile("a block", details={"file": "state/000010.sst"})
        return scan(family, start)

    monkeypatch.setattr(store, "scan", damaged)
    (found,) = damage_of(database, source)
    assert found.details["file"] == "state/000010.sst"


def test_a_pass_goes_on_when_events_are_removed_meanwhile(
    database: Database, source: random.Random
) -> None:
    steps = scrub_steps(database.engine.state, source)
    next(steps)
    for n in range(7):
        database.execute(["truncate", f"s-{n}", 60])
    database.checkpoint()
    database.rewrite()
    assert all(step.damage is None for step in steps)


async def test_a_pass_takes_about_the_interval_and_damage_is_counted(
    database: Database, source: random.Random, autojump_clock: trio.testing.MockClock
) -> None:
    interval_s = 7 * 24 * 3600
    scrubber = Scrubber(
        database.engine.state,
        interval_ms=interval_s * 1000,
        clock=lambda: database.now,
        source=source,
    )
    flip(database, "events", ".events", 0.4)
    with trio.move_on_after(1.5 * interval_s):
        await scrubber.run()
    assert scrubber.passes == 1
    assert scrubber.damage == 1
    assert scrubber.ended == database.now
    assert scrub_size(database.engine.state) > 0
