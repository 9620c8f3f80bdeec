"""What the conformance tests leave out: large values, threads, pruning by age, whole graphs."""

import asyncio
import operator
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.headwater import AsyncHeadwaterSaver, HeadwaterSaver
from langgraph.checkpoint.headwater.layout import PIECE_SIZE_MAX
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

import headwater
from headwater.cli.server_process import ServerProcess


@pytest.fixture
def saver(server: ServerProcess, prefix: str) -> Iterator[HeadwaterSaver]:
    with HeadwaterSaver.from_conn_string(server.url, prefix=prefix) as saver:
        yield saver


def config_of(thread: str, checkpoint: str | None = None) -> RunnableConfig:
    inner = {"thread_id": thread, "checkpoint_ns": ""}
    return {"configurable": inner | ({"checkpoint_id": checkpoint} if checkpoint else {})}


def checkpoint(values: dict[str, Any], version: str, **members: Any) -> Checkpoint:
    made = empty_checkpoint()
    made["id"] = str(uuid6(clock_seq=-2))
    made["channel_values"] = values
    made["channel_versions"] = dict.fromkeys(values, version)
    made.update(members)  # type: ignore[typeddict-item]
    return made


def put(
    saver: HeadwaterSaver, thread: str, values: dict[str, Any], version: str, **members: Any
) -> RunnableConfig:
    made = checkpoint(values, version, **members)
    versions = dict(made["channel_versions"])
    return saver.put(config_of(thread), made, {"source": "loop", "step": 1}, versions)


def keys_of(saver: HeadwaterSaver) -> list[tuple[Any, ...]]:
    return [key for key, _ in saver._database.scan((saver._layout.prefix,))]


@pytest.mark.parametrize(
    "size", [PIECE_SIZE_MAX - 1, PIECE_SIZE_MAX, PIECE_SIZE_MAX + 1, 40 * 2**20]
)
def test_a_value_of_any_size_is_read_as_it_was_written(saver: HeadwaterSaver, size: int) -> None:
    value = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    config = put(saver, "t", {"large": value, "small": 1}, "1")
    saver.put_writes(config, [("large", value), ("small", 2)], "task")
    found = saver.get_tuple(config_of("t"))
    assert found is not None
    assert found.checkpoint["channel_values"] == {"large": value, "small": 1}
    assert [write[2] for write in found.pending_writes or ()] == [value, 2]
    saver.delete_thread("t")
    assert keys_of(saver) == []


def test_many_values_larger_than_an_answer_together_are_read(saver: HeadwaterSaver) -> None:
    values = {f"channel {n}": bytes([n]) * 3_000_000 for n in range(12)}
    put(saver, "t", values, "1")
    put(saver, "t", values, "2")
    assert [each.checkpoint["channel_values"] for each in saver.list(config_of("t"))] == [
        values,
        values,
    ]


def test_a_write_that_is_there_stays(saver: HeadwaterSaver) -> None:
    config = put(saver, "t", {"a": 1}, "1")
    large = b"1" * (PIECE_SIZE_MAX + 1)
    saver.put_writes(config, [("a", large), ("b", 2)], "task")
    saver.put_writes(config, [("a", b"2" * len(large)), ("b", 3), ("c", 4)], "task")
    found = saver.get_tuple(config)
    assert found is not None
    assert [(name, value) for _, name, value in found.pending_writes or ()] == [
        ("a", large),
        ("b", 2),
        ("c", 4),
    ]


def test_savers_of_two_prefixes_see_nothing_of_each_other(server: ServerProcess) -> None:
    with headwater.connect_blocking(server.url) as database:
        one, two = (HeadwaterSaver(database, prefix=f"p {uuid4()}") for _ in range(2))
        put(one, "t", {"a": 1}, "1")
        assert two.get_tuple(config_of("t")) is None
        assert list(two.list(None)) == []


def test_a_database_with_another_codec_is_refused(server: ServerProcess) -> None:
    raw = headwater.RawCodec()
    with (
        headwater.connect_blocking(server.url, codec=raw) as database,
        pytest.raises(ValueError, match="codec"),
    ):
        HeadwaterSaver(database)


def test_a_list_is_limited_and_ends_before_a_checkpoint(saver: HeadwaterSaver) -> None:
    configs = [put(saver, "t", {"a": n}, f"{n:03}") for n in range(150)]

    def values(**options: Any) -> list[int]:
        found = saver.list(config_of("t"), **options)
        return [each.checkpoint["channel_values"]["a"] for each in found]

    assert values() == list(range(149, -1, -1))
    assert values(limit=3) == [149, 148, 147]
    assert values(before=configs[10], limit=2) == [9, 8]
    assert values(before=configs[0]) == []
    assert values(limit=0) == []
    assert values(filter={"step": 2}) == []
    assert len(list(saver.list(config_of("t", configs[5]["configurable"]["checkpoint_id"])))) == 1
    assert len(list(saver.list({"configurable": {"thread_id": "t"}}, limit=7))) == 7


def test_pruning_leaves_the_newest_and_what_it_needs(saver: HeadwaterSaver) -> None:
    for thread in ("t", "other"):
        for n in range(5):
            config = put(saver, thread, {"a": n, "large": b"x" * (PIECE_SIZE_MAX + n)}, f"{n}")
            saver.put_writes(config, [("a", b"y" * (PIECE_SIZE_MAX + 1))], "task")
    saver.prune(["t"], keep=2)
    assert [each.checkpoint["channel_values"]["a"] for each in saver.list(config_of("t"))] == [4, 3]
    assert len(list(saver.list(config_of("other")))) == 5
    saver.prune(["t"])
    newest = saver.get_tuple(config_of("t"))
    assert newest is not None
    assert len(newest.checkpoint["channel_values"]["large"]) == PIECE_SIZE_MAX + 4
    assert newest.pending_writes
    # 1 checkpoint, 2 values, 1 write; 2 pieces of the large value, 2 of the write.
    assert len([key for key in keys_of(saver) if key[2] == "t"]) == 8
    saver.prune(["t", "other"], strategy="delete")
    assert keys_of(saver) == []
    for wrong in ("t", ["t"]):
        with pytest.raises((TypeError, ValueError)):
            saver.prune(wrong, strategy="keep_latest" if isinstance(wrong, str) else "some")


def test_a_channel_of_deltas_keeps_its_ancestors(saver: HeadwaterSaver) -> None:
    parent: str | None = None
    ids = []
    for n in range(5):
        values = {"log": ["whole"]} if n == 1 else {}
        made = checkpoint(values, f"{n}")
        made["channel_versions"]["log"] = f"{n}"
        config = config_of("t", parent)
        metadata: Any = {"step": n, "counters_since_delta_snapshot": {"log": [n, n]}}
        stored = saver.put(config, made, metadata, {"log": f"{n}"})
        saver.put_writes(stored, [("log", n)], "task")
        parent = made["id"]
        ids.append(parent)
    before = saver.get_delta_channel_history(config=config_of("t"), channels=["log"])
    saver.prune(["t"])
    after = saver.get_delta_channel_history(config=config_of("t"), channels=["log"])
    assert after == before
    assert before["log"]["seed"] == ["whole"]
    assert [each.config["configurable"]["checkpoint_id"] for each in saver.list(None)] == [
        *reversed(ids[1:])
    ]


def test_old_checkpoints_are_pruned_in_all_threads(saver: HeadwaterSaver) -> None:
    old = (datetime.now(UTC) - timedelta(days=10)).isoformat()
    for thread in ("a", "b", "c\x00"):
        put(saver, thread, {"a": 1}, "1", ts=old)
        put(saver, thread, {"a": 2}, "2", ts=old)
    put(saver, "b", {"a": 3}, "3")
    assert saver.prune_older(timedelta(days=20)) == 0
    assert saver.prune_older(timedelta(days=5)) == 4
    assert saver.prune_older(timedelta(days=5), keep=0, thread_ids=["a"]) == 1
    left = [each.config["configurable"]["thread_id"] for each in saver.list(None)]
    assert sorted(left) == ["b", "c\x00"]


def test_a_copy_lives_on_when_its_source_is_deleted(saver: HeadwaterSaver) -> None:
    large = b"x" * (PIECE_SIZE_MAX + 1)
    put(saver, "t", {"a": large}, "1")
    saver.copy_thread("t", "copy")
    saver.delete_thread("t")
    found = saver.get_tuple(config_of("copy"))
    assert found is not None
    assert found.checkpoint["channel_values"] == {"a": large}


class State(TypedDict):
    steps: Annotated[list[str], operator.add]


def graph_of(saver: BaseCheckpointSaver[Any]) -> Any:
    """Two parallel branches, then a question."""

    def step(name: str) -> Any:
        return lambda _: {"steps": [name]}

    def question(state: State) -> dict[str, list[str]]:
        answer = interrupt(f"go on after {len(state['steps'])} steps?")
        return {"steps": [answer]}

    builder = StateGraph(State)
    for name in ("first", "left", "right"):
        builder.add_node(name, step(name))
    builder.add_node("question", question)
    builder.add_edge(START, "first")
    for name in ("left", "right"):
        builder.add_edge("first", name)
        builder.add_edge(name, "question")
    builder.add_edge("question", END)
    return builder.compile(checkpointer=saver)


def test_a_graph_goes_on_after_a_kill_of_the_server(server: ServerProcess, prefix: str) -> None:
    config = config_of("t")
    with HeadwaterSaver.from_conn_string(server.url, prefix=prefix) as saver:
        graph = graph_of(saver)
        graph.invoke({"steps": []}, config)
        server.kill()
        server.start()
        assert graph.get_state(config).next == ("question",)
    with HeadwaterSaver.from_conn_string(server.url, prefix=prefix) as saver:
        graph = graph_of(saver)
        result = graph.invoke(Command(resume="yes"), config)
        assert result["steps"] == ["first", "left", "right", "yes"]
        history = list(graph.get_state_history(config))
        # Go back to before the branches, and run from there again.
        early = next(each for each in history if each.next == ("left", "right"))
        graph.invoke(None, early.config)
        assert graph.get_state(config).values["steps"] == ["first", "left", "right"]
        assert len(list(graph.get_state_history(config))) > len(history)


def test_an_async_graph_calls_blocking_methods_from_threads(
    server: ServerProcess, prefix: str
) -> None:
    async def run() -> None:
        async with AsyncHeadwaterSaver.from_conn_string(server.url, prefix=prefix) as saver:
            graph = graph_of(saver)
            threads = [config_of(f"t{n}") for n in range(10)]
            await asyncio.gather(*(graph.ainvoke({"steps": []}, each) for each in threads))
            for each in threads:
                result = await graph.ainvoke(Command(resume="yes"), each)
                assert result["steps"] == ["first", "left", "right", "yes"]
            state = await asyncio.to_thread(graph.get_state, threads[0])
            assert state.values["steps"][-1] == "yes"
            assert len(await asyncio.to_thread(lambda: list(saver.list(threads[0])))) == 5
            with pytest.raises(asyncio.InvalidStateError):
                saver.get_tuple(threads[0])
            removed = await saver.aprune_older(timedelta(0), thread_ids=["t0"])
            assert removed == 4

    asyncio.run(run())


def test_threads_share_a_saver(saver: HeadwaterSaver) -> None:
    graph = graph_of(saver)
    results: dict[int, list[str]] = {}

    def work(number: int) -> None:
        config = config_of(f"t{number}")
        graph.invoke({"steps": []}, config)
        results[number] = graph.invoke(Command(resume=f"{number}"), config)["steps"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {n: ["first", "left", "right", f"{n}"] for n in range(8)}
