"""The machine: it runs one server after another on the same disk.

    boot --> serve --> trouble --> dead --> (contents of the disk) --> boot --> ...

One server run is called a life. It ends by a power loss, a kill, a clean stop, or because the
server ends itself after a disk error. The last life of a plan has no trouble and lasts until the
world ends.
"""

import random
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, cast

import trio

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.engine import Engine
from headwater_server.engine.recovery import open_engine
from headwater_server.net.drivers.streams import serve_stream
from headwater_server.net.failures import CommitFailed
from headwater_server.net.server import Server
from headwater_server.net.tasks.checkpointer import CheckpointFailed
from headwater_server.net.threads.adaptive_fsync import FSYNCS_AVERAGED, AdaptiveFsync
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog, Timed
from headwater_server.storage.wal.interface import WalIndex
from headwater_server.testing.memory_disk import PAGE_SIZE, SECTOR_SIZE
from headwater_server.testing.memory_files import Crash
from tests.simulation.blocking import CooperativeLock, run_blocking
from tests.simulation.determinism import source, wall_clock
from tests.simulation.disk import SimulatedDisk, SimulatedStore, sealed_files
from tests.simulation.inspection import inspect
from tests.simulation.network import Network, SimulatedStream
from tests.simulation.plan import Plan, Trouble
from tests.simulation.rocks import SimulatedRocks
from tests.simulation.sockets import SimulatedListener, driver
from tests.simulation.trace import Trace

Death = Literal["power", "kill", "exit", "stop"]

_EXPECTED: Final = (CommitFailed, CheckpointFailed, Crash, DamagedFile, OSError)
"""The errors with which a server ends after a disk error."""

_BOOTS_MAX: Final = 50
"""Consecutive boots that may fail while the disk is full."""


class Machine:
    """A disk and the server that runs on it.

    Attributes:
        refused: the server refuses to open its files; in a world with flipped bits, it may.
        engine: the engine of the running server.
        lives: the number of servers so far.
    """

    def __init__(
        self, plan: Plan, network: Network, trace: Trace, surprise: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._surprise = surprise
        self._network = network
        self._trace = trace
        self._random = source(plan.seed, "machine")
        self._disk = SimulatedDisk(
            source(plan.seed, "disk"), plan.latency, trace.add, self._power_lost
        )
        self._files = ExitStack()
        self._store = self._new_store()
        self._death: Death | None = None
        self._scope = trio.CancelScope()
        self._calm = False
        self._end = trio.Event()
        self._is_sound = True
        self._ahead_us = 0
        self._server: Server | None = None
        self._fsync = _adaptive_fsync()
        self._changed = trio.lowlevel.ParkingLot()
        self.refused: DamagedFile | None = None
        self.engine: Engine | None = None
        self.lives = 0

    def _new_store(self) -> SimulatedStore | SimulatedRocks:
        dice = source(self._plan.seed, "store")
        if self._plan.store == "memory":
            return SimulatedStore(self._disk, dice)
        place = self._files.enter_context(TemporaryDirectory(prefix="headwater-"))
        return SimulatedRocks(self._disk, dice, Path(place))

    def discard(self) -> None:
        """Remove the world's files from the real disk."""
        self._store.close()
        self._files.close()

    @property
    def disk(self) -> SimulatedDisk:
        """The current disk."""
        return self._disk

    @property
    def is_excused(self) -> bool:
        """Whether requests may fail, because the disk is broken or the server is dead."""
        return self._plan.excuses_errors or self._death is not None or self._disk.failures > 0

    async def run(self) -> None:
        """Run one life after another, until the world ends or the files are refused."""
        troubles = iter(self._plan.troubles)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._set_clock)
            while not self._end.is_set() and self.refused is None:
                await self._live(None if self._calm else next(troubles, None))
            nursery.cancel_scope.cancel()

    def _wall_clock(self) -> int:
        """The wall clock of the machine, which may be wrong."""
        return wall_clock() + self._ahead_us

    async def _set_clock(self) -> None:
        for after_s, ahead_s in self._plan.clock_jumps:
            await trio.sleep(after_s)
            self._ahead_us = round(ahead_s * 1_000_000)
            self._trace.add("clock", ahead_s)

    def calm(self) -> None:
        """Have no trouble from the next life on; the disk works and has space."""
        self._calm = True
        self._heal()

    def end(self) -> None:
        """The world ends."""
        self._end.set()
        self._die("kill")

    async def restart(self, death: Death) -> None:
        """End the current life and wait until the next server serves."""
        await self.wait_serving()
        lives = self.lives
        async with trio.open_nursery() as nursery:
            if death == "stop":
                # Something else may end the server before it has stopped cleanly.
                nursery.start_soon(self._stop)
            else:
                self._die(death)
            await self.wait_serving(lives + 1)
            nursery.cancel_scope.cancel()

    async def wait_serving(self, lives: int = 0) -> None:
        """Wait until a server serves and *lives* lives have begun, or none ever will."""
        while self._network.serve is None or self.lives < lives:
            if self.refused is not None:
                return
            await self._changed.park()

    # One life.

    async def _live(self, trouble: Trouble | None) -> None:
        self.lives += 1
        self._trace.add("boot", self.lives, repr(trouble))
        self._death = None
        self._fsync = _adaptive_fsync()
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                if trouble is not None:
                    nursery.start_soon(self._trouble, trouble)
                if self.lives > 1:
                    self._rot()
                    self._inspect("before its start")
                await self._boot_and_serve()
                nursery.cancel_scope.cancel()
        self._network.die()
        self._changed.unpark_all()
        await self._find_disk(0.0 if trouble is None else trouble.down_s)

    async def _boot_and_serve(self) -> None:
        try:
            engine = await self._boot()
        except Crash:
            return
        if engine is None:
            self._death = self._death or "exit"
            return
        self.engine = engine
        self._inspect("after its start")
        try:
            await self._serve(engine)
        except BaseExceptionGroup as group:
            if not self.is_excused:
                raise
            self._death = self._death or "exit"
            # For example, a cancellation must reach its scope.
            rest = group.split(_EXPECTED)[1]
            if rest is not None:
                raise rest from None
        finally:
            self.engine = None
            if not self._disk.crashed:
                engine.close()

    async def _boot(self) -> Engine | None:
        for _ in range(_BOOTS_MAX):
            try:
                return await run_blocking(self._open)
            except DamagedFile as error:
                if not self._plan.is_broken:
                    raise
                if self._is_sound and not self._plan.read_errors:
                    self._surprise(f"check found nothing, and the server refuses: {error.message}")
                self.refused = error
                return None
            except DiskFull:
                # There will be space later.
                self._disk.locked.clear()
                self._store = self._store.found(self._disk)
                await trio.sleep(0.1)
            except OSError:
                if not self.is_excused:
                    raise
                return None
        raise AssertionError("the server cannot be started, though its disk has room again")

    def _inspect(self, when: str) -> None:
        """Check the files; no file may contradict another, whatever happened to the machine."""
        found = inspect(self._disk, self._store)
        self._is_sound = not found
        self._trace.add("inspection", when, len(found))
        if not self._plan.is_broken:
            for finding in found:
                self._surprise(f"life {self.lives}, {when}: {finding}")

    def _open(self) -> Engine:
        return open_engine(
            self._disk,
            "data",
            open_store=lambda _: self._store,
            open_log=partial(
                _open_log, segment_size=self._plan.segment_size, timed=self._fsync.timed
            ),
            settings=self._plan.settings.engine,
            clock=self._wall_clock,
            monotonic=_monotonic_clock,
            source=self._random,
        )

    async def _serve(self, engine: Engine) -> None:
        server = Server(
            engine,
            self._plan.settings,
            clock=self._wall_clock,
            worker=lambda _: run_blocking,
            adaptive_fsync=self._fsync if self._plan.adaptive else None,
            plain_sockets=driver(source(self._plan.seed, f"sockets of life {self.lives}")),
        )
        async with trio.open_nursery() as nursery:
            if self._plan.driver == "sockets":
                listener = SimulatedListener()
                # Replaces a socket of the system.
                server.plain_sockets.listen(cast("socket.socket", listener), "simulation")
                accept = listener.connect
            else:

                def accept(stream: SimulatedStream, peer: str) -> None:
                    nursery.start_soon(partial(serve_stream, stream, server.service, peer=peer))

            self._server = server
            self._disk.read_errors = self._plan.read_errors
            self._disk.store_read_errors = 0.0 if self._calm else self._plan.store_read_errors
            self._network.serve = accept
            self._trace.add("serving", self.lives, engine.published)
            self._changed.unpark_all()
            try:
                await server.run()
            finally:
                self._server = None
                self._network.serve = None
            nursery.cancel_scope.cancel()
        self._death = self._death or "stop"

    # Trouble, and the end of a life.

    async def _trouble(self, trouble: Trouble) -> None:
        disk = self._disk
        if trouble.kind == "power at call":
            disk.faults.crash_at = disk.calls + trouble.calls
            return
        await trio.sleep(trouble.after_s)
        self._trace.add("trouble", trouble.kind)
        match trouble.kind:
            case "power" | "kill":
                self._die(trouble.kind)
            case "stop":
                await self._stop()
            case "sync error":
                disk.sync_fault = trouble.sync_fault
                disk.faults.sync_error_in = trouble.path
            case _:
                disk.faults.capacity = disk.used + trouble.room
                await trio.sleep(trouble.lasting_s)
                self._heal()
                await trio.sleep(trouble.after_s)
                self._die("kill")

    async def _stop(self) -> None:
        server, life = self._server, self.lives
        if server is not None:
            try:
                await server.stop()
            except _EXPECTED:
                if self.lives != life:
                    return  # It died while it stopped, and another server runs by now.
                if not self.is_excused:
                    raise
                self._die("exit")

    def _heal(self) -> None:
        disk = self._disk
        disk.faults.capacity = None
        disk.faults.sync_error_in = None
        disk.faults.crash_at = None
        disk.read_errors = disk.store_read_errors = 0.0

    def _rot(self) -> None:
        plan, dice = self._plan, self._random
        files = sealed_files(self._disk) if plan.flips or plan.misdirected else []
        if not files:
            return
        for _ in range(plan.flips):
            path, size = dice.choice(files)
            offset = dice.randrange(size)
            self._trace.add("flip", path, offset)
            self._disk.flip_bit(path, offset, dice.randrange(8))
        for _ in range(plan.misdirected):
            self._misdirect(dice.choice(files), dice.choice(files))

    def _misdirect(self, meant: tuple[str, int], hit: tuple[str, int]) -> None:
        """Write a block to a second place, and perhaps not to the first."""
        disk, dice = self._disk, self._random
        block = dice.choice((SECTOR_SIZE, PAGE_SIZE))
        source = dice.randrange(meant[1]) // block * block
        target = dice.randrange(hit[1]) // block * block
        content = disk.content(meant[0])[source : source + block]
        self._trace.add("misdirected", meant[0], source, hit[0], target, len(content))
        if dice.random() < 0.5:
            disk.overwrite(meant[0], source, bytes(len(content)))
        disk.overwrite(hit[0], target, content)

    def _power_lost(self) -> None:
        self._die("power")

    def _die(self, death: Death) -> None:
        """End this life: nothing that the server does after this reaches disk or network."""
        if self._death is None:
            self._trace.add("death", death)
            self._death = death
            self._disk.crashed = death in ("power", "kill")
            self._network.die()
            self._scope.cancel()

    async def _find_disk(self, down_s: float) -> None:
        death, disk = self._death, self._disk
        self._disk = disk.after_power_loss() if death == "power" else disk.after_exit()
        self._store = self._store.found(self._disk)
        self._trace.add("found", death, self._disk.used)
        if not self._end.is_set():
            await trio.sleep(down_s)


def _adaptive_fsync() -> AdaptiveFsync:
    """An AdaptiveFsync that already knows the disk is fast. A small world would end before that."""
    fsync = AdaptiveFsync(_world_time)
    for _ in range(FSYNCS_AVERAGED):
        fsync.timed(lambda: None)
    assert fsync.on_event_loop
    return fsync


def _monotonic_clock() -> int:
    """Microseconds of a clock that is never set."""
    return round(trio.current_time() * 1_000_000)


def _world_time() -> float:
    return trio.current_time() if trio.lowlevel.in_trio_run() else 0.0


def _open_log(
    file_system: FileSystem,
    path: str,
    *,
    database_id: bytes,
    random: random.Random,
    known_durable: WalIndex,
    segment_size: int,
    timed: Timed,
) -> FileWriteAheadLog:
    return FileWriteAheadLog.open(
        file_system,
        path,
        database_id=database_id,
        random=random,
        known_durable=known_durable,
        segment_size=segment_size,
        timed=timed,
        lock=CooperativeLock(),
    )
