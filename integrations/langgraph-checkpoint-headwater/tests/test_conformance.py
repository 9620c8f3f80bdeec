"""LangGraph's conformance tests of savers, base and extended, on both savers."""

import asyncio
from collections.abc import AsyncGenerator
from uuid import uuid4

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES
from langgraph.checkpoint.conformance.report import CapabilityReport
from langgraph.checkpoint.headwater import AsyncHeadwaterSaver, HeadwaterSaver

from headwater.cli.server_process import ServerProcess

CASES = 81
"""Of langgraph-checkpoint-conformance 0.0.2. A later version may have more."""


class InThreads(HeadwaterSaver):
    """The blocking saver behind the methods that the conformance tests call."""


def _in_thread(name: str) -> object:
    async def method(self: HeadwaterSaver, *arguments: object, **options: object) -> object:
        return await asyncio.to_thread(getattr(self, name), *arguments, **options)

    return method


for _name in (
    "get_tuple",
    "put",
    "put_writes",
    "delete_thread",
    "delete_for_runs",
    "copy_thread",
    "prune",
):
    setattr(InThreads, f"a{_name}", _in_thread(_name))


async def _alist(
    self: HeadwaterSaver, *arguments: object, **options: object
) -> AsyncGenerator[object, None]:
    for each in await asyncio.to_thread(lambda: list(self.list(*arguments, **options))):  # type: ignore[arg-type]
        yield each


InThreads.alist = _alist  # type: ignore[assignment,method-assign]


def _report(make: object) -> CapabilityReport:
    return asyncio.run(validate(checkpointer_test(name="Headwater")(make)))


def _assert_whole(report: CapabilityReport) -> None:
    failures = {name: result.failures for name, result in report.results.items() if result.failures}
    assert not failures
    assert set(report.results) == {each.value for each in ALL_CAPABILITIES}
    assert all(result.passed for result in report.results.values())
    assert sum(result.tests_passed for result in report.results.values()) >= CASES


def test_the_asyncio_saver_conforms(server: ServerProcess) -> None:
    async def make() -> AsyncGenerator[BaseCheckpointSaver[str], None]:
        url, prefix = server.url, str(uuid4())
        async with AsyncHeadwaterSaver.from_conn_string(url, prefix=prefix) as saver:
            yield saver

    _assert_whole(_report(make))


def test_the_blocking_saver_conforms(server: ServerProcess) -> None:
    async def make() -> AsyncGenerator[BaseCheckpointSaver[str], None]:
        with InThreads.from_conn_string(server.url, prefix=str(uuid4())) as saver:
            yield saver

    _assert_whole(_report(make))
