import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_protocol.errors import ProtocolError, TooLarge
from headwater_protocol.frames import FrameSplitter, encode_frame, join_frame
from headwater_protocol.limits import BODY_SIZE_MAX, HELLO_BODY_SIZE_MAX, MIB

BODIES = st.lists(st.binary(min_size=1, max_size=40), max_size=20)


def feed_in_pieces(splitter: FrameSplitter, data: bytes, cuts: list[int]) -> list[bytes]:
    bodies: list[bytes] = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        bodies += splitter.feed(data[start:end])
    return bodies


def test_a_frame_is_the_size_and_the_body() -> None:
    assert encode_frame(b"\x90") == b"\x00\x00\x00\x01\x90"
    assert join_frame(b"\x92", b"\x01", b"\x02") == b"\x00\x00\x00\x03\x92\x01\x02"


@given(bodies=BODIES, cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_the_splitter_finds_the_frames_however_the_data_is_cut(
    bodies: list[bytes], cuts: list[int]
) -> None:
    splitter = FrameSplitter()
    stream = b"".join(map(encode_frame, bodies))
    assert feed_in_pieces(splitter, stream, cuts) == bodies
    assert splitter.buffered_size == 0


def test_frames_may_arrive_byte_by_byte() -> None:
    splitter = FrameSplitter()
    stream = encode_frame(b"one") + encode_frame(b"two")
    bodies = [body for byte in stream for body in splitter.feed(bytes([byte]))]
    assert bodies == [b"one", b"two"]


@pytest.mark.parametrize("size", [0, HELLO_BODY_SIZE_MAX + 1, 2**32 - 1])
def test_a_size_out_of_bounds_is_refused_before_its_body_arrives(size: int) -> None:
    splitter = FrameSplitter(HELLO_BODY_SIZE_MAX)
    with pytest.raises(ProtocolError, match=f"frame of {size} bytes; allowed are 1 to 16384"):
        splitter.feed(size.to_bytes(4, "big"))
    assert splitter.buffered_size == 0


def test_frames_before_a_bad_size_are_returned_and_the_next_call_raises() -> None:
    splitter = FrameSplitter()
    bodies = splitter.feed(encode_frame(b"good") + bytes(4) + encode_frame(b"lost"))
    assert bodies == [b"good"]
    assert splitter.violation is not None
    with pytest.raises(ProtocolError, match="frame of 0 bytes"):
        splitter.feed(b"")


def test_the_bound_may_be_raised_between_two_calls() -> None:
    splitter = FrameSplitter(HELLO_BODY_SIZE_MAX)
    large = bytes(HELLO_BODY_SIZE_MAX + 1)
    splitter.body_size_max = BODY_SIZE_MAX
    assert splitter.feed(encode_frame(large)) == [large]


def test_a_frame_of_the_largest_size_passes_and_a_larger_one_does_not() -> None:
    splitter = FrameSplitter(100)
    assert splitter.feed(encode_frame(bytes(100))) == [bytes(100)]
    with pytest.raises(ProtocolError, match="frame of 101 bytes; allowed are 1 to 100"):
        splitter.feed(encode_frame(bytes(101)))


def test_a_body_above_the_bound_is_not_sent() -> None:
    for encode in (encode_frame, join_frame):
        with pytest.raises(TooLarge, match="frame of 16777217 bytes"):
            encode(bytes(BODY_SIZE_MAX + 1))
        with pytest.raises(TooLarge, match="frame of 0 bytes"):
            encode(b"")


def test_an_announced_body_takes_no_memory_before_it_arrives() -> None:
    splitter = FrameSplitter()
    tracemalloc.start()
    splitter.feed(BODY_SIZE_MAX.to_bytes(4, "big") + b"x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4096


def test_a_large_body_in_many_pieces_is_joined_once() -> None:
    body = bytes(4 * MIB)
    frame = encode_frame(body)
    splitter = FrameSplitter()
    tracemalloc.start()
    found = [
        one
        for start in range(0, len(frame), 65536)
        for one in splitter.feed(frame[start : start + 65536])
    ]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [body]
    # The body and the buffer, which grows by an eighth at a time.
    assert peak < 2.5 * len(body)
