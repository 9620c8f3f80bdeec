"""Changes of keys: the key, its value before, and its value after a commit."""

from collections.abc import Sequence
from typing import Any

from headwater.codecs.codec import Codec
from headwater.codecs.keys_and_values import key_of, value_of
from headwater.errors import Undecodable
from headwater_protocol.keys import KeyTuple


class KeyChange:
    """How a commit changed a key.

    Its key and its values are decoded when they are asked for. One that cannot be decoded raises
    Undecodable then, and not before: the other changes of the commit can be read.

    Attributes:
        key: as a tuple.
        old, new: the value before and after the commit. None if the key was, or is, absent.
        existed, exists: whether the key was present before the commit, and is after it.
        expired: whether the key was deleted because its time had come.
    """

    __slots__ = ("_codec", "_entry")

    def __init__(self, codec: Codec, entry: Sequence[Any]) -> None:
        self._codec = codec
        self._entry = entry

    @property
    def key(self) -> KeyTuple:
        return key_of(self._entry[0])

    @property
    def old(self) -> Any:
        return self._value(self._entry[1])

    @property
    def new(self) -> Any:
        return self._value(self._entry[2])

    @property
    def existed(self) -> bool:
        return self._entry[1] is not None

    @property
    def exists(self) -> bool:
        return self._entry[2] is not None

    @property
    def expired(self) -> bool:
        return len(self._entry) > 3

    def _value(self, data: bytes | None) -> Any:
        return None if data is None else value_of(self._codec, self._entry[0], data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyChange) and self._entry == other._entry

    def __hash__(self) -> int:
        return hash(tuple(self._entry))

    def __repr__(self) -> str:
        members = (f"{name}={_shown(self, name)}" for name in ("key", "old", "new"))
        return f"KeyChange({', '.join(members)}, existed={self.existed}, exists={self.exists})"


def _shown(change: KeyChange, name: str) -> str:
    try:
        return repr(getattr(change, name))
    except Undecodable:
        return "(undecodable)"
