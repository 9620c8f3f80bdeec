"""The tests that APScheduler ships for data stores, event brokers and schedulers.

What concerns neither is left out: how other stores describe themselves, and the tests of
schedulers that open no data store of ours.
"""

import importlib.util
import inspect
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# `make test-integrations` unpacks it there.
SOURCES = Path(sys.prefix) / "sdists" / f"apscheduler-{version('apscheduler')}" / "tests"

pytestmark = pytest.mark.anyio


def _load(name: str) -> ModuleType:
    path = SOURCES / f"{name}.py"
    if not path.exists():
        raise RuntimeError(f"{path} is missing; run `make test-integrations`")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


_stores, _brokers, _schedulers = map(
    _load, ("test_datastores", "test_eventbrokers", "test_schedulers")
)


def _cases(module: ModuleType) -> dict[str, Any]:
    return {name: found for name, found in vars(module).items() if name.startswith("test_")}


# Fixtures and tests of the modules become those of this one.
datastore, schedules = _stores.datastore, _stores.schedules
globals().update(_cases(_stores))
globals().update(_cases(_brokers))


@pytest.fixture
async def event_broker(raw_event_broker: Any, logger: Any) -> Any:
    async with _stores.AsyncExitStack() as exit_stack:
        await raw_event_broker.start(exit_stack, logger)
        yield raw_event_broker


class TestAsyncScheduler:
    """The cases of a scheduler that ask for a data store."""


for _name, _case in vars(_schedulers.TestAsyncScheduler).items():
    if _name.startswith("test_") and "raw_datastore" in inspect.signature(_case).parameters:
        setattr(TestAsyncScheduler, _name, _case)


def test_the_suites_are_as_large_as_they_were() -> None:
    assert len(_cases(_stores)) >= 22
    assert len(_cases(_brokers)) >= 4
    assert sum(name.startswith("test_") for name in vars(TestAsyncScheduler)) >= 16
