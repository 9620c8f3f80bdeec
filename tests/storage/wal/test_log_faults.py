"""Faults of a log, for the two implementations that can inject them."""

import pytest

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.errors import (
    DiskFull,
    Fenced,
    LogFailed,
    NotClaimed,
    Unavailable,
)
from headwater_server.storage.wal.interface import (
    WalIndex,
)
from headwater_server.testing.memory_write_ahead_log import MemoryLog
from tests.storage.wal.logs import (
    START,
    all_records,
    fill,
    packed_after,
)


def test_after_a_failed_submit_the_log_accepts_nothing_until_it_is_reopened() -> None:
    kept: set[int] = set()
    for seed in range(20):
        log = MemoryLog(seed)
        writer = log.open(body_size_max=1000)
        writer.claim(START)
        writer.submit([b"sure"])
        log.faults.fail_at = log.submits + 1
        with pytest.raises(OSError, match="disk error"):
            writer.submit([b"x" * 900, b"y" * 900, b"z" * 900])
        with pytest.raises(LogFailed):
            writer.submit([b"more"])
        with pytest.raises(LogFailed):
            writer.claim(log.last.index)
        found = all_records(log.open())
        assert found == [b"sure", b"x" * 900, b"y" * 900, b"z" * 900][: len(found)]
        kept.add(len(found))
    assert kept == {1, 2, 3, 4}


def test_a_later_claim_ends_an_earlier_one() -> None:
    log = MemoryLog(1)
    first, second = log.open(), log.open()
    first.claim(START)
    first.submit([b"a"])
    second.claim(WalIndex(2))
    with pytest.raises(NotClaimed):
        first.submit([b"b"])
    with pytest.raises(NotClaimed):
        first.seal()
    second.submit([b"c"])
    assert all_records(first) == [b"a", b"c"]


def test_a_full_log_in_memory_refuses_until_there_is_room() -> None:
    log = MemoryLog(1)
    writer = log.open()
    writer.claim(START)
    log.faults.capacity = log.size
    for refused in (writer.prepare, lambda: writer.submit([b"a"])):
        with pytest.raises(DiskFull):
            refused()
    assert writer.room == 0
    log.faults.capacity = None
    assert writer.submit([b"a"]) == 2


def test_a_lost_answer_is_an_unknown_outcome_and_the_group_lands_once() -> None:
    log = MemoryLog(1)
    writer = log.open()
    writer.claim(START)
    log.faults.answers_lost = 1
    index = writer.send([b"a"])
    assert all_records(log.open()) == [b"a"]
    writer.confirm(index)
    assert writer.submit([b"b"]) == 3
    assert all_records(log.open()) == [b"a", b"b"]


def test_a_group_that_lands_late_is_confirmed_then_and_not_before() -> None:
    log = MemoryLog(1)
    writer = log.open()
    writer.claim(START)
    log.faults.late = True
    sent = [writer.send([b"a"]), writer.send([b"b"])]
    with pytest.raises(Unavailable):
        writer.confirm(sent[0])
    assert all_records(log.open()) == []
    log.land()
    log.faults.late = False
    writer.confirm(sent[1])
    assert all_records(log.open()) == [b"a", b"b"]


def test_a_group_that_lands_after_a_foreign_claim_is_in_no_log() -> None:
    log = MemoryLog(1)
    writer, other = log.open(), log.open()
    writer.claim(START)
    log.faults.late = True
    index = writer.send([b"a"])
    log.faults.late = False
    other.claim(WalIndex(1))
    log.land()
    other.submit([b"b"])
    with pytest.raises(Fenced):
        writer.confirm(index)
    with pytest.raises(Fenced):
        writer.send([b"c"])
    assert all_records(log.open()) == [b"b"]


def test_what_is_sent_in_a_pause_lands_when_it_is_confirmed_again() -> None:
    log = MemoryLog(1)
    writer = log.open()
    writer.claim(START)
    log.faults.paused = True
    index = writer.send([b"a", b"b"])
    for _ in range(3):
        with pytest.raises(Unavailable):
            writer.confirm(index)
    assert log.last.index == 1
    log.faults.paused = False
    writer.confirm(index)
    assert all_records(log.open()) == [b"a", b"b"]


def test_answers_in_another_order_confirm_no_group_before_those_ahead_of_it() -> None:
    unknown = 0
    for seed in range(20):
        log = MemoryLog(seed)
        writer = log.open()
        writer.claim(START)
        log.faults.reordered = True
        sent = [writer.send([b"%d" % number]) for number in range(4)]
        for _ in range(4):
            try:
                writer.confirm(sent[2])
                break
            except Unavailable:
                unknown += 1
        else:
            pytest.fail("four answers are all there are")
        assert all_records(log.open())[:3] == [b"0", b"1", b"2"]
    assert unknown


@pytest.mark.parametrize("flipped", [False, True])
def test_a_gap_and_a_flipped_bit_end_every_reading(flipped: bool) -> None:
    for number in (4, 7):
        log = MemoryLog(1)
        writer = log.open()
        writer.claim(START)
        fill(writer, 6)
        if flipped:
            log.flip(number, 300)
        else:
            log.lose(number)
        found: list[int] = []
        with pytest.raises(DamagedFile):
            packed_after(log.open(), 0, 10**6)
        with pytest.raises(DamagedFile):
            for entry in log.open().read(START):
                found.append(entry.index)
        assert found == list(range(1, number))
