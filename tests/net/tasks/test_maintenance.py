"""Maintenance reports a wall clock that jumps, with the remedy."""

from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from headwater_server.net.tasks.maintenance import Maintenance


class Engine:
    """The part of an engine that the check of the clock needs."""

    clock_offset_us = 0


@pytest.mark.parametrize(
    ("offset_us", "way_out"),
    [(3_600_000_000, "restart the server"), (-3_600_000_000, "headwater repair")],
)
def test_an_ignored_wall_clock_is_reported_once_with_the_remedy(
    offset_us: int, way_out: str
) -> None:
    engine = Engine()
    service: Any = SimpleNamespace(engine=engine, group_commit=None)
    run_blocking: Any = None
    maintenance = Maintenance(service, run_blocking, interval_ms=1000, on_tick=lambda: None)
    with capture_logs() as logged:
        for offset in (0, offset_us, offset_us, 0, 0):
            engine.clock_offset_us = offset
            maintenance._look_at_clock()
    assert [each["event"] for each in logged] == [
        "the wall clock jumped and is ignored; time follows the monotonic clock",
        "the wall clock is used again",
    ]
    assert logged[0]["way_out"].startswith("set the clock; if it is right now, ")
    assert logged[0]["way_out"].endswith(way_out)
