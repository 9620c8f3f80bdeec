"""Programs on items: get, put, search, list namespaces, refresh and sweep.

    (prefix, "i", *namespace, None, key)             [value, created, updated, expires, ttl]
    (prefix, "x", expires, namespace, key)           the index of expiry

None cannot be a label of a namespace, so it separates the namespace from the key, and items of
("a",) do not lie among those of ("a", "b"). Times are taken from the clock of the writer.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from langgraph.checkpoint.headwater.programs import Program, Run, Scan, execute, get
from langgraph.store.base import (
    GetOp,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    validate_op_namespace,
)
from langgraph.store.headwater.matching import matches, namespace_matches

SWEPT_A_TRANSACTION: Final = 1000

Key = tuple[Any, ...]
Name = tuple[tuple[str, ...], str]


class Items:
    """Programs on the items of a store."""

    def __init__(self, prefix: str, ttl: TTLConfig | None, batch: Any) -> None:
        self.prefix = prefix
        self.ttl = ttl or {}
        self.batch = batch

    def _key(self, namespace: Sequence[str], key: str) -> Key:
        return (self.prefix, "i", *namespace, None, key)

    def _expiry(self, expires: datetime, namespace: Sequence[str], key: str) -> Key:
        return (self.prefix, "x", expires, tuple(namespace), key)

    def do(self, ops: Iterable[Op]) -> Program[list[Result]]:
        """Perform operations: reads first, then the writes in one transaction."""
        ops = list(ops)
        for op in ops:
            if not isinstance(op, GetOp | PutOp | SearchOp | ListNamespacesOp):
                raise ValueError(f"unknown operation: {type(op).__name__}")
            validate_op_namespace(op)
        results: list[Result] = [None] * len(ops)
        gets: list[tuple[int, GetOp]] = []
        puts: dict[Name, PutOp] = {}
        for place, op in enumerate(ops):
            if isinstance(op, GetOp):
                gets.append((place, op))
            elif isinstance(op, PutOp):
                # The last one of a name wins.
                puts[op.namespace, op.key] = op
            elif isinstance(op, SearchOp):
                results[place] = yield from self._search(op)
            else:
                results[place] = yield from self._list_namespaces(op)
        if gets:
            found = yield from self._get([op for _, op in gets])
            for (place, _), item in zip(gets, found, strict=True):
                results[place] = item
        if puts:
            yield from self._put(puts)
        return results

    def _get(self, ops: Sequence[GetOp]) -> Program[list[Item | None]]:
        batch = self.batch()
        for op in ops:
            batch.get(self._key(op.namespace, op.key))
        rows = (yield execute(batch)).results
        now = datetime.now(UTC)
        items: list[Item | None] = []
        touched: list[Name] = []
        for op, row in zip(ops, rows, strict=True):
            if row is None or self._is_hidden(row, now):
                items.append(None)
                continue
            items.append(
                Item(
                    value=row[0],
                    key=op.key,
                    namespace=op.namespace,
                    created_at=row[1],
                    updated_at=row[2],
                )
            )
            if op.refresh_ttl and row[4] is not None:
                touched.append((op.namespace, op.key))
        yield from self._refresh(touched)
        return items

    def _is_hidden(self, row: Sequence[Any], now: datetime) -> bool:
        return bool(self.ttl.get("omit_expired")) and row[3] is not None and row[3] <= now

    def _put(self, puts: Mapping[Name, PutOp]) -> Program[None]:
        def body(transaction: Any) -> Program[None]:
            now = datetime.now(UTC)
            for (namespace, name), op in puts.items():
                key = self._key(namespace, name)
                old = yield get(key)
                if old is not None and old[3] is not None:
                    transaction.delete(self._expiry(old[3], namespace, name))
                if op.value is None:
                    transaction.delete(key)
                    continue
                expires = None if op.ttl is None else now + timedelta(minutes=op.ttl)
                created = now if old is None else old[1]
                transaction.put(key, [dict(op.value), created, now, expires, op.ttl])
                if expires is not None:
                    transaction.put(self._expiry(expires, namespace, name), None)

        yield Run(body)

    def _refresh(self, names: Sequence[Name]) -> Program[None]:
        """Let items that were read live for their whole time again."""
        if not names:
            return

        def body(transaction: Any) -> Program[None]:
            now = datetime.now(UTC)
            for namespace, name in names:
                key = self._key(namespace, name)
                row = yield get(key)
                if row is None or row[4] is None:
                    continue
                transaction.delete(self._expiry(row[3], namespace, name))
                row[3] = now + timedelta(minutes=row[4])
                transaction.put(key, row)
                transaction.put(self._expiry(row[3], namespace, name), None)

        yield Run(body)

    def _search(self, op: SearchOp) -> Program[list[SearchItem]]:
        rows = yield Scan((self.prefix, "i", *op.namespace_prefix))
        now = datetime.now(UTC)
        found: list[SearchItem] = []
        touched: list[Name] = []
        skip = op.offset
        for key, row in rows:
            if len(found) == op.limit:
                break
            if self._is_hidden(row, now) or not matches(row[0], op.filter):
                continue
            if skip:
                skip -= 1
                continue
            namespace, name = key[2:-2], key[-1]
            found.append(SearchItem(namespace, name, row[0], created_at=row[1], updated_at=row[2]))
            if op.refresh_ttl and row[4] is not None:
                touched.append((namespace, name))
        yield from self._refresh(touched)
        return found

    def _list_namespaces(self, op: ListNamespacesOp) -> Program[list[tuple[str, ...]]]:
        names: list[tuple[str, ...]] = []
        start: Key = (self.prefix, "i")
        now = datetime.now(UTC)
        while rows := (yield Scan(start=start, end=(self.prefix, "j"), limit=1)):
            key, row = rows[0]
            namespace = key[2:-2]
            if self._is_hidden(row, now) and not (yield from self._has_visible(namespace, now)):
                start = (self.prefix, "i", *namespace, b"")
                continue
            names.append(namespace)
            # After the namespace's own items, which have None there, and before any longer one.
            start = (self.prefix, "i", *namespace, b"")
        for condition in op.match_conditions or ():
            names = [each for each in names if namespace_matches(condition, each)]
        if op.max_depth is not None:
            names = sorted({each[: op.max_depth] for each in names})
        return names[op.offset : op.offset + op.limit]

    def _has_visible(self, namespace: Sequence[str], now: datetime) -> Program[bool]:
        rows = yield Scan((self.prefix, "i", *namespace, None))
        return any(not self._is_hidden(row, now) for _, row in rows)

    def sweep(self) -> Program[int]:
        """Delete the items that have expired. Returns how many."""
        gone = 0
        while True:
            rows = yield Scan(
                start=(self.prefix, "x"),
                end=(self.prefix, "x", datetime.now(UTC)),
                limit=SWEPT_A_TRANSACTION,
            )
            if not rows:
                return gone
            gone += yield Run(partial(self._sweep, rows))

    def _sweep(self, rows: Sequence[tuple[Key, Any]], transaction: Any) -> Program[int]:
        gone = 0
        for index_key, _ in rows:
            _, _, expires, namespace, name = index_key
            transaction.delete(index_key)
            key = self._key(namespace, name)
            row = yield get(key)
            # It may have been refreshed meanwhile.
            if row is not None and row[3] == expires:
                transaction.delete(key)
                gone += 1
        return gone
