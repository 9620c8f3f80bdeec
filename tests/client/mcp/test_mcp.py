"""`headwater mcp`, through the client of the package `mcp` and a process on standard input."""

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import StdioServerParameters
from mcp.client import Client

import headwater
from headwater.cli.server_process import ServerProcess
from headwater.mcp.server import NAMES
from headwater.mcp.tools import ANSWER_SIZE_MAX

COMMAND = "from headwater.mcp.command import mcp; mcp()"

Scenario = Callable[[Client], Awaitable[None]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(Path(tmp_path_factory.mktemp("server"))) as server:
        with headwater.connect_blocking(server.url) as db:
            fill(db)
        anyio.run(project, server.url)
        yield server


def fill(db: headwater.BlockingDatabase) -> None:
    for number in range(1, 6):
        event = headwater.Event("Placed", {"item": number}, {"by": "ann"}, tags=[f"n:{number}"])
        db.append(f"order-{number % 2}", event)
        db.put(("balance", "ann"), number)
    db.append("customer-1", headwater.Event("Opened", b"\xc1"))
    db.put(("balance", 7), {"at": db.ping().time})
    db.put(("large",), "x" * 2 * ANSWER_SIZE_MAX)
    db.put(("secret",), 1)
    db.groups.create("mailer", category="order")


async def project(url: str) -> None:
    async def count(tx: headwater.ProjectionTransaction, event: headwater.RecordedEvent) -> None:
        tx.add(("orders", event.stream), 1)

    async with headwater.connect(url) as db:
        db.projection("orders", category="order")(count)
        async with db.run_projections():
            await db.wait_for("orders", 5)


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Client]:
    started = StdioServerParameters(
        command=sys.executable,
        args=["-c", COMMAND, "--url", url],
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    async with Client(started) as client:
        yield client


def ask(url: str, name: str, **arguments: Any) -> dict[str, Any]:
    """The answer of one tool."""

    async def run() -> dict[str, Any]:
        async with client_of(url) as client:
            return await answer(client, name, **arguments)

    return anyio.run(run)


async def answer(client: Client, name: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(name, arguments)
    assert not result.is_error, result.content
    found: dict[str, Any] = json.loads(result.content[0].text)  # type: ignore[union-attr]
    return found


async def refusal(client: Client, name: str, **arguments: Any) -> str:
    result = await client.call_tool(name, arguments)
    assert result.is_error, result.content
    return str(result.content[0].text)  # type: ignore[union-attr]


def test_each_tool_is_described_and_only_reads(server: ServerProcess) -> None:
    async def run() -> None:
        async with client_of(server.url) as client:
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == [*NAMES]
            for tool in tools:
                assert tool.description
                assert tool.annotations is not None
                assert tool.annotations.read_only_hint
            (key,) = [tool for tool in tools if tool.name == "get_key"]
            assert key.input_schema["required"] == ["key"]

    anyio.run(run)


def test_events_and_keys_are_read(server: ServerProcess) -> None:
    async def run() -> None:
        async with client_of(server.url) as client:
            overview = await answer(client, "overview")
            names = {each["category"]: each["events"] for each in overview["categories"]["items"]}
            assert names["order"] == 5
            assert ["balance"] in overview["keys_begin_with"]["items"]

            streams = await answer(client, "list_streams", prefix="order-")
            assert [each["stream"] for each in streams["items"]] == ["order-0", "order-1"]

            events = await answer(client, "read_stream", stream="order-1", limit=2)
            assert events["more"]
            assert [each["data"] for each in events["items"]] == [{"item": 1}, {"item": 3}]
            assert events["items"][0]["metadata"] == {"by": "ann"}
            rest = await answer(client, "read_stream", stream="order-1", after=2)
            assert [each["data"] for each in rest["items"]] == [{"item": 5}]
            assert not rest["more"]
            newest = await answer(client, "read_events", category="order", newest_first=True)
            assert [each["data"]["item"] for each in newest["items"]] == [5, 4, 3, 2, 1]
            tagged = await answer(client, "read_events", tags=["n:2"], types=["Placed"])
            assert [each["position"] for each in tagged["items"]] == [2]
            since = await answer(client, "read_events", since=newest["items"][0]["time"])
            assert since["items"][0]["position"] <= 6
            raw = await answer(client, "read_stream", stream="customer-1")
            assert raw["items"][0]["data"] == {"$bytes": "wQ=="}

            wanted = newest["items"][0]
            found = await answer(client, "find_event", id=wanted["id"])
            assert found["event"] == wanted

            assert await answer(client, "get_key", key=["balance", "ann"]) == {
                "exists": True,
                "value": 5,
            }
            assert await answer(client, "get_key", key=["none"]) == {"exists": False}
            large = await answer(client, "get_key", key=["large"])
            assert large["value"]["characters"] > 2 * ANSWER_SIZE_MAX
            keys = await answer(client, "list_keys", prefix=["balance"], limit=1)
            assert keys["items"][0]["key"] == ["balance", "ann"]
            assert keys["more"]
            rest = await answer(client, "list_keys", prefix=["balance"], after=["balance", "ann"])
            assert [each["key"] for each in rest["items"]] == [["balance", 7]]
            assert not rest["more"]

    anyio.run(run)


def test_the_past_is_read(server: ServerProcess) -> None:
    async def run() -> None:
        async with client_of(server.url) as client:
            events = await answer(client, "read_events", category="order")
            second = events["items"][1]
            asked = {"key": ["balance", "ann"], "commit": second["commit"]}
            assert (await answer(client, "get_key", **asked))["value"] == 1
            before = await answer(client, "read_stream", stream="order-1", commit=second["commit"])
            assert len(before["items"]) == 1
            history = await answer(client, "key_history", key=["balance", "ann"], limit=2)
            assert [(each["old"], each["new"]) for each in history["items"]] == [(4, 5), (3, 4)]
            assert history["more"]
            entries = await answer(client, "stream_history", stream="order-0")
            assert [each["version"] for each in entries["items"]] == [2, 1]
            at = {"key": ["balance", "ann"], "time": history["items"][1]["time"]}
            assert (await answer(client, "get_key", **at))["value"] in (4, 5)

    anyio.run(run)


def test_projections_and_groups_are_listed(server: ServerProcess) -> None:
    projections = ask(server.url, "list_projections")["items"]
    assert [(each["name"], each["position"] >= 5) for each in projections] == [("orders", True)]
    groups = ask(server.url, "list_groups")["items"]
    assert [(each["name"], each["filter"]) for each in groups] == [
        ("mailer", {"category": "order"})
    ]


def test_a_user_reads_what_it_may_read(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        with headwater.connect_blocking(server.url) as db:
            db.put(("balance", "ann"), 1)
            db.put(("secret",), 1)
            db.append("order-1", headwater.Event("Placed"))
            db.append("salary-1", headwater.Event("Raised"))
            # The second step needs a user, since the first one is there.
            db.add_user("admin", "correct horse")
        with headwater.connect_blocking(server.url, user="admin", password="correct horse") as db:
            db.add_user("model", "correct horse")
            db.rights.grant("model", "read:keys:balance", "read:category:order")
        url = server.url.replace("://", "://model:correct%20horse@")

        async def run() -> None:
            async with client_of(url) as client:
                overview = await answer(client, "overview")
                assert overview["user"] == "model"
                assert len(overview["rights"]) == 2
                assert "refused" in overview["keys_begin_with"]
                found = await answer(client, "get_key", key=["balance", "ann"])
                assert found == {"exists": True, "value": 1}
                keys = await answer(client, "list_keys", prefix=["balance"])
                assert len(keys["items"]) == 1
                orders = await answer(client, "read_events", category="order")
                assert len(orders["items"]) == 1
                for name, arguments in (
                    ("get_key", {"key": ["secret"]}),
                    ("list_keys", {"prefix": []}),
                    ("read_stream", {"stream": "salary-1"}),
                    ("read_events", {}),
                ):
                    assert "read" in await refusal(client, name, **arguments)

        anyio.run(run)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("list_keys", {"prefix": [], "limit": 0}, "limit: 0; allowed are 1 to 200"),
        ("find_event", {"id": "x"}, "is no UUID"),
        ("get_key", {"key": [{"$what": 1}]}, "key"),
        ("get_key", {"key": ["a"], "time": "soon"}, "not ISO 8601"),
        ("get_key", {"key": ["a"], "time": "2020-01-01", "commit": 1}, "either commit or time"),
        ("read_stream", {"stream": ""}, "stream"),
        ("get_key", {"key": ["a"], "commit": 10**9}, "commit"),
    ],
)
def test_the_model_is_told_what_was_wrong(
    server: ServerProcess, name: str, arguments: dict[str, Any], message: str
) -> None:
    async def run() -> None:
        async with client_of(server.url) as client:
            assert message in await refusal(client, name, **arguments)

    anyio.run(run)
