"""Programs that read checkpoints: many of them in one round trip."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    writes_sort_key,
)
from langgraph.checkpoint.headwater.layout import (
    EMPTY,
    PIECE_SIZE_MAX,
    Key,
    Layout,
    Row,
    metadata_of,
    rest_of,
    token_of,
)
from langgraph.checkpoint.headwater.programs import Program, Scan, execute, get

import headwater

CHECKPOINTS_A_REQUEST: Final = 64
PIECES_A_REQUEST: Final = 12 * 2**20 // PIECE_SIZE_MAX


class Reading:
    """Programs that read. `batch` makes an empty batch; `serde` is LangGraph's serializer."""

    def __init__(self, layout: Layout, serde: Any, batch: Any) -> None:
        self.layout = layout
        self.serde = serde
        self.batch = batch

    def get_tuple(self, config: RunnableConfig) -> Program[CheckpointTuple | None]:
        """The checkpoint of a config, or the newest one of its thread and namespace."""
        inner = config["configurable"]
        thread, namespace = str(inner["thread_id"]), inner.get("checkpoint_ns", "")
        checkpoint = get_checkpoint_id(config)
        rows: list[Row]
        if checkpoint:
            key = self.layout.checkpoints(thread, namespace, checkpoint)
            row = yield get(key)
            rows = [] if row is None else [(key, row)]
        else:
            newest = self.layout.checkpoints(thread, namespace)
            rows = yield Scan(newest, reverse=True, limit=1)
        if not rows:
            return None
        (found,) = yield from self.tuples(rows)
        return found._replace(config=config) if checkpoint else found

    def rows(
        self,
        config: RunnableConfig | None,
        wanted: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Program[list[Row]]:
        """Rows of checkpoints, the newest first, without the values of their channels."""
        if limit is not None and limit <= 0:
            return []
        inner = (config or {}).get("configurable", {})
        place: list[str] = []
        if "thread_id" in inner:
            place.append(str(inner["thread_id"]))
            if inner.get("checkpoint_ns") is not None:
                place.append(inner["checkpoint_ns"])
        only = get_checkpoint_id(config) if config else None
        bound = get_checkpoint_id(before) if before else None
        prefix = self.layout.checkpoints(*place)
        if len(place) == 2:
            # One namespace is stored in the order of its checkpoints, so a limit is pushed down.
            # Ids are str, and every str sorts before 0.
            if only:
                start, end = (*prefix, only), (*prefix, only, None)
            else:
                start, end = prefix, (*prefix, bound) if bound else (*prefix, 0)
            found = yield Scan(
                start=start, end=end, reverse=True, limit=None if wanted or only else limit
            )
        else:
            found = yield Scan(prefix)
            found.sort(key=lambda row: row[0][4], reverse=True)
        kept: list[Row] = []
        for key, row in found:
            if (bound and key[4] >= bound) or (only and key[4] != only):
                continue
            if wanted:
                metadata = metadata_of(self.serde, row)
                if any(metadata.get(name) != value for name, value in wanted.items()):
                    continue
            kept.append((key, row))
            if len(kept) == limit:
                break
        return kept

    def tuples(self, rows: Sequence[Row]) -> Program[list[CheckpointTuple]]:
        """The checkpoints of rows, whole. One round trip unless they are large."""
        if not rows:
            return []
        checkpoints = [rest_of(self.serde, row) for _, row in rows]
        batch = self.batch()
        places: dict[Key, int] = {}
        for (key, _), checkpoint in zip(rows, checkpoints, strict=True):
            for channel, version in checkpoint["channel_versions"].items():
                value_key = self.layout.values(key[2], key[3], channel, version)
                if value_key not in places:
                    places[value_key] = batch.get(value_key)
        pages = [batch.scan(self.layout.writes(*key[2:])) for key, _ in rows]
        try:
            results = (yield execute(batch)).results
        except (headwater.TooLarge, headwater.InvalidArgument):
            if len(rows) > 1:
                middle = len(rows) // 2
                first = yield from self.tuples(rows[:middle])
                return first + (yield from self.tuples(rows[middle:]))
            stored = {}
            for value_key in places:
                stored[value_key] = yield get(value_key)
            writes = [(yield Scan(self.layout.writes(*rows[0][0][2:])))]
        else:
            stored = {key: results[place] for key, place in places.items()}
            writes = []
            for (key, _), place in zip(rows, pages, strict=True):
                page = results[place]
                if page.more:
                    page = yield Scan(self.layout.writes(*key[2:]))
                writes.append(list(page))
        pieces = yield from self._pieces(stored, writes)
        return [
            self._tuple(key, row, checkpoint, stored, own, pieces)
            for (key, row), checkpoint, own in zip(rows, checkpoints, writes, strict=True)
        ]

    def _pieces(
        self, stored: Mapping[Key, Any], writes: Sequence[Sequence[Row]]
    ) -> Program[dict[str, bytes]]:
        """The data of all values that are stored in pieces, by token."""
        wanted: dict[str, list[Key]] = {}
        large = [(key, value) for key, value in stored.items() if value is not None]
        large += [(key, value[2:]) for rows in writes for key, value in rows]
        for key, value in large:
            token = token_of(value)
            if token is not None:
                pieces = [self.layout.pieces(key[2], key[3], token, n) for n in range(value[2])]
                wanted[token] = pieces
        found: dict[str, bytes] = {}
        for token, keys in wanted.items():
            parts: list[bytes] = []
            for start in range(0, len(keys), PIECES_A_REQUEST):
                batch = self.batch()
                for key in keys[start : start + PIECES_A_REQUEST]:
                    batch.get(key)
                parts += (yield execute(batch)).results
            if None in parts:
                raise headwater.InternalError(f"a piece of value {token} is missing")
            found[token] = b"".join(parts)
        return found

    def _tuple(
        self,
        key: Key,
        row: Sequence[Any],
        checkpoint: dict[str, Any],
        stored: Mapping[Key, Any],
        writes: Iterable[Row],
        pieces: Mapping[str, bytes],
    ) -> CheckpointTuple:
        _, _, thread, namespace, checkpoint_id = key
        values: dict[str, Any] = {}
        for channel, version in checkpoint["channel_versions"].items():
            value = stored[self.layout.values(thread, namespace, channel, version)]
            if value is not None and value[0] != EMPTY:
                values[channel] = self._loaded(value, pieces)
        ordered = sorted(writes, key=lambda each: writes_sort_key(each[1][1], *each[0][5:7]))
        whole: Any = {**checkpoint, "channel_values": values}
        metadata: Any = metadata_of(self.serde, row)
        return CheckpointTuple(
            config=config_of(thread, namespace, checkpoint_id),
            checkpoint=_checkpoint(whole),
            metadata=_metadata(metadata),
            parent_config=config_of(thread, namespace, row[4]) if row[4] else None,
            pending_writes=[
                (write_key[5], value[0], self._loaded(value[2:], pieces))
                for write_key, value in ordered
            ],
        )

    def _loaded(self, value: Sequence[Any], pieces: Mapping[str, bytes]) -> Any:
        token = token_of(value)
        return self.serde.loads_typed((value[0], value[1] if token is None else pieces[token]))

    def threads(self) -> Program[list[str]]:
        """The names of all threads: one round trip for each."""
        found: list[str] = []
        start, end = self.layout.checkpoints(), (self.layout.prefix, "d")
        while True:
            rows = yield Scan(start=start, end=end, limit=1)
            if not rows:
                return found
            found.append(rows[0][0][2])
            # A namespace is a str, and every str comes before an int.
            start = (*self.layout.checkpoints(found[-1]), 0)


def config_of(thread: str, namespace: str, checkpoint: str) -> RunnableConfig:
    """The config that names a checkpoint."""
    return {
        "configurable": {
            "thread_id": thread,
            "checkpoint_ns": namespace,
            "checkpoint_id": checkpoint,
        }
    }


def _checkpoint(whole: Any) -> Checkpoint:
    checkpoint: Checkpoint = whole
    return checkpoint


def _metadata(given: Any) -> CheckpointMetadata:
    metadata: CheckpointMetadata = given
    return metadata
