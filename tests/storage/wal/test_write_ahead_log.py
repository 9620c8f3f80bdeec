"""One suite for all write-ahead logs: in simulated files, in real files, and in memory."""

import random
import threading

import pytest

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.errors import (
    LogGoesOn,
    NotClaimed,
    Truncated,
)
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog
from headwater_server.storage.wal.interface import (
    LENGTH_SIZE,
    Body,
    Epoch,
    WalEntry,
    WalIndex,
    WriteAheadLog,
    cut_into_bodies,
    records,
)
from tests.storage.wal.logs import (
    START,
    Opener,
    all_records,
)


def test_a_new_log_is_empty_and_begins_with_entry_1(opener: Opener) -> None:
    log = opener()
    assert (log.first_index, log.last_index) == (1, 0)
    assert list(log.read(START)) == []
    log.close()


def test_a_claim_is_an_entry_without_records(opener: Opener) -> None:
    log = opener()
    assert log.claim(START) == 1
    assert log.last_index == 1
    (entry,) = log.read(START)
    assert (entry.index, entry.epoch, entry.body) == (1, 1, b"")
    assert all_records(log) == []
    log.close()


def test_records_come_back_in_order_with_the_index_of_their_entry(log: WriteAheadLog) -> None:
    assert log.submit([b"a", b"", b"bb"]) == 2
    assert log.submit([b"c" * 300]) == 3
    assert list(records(log.read(START))) == [(2, b"a"), (2, b""), (2, b"bb"), (3, b"c" * 300)]
    assert all_records(log, WalIndex(2)) == [b"c" * 300]
    assert list(log.read(log.last_index)) == []
    assert list(log.read(WalIndex(99))) == []


def test_entries_form_a_chain(log: WriteAheadLog) -> None:
    for number in range(10):
        log.submit([b"%d" % number])
    entries = list(log.read(START))
    assert [entry.index for entry in entries] == list(range(1, 12))
    assert [entry.durable for entry in entries] == list(range(11))
    assert entries[0].previous_hash == bytes(16)
    assert len({entry.previous_hash for entry in entries}) == 11
    assert len({entry.id for entry in entries}) == 11


def test_a_reopened_log_has_all_entries_and_a_higher_epoch(opener: Opener) -> None:
    log = opener()
    log.claim(START)
    log.submit([b"a"])
    log.close()
    log = opener()
    assert log.last_index == 2
    assert log.claim(WalIndex(2)) == 2
    log.submit([b"b"])
    log.close()
    log = opener()
    assert all_records(log) == [b"a", b"b"]
    assert [entry.epoch for entry in log.read(START)] == [1, 1, 2, 2]
    log.close()


def test_two_opens_without_a_write_between_have_epochs_of_their_own(opener: Opener) -> None:
    epochs: list[Epoch] = []
    for _ in range(3):
        log = opener()
        epochs.append(log.claim(log.last_index))
        log.close()
    assert epochs == [1, 2, 3]


def test_a_claim_is_refused_to_a_writer_that_has_not_read_everything(log: WriteAheadLog) -> None:
    log.submit([b"a"])
    with pytest.raises(LogGoesOn, match="after entry 1; the log ends with 2"):
        log.claim(WalIndex(1))
    assert log.claim(WalIndex(2)) == 2


def test_a_claim_after_an_entry_that_the_log_lacks_is_damage(log: WriteAheadLog) -> None:
    with pytest.raises(DamagedFile, match="entry 9 was durable, but the log ends with entry 1"):
        log.claim(WalIndex(9))


def test_nothing_is_submitted_without_a_claim(opener: Opener) -> None:
    log = opener()
    with pytest.raises(NotClaimed):
        log.submit([b"a"])
    with pytest.raises(NotClaimed):
        log.seal()
    assert log.last_index == 0
    log.close()


@pytest.mark.parametrize("size", [3000, 4024, 5000, 20_000, 100_000])
def test_a_large_record_spans_entries_and_counts_with_the_last(
    log: WriteAheadLog, size: int
) -> None:
    large = random.Random(size).randbytes(size)
    end = log.submit([b"before", large, b"after"])
    found = list(records(log.read(START)))
    assert [record for _, record in found] == [b"before", large, b"after"]
    assert found[-1][0] == end
    # A read that starts inside the large record returns the complete records after it.
    for after in range(found[0][0], found[1][0]):
        assert all_records(log, WalIndex(after))[-1] == b"after"
        assert all_records(log, WalIndex(after)) in ([large, b"after"], [b"after"])


def test_a_group_of_many_records_is_cut_into_entries_of_whole_records(log: WriteAheadLog) -> None:
    group = [b"%d" % number * 100 for number in range(500)]
    log.submit(group)
    assert all_records(log) == group
    entries = list(log.read(START))[1:]
    assert len(entries) > 5
    assert not any(entry.continued or entry.resumed for entry in entries)
    assert {entry.durable for entry in entries} == {1}, "a group does not mark itself as durable"


def test_a_seal_marks_the_last_group_durable_once(log: WriteAheadLog) -> None:
    log.submit([b"a"])
    log.seal()
    log.seal()
    assert log.last_index == 3
    assert [entry.durable for entry in log.read(START)] == [0, 1, 2]
    log.submit([b"b"])
    assert all_records(log) == [b"a", b"b"]


def test_trimming_keeps_newer_entries_and_reduces_the_size(log: WriteAheadLog) -> None:
    for number in range(200):
        log.submit([b"%d" % number * 50])
    size = log.size
    log.trim(WalIndex(101))
    assert 1 < log.first_index <= 101
    assert log.size < size
    assert all_records(log, WalIndex(100)) == [b"%d" % number * 50 for number in range(99, 200)]
    with pytest.raises(Truncated, match="entry 1 was trimmed"):
        list(log.read(START))


def test_a_trimmed_log_can_be_reopened_and_trimmed_again(opener: Opener) -> None:
    log = opener()
    log.claim(START)
    for number in range(100):
        log.submit([b"%d" % number * 100])
    log.trim(WalIndex(60))
    first, last = log.first_index, log.last_index
    log.close()
    log = opener()
    assert (log.first_index, log.last_index) == (first, last)
    log.claim(last)
    log.trim(WalIndex(10**6))
    assert log.last_index == last + 1, "the newest entry is never trimmed: the chain goes on"
    log.submit([b"more"])
    assert all_records(log, last) == [b"more"]
    log.close()


def test_reading_ends_where_the_log_ended_when_it_began(log: WriteAheadLog) -> None:
    log.submit([b"a"])
    reading = log.read(START)
    next(reading)
    log.submit([b"b"])
    assert [entry.index for entry in reading] == [2]
    assert all_records(log, WalIndex(2)) == [b"b"]


def test_a_group_within_the_room_is_accepted(log: WriteAheadLog) -> None:
    source = random.Random(5)
    for _ in range(60):
        log.prepare()
        room = min(log.room, 30_000)
        assert room > 0
        group: list[bytes] = []
        while (size := source.choice((10, 400, 2000, 9000))) + LENGTH_SIZE <= room:
            group.append(source.randbytes(size))
            room -= size + LENGTH_SIZE
        if group:
            before = log.last_index
            log.submit(group)
            assert all_records(log, before) == group


def test_space_is_prepared_in_another_thread_during_submits(log: WriteAheadLog) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def prepare_and_trim() -> None:
        try:
            while not stop.is_set():
                log.prepare()
                log.trim(WalIndex(log.last_index // 2))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=prepare_and_trim)
    thread.start()
    try:
        for number in range(200):
            log.submit([b"%d" % number * 200])
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert all_records(log, WalIndex(150)) == [b"%d" % number * 200 for number in range(149, 200)]


# Groups in flight, and readers that wait.


def test_groups_in_flight_become_durable_in_their_order(log: WriteAheadLog) -> None:
    sent = [log.send([b"%d" % number]) for number in range(5)]
    assert sent == [2, 3, 4, 5, 6]
    log.confirm(sent[-1])
    assert log.last_index == 6
    assert all_records(log) == [b"0", b"1", b"2", b"3", b"4"]
    log.confirm(sent[0])
    assert log.submit([b"5"]) == 7


def test_a_group_in_flight_does_not_say_that_an_earlier_one_is_durable(opener: Opener) -> None:
    log = opener()
    if not isinstance(log, FileWriteAheadLog):
        pytest.skip("a log in memory is durable at once")
    log.claim(START)
    log.send([b"a"])
    log.confirm(log.send([b"b"]))
    log.submit([b"c"])
    assert [entry.durable for entry in log.read(START)] == [0, 1, 1, 3]
    log.close()


def test_a_reader_waits_until_there_is_an_entry(log: WriteAheadLog) -> None:
    assert log.wait(START, 0.0)
    assert not log.wait(log.last_index, 0.0)
    found: list[bool] = []
    after = log.last_index
    thread = threading.Thread(target=lambda: found.append(log.wait(after, 60.0)))
    thread.start()
    log.submit([b"a"])
    thread.join()
    assert found == [True]


# Records and bodies, without a log.


def entry_of(index: int, body: Body, epoch: int = 1) -> WalEntry:
    return WalEntry(
        WalIndex(index),
        Epoch(epoch),
        bytes(16),
        bytes(16),
        WalIndex(0),
        body.continued,
        body.resumed,
        b"".join(body.parts),
    )


def test_halves_of_two_unfinished_records_are_never_joined() -> None:
    first = cut_into_bodies([b"A" * 30], 14)
    second = cut_into_bodies([b"B" * 30], 14)
    assert len(first) == len(second) == 3
    entries = [
        entry_of(1, first[0]),
        entry_of(2, first[1]),
        entry_of(3, second[0], epoch=2),
        entry_of(4, second[1], epoch=2),
        entry_of(5, second[2], epoch=2),
        entry_of(6, first[0], epoch=2),
    ]
    assert list(records(entries)) == [(5, b"B" * 30)]
    # Not even with a part that claims to continue it, if another writer wrote that.
    assert list(records([entries[0], entries[1], entries[4]])) == []


def test_an_unfinished_record_is_dropped_when_a_claim_follows() -> None:
    first = cut_into_bodies([b"A" * 30], 14)
    claim = Body([])
    entries = [entry_of(1, first[0]), entry_of(2, claim, 2), entry_of(3, first[2], 2)]
    assert list(records(entries)) == []


def test_records_survive_every_way_of_cutting_them() -> None:
    source = random.Random(3)
    for _ in range(300):
        group = [source.randbytes(source.choice((0, 1, 5, 20, 60))) for _ in range(10)]
        bodies = cut_into_bodies(group, source.randint(5, 100))
        entries = [entry_of(index, body) for index, body in enumerate(bodies, 1)]
        assert [record for _, record in records(entries)] == group
