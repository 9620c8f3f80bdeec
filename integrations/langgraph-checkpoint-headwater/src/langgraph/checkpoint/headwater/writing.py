"""Programs that write, prune, copy and delete checkpoints."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.headwater.layout import (
    EMPTY,
    PIECE_SIZE_MAX,
    Key,
    Place,
    Row,
    checkpoint_row,
    in_requests,
    metadata_of,
    rest_of,
    size_of,
    token_of,
    write_index,
)
from langgraph.checkpoint.headwater.programs import Program, Run, Scan, execute, get
from langgraph.checkpoint.headwater.reading import Reading, config_of

import headwater

Strategy = Literal["keep_latest", "delete"]
STRATEGIES: Final = ("keep_latest", "delete")
DELETES_A_REQUEST: Final = 10_000
DELTA_COUNTERS: Final = "counters_since_delta_snapshot"
"""The member of the metadata that names the channels that are stored as deltas."""


class Writing(Reading):
    """Programs that write. Each that changes several keys is one transaction, where it says so."""

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Program[RunnableConfig]:
        """Write a checkpoint and its new values: one round trip unless they are large."""
        inner = config["configurable"]
        place = Place(str(inner["thread_id"]), inner.get("checkpoint_ns", ""))
        rest: dict[str, Any] = dict(checkpoint)
        values = rest.pop("channel_values")
        full = get_checkpoint_metadata(config, metadata)
        early: list[Row] = []
        rows: list[Row] = []
        for channel, version in new_versions.items():
            key = self.layout.values(*place, channel, version)
            if channel in values:
                serialized = self.serde.dumps_typed(values[channel])
                value, pieces = self.layout.stored(place, serialized)
                early += pieces
            else:
                value = [EMPTY, b""]
            rows.append((key, value))
        row = checkpoint_row(self.serde, rest, full, inner.get("checkpoint_id"))
        last: list[Row] = [(self.layout.checkpoints(*place, checkpoint["id"]), row)]
        if run := full.get("run_id"):
            last.append((self.layout.runs(str(run), *place, checkpoint["id"]), None))
        yield from self._write(early + rows, last)
        return config_of(*place, checkpoint["id"])

    def _write(self, early: Sequence[Row], last: Sequence[Row]) -> Program[None]:
        """Write rows, in one transaction if a request holds them.

        Otherwise *early* goes first, in several. Nothing reads it before *last* is written.
        """
        if size_of([value for _, value in early]) > 2 * PIECE_SIZE_MAX:
            for part in in_requests(early):
                yield from self._put_rows(part)
            early = []
        yield from self._put_rows([*early, *last])

    def _put_rows(self, rows: Iterable[Row]) -> Program[None]:
        batch = self.batch()
        for key, value in rows:
            batch.put(key, value)
        yield execute(batch)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task: str,
        task_path: str,
    ) -> Program[None]:
        """Write pending writes. One that is there already stays; special ones are replaced."""
        inner = config["configurable"]
        place = Place(str(inner["thread_id"]), inner.get("checkpoint_ns", ""))
        rows: list[tuple[Key, list[Any], bool]] = []
        early: list[Row] = []
        for position, (channel, given) in enumerate(writes):
            index = write_index(channel, position)
            key = self.layout.writes(*place, inner["checkpoint_id"], task, index)
            value, pieces = self.layout.stored(place, self.serde.dumps_typed(given))
            early += pieces
            rows.append((key, [channel, task_path, *value], index < 0))
        for part in in_requests(early):
            yield from self._put_rows(part)
        for some in in_requests((key, [value, special]) for key, value, special in rows):
            yield from self._put_new([(key, *pair) for key, pair in some])

    def _put_new(self, rows: Sequence[tuple[Key, Any, bool]]) -> Program[None]:
        batch = self.batch()
        for key, value, special in rows:
            if not special:
                batch.require_absent(key)
            batch.put(key, value)
        try:
            yield execute(batch)
            return
        except headwater.ConditionFailed:
            pass

        def body(transaction: Any) -> Program[None]:
            for key, value, special in rows:
                if special or (yield get(key)) is None:
                    transaction.put(key, value)

        yield Run(body)

    def delete_thread(self, thread: str) -> Program[None]:
        """Delete a thread: in one transaction, unless it has more keys than one may delete."""
        rows = yield Scan(self.layout.checkpoints(thread))
        runs = [key for key in (self._run_key(*row) for row in rows) if key is not None]
        batch = self.batch()
        for prefix in self.layout.of_thread(thread):
            batch.delete_range(prefix)
        for key in runs:
            batch.delete(key)
        try:
            yield execute(batch)
        except headwater.TooLarge:
            for start in range(0, len(runs), DELETES_A_REQUEST):
                yield from self._delete(runs[start : start + DELETES_A_REQUEST])
            for prefix in self.layout.of_thread(thread):
                while found := (yield Scan(prefix, limit=DELETES_A_REQUEST)):
                    yield from self._delete([key for key, _ in found])

    def _delete(self, keys: Iterable[Key]) -> Program[None]:
        batch = self.batch()
        for key in keys:
            batch.delete(key)
        yield execute(batch)

    def _run_key(self, key: Key, row: Sequence[Any]) -> Key | None:
        run = metadata_of(self.serde, row).get("run_id")
        return self.layout.runs(str(run), *key[2:]) if run else None

    def delete_for_runs(self, runs: Sequence[str]) -> Program[None]:
        """Delete the checkpoints of runs, in one transaction."""

        def body(transaction: Any) -> Program[None]:
            doomed: dict[Place, set[str]] = {}
            for run in runs:
                for key, _ in (yield Scan(self.layout.runs(str(run)))):
                    doomed.setdefault(Place(key[3], key[4]), set()).add(key[5])
            for place, checkpoints in doomed.items():
                yield from self._drop(transaction, place, checkpoints)

        yield Run(body)

    def prune(self, threads: Sequence[str], strategy: str, keep: int) -> Program[None]:
        """Delete threads, or all but their newest checkpoints. One transaction a thread."""
        for thread in threads:
            if strategy == "delete":
                yield from self.delete_thread(thread)
            else:
                yield from self._keep_newest(thread, keep, None)

    def prune_older(self, age: timedelta, threads: Sequence[str] | None, keep: int) -> Program[int]:
        """Delete checkpoints above an age, but the *keep* newest of each namespace."""
        before = (datetime.now(UTC) - age).isoformat()
        gone = 0
        for thread in (yield from self.threads()) if threads is None else threads:
            gone += yield from self._keep_newest(thread, keep, before)
        return gone

    def _keep_newest(self, thread: str, keep: int, before: str | None) -> Program[int]:
        def body(transaction: Any) -> Program[int]:
            places: dict[Place, list[Row]] = {}
            for key, row in (yield Scan(self.layout.checkpoints(thread))):
                places.setdefault(Place(key[2], key[3]), []).append((key, row))
            gone = 0
            for place, rows in places.items():
                old = rows[: len(rows) - keep] if keep else rows
                doomed = {
                    key[4]
                    for key, row in old
                    if before is None or rest_of(self.serde, row)["ts"] < before
                }
                doomed -= yield from self._needed(place, rows, doomed)
                yield from self._drop(transaction, place, doomed)
                gone += len(doomed)
            return gone

        pruned: int = yield Run(body)
        return pruned

    def _needed(self, place: Place, rows: Sequence[Row], doomed: set[str]) -> Program[set[str]]:
        """Ancestors from which kept checkpoints rebuild channels that are stored as deltas.

        Such a channel is its last stored value and the writes since, so all checkpoints back to
        the one with the value must stay.
        """
        by_id = {key[4]: row for key, row in rows}
        needed: set[str] = set()
        for checkpoint, row in by_id.items():
            if checkpoint in doomed:
                continue
            missing = set(metadata_of(self.serde, row).get(DELTA_COUNTERS) or ())
            parent = row[4]
            missing -= yield from self._with_value(place, row, missing)
            while missing and parent in by_id:
                needed.add(parent)
                ancestor = by_id[parent]
                missing -= yield from self._with_value(place, ancestor, missing)
                parent = ancestor[4]
        return needed

    def _with_value(
        self, place: Place, row: Sequence[Any], channels: set[str]
    ) -> Program[set[str]]:
        """Those of *channels* whose value is stored with a checkpoint."""
        found: set[str] = set()
        versions: Mapping[str, Any] = rest_of(self.serde, row)["channel_versions"]
        for channel in channels & versions.keys():
            value = yield get(self.layout.values(*place, channel, versions[channel]))
            if value is not None and value[0] != EMPTY:
                found.add(channel)
        return found

    def _drop(self, transaction: Any, place: Place, doomed: set[str]) -> Program[None]:
        """Drop checkpoints with their writes, and the values that no other checkpoint has."""
        if not doomed:
            return
        used: set[tuple[str, Any]] = set()
        for key, row in (yield Scan(self.layout.checkpoints(*place))):
            if key[4] not in doomed:
                used.update(rest_of(self.serde, row)["channel_versions"].items())
                continue
            transaction.delete(key)
            if (run := self._run_key(key, row)) is not None:
                transaction.delete(run)
            own = self.layout.writes(*place, key[4])
            for _, value in (yield Scan(own)):
                self._drop_pieces(transaction, place, value[2:])
            transaction.delete_range(own)
        for key, value in (yield Scan(self.layout.values(*place))):
            if (key[4], key[5]) not in used:
                transaction.delete(key)
                self._drop_pieces(transaction, place, value)

    def _drop_pieces(self, transaction: Any, place: Place, value: Sequence[Any]) -> None:
        if (token := token_of(value)) is not None:
            transaction.delete_range(self.layout.pieces(*place, token))

    def copy_thread(self, source: str, target: str) -> Program[None]:
        """Copy a thread, the checkpoints last. One transaction if it fits into one."""
        for prefix in self.layout.of_thread(source):
            copied: list[Row] = []
            for key, value in (yield Scan(prefix)):
                copy = (*key[:2], target, *key[3:])
                copied.append((copy, value))
                if key[1] == "c" and (run := self._run_key(copy, value)) is not None:
                    copied.append((run, None))
            for part in in_requests(copied):
                yield from self._put_rows(part)
