"""Copies: the leader's files of one commit, kept for a follower that copies them.

    copy_begin --> checkpoint, stage      in the checkpointer's turn; takes little time
    copy_read  --> a part of a file       in a thread, one after another

One follower can copy at a time. The links are removed when it begins to follow, or if it has not
asked for anything for a while; until then it may connect again and go on where it was.
"""

import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
import trio

from headwater_protocol.errors import HeadwaterError, InvalidArgument, TooMany
from headwater_server.engine.backup import STAGE_COPY, Staged
from headwater_server.engine.engine import Engine
from headwater_server.engine.replication.seeding import CopyPlan, plan_of
from headwater_server.net.session.peer import Peer
from headwater_server.net.tasks.checkpointer import Checkpointer
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.storage.files.copying import remove_tree
from headwater_server.storage.files.directory import FORMAT_NAME
from headwater_server.storage.files.file_system import File, join

_log = structlog.get_logger(__name__)

IDLE_S_MAX: Final = 600.0
"""Seconds without a request after which the links of a copy are removed."""

REQUESTS_MAX: Final = 64
"""Requests that wait for the thread. A follower asks for a few parts in advance."""

_FORMAT_SIZE_MAX: Final = 4096
"""Bytes of FORMAT that are read: more than any version writes."""


@dataclass(slots=True)
class _Copy:
    node: str
    staged: Staged
    plan: CopyPlan
    used: float
    open: tuple[int, File] | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    session: Peer
    request_id: int
    node: str
    copy: bytes | None
    part: tuple[int, int, int] | None
    """File, offset and size; None: begin."""


class Copies:
    """Serves the files of the database to a follower."""

    def __init__(
        self,
        engine: Engine,
        checkpointer: Checkpointer,
        run_blocking: RunBlocking,
        monotonic: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._checkpointer = checkpointer
        self._run_blocking = run_blocking
        self._monotonic = monotonic
        self._copy: _Copy | None = None
        self._requests: deque[_Request] = deque()
        self._asked = trio.lowlevel.ParkingLot()

    def begin(self, session: Peer, request_id: int, node: str, copy: bytes | None) -> None:
        """Begin a copy, or go on with one; the request is answered later.

        Raises:
            NotLeader: a follower gives no copies.
            TooMany: another follower is copying.
        """
        self._engine.leadership.check_leads()
        held = self._copy
        if held is not None and held.node != node:
            raise TooMany("copy_begin: another follower is copying; try again later")
        self._ask(_Request(session, request_id, node, copy, None))

    def read(self, session: Peer, request_id: int, copy: bytes, part: tuple[int, int, int]) -> None:
        """Read a part of a file; the request is answered later."""
        self._ask(_Request(session, request_id, "", copy, part))

    def _ask(self, request: _Request) -> None:
        if len(self._requests) >= REQUESTS_MAX:
            raise TooMany(f"{len(self._requests)} requests for parts of a copy; ask for fewer")
        self._requests.append(request)
        self._asked.unpark()

    def ended(self, node: str, index: int) -> None:
        """A follower has the log up to an index: it may have all that it wanted."""
        copy = self._copy
        if copy is not None and copy.node == node and index >= copy.plan.log_index:
            copy.used = float("-inf")
            self._asked.unpark()

    def tick(self) -> None:
        """Remove the links of a copy that nobody uses."""
        copy = self._copy
        if copy is not None and self._monotonic() - copy.used > IDLE_S_MAX:
            self._asked.unpark()

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            CheckpointFailed: the disk of the database failed.
        """
        while True:
            copy = self._copy
            if copy is not None and self._monotonic() - copy.used > IDLE_S_MAX:
                self._copy = None
                await self._run_blocking(partial(_release, copy))
            if not self._requests:
                await self._asked.park()
                continue
            request = self._requests.popleft()
            session = request.session
            try:
                answer = await self._serve(request)
            except HeadwaterError as error:
                answer = session.connection.error(request.request_id, error)
            if not session.closing:
                session.send(answer)

    async def _serve(self, request: _Request) -> bytes:
        connection = request.session.connection
        copy = self._copy
        if request.part is not None:
            if copy is None or copy.plan.copy != request.copy:
                raise InvalidArgument("copy_read: there is no such copy any more; begin again")
            copy.used = self._monotonic()
            data = await self._run_blocking(partial(_read, copy, *request.part))
            return connection.answer(request.request_id, data)
        if copy is None or copy.plan.copy != request.copy:
            copy = await self._begin(request.node)
        copy.used = self._monotonic()
        return connection.answer(request.request_id, copy.plan.as_wire())

    async def _begin(self, node: str) -> _Copy:
        if self._copy is not None:
            copy, self._copy = self._copy, None
            await self._run_blocking(partial(_release, copy))
        staged, end = await self._checkpointer.stage(partial(self._engine.staging.copy, node))
        form = await self._run_blocking(partial(_read_form, staged))
        plan = plan_of(staged, secrets.token_bytes(16), form, end)
        self._copy = _Copy(node, staged, plan, self._monotonic())
        _log.info("a follower copies", node=node, commit=plan.commit, size=plan.size)
        return self._copy


def _read_form(staged: Staged) -> bytes:
    file = staged.file_system.open(join(staged.data, FORMAT_NAME), writable=False)
    try:
        return file.read_at(0, _FORMAT_SIZE_MAX)
    finally:
        file.close()


def _read(copy: _Copy, number: int, offset: int, size: int) -> bytes:
    files = copy.staged.files
    if number >= len(files):
        raise InvalidArgument(f"copy_read: file {number}; the copy has {len(files)}")
    if copy.open is None or copy.open[0] != number:
        if copy.open is not None:
            copy.open[1].close()
        copy.open = number, copy.staged.file_system.open(files[number][1].path, writable=False)
    left = files[number][1].size - offset
    return copy.open[1].read_at(offset, max(0, min(size, left))) if left > 0 else b""


def _release(copy: _Copy) -> None:
    if copy.open is not None:
        copy.open[1].close()
    remove_tree(copy.staged.file_system, join(copy.staged.data, STAGE_COPY))
