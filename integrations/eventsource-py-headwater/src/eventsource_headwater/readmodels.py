"""Read models: rows of a pydantic class. Queries filter in the client, over all rows."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from eventsource.ports.readmodels import (
    OptimisticLockError,
    Query,
    ReadModel,
    ReadModelNotFoundError,
)

import headwater

M = TypeVar("M", bound=ReadModel)

_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "eq": lambda found, wanted: bool(found == wanted),
    "ne": lambda found, wanted: bool(found != wanted),
    "gt": lambda found, wanted: bool(found > wanted),
    "gte": lambda found, wanted: bool(found >= wanted),
    "lt": lambda found, wanted: bool(found < wanted),
    "lte": lambda found, wanted: bool(found <= wanted),
    "in": lambda found, wanted: found in wanted,
    "not_in": lambda found, wanted: found not in wanted,
}


class HeadwaterReadModelRepository(Generic[M]):
    """The rows of one class of read models.

    Args:
        database: an open database of this event loop.
        model: the class. Its name is part of the keys.
        space: the first member of all keys.
    """

    def __init__(
        self, database: headwater.Database, model: type[M], space: str = "eventsource"
    ) -> None:
        self._db = database
        self._model = model
        self._prefix = (space, "model", model.table_name())

    def _key(self, identity: UUID) -> tuple[str, str, str, UUID]:
        return (*self._prefix, identity)

    def _loaded(self, row: dict[str, Any] | None) -> M | None:
        return None if row is None else self._model(**row)

    async def _get(self, identity: UUID, *, deleted: bool) -> M | None:
        model = self._loaded(await self._db.get(self._key(identity)))
        return model if model is not None and model.is_deleted() == deleted else None

    async def get(self, id: UUID) -> M | None:  # noqa: A002 - the name is the port's
        return await self._get(id, deleted=False)

    async def get_deleted(self, id: UUID) -> M | None:  # noqa: A002
        return await self._get(id, deleted=True)

    async def get_many(self, ids: Iterable[UUID]) -> list[M]:
        rows = await self._db.get_many([self._key(each) for each in ids])
        models = map(self._loaded, rows)
        return [model for model in models if model is not None and not model.is_deleted()]

    async def save(self, model: M) -> None:
        await self.save_many([model])

    async def save_many(self, models: list[M]) -> None:
        """Insert or replace rows, in one transaction. Sets their versions and times."""

        async def work(tx: headwater.Transaction) -> None:
            now = datetime.now(UTC)
            for model in models:
                old = await tx.get(self._key(model.id))
                if old is not None:
                    model.version = old["version"] + 1
                model.updated_at = now
                tx.put(self._key(model.id), model.model_dump())

        await self._db.run(work)

    async def save_with_version_check(self, model: M) -> None:
        """Replace a row that has the version of *model*.

        Raises:
            ReadModelNotFoundError: there is no such row.
            OptimisticLockError: it has another version.
        """

        async def work(tx: headwater.Transaction) -> M:
            old = await tx.get(self._key(model.id))
            if old is None:
                raise ReadModelNotFoundError(model.id)
            if old["version"] != model.version:
                raise OptimisticLockError(model.id, model.version, old["version"])
            changes = {"version": model.version + 1, "updated_at": datetime.now(UTC)}
            new = model.model_copy(update=changes)
            tx.put(self._key(model.id), new.model_dump())
            return new

        new = await self._db.run(work)
        model.version, model.updated_at = new.version, new.updated_at

    async def exists(self, id: UUID) -> bool:  # noqa: A002
        return await self.get(id) is not None

    async def delete(self, id: UUID) -> bool:  # noqa: A002
        return await self._db.pop(self._key(id)) is not None

    async def _mark(self, identity: UUID, *, deleted: bool) -> bool:
        async def work(tx: headwater.Transaction) -> bool:
            row = await tx.get(self._key(identity))
            if row is None or (row["deleted_at"] is not None) == deleted:
                return False
            now = datetime.now(UTC)
            changes = {"deleted_at": now if deleted else None, "updated_at": now}
            tx.put(self._key(identity), row | changes)
            return True

        return await self._db.run(work)

    async def soft_delete(self, id: UUID) -> bool:  # noqa: A002
        return await self._mark(id, deleted=True)

    async def restore(self, id: UUID) -> bool:  # noqa: A002
        return await self._mark(id, deleted=False)

    async def _find(self, query: Query, keep: Callable[[M], bool]) -> list[M]:
        rows = [self._model(**row) async for _, row in self._db.scan(self._prefix)]
        found = [model for model in rows if keep(model)]
        for each in query.filters:
            compare = _COMPARISONS[each.operator]
            found = [model for model in found if compare(getattr(model, each.field), each.value)]
        order = query.order_by
        if order:
            found.sort(
                key=lambda model: getattr(model, order), reverse=query.order_direction == "desc"
            )
        found = found[query.offset or 0 :]
        return found if query.limit is None else found[: query.limit]

    async def find(self, query: Query | None = None) -> list[M]:
        wanted = query or Query()
        return await self._find(
            wanted, lambda model: wanted.include_deleted or not model.is_deleted()
        )

    async def find_deleted(self, query: Query | None = None) -> list[M]:
        return await self._find(query or Query(), lambda model: model.is_deleted())

    async def count(self, query: Query | None = None) -> int:
        return len(await self.find(query))

    async def truncate(self) -> int:
        """Delete all rows. Returns their number."""
        return (await self._db.delete_range(self._prefix)).count
