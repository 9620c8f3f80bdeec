"""Faults between a follower and its leader's log: what a network and a log service can do.

A FaultyUpstream connects as an Upstream does. While its faults are on, some answers to log_read are
lost, late, damaged, in another order, twice, or lack an entry.
"""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from headwater_protocol.errors import ConnectionLost
from headwater_server.net.replication.upstream import ANSWER_S_MAX, Link, Upstream

KINDS: Final = ("lost", "late", "twice", "reordered", "gap", "flipped", "repeated")


@dataclass
class LogFaults:
    """How often an answer is faulty, and how often each fault has happened."""

    random: random.Random
    rate: float = 0.0
    happened: Counter[str] = field(default_factory=Counter)

    def draw(self) -> str | None:
        """The fault of the next answer with entries; None: it is sound."""
        if self.random.random() >= self.rate:
            return None
        kind = self.random.choice(KINDS)
        self.happened[kind] += 1
        return kind


class FaultyLink:
    """A Link whose answers to log_read have faults."""

    def __init__(self, link: Link, faults: LogFaults) -> None:
        self._link = link
        self._faults = faults
        self._reads: set[int] = set()
        self._before: list[bytes] = []

    async def ask(self, operation: str, *arguments: Any, seconds: float = ANSWER_S_MAX) -> Any:
        return await self.result(await self.send(operation, *arguments), seconds=seconds)

    async def send(self, operation: str, *arguments: Any) -> int:
        request = await self._link.send(operation, *arguments)
        if operation == "log_read":
            self._reads.add(request)
        return request

    async def result(self, request_id: int, *, seconds: float = ANSWER_S_MAX) -> Any:
        payload = await self._link.result(request_id, seconds=seconds)
        if request_id not in self._reads or not payload[0]:
            return payload
        self._reads.discard(request_id)
        entries, *rest = payload
        return [await self._changed(list(entries)), *rest]

    async def _changed(self, entries: list[bytes]) -> list[bytes]:
        chance = self._faults.random
        before, self._before = self._before, entries
        match self._faults.draw():
            case "lost":
                raise ConnectionLost("the answer was lost")
            case "late":
                await trio.sleep(chance.uniform(0, 3))
            case "twice":
                return entries + entries
            case "repeated":
                return before + entries
            case "reordered":
                return chance.sample(entries, len(entries))
            case "gap":
                lost = chance.randrange(len(entries))
                return entries[:lost] + entries[lost + 1 :]
            case "flipped":
                place = chance.randrange(len(entries))
                changed = bytearray(entries[place])
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
                return [*entries[:place], bytes(changed), *entries[place + 1 :]]
        return entries


class FaultyUpstream(Upstream):
    """An Upstream with faults."""

    faults: LogFaults

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Any]:
        async with super().connect() as link:
            yield FaultyLink(link, self.faults)
