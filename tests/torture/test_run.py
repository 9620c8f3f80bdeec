"""The report of `make torture` lists failures with the commands that reproduce them."""

from tests.torture import run
from tests.torture.run import Part, pieces, report


def test_the_report_has_totals_and_the_command_of_each_failure() -> None:
    parts = [
        Part("worlds", 500, 60.0, []),
        Part("worlds", 250, 30.0, ["python -m tests.simulation.run --seed 4711"]),
        Part("kills", 100, 6.0, []),
    ]
    told = report(parts)
    assert "| worlds | 750 | 1.5 min | 1 |" in told
    assert "| kills | 100 | 0.1 min | 0 |" in told
    assert told.endswith("python -m tests.simulation.run --seed 4711")


def test_the_pieces_of_the_work_add_up_to_the_whole() -> None:
    assert pieces(1200, 500) == [(0, 500), (500, 500), (1000, 200)]
    assert pieces(0, 500) == []


def test_failed_worlds_and_runs_that_crashed_are_distinguished() -> None:
    real = run.run_program
    try:
        run.run_program = lambda *_, **__: (1, "seed 7 …\nfailed: [7, 12]\n")
        assert [each.rpartition(" ")[2] for each in run.worlds(1, 20, 1).failures] == ["7", "12"]
        run.run_program = lambda *_, **__: (1, "Traceback: no such module")
        (failure,) = run.worlds(1, 20, 1).failures
        assert "no such module" in failure
        run.run_program = lambda *_, **__: (0, "20 worlds")
        assert run.worlds(1, 20, 1).failures == []
    finally:
        run.run_program = real


def test_a_small_torture_runs_to_its_end() -> None:
    part = run.worlds(1, 2, 1)
    assert part.failures == []
    assert part.count == 2
