"""Frames: how a stream of bytes is cut into messages.

    0          4             4 + size
    +----------+---- ... ----+
    |   size   |    body     |      size: big-endian u32, of the body alone
    +----------+---- ... ----+

A body is one msgpack array (headwater_protocol.messages). No I/O happens here, so every test of
this file is bytes in, bytes out.
"""

from struct import Struct
from typing import Final

from headwater_protocol.errors import ProtocolError, TooLarge
from headwater_protocol.limits import BODY_SIZE_MAX

_SIZE: Final = Struct(">I")
_pack_size = _SIZE.pack


def encode_frame(body: bytes) -> bytes:
    """The frame of *body*.

    Raises:
        TooLarge: the body is above BODY_SIZE_MAX.
    """
    size = len(body)
    if not 0 < size <= BODY_SIZE_MAX:
        raise TooLarge(f"frame of {size} bytes; allowed are 1 to {BODY_SIZE_MAX}")
    return _pack_size(size) + body


def join_frame(*parts: bytes) -> bytes:
    """The frame whose body is *parts*, one after the other. They are copied once.

    Raises:
        TooLarge: the body would be above BODY_SIZE_MAX.
    """
    size = sum(map(len, parts))
    if not 0 < size <= BODY_SIZE_MAX:
        raise TooLarge(f"frame of {size} bytes; allowed are 1 to {BODY_SIZE_MAX}")
    return b"".join((_pack_size(size), *parts))


class FrameSplitter:
    """Collects received bytes and gives back whole frames.

    Attributes:
        body_size_max: bytes that a body may have. It may be changed between two calls: it is
            small until the peer has shown who it is.
        violation: the bad size, once there was one. Frames that came before it were given back.
    """

    __slots__ = ("_buffer", "_wanted", "body_size_max", "violation")

    def __init__(self, body_size_max: int = BODY_SIZE_MAX) -> None:
        self.body_size_max = body_size_max
        self.violation: ProtocolError | None = None
        self._buffer = bytearray()
        # Bytes that the buffer must hold before it can complete a frame.
        self._wanted = 0

    @property
    def buffered_size(self) -> int:
        """Bytes held of a frame that is not complete."""
        return len(self._buffer)

    def discard(self) -> None:
        """Free the bytes of a frame that is not complete. Nothing may be fed any more."""
        self._buffer.clear()

    def feed(self, data: bytes) -> list[bytes]:
        """Add *data*; return the bodies of the frames that it completes, in order.

        Frames in front of a bad size are returned, and the next call raises; `violation` tells
        at once. So what a peer sent before its mistake is not lost.

        Raises:
            ProtocolError: a size is zero or above `body_size_max`.
        """
        if self.violation is not None:
            raise self.violation
        buffer = self._buffer
        size_max = self.body_size_max
        if not buffer and len(data) >= 4:
            # The common case, one whole frame, at half the price.
            size = data[0] << 24 | data[1] << 16 | data[2] << 8 | data[3]
            if size == len(data) - 4 and 0 < size <= size_max:
                return [data[4:]]
        bodies: list[bytes] = []
        if buffer:
            buffer += data
            # A large body comes in many pieces; it is looked at once, when the last is there.
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
            # Unpacked by hand: compiled, it costs a tenth of the call.
            size = (
                data[start] << 24 | data[start + 1] << 16 | data[start + 2] << 8 | data[start + 3]
            )
            # Refuse before buffering: a hostile size must not cost us memory.
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
