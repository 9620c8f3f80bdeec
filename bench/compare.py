"""Compares Headwater with other servers on one machine and disk, all of them durable.

    python -m bench.compare --quick                 a look, in about two minutes
    python -m bench.compare --page docs/benchmarks.md

Every workload runs in rounds. Each round measures all servers, so other load on the machine affects
all of them. Ratios are computed within a round; the report has their median and spread. load.c
generates the load, and workloads.py defines the requests.
"""

import argparse
import random
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import clients, conditions, machine, servers, sizes
from bench.load import Load, LoadFailed
from bench.report import Round, Row, Verdict, chart, put_into, text, verdicts_of, write_json
from bench.servers import Server
from bench.workloads import PROTOCOLS, WORKLOADS, Workload, fill


def start_servers(directory: Path, running: ExitStack) -> dict[str, Server]:
    """Start all installed servers, and fill them."""
    absent = servers.missing()
    for name, what in absent.items():
        print(f"skipped: {name} is not installed ({what})")
    kinds = (
        servers.Headwater,
        servers.Redis,
        servers.Postgres,
        servers.Etcd,
        servers.UmaDB,
    )
    started: dict[str, Server] = {}
    for kind in kinds:
        if kind.name in absent:
            continue
        server = kind(directory / kind.name)
        running.callback(server.stop)
        server.start()
        fill(server)
        started[server.name] = server
    return started


def measure_round(
    load: Load, workload: Workload, server: Server, number: int, *, warm_up_s: float, seconds: float
) -> Round:
    """Measure one server in one round."""
    make = workload.scripts[server.name]
    scripts = [
        make(random.Random(1000 * number + place), place) for place in range(workload.connections)
    ]
    before = servers.cpu_seconds(server.pid)
    measured = load.run(
        PROTOCOLS[server.name],
        server.port,
        scripts,
        depth=workload.depth,
        warm_up_s=warm_up_s,
        measure_s=seconds,
    )
    used = servers.cpu_seconds(server.pid) - before
    # The processor time includes the warm-up, so count the requests of both.
    requests = measured.rate * workload.factor * (seconds + warm_up_s)
    return Round(
        rate=measured.rate * workload.factor,
        p50_us=measured.p50_us,
        p99_us=measured.p99_us,
        p999_us=measured.p999_us,
        cpu_ms_per_1000=1e6 * used / max(requests, 1),
        memory_mib=servers.private_mib(server.pid),
        retries=measured.retries,
    )


def measure_rows(
    load: Load,
    started: dict[str, Server],
    workloads: Sequence[Workload],
    *,
    rounds: int,
    warm_up_s: float,
    seconds: float,
) -> Iterator[Row]:
    """Measure every workload on every server that supports it."""
    for workload in workloads:
        row = Row(
            workload.name,
            workload.title,
            workload.unit,
            workload.connections,
            workload.depth,
            dict(workload.targets),
        )
        names = [name for name in started if name in workload.scripts]
        for number in range(rounds):
            # Change the order with each round.
            for name in names[number % len(names) :] + names[: number % len(names)]:
                try:
                    found = measure_round(
                        load, workload, started[name], number, warm_up_s=warm_up_s, seconds=seconds
                    )
                except LoadFailed as error:
                    raise LoadFailed(f"{workload.name} on {name}: {error}") from error
                row.rounds.setdefault(name, []).append(found)
        row.rounds = {name: row.rounds[name] for name in names}
        for verdict in verdicts_of(row):
            print(verdict.line(), flush=True)
        yield row


def measure_clients(started: dict[str, Server], rounds: int, seconds: float) -> Iterator[Verdict]:
    """Measure pairs of clients alternately."""
    for title, ours, theirs, target in clients.PAIRS:
        rival = started.get(clients.server_of(theirs))
        package = clients.missing_package(theirs)
        if rival is None or package is not None:
            why = "its server" if rival is None else f"the package {package}"
            print(f"skipped: {title}, times {theirs}: {why} is not installed")
            continue
        values: list[float] = []
        for _ in range(rounds):
            own = clients.measure(ours, started["headwater"].port, seconds)
            values.append(own / max(clients.measure(theirs, rival.port, seconds), 1e-9))
        verdict = Verdict(title, f"times {theirs}", tuple(values), target)
        print(verdict.line(), flush=True)
        yield verdict


def measure_conditions(
    load: Load, directory: Path, rounds: int, seconds: float
) -> Iterator[Verdict]:
    """Compare Headwater with itself under other conditions."""
    for title, against, measure, target, at_most in (
        ("p99 of puts during checkpoints", "times without", conditions.checkpoint, 2.0, True),
        ("p99 of gets, sync slowed to 50 ms", "times a fast disk", conditions.slow_disk, 2.0, True),
        ("recovery of the log", "commits a second", conditions.recovery, 200_000, False),
    ):
        values = measure(load, directory / measure.__name__, rounds, seconds)
        verdict = Verdict(title, against, tuple(values), target, at_most)
        print(verdict.line(), flush=True)
        yield verdict


def measure_sizes(load: Load, directory: Path, rounds: int, seconds: float) -> Iterator[Verdict]:
    """Compare Headwater with many keys and with ten times as many."""
    small, large = (f"{count:,}" for count in sizes.SIZES)
    for what, values in sizes.sizes(load, directory / "sizes", rounds, seconds):
        title, against = f"{what}, {large} keys", f"times with {small}"
        verdict = Verdict(title, against, tuple(values), 0.7)
        print(verdict.line(), flush=True)
        yield verdict


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2 rounds of 0.5 s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each measurement")
    parser.add_argument(
        "--warm-up", type=float, default=1.0, help="seconds before each measurement"
    )
    parser.add_argument(
        "--only", help="comma-separated names of workloads, or clients, conditions, sizes"
    )
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--page", type=Path, help="Markdown page to update with the report")
    parser.add_argument(
        "--directory", type=Path, help="directory for the data (default: a temporary one)"
    )
    given = parser.parse_args()
    # A signal that ends this process must also end the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if given.quick:
        given.rounds, given.seconds, given.warm_up = 2, 0.5, 0.3
    only = set(given.only.split(",")) if given.only else None
    workloads = [each for each in WORKLOADS if only is None or each.name in only]
    with ExitStack() as running:
        temporary = tempfile.TemporaryDirectory(prefix="headwater-bench-", dir=given.directory)
        directory = Path(running.enter_context(temporary))
        load = running.enter_context(Load())
        facts = machine.facts(directory)
        started = start_servers(directory, running)
        timing = {"rounds": given.rounds, "warm_up_s": given.warm_up, "seconds": given.seconds}
        rows = list(
            measure_rows(
                load,
                started,
                workloads,
                rounds=given.rounds,
                warm_up_s=given.warm_up,
                seconds=given.seconds,
            )
        )
        verdicts = [verdict for row in rows for verdict in verdicts_of(row)]
        if only is None or "clients" in only:
            verdicts += measure_clients(started, given.rounds, given.seconds)
        settings = {**timing, **_settings_of(started)}
        if only is None or "conditions" in only:
            verdicts += measure_conditions(load, directory, given.rounds, given.seconds)
        # Filling these databases takes minutes, so a quick run measures sizes only on request.
        wants_sizes = not given.quick if only is None else "sizes" in only
        if wants_sizes:
            verdicts += measure_sizes(load, directory, given.rounds, given.seconds)
    report = text(facts, settings, rows, verdicts)
    print("\n" + report)
    if given.json:
        write_json(given.json, facts, settings, rows, verdicts)
    if given.page:
        picture = given.page.with_name("benchmarks-rates.svg")
        picture.write_text(
            chart(rows, "Requests per second, durable; each group has its own scale")
        )
        put_into(given.page, f"![rates]({picture.name})\n\n{report}")


def _settings_of(started: dict[str, Server]) -> dict[str, str]:
    versions = {name: servers.version_of(name) for name in started if name != "headwater"}
    return {
        f"{name} {versions.get(name, '')}".strip(): server.settings
        for name, server in started.items()
    }


if __name__ == "__main__":
    main()
