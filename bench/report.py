"""The report: a table, charts, and a verdict for each row."""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

BEGIN: Final = "<!-- speed: begin -->"
END: Final = "<!-- speed: end -->"

COLOURS: Final = {
    "headwater": "#1a6fb0",
    "redis": "#b8402a",
    "postgresql": "#7a8a99",
    "etcd": "#c9a227",
}


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of one server in one round of a workload."""

    rate: float
    p50_us: float
    p99_us: float
    p999_us: float
    cpu_ms_per_1000: float
    memory_mib: float
    retries: int


@dataclass(slots=True)
class Row:
    """A workload: the rounds of every server, and the comparison with Headwater."""

    name: str
    title: str
    unit: str
    connections: int
    depth: int
    targets: dict[str, float]
    rounds: dict[str, list[Round]] = field(default_factory=dict)

    def ratios(self, rival: str) -> list[float]:
        """Headwater's rate divided by the rival's, by round; for "rate", Headwater's rate."""
        own = self.rounds["headwater"]
        if rival == "rate":
            return [each.rate for each in own]
        others = self.rounds.get(rival, [])
        return [a.rate / b.rate for a, b in zip(own, others, strict=False)]

    def cpu_ratio(self, rival: str) -> float:
        """Headwater's requests per processor second, divided by the rival's."""
        own = statistics.median(each.cpu_ms_per_1000 for each in self.rounds["headwater"])
        other = statistics.median(each.cpu_ms_per_1000 for each in self.rounds[rival])
        return other / own if own else 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A comparison: the median, minimum and maximum of its rounds, and the target."""

    title: str
    against: str
    values: tuple[float, ...]
    target: float
    at_most: bool = False
    cpu_ratio: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        return self.median <= self.target if self.at_most else self.median >= self.target

    def line(self) -> str:
        """The verdict as a row of the table."""
        sign = "≤" if self.at_most else "≥"
        spread = f"{_figure(min(self.values))} to {_figure(max(self.values))}"
        return (
            f"| {self.title} | {self.against} | {_figure(self.median)} | {spread} "
            f"| {sign} {_figure(self.target)} | {'yes' if self.holds else 'no'} "
            f"| {'' if self.cpu_ratio is None else _figure(self.cpu_ratio)} |"
        )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


def verdicts_of(row: Row) -> Iterator[Verdict]:
    """The comparisons of a row with the rivals that ran."""
    for rival, target in row.targets.items():
        values = row.ratios(rival)
        if values:
            absolute = rival == "rate"
            against = "a second" if absolute else f"times {rival}"
            cpu_ratio = None if absolute else row.cpu_ratio(rival)
            yield Verdict(row.title, against, tuple(values), target, cpu_ratio=cpu_ratio)


def text(
    facts: dict[str, Any],
    settings: dict[str, Any],
    rows: Sequence[Row],
    verdicts: Sequence[Verdict],
) -> str:
    """The report in Markdown."""
    lines = [
        "| what | against | median | spread | target | holds | per CPU second |",
        "|---|---|---|---|---|---|---|",
        *(verdict.line() for verdict in verdicts),
        "",
        "| workload | server | a second | p50 µs | p99 µs | p99.9 µs | CPU s per 1,000 | MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for server, rounds in row.rounds.items():
            lines.append(_server_line(row, server, rounds))
    lines += ["", "Measured on:", ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items()]
    lines += ["", "Settings:", ""]
    lines += [f"- {name}: {value}" for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def _server_line(row: Row, server: str, rounds: Sequence[Round]) -> str:
    def median(name: str) -> float:
        return float(statistics.median(getattr(each, name) for each in rounds))

    return (
        f"| {row.name}, {row.connections} x {row.depth} | {server} | {median('rate'):,.0f} "
        f"| {median('p50_us'):,.0f} | {median('p99_us'):,.0f} | {median('p999_us'):,.0f} "
        f"| {median('cpu_ms_per_1000') / 1000:.3f} | {median('memory_mib'):,.0f} |"
    )


def write_json(
    path: Path,
    facts: dict[str, Any],
    settings: dict[str, Any],
    rows: Sequence[Row],
    verdicts: Sequence[Verdict],
) -> None:
    """Write all figures, by round."""
    found = {
        "machine": facts,
        "settings": settings,
        "rows": [asdict(row) for row in rows],
        "verdicts": [{**asdict(each), "holds": each.holds} for each in verdicts],
    }
    path.write_text(json.dumps(found, indent=1) + "\n")


def put_into(page: Path, report: str) -> None:
    """Replace the text between the two marks of a page, or append marks and text."""
    before = page.read_text() if page.exists() else "# Benchmarks\n"
    block = f"{BEGIN}\n\n{report}\n{END}"
    if BEGIN in before and END in before:
        start, end = before.index(BEGIN), before.index(END) + len(END)
        page.write_text(before[:start] + block + before[end:])
    else:
        page.write_text(f"{before.rstrip()}\n\n## Speed\n\n{block}\n")


def chart(rows: Sequence[Row], title: str) -> str:
    """A bar chart of the rates of some rows, as SVG. Each row has its own scale."""
    bars: list[str] = []
    y = 34
    for row in rows:
        bars.append(f'<text x="8" y="{y + 12}" class="t">{escape(row.title)}</text>')
        y += 20
        most = max(statistics.median(r.rate for r in rounds) for rounds in row.rounds.values())
        for server, rounds in row.rounds.items():
            rate = statistics.median(each.rate for each in rounds)
            width = max(1, round(420 * rate / most))
            colour = COLOURS.get(server, "#555555")
            bars.append(
                f'<text x="8" y="{y + 11}">{escape(server)}</text>'
                f'<rect x="96" y="{y}" width="{width}" height="14" fill="{colour}"/>'
                f'<text x="{102 + width}" y="{y + 11}">{rate:,.0f}</text>'
            )
            y += 18
        y += 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{y}" '
        f'viewBox="0 0 640 {y}">'
        "<style>text{font:12px sans-serif;fill:#333}.t{font-weight:bold}</style>"
        f'<rect width="640" height="{y}" fill="#ffffff"/>'
        f'<text x="8" y="18" class="t">{escape(title)}</text>{"".join(bars)}</svg>\n'
    )
