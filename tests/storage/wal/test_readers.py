from headwater_server.storage.wal.interface import WalIndex
from headwater_server.storage.wal.readers import LogReaders


def readers(**needed: int) -> LogReaders:
    made = LogReaders(1000)
    for name, after in needed.items():
        made.note(name, WalIndex(after))
    return made


def test_without_readers_the_log_is_trimmed_as_far_as_a_restart_allows() -> None:
    assert readers().floor(WalIndex(50), 10**9) == 50


def test_the_slowest_reader_holds_the_log() -> None:
    made = readers(a=30, b=10)
    assert made.floor(WalIndex(50), 1000) == 11
    made.note("b", WalIndex(40))
    assert made.floor(WalIndex(50), 1000) == 31
    assert made.floor(WalIndex(20), 1000) == 20
    made.forget("a")
    assert made.floor(WalIndex(50), 1000) == 41


def test_above_the_bound_one_reader_is_let_go_at_each_trim_the_slowest_first() -> None:
    made = readers(a=30, b=10, c=49)
    assert made.floor(WalIndex(50), 1001) == 31
    assert (made.knows("a"), made.knows("b")) == (True, False)
    assert made.floor(WalIndex(50), 1001) == 50
    assert not made.knows("a")


def test_a_reader_that_holds_nothing_is_not_let_go() -> None:
    made = readers(c=49, d=100)
    assert made.floor(WalIndex(50), 10**9) == 50
    assert made.knows("c")
    assert made.knows("d")
