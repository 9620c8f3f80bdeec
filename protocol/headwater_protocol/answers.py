"""Frames of the most frequent answers, put together in one or two steps.

Most requests are gets, and commits that append no events or append to one stream. Their answers
differ only in numbers, names and values. The bytes between these are constant, and numbers take
the fixed width that msgpack allows:

    size 4 | 93 ce  request id 4 | 00 92 95 cf  commit 8 | cf  time 8 | c0 c0 80 90
             [      request_id,    OK, [[       commit,        time,    nil, nil, {}], []]]

    … cf  time 8 | cf  first 8 | cf  last 8 | 81  stream | cf  version 8 | 90
          time,        first,        last,    {   stream:      version}], []]]

    size 4 | 93 ce  request id 4 | 00 93 cf  commit 8 | dc  members 2 | key, value, … | c2 or c3
             [      request_id,    OK, [     commit,    [               key, value, …],  more]]
"""

from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from headwater_protocol.frames import join_frame
from headwater_protocol.limits import PAGE_ITEMS_MAX
from headwater_protocol.messages import (
    BIN_HEADERS,
    SMALL_NUMBERS,
    LastPacked,
    NumberPacker,
    encode,
)

# One for each kind of number, because each only remembers the last one.
_commits: Final = NumberPacker()
_times: Final = LastPacked()

_pack_begun: Final = Struct(">6sI3sQ").pack
_pack_appended: Final = Struct(">I2sI3sQBQBQBQ").pack
_pack_appended_in_execute: Final = Struct(">I2sI4sQBQBQBQ").pack
_pack_version: Final = Struct(">BQ").pack
_pack_scanned: Final = Struct(">I2sI3sQBH").pack

_VALUE_SIZE_MAX: Final = 255
"""Bytes of a value whose length msgpack stores in one byte."""

_OF_STREAM: Final = [bytes([0x81, 0xA0 | size]) for size in range(32)]
"""The header of a map of one stream and of its name, by the size of the name."""


def begun_frame(request_id: int, view: int) -> bytes:
    """The answer to a begin: [view]."""
    frame: bytes = _pack_begun(b"\0\0\0\x11\x93\xce", request_id, b"\x00\x91\xcf", view)
    return frame


def commit_answer(request_id: int, committed: list[Any]) -> bytes | None:
    """The answer to a commit, or None if it appended to several streams or to a long name.

    *committed* is [commit, time, first position, last position, {stream: version}].
    """
    if committed[2] is None:
        return committed_frame(request_id, committed[0], committed[1])
    return _appended_frame(_pack_appended, b"\x00\x95\xcf", b"", request_id, committed)


def execute_answer(request_id: int, committed: list[Any]) -> bytes | None:
    """Like commit_answer, for an execute without reads."""
    if committed[2] is None:
        return executed_frame(request_id, committed[0], committed[1])
    opening = b"\x00\x92\x95\xcf"
    return _appended_frame(_pack_appended_in_execute, opening, b"\x90", request_id, committed)


def _appended_frame(
    pack: Callable[..., bytes], opening: bytes, ending: bytes, request_id: int, committed: list[Any]
) -> bytes | None:
    """The answer to a commit that appended to one stream with a short name; else None.

    *opening* and *ending* are the bytes that differ between commit and execute.
    """
    stream = _stream_of(committed[4])
    if stream is None:
        return None
    head = pack(
        41 + len(opening) + len(stream) + len(ending),
        b"\x93\xce",
        request_id,
        opening,
        committed[0],
        0xCF,
        committed[1],
        0xCF,
        committed[2],
        0xCF,
        committed[3],
    )
    return head + stream + ending


def _stream_of(versions: dict[str, int]) -> bytes | None:
    """The encoded map of versions if it has one stream with a short name; else None."""
    if len(versions) != 1:
        return None
    for name, version in versions.items():
        stream = name.encode()
        if len(stream) < len(_OF_STREAM):
            numbered: bytes = _pack_version(0xCF, version)
            return _OF_STREAM[len(stream)] + stream + numbered
    return None


def committed_frame(request_id: int, commit: int, time: int) -> bytes:
    """The answer to a commit that appended no events: [commit, time, nil, nil, {}]."""
    return b"\0\0\0\x1d\x93\xce%b\x00\x95\xcf%b\xcf%b\xc0\xc0\x80" % (
        request_id.to_bytes(4, "big"),
        _commits.pack(commit),
        _times.pack(time),
    )


def executed_frame(request_id: int, commit: int, time: int) -> bytes:
    """The answer to an execute that read nothing and appended no events."""
    return b"\0\0\0\x1f\x93\xce%b\x00\x92\x95\xcf%b\xcf%b\xc0\xc0\x80\x90" % (
        SMALL_NUMBERS[request_id] if request_id < 512 else request_id.to_bytes(4, "big"),
        _commits.pack(commit),
        _times.pack(time),
    )


def value_frame(request_id: int, value: bytes) -> bytes | None:
    """The answer to a get of a small value; None for a larger value."""
    size = len(value)
    if size > _VALUE_SIZE_MAX:
        return None
    return b"%b\x93\xce%b\x00%b%b" % (
        SMALL_NUMBERS[size + 9],
        SMALL_NUMBERS[request_id] if request_id < 512 else request_id.to_bytes(4, "big"),
        BIN_HEADERS[size],
        value,
    )


def scanned_frame(
    request_id: int, commit: int, key_count: int, members: bytes, *, more: bool
) -> bytes:
    """The answer to a scan. *members* are alternating keys and values, encoded as msgpack."""
    assert key_count <= PAGE_ITEMS_MAX, "the count of keys and values must fit two bytes"
    head: bytes = _pack_scanned(
        len(members) + 21,
        b"\x93\xce",
        request_id,
        b"\x00\x93\xcf",
        commit,
        0xDC,
        2 * key_count,
    )
    return b"".join((head, members, b"\xc3" if more else b"\xc2"))


def answer_in(request_id: int, frame: bytes, commit: int, epoch: int) -> bytes:
    """The answer to a read_at_least, [commit, epoch, answer], from the frame of that answer.

    Raises:
        TooLarge: the frame is above BODY_SIZE_MAX.
    """
    start = _PAYLOAD_AT.get(frame[5], _PAYLOAD_AT_LEAST)
    head = b"\x93%b\x00\x93%b%b" % (encode(request_id), encode(commit), encode(epoch))
    return join_frame(head, frame[start:])


_PAYLOAD_AT_LEAST: Final = 7
"""Where the payload of a frame begins: after size, array header, id of one byte and status."""

_PAYLOAD_AT: Final = {0xCC: 8, 0xCD: 9, 0xCE: 11}
"""The same, by the header of an id of more bytes."""
