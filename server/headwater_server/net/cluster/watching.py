"""Watches the stream: whether it answers, whether it lost entries, and how large it is.

    answer of the stream's leader           what this node does
    none                                    restarts its wait before a claim
    messages are missing between the ends   alarm; the leader trims the stream past the gap
    the stream ends before stored entries   alarm; appends them again from its own copy
    the stream has entries nobody needs     the leader trims it

A damaged file of one NATS server can make the stream lose entries, and the other servers copy the
loss. Every node has the entries in its own files. Nodes that still need entries from before a gap
read them from there, and the stream continues after the gap.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog
import trio

from headwater_protocol.errors import DamagedFile, InvalidArgument
from headwater_protocol.limits import MIB
from headwater_server.engine.engine import Engine
from headwater_server.net.cluster.nodes import Nodes
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.storage.errors import Diverged, Truncated, Unavailable
from headwater_server.storage.jetstream.cluster_log import ClusterLog
from headwater_server.storage.jetstream.stream import StreamState
from headwater_server.storage.wal.interface import WalIndex

_log = structlog.get_logger(__name__)

WATCH_S: Final = 0.25
"""Seconds between two requests to the stream's leader."""

SHORT_MAX: Final = 4
"""Consecutive answers that must show a stream that is too short before entries are put back. A
stream leader that is being replaced may send an outdated answer."""

KEPT_SIZE_MIN: Final = 16 * MIB
"""Bytes of entries to keep in the stream, for nodes that this one does not know."""


class Watching:
    """Asks the stream's leader regularly, and repairs or trims the stream.

    Attributes:
        state: the last answer, or None if there was none yet.
        answers: whether the last question was answered.
        problem: what is wrong with the stream, or None.
    """

    def __init__(
        self,
        engine: Engine,
        log: ClusterLog,
        nodes: Nodes,
        run_blocking: RunBlocking,
        *,
        on_silence: Callable[[], None],
        kept_size_max: int,
    ) -> None:
        self.state: StreamState | None = None
        self.answers = False
        self.problem: str | None = None
        self._engine = engine
        self._log = log
        self._nodes = nodes
        self._run_blocking = run_blocking
        self._on_silence = on_silence
        self._kept_size_max = kept_size_max
        self._short = 0

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                # Read this before asking: entries stored meanwhile may be missing in the answer.
                last = self._log.last_index
                self.state = await self._run_blocking(self._log.stream.refresh)
                self.answers = True
                await self._look(self.state, last)
            except Unavailable as error:
                self.answers = False
                self._on_silence()
                _log.debug("the stream does not answer", reason=str(error))
            except (DamagedFile, Diverged, InvalidArgument) as error:
                self.answers = False
                self._on_silence()
                self._alarm(str(error))
            await trio.sleep(WATCH_S)

    @property
    def is_sound(self) -> bool:
        """Whether the stream answers, and has the last entry of this node."""
        return self.answers and not self._short

    async def _look(self, state: StreamState, last: WalIndex) -> None:
        self._short = self._short + 1 if state.last < last else 0
        if self._short >= SHORT_MAX:
            self._alarm(f"the stream ends with entry {state.last}, and entry {last} was stored")
            await self._run_blocking(partial(self._put_back, WalIndex(state.last), last))
            self._short = 0
        elif state.missing:
            self._alarm(
                f"the stream has {state.messages} of the entries {state.first} to {state.last}"
            )
            if self._engine.leadership.leads and self._log.has_lease:
                await self._trim(last)
        elif not self._short:
            if self.problem is not None:
                _log.warning("the stream is whole again", first=state.first, last=state.last)
                self.problem = None
            await self._trim_needless(state)

    def _alarm(self, problem: str) -> None:
        if problem != self.problem:
            _log.critical("the stream of the log is damaged", problem=problem)
        self.problem = problem

    def _put_back(self, after: WalIndex, last: WalIndex) -> None:
        """Append lost entries to the stream again, from this node's copy."""
        cursor = self._log.cursor(after)
        count = 0
        while after < last:
            try:
                entries = cursor.take(MIB)
            except Truncated as error:
                raise DamagedFile(f"the stream lost entries that nobody has: {error}") from error
            for packed in entries:
                self._log.stream.put_again(WalIndex(after + 1), packed)
                after = WalIndex(after + 1)
                count += 1
        _log.critical("entries were put back into the stream", count=count, last=last)

    async def _trim_needless(self, state: StreamState) -> None:
        """If this node leads, trim entries that no node needs, or that exceed the size bound."""
        if not (self._engine.leadership.leads and state.size > KEPT_SIZE_MIN and state.messages):
            return
        by_size = state.size // state.messages
        kept = KEPT_SIZE_MIN // max(1, by_size)
        below = state.last - kept
        slowest = self._nodes.slowest_index
        if slowest is not None and state.size <= self._kept_size_max:
            below = min(below, slowest)
        # A trim costs a round trip and a rewrite, so it is not worth it for a few entries.
        if below - state.first > kept // 4:
            await self._trim(WalIndex(below))

    async def _trim(self, below: WalIndex) -> None:
        await self._run_blocking(partial(self._log.stream.trim, below))
        _log.info("the stream was trimmed", below=below)

    def figures(self) -> dict[str, Any]:
        """What `cluster_status` reports about the stream."""
        state = self.state
        if state is None:
            return {"name": self._log.stream.stream.name, "answers": False}
        return {
            "name": self._log.stream.stream.name,
            "answers": self.answers,
            "first": state.first,
            "last": state.last,
            "size": state.size,
            "missing": state.missing,
            "leader": state.leader,
            "replicas": [list(replica) for replica in state.replicas],
        }
