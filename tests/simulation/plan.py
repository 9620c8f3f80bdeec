"""The plan of a world, drawn from its seed before the world begins."""

import random
from dataclasses import dataclass
from typing import Final, Literal

from headwater_server.engine.settings import SECOND_US, EngineSettings
from headwater_server.net.settings import ServerSettings, SessionSettings
from tests.simulation.determinism import source
from tests.simulation.disk import Latency, SyncFault
from tests.simulation.network import NetworkFaults

Kind = Literal[
    "calm",
    "crashes",
    "network",
    "both",
    "sync errors",
    "full disk",
    "rot",
    "reads",
    "store reads",
]

KINDS: Final[tuple[Kind, ...]] = (
    "calm",
    "crashes",
    "crashes",
    "crashes",
    "network",
    "both",
    "both",
    "both",
    "sync errors",
    "sync errors",
    "full disk",
    "rot",
    "reads",
)
"""Kinds of worlds; a kind is drawn as often as it is listed. In worlds with flipped bits or read
errors, the only requirement is that no answer is wrong."""

Driver = Literal["sockets", "streams"]
Store = Literal["memory", "rocks"]

TroubleKind = Literal["power at call", "power", "kill", "stop", "sync error", "full disk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A fault that ends or disturbs one life of the server.

    Attributes:
        calls: number of disk calls after which the power fails.
        after_s: seconds until the fault.
        lasting_s: seconds that a full disk stays full.
        room: bytes that a full disk still accepts.
        path: text in the paths whose syncs fail.
        down_s: seconds until the machine is back.
    """

    kind: TroubleKind
    calls: int = 0
    after_s: float = 0.0
    lasting_s: float = 0.0
    room: int = 0
    path: str = ""
    sync_fault: SyncFault = "dirty"
    down_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan of a world.

    Attributes:
        segment_size: bytes of a segment of the write-ahead log.
        flips: bits that flip at each start.
        misdirected: writes that go to a wrong place.
        read_errors: the share of reads of the disk that fail.
        store_read_errors: the share of reads of the state store that fail, until the calm phase.
        The
            final state must still be right.
        actions: number of actions of each client.
        think_s: average seconds between two actions.
        consumers: members of a consumer group; 0: there is no group.
        projectors: processes that run a projection; 0: there is none.
        batched, batch_size, attempts: of the projection.
        unreadable: the share of events that no client can decode.
        mix: how often each workload is chosen.
        driver: the driver of connections: the real server's loop over plain sockets, or one task
        for
            each connection, as the real server does with TLS.
        adaptive: whether fsync runs on the event loop while the disk is fast.
        store: the state store: an in-memory store that loses batches, or RocksDB.
        clock_jumps: jumps of the server's wall clock: seconds since the previous jump, and seconds
        by
            which the clock is then ahead of the true time.
    """

    seed: int
    kind: Kind
    driver: Driver
    adaptive: bool
    store: Store
    clock_jumps: tuple[tuple[float, float], ...]
    settings: ServerSettings
    segment_size: int
    latency: Latency
    network: NetworkFaults
    troubles: tuple[Trouble, ...]
    flips: int
    misdirected: int
    read_errors: float
    store_read_errors: float
    clients: int
    watchers: int
    actions: int
    think_s: float
    consumers: int
    projectors: int
    batched: bool
    batch_size: int
    attempts: int
    unreadable: float
    mix: dict[str, int]

    @property
    def is_broken(self) -> bool:
        """The disk may become unreadable: the database may refuse, but not tell lies."""
        return self.kind in ("rot", "reads")

    @property
    def is_faultless(self) -> bool:
        """Nothing fails but what the clients do themselves."""
        return self.kind == "calm" and not self.troubles and not self.network.faulty

    @property
    def excuses_errors(self) -> bool:
        """Clients may be told of errors of the server."""
        return self.is_broken or self.store_read_errors > 0


_THINNING_SHARE: Final = 0.35
"""The share of worlds in which clients mostly truncate, delete and erase, and the server constantly
rewrites its event log."""

WORKLOADS: Final = (
    "bank",
    "lists",
    "counters",
    "skew",
    "predicates",
    "streams",
    "rules",
    "aggregates",
    "past",
    "long reads",
    "batches",
    "outcomes",
    "kept",
)
"""workloads.py has their functions."""


_STORE_READS_SHARE: Final = 0.06
"""The share of worlds in which single reads of the state store fail."""

_ROCKS_SHARE: Final = 0.05
"""The share of worlds with RocksDB. It is small, because RocksDB takes real time for its files."""


def draw(seed: int, kind: Kind | None = None) -> Plan:
    """The plan of a seed. *kind*, if given, replaces the drawn one."""
    dice = source(seed, "plan")
    projection = source(seed, "projection")
    projectors = projection.choice((0, 0, 1, 2))
    drawn = dice.choice(KINDS)
    if source(seed, "store reads").random() < _STORE_READS_SHARE:
        drawn = "store reads"
    kind = kind or drawn
    thinning = source(seed, "thinning").random() < _THINNING_SHARE
    shipped = source(seed, "shipped")
    driver: Driver = shipped.choice(("sockets", "sockets", "streams"))
    adaptive = driver == "sockets" and shipped.random() < 0.5
    # A disk that is fast enough for fsync on the event loop, sometimes or always.
    quick_s = shipped.choice((0.0001, 0.0005, 0.001)) if adaptive else 1.0
    store: Store = "rocks" if shipped.random() < _ROCKS_SHARE else "memory"
    consumers = source(seed, "consumers").choice((0, 0, 1, 3))
    return Plan(
        seed=seed,
        kind=kind,
        driver=driver,
        adaptive=adaptive,
        store=store,
        clock_jumps=_clock_jumps(source(seed, "clock")),
        settings=_settings(dice, source(seed, "rewriting"), thinning=thinning),
        segment_size=dice.choice((8 * 1024, 16 * 1024, 64 * 1024)),
        latency=Latency(
            sync_s=min(dice.choice((0.0005, 0.002, 0.01, 0.1, 0.5)), quick_s),
            call_s=dice.choice((0.0002, 0.002)),
            slow_share=dice.choice((0.02, 0.1, 0.3)),
        ),
        network=_network(dice, faulty=kind in ("network", "both") or dice.random() < 0.2),
        troubles=tuple(_troubles(dice, kind)),
        flips=dice.choice((0, 1, 1, 3)) if kind == "rot" else 0,
        misdirected=dice.choice((0, 0, 1, 2)) if kind == "rot" else 0,
        read_errors=dice.choice((0.01, 0.05)) if kind == "reads" else 0.0,
        store_read_errors=shipped.choice((0.001, 0.01)) if kind == "store reads" else 0.0,
        clients=dice.randint(2, 6),
        watchers=dice.randint(1, 3),
        actions=dice.randint(15, 30),
        think_s=dice.choice((0.001, 0.01, 0.05)),
        consumers=consumers,
        projectors=projectors,
        batched=projection.random() < 0.3,
        batch_size=projection.choice((1, 3, 500)),
        attempts=projection.choice((1, 2, 3)),
        unreadable=source(seed, "unreadable").choice((0.0, 0.1, 0.3)),
        mix=_mix(dice)
        | ({"kept": 15} if thinning else {})
        | {"hollow": shipped.choice((0, 1, 3)), "aging": shipped.choice((0, 1, 4))}
        # Commits of groups and projections belong to no client either, so the replay could not tell
        # which of them delete expired keys.
        | {"leases": 0 if consumers or projectors else source(seed, "leases").choice((0, 1, 4))},
    )


def _clock_jumps(dice: random.Random) -> tuple[tuple[float, float], ...]:
    if dice.random() < 0.7:
        return ()
    # Below and above the jump that the log's clock accepts, see engine/log_clock.py.
    ahead_s = (0.0, 0.5, -0.5, 100.0, -100.0, 3600.0, -3600.0)
    return tuple(
        (dice.expovariate(1 / 0.3), dice.choice(ahead_s)) for _ in range(dice.randint(1, 6))
    )


def _settings(dice: random.Random, rewriting: random.Random, *, thinning: bool) -> ServerSettings:
    return ServerSettings(
        # It begins at a random place, and a run must repeat itself.
        scrub_interval_ms=None,
        data="data",
        rewrite_rest_ms=rewriting.choice((100, 100, 1000) if thinning else (100, 60_000)),
        maintenance_ms=dice.choice((50, 200, 1000)),
        disk_retry_ms=dice.choice((50, 500)),
        shutdown_ms_max=500,
        session=SessionSettings(
            output_pause_size=dice.choice((4 * 1024, 1024 * 1024)),
            output_resume_size=1024,
            requests_per_turn_max=dice.choice((1, 256)),
            receive_size=dice.choice((64, 64 * 1024)),
            hello_ms_max=5000,
        ),
        engine=EngineSettings(
            history_window_us=int(dice.choice((0, 0.1, 2, 3600)) * SECOND_US),
            snapshots_kept=dice.choice((1, 2)),
            memtable_size_max=dice.choice((2_000, 10_000, 10_000_000)),
            memtable_commits_max=dice.choice((3, 10, 40, 50_000)),
            transaction_idle_us_max=int(dice.choice((0.3, 5, 60)) * SECOND_US),
            transaction_age_us_max=int(dice.choice((1, 3600)) * SECOND_US),
            examined_events_max=dice.choice((3, 50, 20_000)),
            garbage_entries_max=dice.choice((1, 10, 200_000)),
            disk_reserve_size=dice.choice((0, 4096)),
            event_segment_size=rewriting.choice(
                (4_500, 6_000) if thinning else (4_500, 10_000_000)
            ),
            rewrite_dead_share=rewriting.choice((0.01, 0.25)),
        ),
    )


def _network(dice: random.Random, *, faulty: bool) -> NetworkFaults:
    return NetworkFaults(
        latency_s=dice.choice((0.0001, 0.001, 0.02)),
        faulty=dice.choice((0.3, 0.6, 0.9)) if faulty else 0.0,
        bytes_before=dice.choice((300, 1500, 6000)),
        stall_s=dice.choice((0.1, 4.0)),
        silent_death=dice.choice((0.0, 0.5)),
    )


def _troubles(dice: random.Random, kind: Kind) -> list[Trouble]:
    match kind:
        case "calm" | "network":
            return [_stop(dice)] if dice.random() < 0.3 else []
        case "crashes" | "both":
            return [_crash(dice) for _ in range(dice.randint(2, 6))]
        case "sync errors":
            troubles = []
            for _ in range(dice.randint(1, 3)):
                troubles += [_sync_error(dice), _crash(dice)]
            return troubles
        case "full disk":
            return [_full(dice) if dice.random() < 0.7 else _crash(dice) for _ in range(3)]
        case "rot" | "reads" | "store reads":
            return [_crash(dice) for _ in range(3)]


def _crash(dice: random.Random) -> Trouble:
    kind: TroubleKind = dice.choice(("power at call", "power at call", "power", "kill", "stop"))
    if kind == "stop":
        return _stop(dice)
    return Trouble(
        kind=kind,
        calls=1 + int(dice.expovariate(1 / dice.choice((20, 150, 400)))),
        after_s=dice.expovariate(1 / dice.choice((0.05, 0.5))),
        down_s=dice.choice((0.0, 0.1, 1.0)),
    )


def _stop(dice: random.Random) -> Trouble:
    return Trouble(kind="stop", after_s=dice.expovariate(1 / 0.3), down_s=0.05)


def _sync_error(dice: random.Random) -> Trouble:
    faults: tuple[SyncFault, ...] = ("dirty", "lost", "evicted")
    return Trouble(
        kind="sync error",
        after_s=dice.expovariate(1 / 0.2),
        path=dice.choice(("data/wal", "data/wal", "data/events", "data/commits", "data")),
        sync_fault=dice.choice(faults),
        down_s=dice.choice((0.0, 0.1)),
    )


def _full(dice: random.Random) -> Trouble:
    return Trouble(
        kind="full disk",
        after_s=dice.expovariate(1 / 0.1),
        room=int(dice.expovariate(1 / 8000)),
        lasting_s=dice.choice((0.2, 2.0)),
        down_s=0.05,
    )


def _mix(dice: random.Random) -> dict[str, int]:
    """Swarm testing (Groce et al. 2012): with fewer workloads, the others collide more often."""
    mix = {name: dice.choice((0, 1, 1, 3)) for name in WORKLOADS}
    if not any(mix.values()):
        mix["lists"] = 1
    return mix
