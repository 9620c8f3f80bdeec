"""JSON lines: an event a line.

    {"stream": "order-1", "type": "Placed", "data": {"item": "tea"}, "time": "2020-01-31T12:00:00Z"}

`stream` and `type` are required. `data`, `metadata`, `tags`, `id` (a UUID), `time` (ISO 8601; UTC
if it has no zone), `version` and `position` may be there. Without a position the number of the line
counts. Without an id an event gets one that is made from its line, the same each time.

The lines of `headwater export` are taken, too. There data and metadata are JSON as text.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_OID, UUID, uuid5

from headwater.codecs.codec import Codec
from headwater.errors import InvalidArgument
from headwater.imports.source import SourceEvent, utc

_EXPORTED: Final = frozenset({"commit", "erased", "undecodable"})
"""What a line of an export has, and no other."""


class JsonLines:
    """Events in a file of JSON lines.

    Args:
        file: its path.
    """

    codec: Codec | None = None

    def __init__(self, file: str | Path) -> None:
        self._file = Path(file)

    def count(self) -> int:
        with self._file.open("rb") as lines:
            return sum(bool(line.strip()) for line in lines)

    def events(self, after: int = 0) -> Iterator[SourceEvent]:
        with self._file.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                if not raw.strip():
                    continue
                event = self._event(number, raw)
                if event.position > after:
                    yield event

    def _event(self, number: int, raw: bytes) -> SourceEvent:
        try:
            line = json.loads(raw)
            if not isinstance(line, dict):
                raise TypeError("it is no object")
            return _event(number, raw, line)
        except (ValueError, TypeError, KeyError) as error:
            what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise InvalidArgument(f"{self._file}, line {number}: {what}") from error


def _event(number: int, raw: bytes, line: dict[str, Any]) -> SourceEvent:
    data, metadata = line.get("data"), line.get("metadata")
    if line.keys() >= _EXPORTED:
        if line["undecodable"] or line["erased"]:
            raise ValueError("the data of this event is not in the export")
        data = None if data is None else json.loads(data)
        metadata = None if metadata is None else json.loads(metadata)
    time, version = line.get("time"), line.get("version")
    position = line.get("position", number)
    if not isinstance(position, int) or isinstance(position, bool) or position < 1:
        raise ValueError(f"position: {position!r:.60}; the minimum is 1")
    if version is not None and (not isinstance(version, int) or version < 1):
        raise ValueError(f"version: {version!r:.60}; the minimum is 1")
    return SourceEvent(
        position=position,
        stream=_text(line, "stream"),
        type=_text(line, "type"),
        data=data,
        id=UUID(line["id"]) if "id" in line else uuid5(NAMESPACE_OID, f"{number} {raw!r}"),
        metadata=metadata,
        tags=tuple(line.get("tags") or ()),
        time=None if time is None else utc(datetime.fromisoformat(time)),
        version=version,
    )


def _text(line: dict[str, Any], name: str) -> str:
    if not isinstance(line[name], str):
        raise TypeError(f"{name}: expected text, got {line[name]!r:.60}")
    return str(line[name])
