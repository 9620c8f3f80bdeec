"""The offline check reports all damage, and reports none in a sound or a crashed database."""

import random
from collections.abc import Callable

import pytest

from headwater_protocol.errors import DirectoryInUse
from headwater_server.engine.check.check import check
from headwater_server.engine.check.findings import Kind
from headwater_server.engine.checkpoint.checkpoint import write_checkpoint
from headwater_server.engine.format import keyspaces
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.store.interface import Family
from tests.engine.consumer_groups.consuming import Consuming
from tests.engine.damaged import SETTINGS, Closed, some_database
from tests.engine.database import Database


def test_a_sound_database_has_no_findings() -> None:
    closed = Closed(some_database())
    report = closed.check()
    assert report.findings == []
    assert report.keys > 20
    assert report.events > 100
    assert report.commits == 120


def test_an_empty_database_has_no_findings() -> None:
    assert Closed(Database()).check().is_clean


def test_a_database_in_use_is_refused() -> None:
    database = some_database()
    with pytest.raises(DirectoryInUse):
        check(database.files, "data", open_store=lambda _: database.store)


def test_progress_reaches_its_total() -> None:
    closed = Closed(some_database())
    reported: list[tuple[int, int]] = []
    check(
        closed.files,
        "data",
        open_store=lambda _: closed.store,
        on_progress=lambda done, total: reported.append((done, total)),
    )
    assert reported == sorted(reported)
    assert reported[-1][0] == reported[-1][1] > 0


@pytest.mark.parametrize("seed", range(12))
def test_files_left_by_a_crash_are_not_damage(seed: int) -> None:
    database = some_database(seed)
    # The crash interrupts a checkpoint, so the store keeps only some of its batches.
    database.sync()
    checkpoint = database.engine.begin_checkpoint()
    assert checkpoint is not None
    database.store.full = True
    with pytest.raises(DiskFull):
        write_checkpoint(
            checkpoint.frozen,
            checkpoint.state.files,
            horizon=checkpoint.horizon,
            views=checkpoint.views,
            garbage_entries_max=checkpoint.garbage_entries_max,
            forget_before=checkpoint.forget_before,
            log_index=int(checkpoint.log.last_index),
            batch_entries_max=2,
        )
    crashed = database.files.crash()
    store = database.store.crash(random.Random(seed))
    report = check(crashed, "data", open_store=lambda _: store)
    assert report.findings == []
    reopened = Database(SETTINGS, files=crashed, store=store, now=database.now)
    reopened.execute(["put", b"k", b"v"])
    reopened.checkpoint()
    assert Closed(reopened).check().findings == []


@pytest.mark.slow
def test_a_flipped_bit_in_a_log_is_found_wherever_it_is() -> None:
    whole = Closed(some_database(in_log=3))
    source = random.Random(1)
    missed = []
    for part, kinds in (
        ("commits", {Kind.COMMIT, Kind.COMMIT_FILE}),
        ("events", {Kind.EVENT, Kind.EVENT_FILE, Kind.OFFSETS}),
    ):
        for path in whole.paths(part):
            size = len(whole.files.content(path))
            for offset in [0, 9, 40, size - 1, *source.sample(range(size), 20)]:
                whole.flip(path, offset)
                if not whole.kinds() & kinds:
                    missed.append((path, offset))
                whole.flip(path, offset)
    assert missed == []


def test_a_flipped_bit_in_the_write_ahead_log_is_found() -> None:
    whole = Closed(some_database(in_log=30))
    path = whole.paths("wal", ".wal")[-1]
    offset = whole.files.content(path).index(b"data 1")
    whole.flip(path, offset)
    report = whole.check()
    assert [finding.kind for finding in report.findings] == [Kind.LOG]
    assert report.findings[0].file == path
    assert "discard" in report.findings[0].what


def test_all_damaged_events_are_reported_with_their_streams() -> None:
    closed = Closed(some_database())
    path = closed.paths("events", ".events")[0]
    data = closed.files.content(path)
    for number in (7, 50, 90):
        closed.flip(path, data.index(b"data %d" % number))
    report = closed.check()
    events = [finding for finding in report.findings if finding.kind is Kind.EVENT]
    assert len(events) == 3
    assert all(finding.file == path and finding.offset for finding in events)
    notes = [note for note in report.notes if "damaged event" in note]
    assert len(notes) == 3
    assert all("stream 'account-" in note for note in notes)
    assert {finding.kind for finding in report.findings} == {Kind.EVENT}


def test_all_damaged_commit_records_are_reported() -> None:
    closed = Closed(some_database())
    path = closed.paths("commits")[0]
    for commit in (1, 40, 120):
        closed.flip(path, 64 * commit + 5)
    commits = [each.number for each in closed.check().findings if each.kind is Kind.COMMIT]
    assert commits == [1, 40, 120]


def test_a_missing_offsets_file_of_the_event_log_is_found() -> None:
    closed = Closed(some_database())
    path = closed.paths("events", ".idx")[0]
    closed.files.remove(path)
    assert closed.kinds() == {Kind.OFFSETS}


@pytest.mark.parametrize("prefix", [b"s", b"c", b"t", b"g", b"S", b"C", b"T", b"G"])
def test_a_missing_index_entry_is_found(prefix: bytes) -> None:
    closed = Closed(some_database())
    entries = closed.entries(Family.INDEX, prefix)
    assert entries
    for key, value in entries:
        closed.overwrite(Family.INDEX, key, None)
        assert Kind.INDEX in closed.kinds()
        closed.overwrite(Family.INDEX, key, value)
    assert closed.check().is_clean


@pytest.mark.parametrize("prefix", [b"s", b"c", b"t", b"g", b"S", b"C", b"T", b"G"])
def test_an_index_entry_with_a_wrong_position_is_found(prefix: bytes) -> None:
    closed = Closed(some_database())
    for key, value in closed.entries(Family.INDEX, prefix)[:3]:
        for place in {0, len(value) // 16 * 8, len(value) - 8}:
            changed = bytearray(value)
            changed[place] ^= 2
            closed.overwrite(Family.INDEX, key, bytes(changed))
            assert Kind.INDEX in closed.kinds(), (key, place)
        closed.overwrite(Family.INDEX, key, value)


def test_a_wrong_or_missing_event_id_is_found() -> None:
    closed = Closed(some_database())
    for key, value in closed.entries(Family.INDEX, b"e")[:10]:
        closed.overwrite(Family.INDEX, key, None)
        assert Kind.EVENT_IDS in closed.kinds()
        closed.overwrite(Family.INDEX, key, (int.from_bytes(value, "big") + 1).to_bytes(8, "big"))
        assert Kind.EVENT_IDS in closed.kinds()
        closed.overwrite(Family.INDEX, key, value)
    closed.overwrite(
        Family.INDEX, b"e" + (1).to_bytes(8, "big") + b"x" * 16, (1).to_bytes(8, "big")
    )
    assert Kind.EVENT_IDS in closed.kinds()


@pytest.mark.parametrize("family", [Family.HISTORY, Family.CHANGES])
def test_an_older_version_that_is_missing_or_not_listed_is_found(family: Family) -> None:
    closed = Closed(some_database())
    missed = []
    for key, value in closed.entries(family)[:40]:
        # A change without an older version may be removed as soon as nobody can read before it.
        if family is Family.CHANGES and not int.from_bytes(value[:8], "big"):
            continue
        closed.overwrite(family, key, None)
        if Kind.VERSIONS not in closed.kinds():
            missed.append(key)
        closed.overwrite(family, key, value)
    assert missed == []
    assert closed.check().is_clean


def test_a_missing_key_with_older_versions_is_found() -> None:
    closed = Closed(some_database())
    history = {key[4:-8] for key, _ in closed.entries(Family.HISTORY)}
    for key in sorted(history)[:10]:
        value = closed.store.get(Family.LATEST, key)
        closed.overwrite(Family.LATEST, key, None)
        assert Kind.VERSIONS in closed.kinds()
        closed.overwrite(Family.LATEST, key, value)


def test_a_wrong_or_missing_transaction_id_is_found() -> None:
    closed = Closed(some_database())
    for key, value in closed.entries(Family.TRANSACTIONS)[:20]:
        closed.overwrite(Family.TRANSACTIONS, key, None)
        assert closed.kinds() == {Kind.TRANSACTIONS}
        closed.overwrite(Family.TRANSACTIONS, key, (1).to_bytes(8, "big"))
        found = closed.kinds()
        closed.overwrite(Family.TRANSACTIONS, key, value)
        # The id of commit 1 was not changed by this.
        assert found == {Kind.TRANSACTIONS} or value == (1).to_bytes(8, "big")


def test_a_snapshot_ahead_of_its_stream_is_found() -> None:
    closed = Closed(some_database())
    key, value = closed.entries(Family.LATEST, b"\x02account-0")[-1]
    ahead = key[:-8] + (10_000).to_bytes(8, "big")
    closed.overwrite(Family.LATEST, ahead, value)
    assert Kind.SNAPSHOT in closed.kinds()


def test_a_snapshot_of_an_unfinished_checkpoint_is_not_damage() -> None:
    # A crash came after the batch with the snapshot and before the one with the stream's events.
    # A replay of the log restores both. The check reported damage.
    closed = Closed(some_database())
    key, value = closed.entries(Family.LATEST, b"\x02account-0")[-1]
    ahead = key[:-8] + (10_000).to_bytes(8, "big")
    unfinished = closed.check().applied.commit + 1
    closed.overwrite(Family.LATEST, ahead, unfinished.to_bytes(8, "big") + value[8:])
    assert Kind.SNAPSHOT not in closed.kinds()


@pytest.mark.parametrize(
    ("kind", "rest", "value", "what"),
    [
        (b"g", b"mailer", b"\xc1", "it cannot be read"),
        (b"f", bytes(8), bytes(8), "it belongs to group 0, which does not exist"),
        (b"f", None, b"\xff" * 8, "it refers to position 18446744073709551615; the last is"),
        (b"s", None, b"\x90", "it cannot be read"),
        (b"p", None, b"\x94\xa1s\x01\xa0\x01", "it refers to position"),
        (b"r", None, b"\x94\xa1s", "it cannot be read"),
        (b"x", None, b"", "its kind is unknown"),
    ],
)
def test_a_wrong_key_of_a_consumer_group_is_found(
    kind: bytes, rest: bytes | None, value: bytes, what: str
) -> None:
    database = some_database()
    group = Consuming(database)
    group.create()
    group.join()
    group.turn()
    number = database.engine.published
    database.checkpoint()
    key = keyspaces.GROUPS + kind + (number.to_bytes(8, "big") if rest is None else rest)
    if kind in b"pr":
        key += b"\x00\x01" + bytes(6)
    database.engine.sequencer.commit_stored(database.new_id(), 0, [key, value])
    database.checkpoint()
    findings = Closed(database).check().findings
    of_groups = [finding for finding in findings if finding.kind is Kind.GROUP]
    assert any(what in finding.what for finding in of_groups)


def test_a_change_with_unknown_flags_is_found() -> None:
    closed = Closed(some_database())
    key, entry = closed.entries(Family.CHANGES)[-1]
    closed.overwrite(Family.CHANGES, key, entry[:8] + b"\x05" + entry[9:])
    assert Kind.VERSIONS in closed.kinds()


def with_expiry() -> tuple[Database, bytes, bytes]:
    """A database with a key that expires, its expiry key and its due key."""
    database = some_database()
    at = database.now + 1
    database.execute(["put", b"lease", b"v"], ["expire", b"lease", None, at])
    key = keyspaces.USER + b"lease"
    return database, keyspaces.expiry_key(key), keyspaces.due_key(at, key)


def test_an_expiry_is_sound() -> None:
    database, _, _ = with_expiry()
    database.checkpoint()
    assert Kind.EXPIRY not in Closed(database).kinds()


@pytest.mark.parametrize(
    ("writes", "what"),
    [
        (lambda _, due: [due, None], "is not among the keys that are due"),
        (lambda expiry, _: [expiry, None], "with another expiry"),
        (lambda expiry, _: [expiry, bytes(8)], "is not among the keys that are due"),
        (lambda expiry, _: [expiry, b"x"], "its expiry has 1 bytes"),
        (lambda expiry, _: [expiry + b"gone", bytes(8)], "it is absent and has an expiry"),
        (lambda *_: [keyspaces.DUE + b"x", b""], "too short"),
    ],
)
def test_a_wrong_expiry_is_found(
    writes: Callable[[bytes, bytes], list[bytes | None]], what: str
) -> None:
    database, expiry, due = with_expiry()
    database.engine.sequencer.commit_stored(database.new_id(), 0, writes(expiry, due))
    database.checkpoint()
    findings = Closed(database).check().findings
    told = [finding.what for finding in findings if finding.kind is Kind.EXPIRY]
    assert any(what in each for each in told), told
