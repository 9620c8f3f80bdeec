import pytest

from headwater_protocol.answers import (
    answer_in,
    begun_frame,
    commit_answer,
    committed_frame,
    execute_answer,
    scanned_frame,
    value_frame,
)
from headwater_protocol.frames import FrameSplitter, encode_frame
from headwater_protocol.limits import NUMBER_MAX, PAGE_ITEMS_MAX, REQUEST_ID_MAX
from headwater_protocol.messages import decode, encode

IDS = (1, 127, 128, REQUEST_ID_MAX)
NUMBERS = (1, 255, 2**32, NUMBER_MAX)


def message(frame: bytes) -> object:
    [body] = FrameSplitter().feed(frame)
    return decode(body, 2**16, 2**16)


@pytest.mark.parametrize("request_id", IDS)
@pytest.mark.parametrize("number", NUMBERS)
def test_the_frame_of_a_begin_equals_the_encoded_answer(request_id: int, number: int) -> None:
    assert message(begun_frame(request_id, number)) == [request_id, 0, [number]]


@pytest.mark.parametrize("request_id", IDS)
@pytest.mark.parametrize("number", NUMBERS)
def test_the_frame_of_a_commit_without_events_equals_the_encoded_answer(
    request_id: int, number: int
) -> None:
    committed: list[object] = [number, number - 1, None, None, {}]
    assert message(committed_frame(request_id, number, number - 1)) == [request_id, 0, committed]
    expected = [request_id, 0, [committed, []]]
    answer = execute_answer(request_id, committed)
    assert answer is not None
    assert message(answer) == expected
    assert commit_answer(request_id, committed) == committed_frame(request_id, number, number - 1)


@pytest.mark.parametrize("request_id", IDS)
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("stream", ["a", "order-1", "ö" * 15, "s" * 31])
def test_the_frame_of_a_commit_to_one_stream_equals_the_encoded_answer(
    request_id: int, number: int, stream: str
) -> None:
    committed = [number, number - 1, number, number, {stream: number}]
    answer = commit_answer(request_id, committed)
    assert answer is not None
    assert message(answer) == [request_id, 0, committed]
    answer = execute_answer(request_id, committed)
    assert answer is not None
    assert message(answer) == [request_id, 0, [committed, []]]


@pytest.mark.parametrize("versions", [{"s" * 32: 1}, {"ö" * 16: 1}, {"a": 1, "b": 2}])
def test_a_commit_to_several_streams_or_a_long_name_has_no_prepared_frame(
    versions: dict[str, int],
) -> None:
    committed = [7, 1, 1, 2, versions]
    assert commit_answer(1, committed) is None
    assert execute_answer(1, committed) is None


@pytest.mark.parametrize("request_id", IDS)
@pytest.mark.parametrize("size", [0, 1, 127, 128, 255])
def test_the_frame_of_a_small_value_equals_the_encoded_answer(request_id: int, size: int) -> None:
    frame = value_frame(request_id, bytes(size))
    assert frame is not None
    assert message(frame) == [request_id, 0, bytes(size)]


def test_a_large_value_has_no_prepared_frame() -> None:
    assert value_frame(1, bytes(256)) is None


@pytest.mark.parametrize("request_id", IDS)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 100, PAGE_ITEMS_MAX])
@pytest.mark.parametrize("more", [False, True])
def test_the_frame_of_a_scan_equals_the_encoded_answer(
    request_id: int, count: int, more: bool
) -> None:
    items = [b"key", b"value"] * count
    packed = b"".join(map(encode, items))
    frame = scanned_frame(request_id, NUMBER_MAX, count, packed, more=more)
    assert message(frame) == [request_id, 0, [NUMBER_MAX, items, more]]


@pytest.mark.parametrize("request_id", [*IDS, 255, 256, 65535, 65536])
@pytest.mark.parametrize("payload", [None, b"value", [7, [b"k"], False], {}])
def test_an_answer_inside_of_another_one_is_the_same(request_id: int, payload: object) -> None:
    shortest = encode_frame(encode([request_id, 0, payload]))
    assert message(answer_in(request_id, shortest, 42, 2**32)) == [
        request_id,
        0,
        [42, 2**32, payload],
    ]
    small = value_frame(request_id, b"v")
    assert small is not None
    assert message(answer_in(request_id, small, 42, 1)) == [request_id, 0, [42, 1, b"v"]]
