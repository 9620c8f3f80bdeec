r"""Sealing: values as ciphertext that opens only in the place for which it was made.

    {"name": "Ann", "seat": "12A"}
         |
         '--> {"name": {"$sealed": [1, subject, key id, nonce + ciphertext + tag]}, "seat": "12A"}

The cipher is AES-256-GCM (NIST SP 800-38D) with random nonces of 96 bits. Its associated data is
the place: the stream, the id and the type of an event, or a key, and the path of the field in the
data. So a ciphertext that somebody moves to another event, key or field does not open.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from headwater.codecs.codec import MsgpackCodec
from headwater.errors import InvalidArgument, Undecodable
from headwater_protocol.messages import encode

SEALED: Final = "$sealed"
"""The only member of the map that stands for a sealed value."""

FORM: Final = 1
"""The form of a sealed value; a later one may have another cipher."""

KEY_SIZE: Final = 32
"""Bytes of a key: AES-256."""

KEY_ID_SIZE: Final = 8
"""Random bytes that tell a subject's key from one that was destroyed before."""

NONCE_SIZE: Final = 12
"""Bytes of a nonce. With random ones, a key may seal 2^32 values."""

DEPTH_MAX: Final = 64
"""Levels of maps and lists that are searched for sealed values."""

_codec = MsgpackCodec()


class SubjectKey(NamedTuple):
    """The key of a subject, and the id that the values have which it sealed."""

    id: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"SubjectKey(id={self.id.hex()})"


class Shredded:
    """Stands for a value whose subject's key was destroyed. It is false.

    Attributes:
        subject: whose value it was.
    """

    __slots__ = ("subject",)

    def __init__(self, subject: str) -> None:
        self.subject = subject

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shredded) and other.subject == self.subject

    def __hash__(self) -> int:
        return hash((Shredded, self.subject))

    def __repr__(self) -> str:
        return f"Shredded({self.subject!r})"


Path = tuple[Any, ...]
"""Where a value is in the data: names of members, and numbers of list items."""

Place = tuple[Any, ...]
"""Where a sealed value is: ("event", stream, id, type) or ("key", encoded key)."""


def new_key() -> SubjectKey:
    """A new random key."""
    return SubjectKey(secrets.token_bytes(KEY_ID_SIZE), secrets.token_bytes(KEY_SIZE))


def cipher(secret: bytes) -> Any:
    """AES-GCM with a key.

    Raises:
        InvalidArgument: the package cryptography is not installed.
    """
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise InvalidArgument(
            "encryption needs the package cryptography: pip install 'headwater[encryption]'"
        ) from error
    return AESGCM(secret)


def seal(value: Any, subject: str, key: SubjectKey, place: Place, path: Path) -> dict[str, Any]:
    """A value as a map that any codec can store."""
    nonce = secrets.token_bytes(NONCE_SIZE)
    bound = _bound(place, path, subject, key.id)
    data = nonce + cipher(key.secret).encrypt(nonce, _codec.encode(value), bound)
    return {SEALED: [FORM, subject, key.id, data]}


def seal_fields(
    data: Any, fields: Mapping[str, str], keys: Mapping[str, SubjectKey], place: Place
) -> Any:
    """A copy of the data in which fields are sealed; *fields* has the subject of each of them.

    A field is the names of members with dots between them; "" is all of the data.

    Raises:
        InvalidArgument: there is no such field, or the key of a subject was not asked for.
    """
    for field, subject in fields.items():
        if subject not in keys:
            raise InvalidArgument(
                f"field {field!r}: the key of subject {subject!r} was not asked for; "
                f"there are those of {', '.join(sorted(map(repr, keys))) or 'none'}"
            )
        data = _with_sealed(
            data, field.split(".") if field else [], (), field, subject, keys, place
        )
    return data


def _with_sealed(
    data: Any,
    names: list[str],
    path: Path,
    field: str,
    subject: str,
    keys: Mapping[str, SubjectKey],
    place: Place,
) -> Any:
    if not names:
        if is_sealed(data):
            raise InvalidArgument(f"field {field!r} is sealed already")
        return seal(data, subject, keys[subject], place, path)
    first, *rest = names
    if isinstance(data, dict) and first in data:
        inner = _with_sealed(data[first], rest, (*path, first), field, subject, keys, place)
        return {**data, first: inner}
    if isinstance(data, list) and first.isdigit() and int(first) < len(data):
        number = int(first)
        inner = _with_sealed(data[number], rest, (*path, number), field, subject, keys, place)
        return [*data[:number], inner, *data[number + 1 :]]
    raise InvalidArgument(f"field {field!r}: there is no {first!r} in the data")


def is_sealed(value: Any) -> bool:
    """Whether a value is sealed."""
    return isinstance(value, dict) and len(value) == 1 and SEALED in value


def subjects_in(data: Any, depth: int = DEPTH_MAX) -> set[str]:
    """The subjects of all sealed values in data."""
    if is_sealed(data):
        return {_parts(data)[1]}
    members = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    found: set[str] = set()
    if depth:
        for member in members:
            found |= subjects_in(member, depth - 1)
    return found


def open_all(data: Any, keys: Mapping[str, SubjectKey], place: Place, path: Path = ()) -> Any:
    """The data with all sealed values opened; Shredded where the key was destroyed.

    Raises:
        Undecodable: a value was changed, or is not where it was sealed.
    """
    if is_sealed(data):
        return _opened(data, keys, place, path)
    if len(path) >= DEPTH_MAX:
        return data
    if isinstance(data, dict):
        return {name: open_all(each, keys, place, (*path, name)) for name, each in data.items()}
    if isinstance(data, list):
        return [open_all(each, keys, place, (*path, at)) for at, each in enumerate(data)]
    return data


def _opened(
    sealed: dict[str, Any], keys: Mapping[str, SubjectKey], place: Place, path: Path
) -> Any:
    form, subject, key_id, data = _parts(sealed)
    if form != FORM:
        raise Undecodable(f"{_told(place, path)}: sealed in form {form}; known is {FORM}")
    key = keys.get(subject)
    if key is None or key.id != key_id:
        return Shredded(subject)
    from cryptography.exceptions import InvalidTag

    try:
        bound = _bound(place, path, subject, key_id)
        opened = cipher(key.secret).decrypt(data[:NONCE_SIZE], data[NONCE_SIZE:], bound)
    except (InvalidTag, ValueError, TypeError) as error:
        raise Undecodable(
            f"{_told(place, path)} does not open: it was changed, or sealed for another place"
        ) from error
    return _codec.decode(opened)


def _parts(sealed: dict[str, Any]) -> tuple[int, str, bytes, bytes]:
    match sealed[SEALED]:
        case [int(form), str(subject), bytes(key_id), bytes(data)]:
            return form, subject, key_id, data
        case other:
            raise Undecodable(f"a sealed value is damaged: {other!r:.60}")


def _bound(place: Place, path: Path, subject: str, key_id: bytes) -> bytes:
    return bytes(encode([FORM, *place, list(path), subject, key_id]))


def _told(place: Place, path: Path) -> str:
    field = ".".join(map(str, path))
    return f"{f'field {field!r}' if path else 'the value'} of {place[0]} {place[1]!r:.80}"
