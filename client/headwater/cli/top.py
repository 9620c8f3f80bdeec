"""`headwater top`: what a server does, live in the terminal.

Rates are differences of two readings of the statistics, so nothing is measured in the server for
it. Each has a sparkline of the last readings.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from headwater.cli.connection_options import Connector, connection_options

READINGS_KEPT: Final = 60
"""Readings in a sparkline."""

GROUPS_SHOWN_MAX: Final = 20
"""Consumer groups and projections that are shown, those with the largest lag."""

PROJECTIONS_READ_MAX: Final = 50
"""Projections whose lag is read; each takes a request."""

_BARS: Final = "▁▂▃▄▅▆▇█"

Figures = Mapping[str, Any]

_RATES: Final[tuple[tuple[str, Callable[[Figures], float]], ...]] = (
    ("commits/s", lambda figures: figures["commit"]),
    ("events/s", lambda figures: figures["position"]),
    ("groups/s", lambda figures: figures["commit_groups"]),
    ("conflicts/s", lambda figures: sum(figures.get("conflicts", {}).values())),
    ("connections/s", lambda figures: figures["connections_total"]),
)

_GAUGES: Final[tuple[tuple[str, Callable[[Figures], float]], ...]] = (
    ("connections", lambda figures: figures["connections"]),
    ("subscriptions", lambda figures: figures["subscriptions"]),
    ("open transactions", lambda figures: figures["open_transactions"]),
    ("memtable MiB", lambda figures: figures["memtable_size"] / 2**20),
    ("log MiB", lambda figures: figures["log_size"] / 2**20),
    ("commits to replay", lambda figures: figures["commit"] - figures["checkpoint_commit"]),
)


@dataclass(slots=True)
class Series:
    """The last values of a figure."""

    values: deque[float] = field(default_factory=lambda: deque(maxlen=READINGS_KEPT))

    def line(self) -> str:
        """The values as a sparkline, in which the largest is a full bar."""
        most = max(self.values, default=0.0)
        if most <= 0:
            return _BARS[0] * len(self.values)
        scale = len(_BARS) - 1
        return "".join(_BARS[round(max(0.0, value) / most * scale)] for value in self.values)


class Readings:
    """The readings so far."""

    def __init__(self) -> None:
        self._before: tuple[float, Figures] | None = None
        self.series: dict[str, Series] = {name: Series() for name, _ in (*_RATES, *_GAUGES)}

    def add(self, now: float, figures: Figures) -> None:
        """Add a reading that was made at a time in seconds."""
        for name, value_of in _GAUGES:
            self.series[name].values.append(value_of(figures))
        if self._before is not None:
            then, before = self._before
            passed = max(now - then, 1e-9)
            for name, value_of in _RATES:
                # A server that was started again begins to count at 0.
                more = max(0.0, value_of(figures) - value_of(before))
                self.series[name].values.append(more / passed)
        self._before = now, figures

    def shown(self, figures: Figures, lags: list[tuple[str, str, int]]) -> RenderableType:
        """What is on the screen: the state of the server, its figures, and who lags."""
        state = "read-only" if figures["read_only"] else "writable"
        head = Text(
            f"{figures['server']}   commit {figures['commit']:,}   position "
            f"{figures['position']:,}   {state}"
            + ("   checkpoint runs" if figures["checkpoint_running"] else "")
            + _shown_role(figures.get("replication", {}))
        )
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column()
        table.add_column(justify="right")
        table.add_column(overflow="crop", no_wrap=True)
        for name, series in self.series.items():
            newest = f"{series.values[-1]:,.1f}" if series.values else ""
            table.add_row(name, newest, series.line())
        parts: list[RenderableType] = [head, Text(), table]
        if lags:
            lagging = Table("", "lag", box=None, pad_edge=False)
            for kind, name, lag in lags[:GROUPS_SHOWN_MAX]:
                lagging.add_row(f"{kind} {name}", f"{lag:,}")
            parts += [Text(), lagging]
        if figures["read_only"]:
            parts += [Text(), Text(str(figures["read_only"]), style="red")]
        return Group(*parts)


@click.command()
@connection_options
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often the figures are read.",
)
@click.option(
    "--count", type=click.IntRange(min=1), metavar="N", help="End after N readings; else at Ctrl-C."
)
def top(connector: Connector, interval: float, count: int | None) -> None:
    """Show what a server does, live: rates, sizes, and which groups and projections lag.

    It needs the right admin.
    """
    readings = Readings()
    with connector.connect() as db, Live(console=Console(), auto_refresh=False) as live:
        for _ in _times(interval, count):
            figures = db.stats()
            readings.add(time.monotonic(), figures)
            newest = figures["position"]
            lags = [("group", group.name, newest - group.position) for group in db.groups.list()]
            for name in db.projections.names()[:PROJECTIONS_READ_MAX]:
                lag = newest - db.projections.status(name).position
                lags.append(("projection", name, lag))
            lags.sort(key=lambda row: -row[2])
            live.update(readings.shown(figures, lags), refresh=True)


def _shown_role(replication: Figures) -> str:
    """What the node is in a set of nodes; empty for a server alone."""
    role = replication.get("role", "leader")
    if role == "leader":
        count = len(replication.get("followers", ()))
        return f"   leader of {count}" if count else ""
    lag = replication.get("lag")
    age = "" if lag is None else f", {lag:.1f} s"
    behind = f"{replication['lag_commits']:,} commits{age} behind"
    return f"   {role} of {replication.get('leader')}, {behind}"


def _times(interval: float, count: int | None) -> Iterator[None]:
    done = 0
    while count is None or done < count:
        if done:
            time.sleep(interval)
        done += 1
        yield
