"""A few damaged files; `make fuzz` damages 100,000."""

from pathlib import Path
from typing import Any

import pytest

from headwater_server.storage.log import log_segment
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog
from tests.fuzz.files import Fuzzer, Wrong
from tests.fuzz.store_files import StoreFuzzer
from tests.simulation.determinism import replaced

FILES = 800


@pytest.fixture(scope="module")
def fuzzer() -> Fuzzer:
    return Fuzzer()


@pytest.mark.slow
def test_damaged_files_are_refused_or_have_no_effect(fuzzer: Fuzzer) -> None:
    for seed in range(FILES):
        fuzzer.run(seed)
    print(fuzzer.outcomes)
    for kind in ("FORMAT", "commits", "events", "idx", "wal"):
        assert sum(n for name, n in fuzzer.outcomes.items() if name.startswith(kind)) > 100
    for outcome in ("wal: refused", "wal: a torn tail", "idx: all the same"):
        assert fuzzer.outcomes[outcome], outcome


@pytest.mark.slow
def test_damaged_files_of_the_state_store_are_refused_or_have_no_effect(
    tmp_path: Path,
) -> None:
    fuzzer = StoreFuzzer(tmp_path)
    for seed in range(40):
        fuzzer.run(seed)
    assert fuzzer.outcomes["sst: refused"] > 0


def ignoring_the_checksum(_data: Any, *_: Any) -> int:
    return 0


def test_the_oracle_detects_ignored_checksums(fuzzer: Fuzzer) -> None:
    class Lenient:
        @staticmethod
        def crc32(data: Any, start: int = 0) -> Any:
            return Anything()

    class Anything(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        def __hash__(self) -> int:
            return 0

    assert is_noticed(fuzzer, log_segment, "zlib", Lenient())


def test_the_oracle_detects_damage_that_counts_as_a_torn_tail(fuzzer: Fuzzer) -> None:
    assert is_noticed(fuzzer, FileWriteAheadLog, "_is_corruption", lambda *_, **__: False)


def is_noticed(fuzzer: Fuzzer, owner: Any, name: str, wrong: Any) -> bool:
    with replaced(owner, name, wrong):
        for seed in range(FILES):
            try:
                fuzzer.run(seed)
            except Wrong as error:
                print(error)
                return True
    return False
