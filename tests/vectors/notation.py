"""The notation of docs/protocol.md for messages: JSON, with h'hex' for bins, and nil for null."""

from typing import Any


def notation(value: Any) -> str:
    """A message, or a part of one, in this notation."""
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
