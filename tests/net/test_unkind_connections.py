"""A server with connections of every unkind sort stays within its base and its memory budget."""

from pathlib import Path

import pytest

from bench import unkind
from headwater_protocol.limits import MIB

UNCOUNTED: int = 32 * MIB
"""What the law leaves out: an answer and a request that are being made, and the interpreter's own
fragments. The bench prints the figure for 10,000 connections."""


@pytest.mark.slow
def test_many_unkind_connections_take_no_more_than_the_budget(tmp_path: Path) -> None:
    # 100 connections that did not read their answers took 1.5 GiB, and 1,000 groups 2.8 GiB.
    report = unkind.run(tmp_path, count=200, budget_mib=64)
    assert report.peak <= report.base + report.budget + UNCOUNTED
    assert report.gets > 20, "the client that is well behaved was served"
