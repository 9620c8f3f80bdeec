"""Writes docs/metrics.md from the catalogue of metrics: `python -m tests.metrics_page`.

A test compares the page with what this would write.
"""

from pathlib import Path
from typing import Final

from headwater_server.net.monitoring.catalogue import CATALOGUE, GROUPS_SHOWN_MAX, PAGES, Metric
from headwater_server.net.monitoring.recorder import NOT_WAITING

PAGE: Final = Path(__file__).parent.parent / "docs/metrics.md"

_HEAD: Final = """\
# Metrics

`headwater serve --http HOST:PORT` serves these pages. [Monitoring](guide/monitoring.md) tells how
to use them.

{pages}

This page is written from the code: `python -m tests.metrics_page`.

Every name begins with `headwater_`. Besides these, `/metrics` has the usual `process_…` metrics:
processor time, memory, file descriptors, start time. Counters begin with zero when the server
starts, except for `headwater_commits_total` and `headwater_events_total`, which are numbers of the
database.

The labels `operation` and `error_type` are the attributes `db.operation.name` and `error.type` of
OpenTelemetry's conventions for databases. Their values are the operations and error codes of the
[protocol](protocol.md), so there are few. Groups and projections have series of their own up to
{shown} each, in order of name.

A duration ends when the answer is handed to the connection. For {later} the
answer comes later than the request is served, and that wait is not measured.
"""


def page() -> str:
    """The whole page."""
    pages = "\n".join(
        ["| page | |", "|---|---|"] + [f"| `{path}` | {what} |" for path, what in PAGES.items()]
    )
    later = " and ".join(f"`{name}`" for name in sorted(NOT_WAITING))
    parts = [_HEAD.format(pages=pages, later=later, shown=GROUPS_SHOWN_MAX)]
    for subject, metrics in CATALOGUE.items():
        table = ["| metric | kind | what |", "|---|---|---|", *map(_row, metrics)]
        parts.append("\n".join([f"## {subject}\n", *table, ""]))
    return "\n".join(parts)


def _row(metric: Metric) -> str:
    name = metric.full_name.removeprefix("headwater_")
    labels = "{" + ", ".join(metric.labels) + "}" if metric.labels else ""
    return f"| `{name}{labels}` | {metric.kind.value} | {metric.what} |"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
