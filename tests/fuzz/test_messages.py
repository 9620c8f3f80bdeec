"""A few malformed frames; `make fuzz` sends a million."""

from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol import connection, messages
from headwater_protocol.errors import ProtocolError
from headwater_protocol.fast_validators import Anything
from headwater_protocol.frames import encode_frame
from headwater_protocol.operations import OPERATIONS
from tests.fuzz.live import Target
from tests.fuzz.messages import Bare, Fuzzer, answers, outcome_of, strict_log
from tests.simulation.determinism import replaced

BATCHES = 4


def test_malformed_frames_get_the_right_answer_and_take_little_memory() -> None:
    fuzzer = Fuzzer(measured=0.02)
    with strict_log():
        for seed in range(BATCHES):
            print(f"python -m tests.fuzz.messages --seed {seed} --count 1")
            fuzzer.run_batch(seed)
    assert fuzzer.outcomes["violation"] > 1000
    assert fuzzer.outcomes["refused"] > 500
    assert fuzzer.outcomes["served"] > 100
    assert fuzzer.peak_size > 0


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.binary(max_size=40)
        | st.text(max_size=10)
        | st.sampled_from(sorted(OPERATIONS)),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=12,
    ),
    st.integers(0, 2**32),
    st.sampled_from(sorted(OPERATIONS)),
)
def test_any_message_gets_the_right_answer(arguments: Any, request_id: int, name: str) -> None:
    if not isinstance(arguments, list):
        arguments = [arguments]
    fuzzer = Fuzzer()
    bare = Bare(1)
    session = bare.connect()
    body = messages.encode([request_id, name, *arguments])
    expected = outcome_of(body, session.connection)

    async def feed() -> None:
        bare.feed(session, encode_frame(body))

    with strict_log():
        # Some requests ask for trio's time.
        trio.run(feed)
        fuzzer._judge(session, expected, answers(session))


def test_the_oracle_detects_unchecked_arguments() -> None:
    with (
        replaced(OPERATIONS["get"].arguments.fast, "_validator", Anything()),
        strict_log(),
        pytest.raises(AssertionError, match="seed 1, frame"),
    ):
        Fuzzer().run_batch(1)


def test_the_oracle_detects_bodies_that_are_decoded_without_limits() -> None:
    def decode(body: bytes, *_: Any) -> Any:
        try:
            return msgpack.unpackb(body, strict_map_key=False)
        except ValueError as error:
            raise ProtocolError("no msgpack") from error

    with (
        replaced(connection, "decode", decode),
        strict_log(),
        pytest.raises(AssertionError, match="seed 1, frame"),
    ):
        Fuzzer().run_batch(1)


@pytest.mark.slow
def test_a_server_process_survives_malformed_frames_and_serves_others(tmp_path: Path) -> None:
    target = Target(tmp_path)
    print("python -m tests.fuzz.live --seed 1 --count 1")
    assert target.run(1, connections=200) > 300
    target.stop()
