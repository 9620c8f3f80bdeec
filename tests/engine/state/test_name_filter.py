"""The filter of names never misses a name, rarely reports one that it lacks, and does not grow."""

import pytest

from headwater_server.engine.state.name_filter import NameFilter


def test_a_filter_has_every_name_that_was_added() -> None:
    names = NameFilter(2**10)
    added: list[str] = []
    # Far more names than it has room for: it becomes useless, but not wrong.
    for number in range(2_000):
        name = f"stream-{number} \u00e4"
        names.add(name)
        added.append(name)
        if number % 100 == 0:
            assert all(map(names.may_have, added))
    assert all(map(names.may_have, added))


def test_a_filter_with_sixteen_bits_a_name_is_rarely_wrong() -> None:
    names = NameFilter(2**16)
    for number in range(2**12):
        names.add(f"stream-{number}")
    wrong = sum(names.may_have(f"other-{number}") for number in range(10_000))
    # 24 are expected. The hash of a string differs from process to process.
    assert wrong < 200


def test_an_empty_filter_is_false_has_no_name_and_takes_no_memory() -> None:
    names = NameFilter()
    assert not names
    assert not names.may_have("a")
    assert len(names._bits) == 0
    names.add("a")
    assert names
    assert names.may_have("a")
    assert len(names._bits) == 2**21


@pytest.mark.parametrize("name", ["", "a", "\u00e4" * 256, "\U0001f600"])
def test_any_name_can_be_added(name: str) -> None:
    names = NameFilter(2**16)
    assert not names.may_have(name)
    names.add(name)
    assert names.may_have(name)
