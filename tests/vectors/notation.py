"""Messages as docs/protocol.md writes them: JSON, with bins as h'hex', nil, true and false."""

from typing import Any


def notation(value: Any) -> str:
    """A message or a part of it, as the documentation shows it."""
    match value:
        case None:
            return "nil"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case bytes():
            return f"h'{value.hex()}'"
        case list() | tuple():
            return "[" + ", ".join(map(notation, value)) + "]"
        case dict():
            return "{" + ", ".join(f'"{k}": {notation(v)}' for k, v in value.items()) + "}"
        case _:
            return repr(value)
