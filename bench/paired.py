"""Two checkouts of Headwater, measured alternately on one machine.

    python -m bench.paired --base ../before --rounds 5
    python -m bench.paired --base ../before --only put-16-deep,get

Each checkout has a real server with its own data on the same disk. Both get the same load, one
after the other, in an order that changes with every round. A figure is the ratio new/base within a
round, so other load on the machine affects both. The report has the median, minimum and maximum of
the rounds. To learn which differences are noise, compare a checkout with itself.

"cpu" is the server's processor time per request, new/base. If others use the machine, look at it
first, and run many short rounds. At a load average of 6 to 10 on two cores, a checkout compared
with itself had medians of 0.55 to 1.43 (rates) and 0.68 to 1.40 (cpu) in five rounds of 1.5 s. In
forty rounds of 0.4 s they were 0.92 and 1.01, and 1.07 and 0.97.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import clients, machine, servers
from bench.checkouts import (
    HERE,
    Checkout,
    CheckoutFailed,
    check_same_form,
    form_name,
    without_settings,
)
from bench.load import Load, LoadFailed, Script
from bench.restarts import Restarts
from bench.workloads import WORKLOADS, Workload, fill

SUSTAINED: Final = "put-16-deep"
"""The workload whose latencies are measured long enough to include checkpoints."""

CLIENT_ROWS: Final = {
    "blocking-get": ("blocking client, get", "headwater-blocking-get"),
    "conditional-append": ("conditional append, one at a time", "headwater-append"),
}
"""Rows that use the checkout's own client: name, title, loop of bench/clients.py."""


@dataclass(slots=True)
class Side:
    """The values of one checkout in a row, one for each round."""

    values: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Row:
    """One row of the report.

    Attributes:
        less_is_better: true for latencies, false for everything else.
    """

    name: str
    title: str
    unit: str
    less_is_better: bool = False
    base: Side = field(default_factory=Side)
    new: Side = field(default_factory=Side)

    def line(self) -> str:
        """The row as a printed line."""
        ratios = ratios_of(self.base.values, self.new.values)
        cpu = ratios_of(self.base.cpu_ms, self.new.cpu_ms)
        told = f"{statistics.median(cpu):.3f}" if cpu else ""
        less = " (less is better)" if self.less_is_better else ""
        return (
            f"{self.name:<19} {statistics.median(ratios):>6.3f}"
            f"  {min(ratios):>6.3f} to {max(ratios):<6.3f} {told:>6}"
            f"  {statistics.median(self.base.values):>11,.1f}"
            f" -> {statistics.median(self.new.values):<11,.1f} {self.unit}{less}"
        )


HEADS: Final = f"{'row':<19} {'median':>6}  {'least to most':<16} {'cpu':>6}  {'base -> new':>26}"


def ratios_of(base: Sequence[float], new: Sequence[float]) -> list[float]:
    """The ratios new/base by round."""
    return [after / before for before, after in zip(base, new, strict=True)]


def order_of(number: int) -> tuple[str, str]:
    """The order of both sides in a round; each is first equally often."""
    return ("base", "new") if number % 2 == 0 else ("new", "base")


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of measurements, in seconds, and the number of rounds."""

    rounds: int
    seconds: float
    warm_up_s: float
    sustained_s: float


class Pair:
    """The servers of both checkouts, and their measurements."""

    def __init__(
        self, load: Load, checkouts: dict[str, Checkout], directory: Path, timing: Timing
    ) -> None:
        self._load = load
        self._checkouts = checkouts
        self._directory = directory
        self._timing = timing
        self._servers: dict[str, servers.Headwater] = {}

    def start(self, running: ExitStack) -> None:
        """Start both servers, and fill them with the same data."""
        for name, checkout in self._checkouts.items():
            server = servers.Headwater(
                self._directory / name, checkout.options, dict(checkout.environment)
            )
            server.start()
            running.callback(server.stop)
            fill(server)
            self._servers[name] = server

    def measure(self, wanted: Callable[[str], bool]) -> Iterator[Row]:
        """Measure the selected rows, each in rounds."""
        for workload in WORKLOADS:
            if wanted(workload.name) and "headwater" in workload.scripts:
                yield self._rate(workload)
        for name, (title, loop) in CLIENT_ROWS.items():
            if wanted(name):
                yield self._client(name, title, loop)
        if wanted("sustained"):
            yield from self._sustained()
        if wanted("recovery"):
            yield self._recovery()

    def _turns(self, row: Row) -> Iterator[tuple[int, str, Side]]:
        for number in range(self._timing.rounds):
            for name in order_of(number):
                yield number, name, row.base if name == "base" else row.new

    def _rate(self, workload: Workload) -> Row:
        row = Row(workload.name, workload.title, f"{workload.unit}/s")
        for number, name, side in self._turns(row):
            rate, _, _, cpu_ms = self._run(workload, name, number, self._timing.seconds)
            side.values.append(rate)
            side.cpu_ms.append(cpu_ms)
        return row

    def _client(self, name: str, title: str, loop: str) -> Row:
        row = Row(name, title, "calls/s")
        for _, which, side in self._turns(row):
            checkout = self._checkouts[which]
            calls = clients.measure(
                loop,
                self._servers[which].port,
                self._timing.seconds,
                environment={**without_settings(os.environ), **checkout.environment},
                checkout=checkout.root,
            )
            side.values.append(calls)
        return row

    def _sustained(self) -> Iterator[Row]:
        """Latencies under a long load, which includes checkpoints."""
        workload = next(each for each in WORKLOADS if each.name == SUSTAINED)
        rate = Row("sustained", f"{workload.title}, under sustained load", "requests/s")
        p50 = Row("sustained-p50", "its median latency", "us", less_is_better=True)
        p99 = Row("sustained-p99", "its 99th percentile", "us", less_is_better=True)
        tail = Row("sustained-p99/p50", "how many medians that is", "times", less_is_better=True)
        rows = (rate, p50, p99, tail)
        for number, name, _ in self._turns(rate):
            per_s, p50_us, p99_us, cpu_ms = self._run(
                workload, name, number, self._timing.sustained_s
            )
            for row, value in zip(rows, (per_s, p50_us, p99_us, p99_us / p50_us), strict=True):
                (row.base if name == "base" else row.new).values.append(value)
            (rate.base if name == "base" else rate.new).cpu_ms.append(cpu_ms)
        yield from rows

    def _recovery(self) -> Row:
        row = Row("recovery", "replay of the log after kill -9", "commits/s of cpu")
        with ExitStack() as running:
            restarts = {
                name: running.enter_context(Restarts(checkout, self._directory / f"log-{name}"))
                for name, checkout in self._checkouts.items()
            }
            for _, name, side in self._turns(row):
                side.values.append(restarts[name].rate())
        return row

    def _run(
        self, workload: Workload, name: str, number: int, seconds: float
    ) -> tuple[float, float, float, float]:
        """Requests per second, p50 and p99 in microseconds, processor ms per 1,000 requests."""
        server = self._servers[name]
        scripts = scripts_of(workload, number)
        before = servers.cpu_seconds(server.pid)
        try:
            measured = self._load.run(
                "headwater",
                server.port,
                scripts,
                depth=workload.depth,
                warm_up_s=self._timing.warm_up_s,
                measure_s=seconds,
            )
        except LoadFailed as error:
            raise LoadFailed(f"{workload.name} on {name}: {error}") from error
        used_s = servers.cpu_seconds(server.pid) - before
        rate = measured.rate * workload.factor
        # The processor time includes the warm-up, so count the requests of both.
        requests = rate * (seconds + self._timing.warm_up_s)
        return rate, measured.p50_us, measured.p99_us, 1e6 * used_s / max(requests, 1)


def scripts_of(workload: Workload, number: int) -> list[Script]:
    """The scripts of a round. Both sides get the same keys in the same order."""
    make = workload.scripts["headwater"]
    return [
        make(random.Random(1000 * number + place), place) for place in range(workload.connections)
    ]


def row_names() -> list[str]:
    """The row names for --only."""
    loads = [each.name for each in WORKLOADS if "headwater" in each.scripts]
    return [*loads, *CLIENT_ROWS, "sustained", "recovery"]


def prepare(checkouts: dict[str, Checkout], *, compile_both: bool, mixed: bool) -> None:
    """Check that the checkouts can be compared, and print which form of each runs.

    Raises:
        CheckoutFailed: one cannot run, or only one of them is compiled.
    """
    forms: dict[str, bool] = {}
    for name, checkout in checkouts.items():
        forms[name] = checkout.is_compiled()
        if compile_both and not forms[name]:
            print(f"{name}: {checkout.root} is being compiled", flush=True)
            checkout.compile()
            forms[name] = True
        print(f"{name}: {checkout.root} {form_name(forms[name])}", flush=True)
    if not mixed:
        check_same_form(forms)


def main() -> None:
    """Measure, and print each row when it is ready."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", type=Path, required=True, help="root of the other checkout")
    parser.add_argument("--new", type=Path, default=HERE, help="root; default: this checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a row, a side and a round")
    parser.add_argument("--warm-up", type=float, default=0.5, help="seconds before each")
    parser.add_argument("--sustained", type=float, default=20.0, help="seconds under load")
    parser.add_argument("--only", help=f"rows, with commas: {', '.join(row_names())}")
    parser.add_argument(
        "--compile", action="store_true", help="compile the checkouts that are not compiled"
    )
    parser.add_argument("--mixed", action="store_true", help="compare compiled with source")
    parser.add_argument(
        "--directory", type=Path, help="directory for the data (default: a temporary one)"
    )
    given = parser.parse_args()
    only = set(given.only.split(",")) if given.only else set(row_names())
    unknown = only - set(row_names())
    if unknown:
        parser.error(f"--only: no row is called {', '.join(sorted(unknown))}")
    # A signal that ends this process must also end the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    checkouts = {"base": Checkout("base", given.base), "new": Checkout("new", given.new)}
    timing = Timing(given.rounds, given.seconds, given.warm_up, given.sustained)
    try:
        prepare(checkouts, compile_both=given.compile, mixed=given.mixed)
        with ExitStack() as running:
            made = tempfile.TemporaryDirectory(prefix="headwater-paired-", dir=given.directory)
            directory = Path(running.enter_context(made))
            for name, fact in machine.facts(directory).items():
                print(f"{name}: {fact}")
            load = running.enter_context(Load())
            pair = Pair(load, checkouts, directory, timing)
            pair.start(running)
            print(f"{timing}\n{HEADS}", flush=True)
            for row in pair.measure(only.__contains__):
                print(row.line(), flush=True)
    except (CheckoutFailed, LoadFailed) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
