"""The reconstructed answer to a commit: the versions of the streams that it appended to."""

import random
from collections.abc import Sequence

import pytest

from headwater_server.engine.state.layers import State
from headwater_server.engine.transactions.commit_answer import versions_after
from tests.engine.database import Database


def append(stream: str, count: int = 1) -> list[object]:
    return ["append", stream, -1, [[None, "T", b"", b""]] * count]


@pytest.mark.parametrize("layer", ["active", "files"])
@pytest.mark.parametrize("streams", [1, 3, 40, 400])
def test_the_answer_is_the_first_one_whatever_happened_since(streams: int, layer: str) -> None:
    source = random.Random(streams)
    database = Database()
    database.execute(*[append(f"s{n}", 2) for n in range(0, streams, 2)])
    transaction = database.new_id()
    writes = [append(f"s{source.randrange(streams)}", source.randint(1, 3)) for _ in range(500)]
    answer = database.execute(*writes, transaction=transaction)
    database.execute(*[append(f"s{n}") for n in range(streams)])
    if layer == "files":
        database.checkpoint()
    assert database.execute(*writes, transaction=transaction) == answer


def test_only_one_event_of_each_stream_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database()
    answer = database.execute(*[append(f"s{n % 5}") for n in range(2000)])
    read = 0
    events = State.events

    def counted(state: State, positions: Sequence[int]) -> list[bytes]:
        nonlocal read
        read += len(positions)
        return events(state, positions)

    monkeypatch.setattr(State, "events", counted)
    assert versions_after(database.engine._state, answer[2], answer[3]) == answer[4]
    assert read == 5
