"""Writes the test vectors as JSON: `python -m tests.vectors.generate`.

README.md beside this file explains them. A test compares the files in the repository with the
output of this program.
"""

import json
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from headwater_protocol import errors, limits
from headwater_protocol.errors import HeadwaterError
from headwater_protocol.frames import encode_frame
from headwater_protocol.keys import encode_key, prefix_range
from headwater_protocol.messages import encode
from headwater_protocol.operations import ERROR, OK
from tests.vectors import examples

FOLDER: Final = Path(__file__).parent

_INT_MAX: Final = 2**53 - 1
"""The largest int that every JSON reader keeps exactly."""


def as_json(value: Any) -> Any:
    """A value as JSON. Other types become a map of one member, with the name of the type."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if abs(value) <= _INT_MAX else {"int": str(value)}
        case float():
            return {"float": repr(value) if math.isfinite(value) else str(value)}
        case bytes():
            return {"bytes": value.hex()}
        case UUID():
            return {"uuid": str(value)}
        case datetime():
            return {"datetime": value.isoformat(timespec="microseconds")}
        case tuple():
            return {"tuple": [as_json(member) for member in value]}
        case list():
            return [as_json(member) for member in value]
        case dict():
            return {"map": {name: as_json(member) for name, member in value.items()}}
        case _:
            raise TypeError(f"{type(value)} is not in any vector")


def message(values: list[Any]) -> dict[str, Any]:
    """A message and its frame."""
    return {"message": as_json(values), "frame": encode_frame(encode(values)).hex()}


def keys() -> dict[str, Any]:
    """Tuples and their bytes."""

    def members(key: tuple[Any, ...]) -> list[Any]:
        return [as_json(member) for member in key]

    return {
        "keys": [{"key": members(key), "encoded": encode_key(key).hex()} for key in examples.KEYS],
        "in_order": [
            {"key": members(key), "encoded": encode_key(key).hex()}
            for key in examples.KEYS_IN_ORDER
        ],
        "prefix_ranges": [
            {
                "prefix": members(prefix),
                "start": prefix_range(prefix)[0].hex(),
                "end": prefix_range(prefix)[1].hex(),
            }
            for prefix in examples.PREFIXES
        ],
        "refused": [
            {"encoded": encoded, "why": why} for encoded, why in examples.KEYS_REFUSED.items()
        ],
    }


def requests() -> list[Any]:
    """Requests of every operation, with ids that count from 1."""
    return [
        message([number, example.name, *example.arguments])
        for number, example in enumerate(examples.EXAMPLES, 1)
    ]


def responses() -> list[Any]:
    """An answer to each of the requests, then pushes and errors."""
    answers = [
        {"what": f"an answer to {example.name}", **message([number, OK, example.answer])}
        for number, example in enumerate(examples.EXAMPLES, 1)
    ]
    return answers + [{"what": what, **message(values)} for what, values in examples.RESPONSES]


def error_codes() -> list[Any]:
    """Each error code, and a response with it."""
    classes = sorted(
        (
            value
            for value in vars(errors).values()
            if isinstance(value, type) and issubclass(value, HeadwaterError)
        ),
        key=lambda known: known.code,
    )
    return [
        {
            "code": known.code,
            "retryable": known.retryable,
            **message([7, ERROR, known("what went wrong").as_payload()]),
        }
        for known in classes
    ]


def malformed() -> list[Any]:
    """Bytes that a server refuses after hello, with the error and whether it closes."""
    return [
        {
            "why": wrong.why,
            "sent": wrong.sent.hex(),
            "request_id": wrong.request_id,
            "code": wrong.code,
            "closes": wrong.closes,
        }
        for wrong in examples.WRONG
    ]


def bounds() -> dict[str, int]:
    """Every limit, by its name."""
    return {name: value for name, value in vars(limits).items() if name.isupper()}


FILES: Final[dict[str, Callable[[], Any]]] = {
    "keys.json": keys,
    "requests.json": requests,
    "responses.json": responses,
    "errors.json": error_codes,
    "malformed.json": malformed,
    "limits.json": bounds,
}


def text(name: str) -> str:
    """The content of the file *name*."""
    return json.dumps(FILES[name](), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every file."""
    for name in FILES:
        (FOLDER / name).write_text(text(name))


if __name__ == "__main__":
    main()
