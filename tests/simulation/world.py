"""A world: a machine, a network and clients, from the start to the judgement.

begin      the machine boots; one client prepares the data
middle     clients and watchers work; the faults of the plan happen
calm       faults end; the machine is restarted once more
end        everything is read; power is lost; a second read must be the same; every watcher must
           reach the last event
judgement  the history is checked
"""

import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio

import headwater
from headwater.database import Database
from tests.simulation.ages import age_us
from tests.simulation.consuming import GROUP, consume, consume_all, create_group
from tests.simulation.determinism import run_deterministically, source
from tests.simulation.history import Dump, History, Logged, Put, is_of_a_client
from tests.simulation.judge import judge
from tests.simulation.leases import LEASES
from tests.simulation.machine import Death, Machine
from tests.simulation.network import Network, NetworkFaults
from tests.simulation.plan import Plan
from tests.simulation.projecting import MODEL, Projector, not_reported, reports_into
from tests.simulation.recorder import Recorder
from tests.simulation.trace import Trace
from tests.simulation.unreadable import Codec
from tests.simulation.watching import Goal, draw_feed, seen, watch
from tests.simulation.workloads import ACTIONS, prepare

WORLD_S_MAX: Final = 300
"""Seconds of the world's time after which a world is considered hung."""

_FRAMES_MAX: Final = 6
"""Frames of an error's traceback in the report; the replay prints all."""

_CALM: Final = NetworkFaults()


@dataclass(slots=True)
class Verdict:
    """The result of a world.

    Attributes:
        problems: what is wrong; empty if nothing is.
        digest: the digest of its trace.
        counts: how many of each thing happened.
    """

    plan: Plan
    problems: list[str]
    digest: str
    counts: dict[str, int] = field(default_factory=dict)
    log: str = ""


def run_world(plan: Plan, *, full_trace: bool = False) -> Verdict:
    """Run a world to its end and judge it."""
    world = World(plan, Trace(full=full_trace))
    problems: list[str] = []
    try:
        with reports_into(world.history):
            run_deterministically(plan.seed, world.run, world.keep_log)
        problems += world.surprises
        problems += judge(world.history, world.dump)
        if plan.is_faultless:
            problems += not_reported(world.history)
    except Exception as error:
        problems += _described(error)
    finally:
        world.discard()
    return Verdict(plan, problems, world.trace.digest, world.counts(), world.trace.text())


def _described(error: BaseException) -> list[str]:
    """The errors in an exception group, each with its origin."""
    if isinstance(error, BaseExceptionGroup):
        return [each for inner in error.exceptions for each in _described(inner)]
    return ["".join(traceback.format_exception(error, limit=-_FRAMES_MAX, chain=False))]


class World:
    """A running world.

    Attributes:
        dump: the contents of the database at the end, if it could be read.
        surprises: problems that were noticed before the end.
    """

    def __init__(self, plan: Plan, trace: Trace) -> None:
        self.plan = plan
        self.trace = trace
        self.history = History(snapshots_kept=plan.settings.engine.snapshots_kept)
        self.dump: Dump | None = None
        self.surprises: list[str] = []
        self._goal = Goal()
        category = source(plan.seed, "projected").choice(("order", "list", "kept"))
        self._projector = Projector(plan, self.history, category)
        self._network = Network(
            source(plan.seed, "network"), plan.network, trace.add, self.surprises.append
        )
        self._machine = Machine(plan, self._network, trace, self.surprises.append)

    def discard(self) -> None:
        """Remove everything that the world made."""
        self._machine.discard()

    def counts(self) -> dict[str, int]:
        """How many of each thing happened."""
        return {
            "lives": self._machine.lives,
            "attempts": len(self.history.attempts),
            "commits": self.history.acknowledged,
            "disk calls": self.trace.counts["disk"],
            "deaths": self.trace.counts["death"],
            "network faults": self.trace.counts["fault"],
            "syncs in the event loop": self.trace.counts["sync in the event loop"],
            "clock jumps": self.trace.counts["clock"],
            "rewrites": self.trace.counts["rewrite"],
        }

    def keep_log(self, entry: dict[str, Any]) -> None:
        """Record a line of the server's log. Internal errors are surprises."""
        self.trace.add("log", entry["level"], entry["event"], entry.get("error"))
        if "given_back" in entry:
            self.trace.add("rewrite", entry["given_back"])
        if "exception" in entry and not self._machine.is_excused:
            self.surprises.append(f"the server's log: {entry['event']}\n{entry['exception']}")

    async def run(self) -> None:
        """Run the world from the start to the end."""
        with trio.fail_after(WORLD_S_MAX):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._machine.run)
                async with trio.open_nursery() as watchers:
                    await self._work(watchers)
                    await self._calm_down()
                    if self.dump is None or self.plan.is_broken:
                        watchers.cancel_scope.cancel()
                self._machine.end()

    async def _work(self, watchers: trio.Nursery) -> None:
        await self._as_client("prepare", prepare)
        if self.plan.consumers:
            self.history.grouped = True
            await self._as_client("group", create_group)
        self.history.projecting = self.plan.projectors > 0
        async with trio.open_nursery() as consumers:
            for number in range(self.plan.consumers):
                consumers.start_soon(self._again_and_again, f"consumer {number}", consume)
            for number in range(self.plan.projectors):
                run = self._projector.run
                consumers.start_soon(self._again_and_again, f"projector {number}", run)
            async with trio.open_nursery() as clients:
                for number in range(self.plan.watchers):
                    watchers.start_soon(self._watch, f"watcher {number}")
                for number in range(self.plan.clients):
                    clients.start_soon(self._client, f"client {number}")
            consumers.cancel_scope.cancel()

    # Clients.

    def _connect(self, name: str) -> Database:
        dice = source(self.plan.seed, f"{name} timeouts")
        return headwater.connect(
            "headwater://simulation",
            connect_timeout=dice.choice((0.5, 2.0)),
            request_timeout=dice.choice((0.5, 3.0)),
            retry_timeout=dice.choice((0.5, 5.0)),
            client_name=name,
            codec=Codec(),
            open_stream=self._network.opener(name),
        )

    async def _as_client(self, name: str, function: Callable[[Recorder], Awaitable[None]]) -> None:
        """Call *function* with a connected client; again if it could not connect."""
        dice = source(self.plan.seed, name)
        while self._machine.refused is None:
            try:
                async with self._connect(name) as database:
                    await function(
                        Recorder(
                            self.history,
                            name,
                            database,
                            dice,
                            self.trace,
                            self._errors,
                            self.plan.unreadable,
                        )
                    )
                    return
            except headwater.HeadwaterError as error:
                if not error.retryable and not self.plan.excuses_errors:
                    raise
                await trio.sleep(0.1)

    @property
    def _errors(self) -> list[str]:
        # A server with a broken disk may report errors.
        return [] if self.plan.excuses_errors else self.surprises

    async def _client(self, name: str) -> None:
        left = self.plan.actions
        names = list(self.plan.mix)
        weights = list(self.plan.mix.values())

        async def act(recorder: Recorder) -> None:
            nonlocal left
            while left > 0 and self._machine.refused is None:
                left -= 1
                await trio.sleep(recorder.dice.expovariate(1 / self.plan.think_s))
                workload = recorder.dice.choices(names, weights)[0]
                await ACTIONS[workload](recorder)
                if recorder.dice.random() < 0.03:
                    return

        while left > 0 and self._machine.refused is None:
            await self._as_client(name, act)

    async def _again_and_again(
        self, name: str, function: Callable[[Recorder], Awaitable[None]]
    ) -> None:
        while self._machine.refused is None:
            try:
                await self._as_client(name, function)
            except headwater.HeadwaterError as error:
                if not self.plan.excuses_errors:
                    self.surprises.append(f"{name}: {error.code}: {error.message}")
                await trio.sleep(0.1)

    async def _consume_to_the_end(self) -> None:
        if not self.plan.consumers or self.plan.is_broken:
            return

        async def consume_the_rest(recorder: Recorder) -> None:
            await consume_all(recorder)
            info = await recorder.database.groups.info(GROUP)
            self.history.consumed = info.filter["category"]
            # The group writes its position when its last member has left, before the final dump.
            await recorder.write(
                "consumed",
                Put(("consumed",), True),
                call=lambda: recorder.database.put(("consumed",), True),
            )

        await self._as_client("last consumer", consume_the_rest)

    async def _project_to_the_end(self) -> None:
        if self.plan.projectors and not self.plan.is_broken:
            await self._as_client("last projector", self._projector.finish)

    async def _watch(self, name: str) -> None:
        dice = source(self.plan.seed, name)
        feed = draw_feed(name, dice)
        self.history.feeds.append(feed)
        while not self._goal.is_reached(feed):
            try:
                async with self._connect(name) as database:
                    await watch(database, feed, dice, self._goal, self.history)
            except headwater.HeadwaterError as error:
                if not error.retryable and not self.plan.excuses_errors:
                    self.surprises.append(f"{name}: {error.code}: {error.message}")
                    return  # The error would repeat until the end of the world.
                await trio.sleep(0.1)

    # The end.

    async def _calm_down(self) -> None:
        dice = source(self.plan.seed, "calm")
        deaths: tuple[Death, ...] = ("power", "kill", "stop")
        self._network.faults = _CALM
        self._machine.calm()
        await self._machine.restart(dice.choice(deaths))
        await self._consume_to_the_end()
        await self._project_to_the_end()
        first = await self._read_all()
        await self._machine.restart("power")
        self.dump = await self._read_all()
        if first is not None and self.dump is not None and first != self.dump:
            # A commit with unknown outcome may still have been in flight to a slow disk, and keys
            # may have expired.
            later = self.dump.commits[len(first.commits) :]
            later_max = self.history.unknown + (LEASES if self.plan.mix["leases"] else 0)
            if first.commits + later != self.dump.commits or not 1 <= len(later) <= later_max:
                self.surprises.append(
                    f"a power loss changed what is there: {_difference(first, self.dump)}"
                )
        if self.dump is not None:
            self._goal.position = sum(logged.events for logged in self.dump.commits)
            # A subscriber that has caught up receives nothing more. A new connection tells it so.
            await self._machine.restart("kill")

    async def _read_all(self) -> Dump | None:
        found: Dump | None = None

        async def read(recorder: Recorder) -> None:
            nonlocal found
            try:
                found = await read_dump(recorder.database)
            except headwater.HeadwaterError as error:
                if not self.plan.is_broken:
                    raise
                self.trace.add("unreadable", error.code)

        await self._as_client("reader", read)
        return found


async def read_dump(database: Database) -> Dump:
    """All contents of a database, except events that expire while it is read."""
    commits = [
        Logged(
            line.commit,
            line.transaction.bytes,
            round(line.time.timestamp() * 1_000_000),
            line.first_position,
            line.events,
        )
        async for line in database.commits()
    ]
    events = [seen(event) async for event in database.read_all() if age_us(event.stream) is None]
    everything = [item async for item in database.scan(())]
    keys = [(key, value) for key, value in everything if is_of_a_client(key)]
    projected = {str(key[3]): value for key, value in everything if key[:2] == MODEL}
    streams = {
        name: [seen(event) async for event in database.read(name)]
        for name in sorted({event.stream for event in events})
    }
    return Dump(commits, events, keys, streams, projected)


def _difference(first: Dump, second: Dump) -> str:
    for name in ("commits", "events", "keys", "streams", "projected"):
        before, after = getattr(first, name), getattr(second, name)
        if before != after:
            return f"{name}: {before!r:.300} became {after!r:.300}"
    return "nothing"
