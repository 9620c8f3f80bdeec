"""The pytest plugin. pytest finds it by itself once Headwater is installed.

    headwater_db           an open blocking database, empty, in memory
    headwater_url          its address, for clients of any kind
    headwater_database     the database itself: kill, restart, let time pass
    headwater_trio_db      an open database of trio (with pytest-trio or anyio)
    headwater_asyncio_db   an open database of asyncio (with pytest-asyncio or anyio)
    headwater_seed         override it: fills a database once; each test gets a copy
    headwater_faults       the test runs with faults: conflicts, lost answers, restarts, …
    headwater_snapshots    compares the snapshots of repositories with their events at the end
    headwater_server       a server process of its own, with files

    pytest --headwater-seeds 100              each test with headwater_faults, 100 times
    pytest --headwater-seed 4711              once, with the seed of a failure

Nothing of Headwater is imported before a fixture is used.
"""

import importlib
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from headwater.aggregates.repository import Repository
    from headwater.blocking.database import BlockingDatabase
    from headwater.cli.server_process import ServerProcess
    from headwater.database import Database
    from headwater_testing.faults import FaultPlan
    from headwater_testing.machine import MemoryDatabase, MemoryMachine

SEEDS_DEFAULT = 10

_PLAN = pytest.StashKey[Any]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("headwater")
    group.addoption(
        "--headwater-seeds",
        type=int,
        default=SEEDS_DEFAULT,
        metavar="N",
        help=f"run each test that uses headwater_faults with N seeds (default: {SEEDS_DEFAULT})",
    )
    group.addoption(
        "--headwater-seed",
        type=int,
        default=None,
        metavar="SEED",
        help="run tests that use headwater_faults with this seed alone",
    )
    group.addoption(
        "--headwater-first-seed",
        type=int,
        default=1,
        metavar="SEED",
        help="the first seed of --headwater-seeds (default: 1)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat tests with faults, once for each seed."""
    if "headwater_faults" not in metafunc.fixturenames:
        return
    options = metafunc.config.option
    seed, first = options.headwater_seed, options.headwater_first_seed
    seeds = range(first, first + options.headwater_seeds) if seed is None else [seed]
    ids = [f"seed={each}" for each in seeds]
    metafunc.parametrize("headwater_faults", seeds, ids=ids, indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, Any, Any]:
    """Add the faults to the report of a test that failed."""
    del call
    report: Any = yield
    plan = item.stash.get(_PLAN, None)
    if plan is not None and report.when == "call" and report.failed:
        again = f"again with: pytest --headwater-seed {plan.seed}"
        report.sections.append((f"faults of seed {plan.seed}", f"{plan.schedule()}\n{again}"))
    return report


@pytest.fixture(scope="session")
def headwater_machine() -> Iterator["MemoryMachine"]:
    """The thread that serves databases in memory."""
    import logging

    import structlog

    from headwater_testing.machine import MemoryMachine

    if not structlog.is_configured():
        quiet = structlog.make_filtering_bound_logger(logging.ERROR)
        structlog.configure(wrapper_class=quiet)
    machine = MemoryMachine()
    yield machine
    machine.close()


@pytest.fixture(scope="session")
def headwater_seed() -> Callable[["BlockingDatabase"], object] | None:
    """Override this with a function that fills a blocking database, once for all tests."""
    return None


@pytest.fixture(scope="session")
def headwater_template(
    headwater_machine: "MemoryMachine",
    headwater_seed: Callable[["BlockingDatabase"], object] | None,
) -> "MemoryDatabase | None":
    """The database that `headwater_seed` filled, stopped. Each test gets a copy."""
    if headwater_seed is None:
        return None
    import headwater

    template = headwater_machine.database()
    with template, headwater.connect_blocking(template.url) as database:
        headwater_seed(database)
    return template


@pytest.fixture
def headwater_faults(request: pytest.FixtureRequest) -> "FaultPlan":
    """The faults of this test. Request it, and headwater_db is served with them.

    `active = False` switches them off, and `kinds` restricts them.
    """
    from headwater_testing.faults import FaultPlan

    plan = FaultPlan(getattr(request, "param", 1))
    request.node.stash[_PLAN] = plan
    return plan


@pytest.fixture
def headwater_database(
    request: pytest.FixtureRequest,
    headwater_machine: "MemoryMachine",
    headwater_template: "MemoryDatabase | None",
) -> Iterator["MemoryDatabase"]:
    """A database in memory: empty, or a copy of what `headwater_seed` made."""
    plan = None
    if "headwater_faults" in request.fixturenames:
        plan = request.getfixturevalue("headwater_faults")
    if headwater_template is None:
        database = headwater_machine.database(faults=plan)
    else:
        database = headwater_template.copy(plan)
    with database:
        yield database


@pytest.fixture
def headwater_url(headwater_database: "MemoryDatabase") -> str:
    """The address of the test's database."""
    return headwater_database.url


@pytest.fixture
def headwater_codec() -> Any:
    """Override this with the codec of the application."""
    return None


def _options(request: pytest.FixtureRequest, codec: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"codec": codec}
    if "headwater_faults" in request.fixturenames:
        from headwater_testing.faults import RETRY_TIMEOUT_S

        options["retry_timeout"] = RETRY_TIMEOUT_S
    return options


@pytest.fixture
def headwater_db(
    request: pytest.FixtureRequest, headwater_url: str, headwater_codec: Any
) -> Iterator["BlockingDatabase"]:
    """An open blocking database."""
    import headwater

    options = _options(request, headwater_codec)
    with headwater.connect_blocking(headwater_url, **options) as database:
        yield database


@pytest.fixture
async def headwater_trio_db(
    request: pytest.FixtureRequest, headwater_url: str, headwater_codec: Any
) -> AsyncIterator["Database"]:
    """An open database, in a test of trio: with pytest-trio, or with anyio's plugin."""
    import headwater

    options = _options(request, headwater_codec)
    async with headwater.connect(headwater_url, **options) as database:
        yield database


def _asyncio_fixture() -> Callable[[Callable[..., object]], object]:
    """pytest-asyncio wants its own decorator; anyio takes pytest's."""
    try:
        decorators: Any = importlib.import_module("pytest_asyncio")
    except ModuleNotFoundError:
        decorators = pytest
    decorate: Callable[[Callable[..., object]], object] = decorators.fixture()
    return decorate


@_asyncio_fixture()
async def headwater_asyncio_db(
    request: pytest.FixtureRequest, headwater_url: str, headwater_codec: Any
) -> AsyncIterator["Database"]:
    """An open database, in a test of asyncio: with pytest-asyncio, or with anyio's plugin."""
    import headwater

    options = _options(request, headwater_codec)
    async with headwater.connect(headwater_url, **options) as database:
        yield database


class Snapshots:
    """Repositories whose snapshots are compared at the end of the test."""

    def __init__(self) -> None:
        self.repositories: list[Repository[Any]] = []

    def check(self, *repositories: "Repository[Any]") -> None:
        """Compare the snapshots of these repositories at the end of the test."""
        self.repositories += repositories


@pytest.fixture
def headwater_snapshots(headwater_database: "MemoryDatabase") -> Iterator[Snapshots]:
    """Compares each snapshot of the repositories given to `check` with a replay of its events.

    The test fails at its end if a snapshot differs from the state that its events give.
    """
    import headwater
    from headwater.aggregates.snapshot_check import check_snapshots
    from headwater.transport.stepping import step

    snapshots = Snapshots()
    yield snapshots
    wrong: list[str] = []
    if headwater_database.faults is not None:
        headwater_database.faults.active = False
    with headwater.connect_blocking(headwater_database.url) as database:

        async def check() -> None:
            for repository in snapshots.repositories:
                async for checked in check_snapshots(database._core, repository):  # noqa: SLF001
                    if checked.verdict in ("differs", "unreadable"):
                        wrong.append(
                            f"{checked.stream} at version {checked.version}: the snapshot has "
                            f"{checked.kept!r}, its events give {checked.replayed!r}"
                        )

        step(check())
    if wrong:
        pytest.fail("snapshots differ from their events:\n" + "\n".join(wrong), pytrace=False)


@pytest.fixture
def headwater_server(tmp_path: Path) -> Iterator["ServerProcess"]:
    """A server process of its own with files, as in production: kill it, start it again."""
    from headwater.cli.server_process import ServerProcess

    with ServerProcess(tmp_path) as process:
        yield process
