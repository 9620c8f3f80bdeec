"""The pages: every metric of the catalogue, in both formats, and when the server is ready."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.errors import Conflict
from headwater_protocol.keys import encode_key
from headwater_protocol.messages import encode
from headwater_server.net.monitoring.catalogue import CATALOGUE, METRICS, Kind
from headwater_server.net.monitoring.exposition import SCRAPE_AGE_S_MAX
from headwater_server.net.monitoring.monitor import Monitor
from headwater_server.net.settings import Address, ServerSettings
from headwater_server.net.tasks.scrubber import Scrubber
from headwater_server.net.threads.adaptive_fsync import AdaptiveFsync
from tests import metrics_page
from tests.net.serving import MemoryServer, serving, settings

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    """A monitor with pages, whose sockets are closed at the end."""
    made = Monitor(
        ServerSettings(data="data", http=Address("127.0.0.1", 0)), AdaptiveFsync(lambda: 0.0)
    )
    yield made
    made.close()


def watch(monitor: Monitor, server: MemoryServer) -> None:
    scrubber = Scrubber(
        server.engine.state, interval_ms=1000, clock=lambda: 0, source=random.Random(1)
    )
    monitor.watch(server.server.service, server.server.checkpointer, scrubber)


def scrape(monitor: Monitor, accept: str = "") -> str:
    response = monitor.pages()["/metrics"](accept)
    assert response.status == 200
    return response.body.decode()


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """The value of each sample, by its name and the values of its labels in order of name."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


async def use_everything(server: MemoryServer) -> None:
    """Do something of every subject of the catalogue."""
    client = await server.connect()
    await server.append(client, "account-ann", b"a", b"b")
    with pytest.raises(Conflict):
        await client.ask("execute", server.new_id(), [["value", b"k", b"v"]], [], [])
    await client.ask("begin", server.new_id())
    await client.ask("group_create", "mailer", {"category": "account"}, 0)
    with pytest.raises(Conflict):
        transaction = server.new_id()
        await client.ask("begin", transaction)
        await client.ask("get", transaction, b"k")
        await server.put(client, b"k", b"w")
        await client.ask("commit", transaction, [["put", b"k", b"v"]])
    with pytest.raises(Exception, match="not open"):
        await client.ask("get", server.new_id(), b"k")
    for key, record in (
        (("$projection", "balances"), {"build": [1, 1, {}], "next": None, "last": 1}),
        (("$projection", "balances", 1), {"position": 1, "time": 0, "parked": 3}),
        (("$projection", "strange"), "what no client writes"),
    ):
        await server.put(client, encode_key(key), encode(record))
    server.server.service.note_refusal("1.2.3.4", Conflict("as if there were too many"))
    await server.server.checkpointer.checkpoint()


async def test_every_metric_of_the_catalogue_is_in_a_scrape(monitor: Monitor) -> None:
    async with serving(recorder=monitor.recorder) as server:
        watch(monitor, server)
        await use_everything(server)
        names = {family.name for family in parse_text(scrape(monitor))}
    missing = {metric.full_name.removesuffix("_total") for metric in METRICS.values()} - names
    assert missing == set()


async def test_a_scrape_says_what_was_done(monitor: Monitor) -> None:
    async with serving(recorder=monitor.recorder) as server:
        watch(monitor, server)
        await use_everything(server)
        found = samples(scrape(monitor))
        published = server.engine.published
    assert found["headwater_commits_total", ()] == published
    assert found["headwater_events_total", ()] == 2
    assert found["headwater_conflicts_total", ("read-write",)] == 1
    assert found["headwater_commits_refused_total", ("conflict",)] == 1
    assert found["headwater_operations_failed_total", ("transaction_gone", "get")] == 1
    assert found["headwater_operation_duration_seconds_count", ("group_create",)] == 1
    assert found["headwater_transactions_open", ()] == 1
    assert found["headwater_group_lag_positions", ("mailer",)] == 2
    assert found["headwater_projection_lag_positions", ("balances",)] == 1
    assert found["headwater_projection_parked_streams", ("balances",)] == 3
    assert ("headwater_projection_parked_streams", ("strange",)) not in found
    assert found["headwater_connections_refused_total", ("conflict",)] == 1
    assert found["headwater_checkpoints_total", ()] == 1
    assert found["headwater_checkpoint_duration_seconds_count", ()] == 1
    assert found["headwater_checkpoint_lag_commits", ()] == 0


async def test_a_scrape_passes_the_parsers_of_both_formats(monitor: Monitor) -> None:
    async with serving(recorder=monitor.recorder) as server:
        watch(monitor, server)
        await use_everything(server)
        page = monitor.pages()["/metrics"]
        plain, strict = page(""), page(OPEN_METRICS)
    assert plain.content_type.startswith("text/plain; version=0.0.4")
    assert strict.content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = list(parse_openmetrics(strict.body.decode()))  # type: ignore[no-untyped-call]
    assert {family.name for family in families} >= {
        f"headwater_{metric.name}" for metric in METRICS.values()
    }
    for family in families:
        metric = METRICS.get(family.name.removeprefix("headwater_"))
        if metric is not None:
            assert family.type == metric.kind.value


async def test_a_scrape_that_is_new_is_served_again(monitor: Monitor, autojump_clock: Any) -> None:
    async with serving(recorder=monitor.recorder) as server:
        watch(monitor, server)
        client = await server.connect()
        now = [0.0]
        page = monitor.pages(monotonic=lambda: now[0])["/metrics"]
        first = page("").body
        await server.put(client, b"k", b"v")
        assert page("").body == first
        assert page(OPEN_METRICS).body != first, "each format has its own"
        now[0] += SCRAPE_AGE_S_MAX + 0.1
        assert page("").body != first


async def test_names_follow_the_conventions_and_labels_are_few(monitor: Monitor) -> None:
    for metric in METRICS.values():
        assert metric.name.replace("_", "").isalnum()
        assert metric.name.islower()
        assert metric.what.endswith(".")
        assert not metric.name.endswith(("_ms", "_us", "_mib", "_total", "_count", "_bucket"))
        if metric.kind is Kind.HISTOGRAM:
            assert metric.name.endswith(("_seconds", "_records"))
    assert len(METRICS) == sum(map(len, CATALOGUE.values())), "no name is used twice"


def test_the_page_of_metrics_is_written_from_the_catalogue() -> None:
    assert metrics_page.PAGE.read_text() == metrics_page.page(), "python -m tests.metrics_page"


async def test_before_the_log_is_replayed_the_server_is_healthy_and_not_ready(
    monitor: Monitor,
) -> None:
    monitor.readiness.note_replayed(12_000)
    ready = monitor.pages()["/readyz"]("")
    assert ready.status == 503
    (reason,) = json.loads(ready.body)["reasons"]
    assert reason["reason"] == "replaying"
    assert "12000" in reason["message"]
    assert monitor.pages()["/healthz"]("").status == 200
    assert samples(scrape(monitor))["headwater_ready", ()] == 0


def read_only(server: MemoryServer) -> None:
    server.engine.room.read_only_reason = "the disk is full"


def stopping(server: MemoryServer) -> None:
    server.server.service.stopping = True


def overloaded(server: MemoryServer) -> None:
    server.server.service.group_commit.overloaded = True


def behind(server: MemoryServer) -> None:
    server.server.service.group_commit.hold_while(lambda: True)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (read_only, "read_only"),
        (stopping, "stopping"),
        (overloaded, "disk_behind"),
        (behind, "checkpoint_behind"),
    ],
)
async def test_a_server_that_refuses_or_holds_back_writes_is_not_ready(
    monitor: Monitor, make: Callable[[MemoryServer], None], word: str
) -> None:
    async with serving(recorder=monitor.recorder) as server:
        watch(monitor, server)
        ready = monitor.pages()["/readyz"]
        assert ready("").status == 200
        assert json.loads(ready("").body) == {"ready": True, "reasons": []}
        make(server)
        answer = ready("")
        assert answer.status == 503
        assert [each["reason"] for each in json.loads(answer.body)["reasons"]] == [word]
        assert monitor.pages()["/healthz"]("").status == 200
        server.server.service.group_commit.hold_while(lambda: False)


async def test_a_failed_server_is_neither_healthy_nor_ready(monitor: Monitor) -> None:
    async with serving(settings(), recorder=monitor.recorder) as server:
        watch(monitor, server)
        server.server.service.failures.failed = True
        await wait_all_tasks_blocked()
        assert monitor.pages()["/healthz"]("").status == 503
        assert monitor.pages()["/readyz"]("").status == 503
