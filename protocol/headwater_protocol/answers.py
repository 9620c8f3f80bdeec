"""Answers whose form never varies, as whole frames.

Most requests are gets, and commits that append no events. Between the numbers of such an answer
stand the same bytes every time, so it is put together in one call, with numbers of a fixed width:

    size 4 | 93 ce  request id 4 | 00 92 95 cf  commit 8 | cf  time 8 | c0 c0 80 90
             [      request_id,    OK, [[       commit,        time,    nil, nil, {}], []]]
"""

from struct import Struct
from typing import Final

_pack_committed: Final = Struct(">6sI3sQBQ3s").pack
_pack_executed: Final = Struct(">6sI4sQBQ4s").pack
_pack_value: Final = Struct(">I2sI2sB").pack

_VALUE_SIZE_MAX: Final = 255
"""Bytes of a value whose length msgpack tells in one byte."""


def committed_frame(request_id: int, commit: int, time: int) -> bytes:
    """The answer to a commit that appended no events: [commit, time, nil, nil, {}]."""
    frame: bytes = _pack_committed(
        b"\0\0\0\x1d\x93\xce", request_id, b"\x00\x95\xcf", commit, 0xCF, time, b"\xc0\xc0\x80"
    )
    return frame


def executed_frame(request_id: int, commit: int, time: int) -> bytes:
    """The answer to an execute that read nothing and appended no events."""
    frame: bytes = _pack_executed(
        b"\0\0\0\x1f\x93\xce",
        request_id,
        b"\x00\x92\x95\xcf",
        commit,
        0xCF,
        time,
        b"\xc0\xc0\x80\x90",
    )
    return frame


def value_frame(request_id: int, value: bytes) -> bytes | None:
    """The answer to a get that found a small value; None for a larger one."""
    size = len(value)
    if size > _VALUE_SIZE_MAX:
        return None
    head: bytes = _pack_value(size + 9, b"\x93\xce", request_id, b"\x00\xc4", size)
    return head + value
