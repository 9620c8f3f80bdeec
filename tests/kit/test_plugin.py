"""The pytest plugin, as a project uses it: each test runs pytest on a small project."""

import os
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
PLUGIN = ("-p", "headwater_testing.plugin")


def run(pytester: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(source)
    folders = [str(ROOT / each) for each in ("protocol", "client", "server")]
    pytester._monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    return pytester.runpytest_subprocess(*PLUGIN, "-p", "no:cacheprovider", *options)


def test_each_test_has_an_empty_database(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_empty(headwater_db, number):
            assert headwater_db.get(("key",)) is None
            headwater_db.put(("key",), number)
            assert headwater_db.get(("key",)) == number
        """,
    )
    result.assert_outcomes(passed=3)


def test_a_database_is_filled_once_and_each_test_has_a_copy(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest

        calls = []

        @pytest.fixture(scope="session")
        def headwater_seed():
            def fill(db):
                calls.append(db)
                db.put(("key",), "first")
            return fill

        @pytest.mark.parametrize("number", range(3))
        def test_copy(headwater_db, number):
            assert headwater_db.get(("key",)) == "first"
            headwater_db.put(("key",), number)
            assert len(calls) == 1
        """,
    )
    result.assert_outcomes(passed=3)


def test_trio_and_asyncio_reach_the_same_database(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import asyncio

        import headwater
        import pytest
        import trio

        @pytest.mark.trio
        async def test_trio(headwater_trio_db, headwater_url):
            await headwater_trio_db.put(("key",), 1)

            def read():
                async def read_on_asyncio():
                    async with headwater.connect(headwater_url) as db:
                        return await db.get(("key",))

                return asyncio.run(read_on_asyncio())

            assert await trio.to_thread.run_sync(read) == 1
        """,
    )
    result.assert_outcomes(passed=1)


def test_what_is_acknowledged_outlives_a_restart_and_time_passes(
    pytester: pytest.Pytester,
) -> None:
    result = run(
        pytester,
        """
        import headwater

        def test_restart(headwater_db, headwater_database):
            headwater_db.put(("key",), 1)
            headwater_database.restart()
            assert headwater_db.get(("key",)) == 1

        def test_time(headwater_db, headwater_database):
            before = headwater_db.ping().time
            headwater_database.pass_time(3600)
            headwater_db.put(("key",), 1)
            assert (headwater_db.ping().time - before).total_seconds() >= 3600
        """,
    )
    result.assert_outcomes(passed=2)


FAULTY = """
    def test_mails_once(headwater_db, headwater_faults):
        mails = []

        def order(tx):
            tx.put(("orders",), tx.get(("orders",), 0) + 1)
            mails.append("order 1")

        try:
            headwater_db.run(order)
        except Exception:
            return
        assert len(mails) == 1
"""


def test_a_failure_under_faults_names_its_seed_and_schedule(pytester: pytest.Pytester) -> None:
    result = run(pytester, FAULTY, "--headwater-seeds", "12")
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] + outcomes["failed"] == 12
    _, _, schedule = result.stdout.str().partition("- faults of seed ")
    first_fault = schedule.splitlines()[1]
    seed = schedule.partition("again with: pytest --headwater-seed ")[2].split()[0]
    assert first_fault.startswith("commit 1: ")
    again = run(pytester, FAULTY, "--headwater-seed", seed)
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines([first_fault])


def test_snapshots_that_differ_from_their_events_fail_the_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import headwater

        bias = 0

        def evolve(state, event):
            return state + event.data + bias

        counter = headwater.Repository(0, evolve, snapshot_every=2)

        def add(state, number):
            return headwater.Event("Added", number)

        def test_right(headwater_db, headwater_snapshots):
            headwater_snapshots.check(counter)
            for number in range(5):
                counter.on(headwater_db).decide("counter-1", add, number)

        def test_wrong(headwater_db, headwater_snapshots):
            global bias
            headwater_snapshots.check(counter)
            for number in range(5):
                counter.on(headwater_db).decide("counter-1", add, number)
            # The code changes, and its schema does not.
            bias = 1
        """,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*snapshots differ from their events*"])


def test_a_server_process_has_files(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import headwater

        def test_kill(headwater_server):
            with headwater.connect_blocking(headwater_server.url) as db:
                db.put(("key",), 1)
                headwater_server.kill()
                headwater_server.start()
                assert db.get(("key",)) == 1
        """,
    )
    result.assert_outcomes(passed=1)


def test_the_plugin_imports_nothing_before_it_is_used(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import sys

        def test_modules():
            assert "headwater" not in sys.modules
            assert "headwater_protocol" not in sys.modules
            assert "trio" not in sys.modules
        """,
        *("-p", "no:trio", "-p", "no:anyio", "-p", "no:headwater_testing"),
    )
    result.assert_outcomes(passed=1)
