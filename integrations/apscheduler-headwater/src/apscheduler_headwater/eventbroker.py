"""The event broker: a stream that all schedulers follow.

Schedulers learn from it at once that another process has added a schedule or a job. The stream
keeps its newest events only.
"""

from contextlib import AsyncExitStack
from logging import Logger
from typing import Any, Final

import attrs
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from apscheduler import Event
from apscheduler.eventbrokers.base import BaseExternalEventBroker

import headwater
from apscheduler_headwater.connection import connected

KEPT_MAX: Final = 10_000
"""Events that the stream keeps. A scheduler that lost its connection gets those it has missed."""


@attrs.define(eq=False, repr=False)
class HeadwaterEventBroker(BaseExternalEventBroker):
    """Events of schedulers through a stream of a Headwater database.

    Args:
        database: a URL, or an open database of the same event loop, which stays open.
        stream: its name. Brokers with the same stream share their events.
        options: arguments of `headwater.connect`, if the database is a URL.
    """

    database: str | headwater.Database = attrs.field(default="headwater://localhost:4323")
    stream: str = attrs.field(default="apscheduler.events", kw_only=True)
    options: dict[str, Any] = attrs.field(factory=dict, kw_only=True)
    _db: headwater.Database = attrs.field(init=False)

    def __repr__(self) -> str:
        return f"HeadwaterEventBroker(stream={self.stream!r})"

    async def start(self, exit_stack: AsyncExitStack, logger: Logger) -> None:
        self._db = await connected(self.database, self.options, exit_stack)
        await super().start(exit_stack, logger)
        await self._db.set_retention(self.stream, max_count=KEPT_MAX)
        await self._task_group.start(self._follow)
        exit_stack.callback(self._task_group.cancel_scope.cancel)

    async def _follow(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Deliver what is published from now on, until the scheduler stops."""
        last = 0
        async for event in self._db.read(self.stream, reverse=True, limit=1):
            last = event.position
        async with self._db.subscribe(stream=self.stream, after=last) as subscription:
            task_status.started()
            async for event in subscription.events():
                found = self.reconstitute_event(event.data)
                if found is not None:
                    await self.publish_local(found)

    async def publish(self, event: Event) -> None:
        data = self.generate_notification(event)
        await self._db.append(self.stream, headwater.Event(type(event).__name__, data))
