"""Frames: each message in the stream of bytes is a frame.

    0          4             4 + size
    +----------+---- ... ----+
    |   size   |    body     |      size: bytes of the body, big-endian u32
    +----------+---- ... ----+

A body is one msgpack array (headwater_protocol.messages). This module does no I/O, so tests are
bytes in, bytes out.
"""

from struct import Struct
from typing import Final

from headwater_protocol.errors import ProtocolError, TooLarge
from headwater_protocol.limits import BODY_SIZE_MAX

_SIZE: Final = Struct(">I")
_pack_size = _SIZE.pack


def encode_frame(body: bytes) -> bytes:
    """Make a frame of *body*.

    Raises:
        TooLarge: the body is larger than BODY_SIZE_MAX.
    """
    size = len(body)
    if not 0 < size <= BODY_SIZE_MAX:
        raise TooLarge(f"frame of {size} bytes; allowed are 1 to {BODY_SIZE_MAX}")
    return _pack_size(size) + body


def join_frame(*parts: bytes) -> bytes:
    """Make a frame whose body is the concatenation of *parts*, which are copied once.

    Raises:
        TooLarge: the body would be larger than BODY_SIZE_MAX.
    """
    size = sum(map(len, parts))
    if not 0 < size <= BODY_SIZE_MAX:
        raise TooLarge(f"frame of {size} bytes; allowed are 1 to {BODY_SIZE_MAX}")
    return b"".join((_pack_size(size), *parts))


class FrameSplitter:
    """Collects received bytes and returns whole frames.

    Attributes:
        body_size_max: bytes that a body may have. It may be changed between two calls; it is small
            until the peer has authenticated.
        violation: the error of the first bad size, or None. `feed` returns the frames before it.
    """

    __slots__ = ("_buffer", "_wanted", "body_size_max", "violation")

    def __init__(self, body_size_max: int = BODY_SIZE_MAX) -> None:
        self.body_size_max = body_size_max
        self.violation: ProtocolError | None = None
        self._buffer = bytearray()
        # Length at which the buffer holds a whole frame; 4 while its size is incomplete.
        self._wanted = 0

    @property
    def buffered_size(self) -> int:
        """Buffered bytes of an incomplete frame."""
        return len(self._buffer)

    def discard(self) -> None:
        """Free the bytes of an incomplete frame. Do not call `feed` afterwards."""
        self._buffer.clear()

    def feed(self, data: bytes) -> list[bytes]:
        """Add *data*; return the bodies of the frames that it completes, in order.

        Frames before a bad size are not lost: they are returned, `violation` is set, and the next
        call raises.

        Raises:
            ProtocolError: a size is zero or above `body_size_max`.
        """
        if self.violation is not None:
            raise self.violation
        buffer = self._buffer
        size_max = self.body_size_max
        if not buffer and len(data) >= 4:
            # A shortcut for the common case, one whole frame. It takes half the time.
            size = data[0] << 24 | data[1] << 16 | data[2] << 8 | data[3]
            if size == len(data) - 4 and 0 < size <= size_max:
                return [data[4:]]
        bodies: list[bytes] = []
        if buffer:
            buffer += data
            # A large body arrives in many pieces. Do nothing until the last piece is here.
            if len(buffer) < self._wanted:
                return bodies
            if self._wanted == 4:
                data = bytes(buffer)
            else:
                with memoryview(buffer) as view:
                    bodies.append(bytes(view[4 : self._wanted]))
                    data = bytes(view[self._wanted :])
            buffer.clear()
        start = 0
        available = len(data)
        while available - start >= 4:
            # When compiled, these shifts take a tenth of the time of a call to unpack.
            size = (
                data[start] << 24 | data[start + 1] << 16 | data[start + 2] << 8 | data[start + 3]
            )
            # Refuse before buffering, so that a hostile size costs no memory.
            if not 0 < size <= size_max:
                self.violation = ProtocolError(
                    f"frame of {size} bytes; allowed are 1 to {size_max}"
                )
                if not bodies:
                    raise self.violation
                return bodies
            end = start + 4 + size
            if end > available:
                self._wanted = 4 + size
                break
            bodies.append(data[start + 4 : end])
            start = end
        else:
            self._wanted = 4
        if start < available:
            buffer += data[start:] if start else data
        return bodies
