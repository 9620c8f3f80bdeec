"""Starts a server and an agent, kills both, and lets the agent go on."""

import operator
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.headwater import HeadwaterSaver
from langgraph.graph import END, START, StateGraph

import headwater
from headwater.cli.server_process import ServerProcess

THREAD: Any = {"configurable": {"thread_id": "tea"}}

ANSWERS = {
    "plan": "find out how hot the water for tea must be",
    "search": "tea: 95 degrees",
    "write": "tea needs water of 95 degrees",
    "review": "tea needs water of 95 degrees (checked)",
}


class State(TypedDict):
    """What the agent knows."""

    answer: str
    steps: Annotated[list[str], operator.add]


def agent(url: str, process: int) -> None:
    """One process of the agent: from the beginning, or from where the last one ended."""
    with headwater.connect_blocking(url) as db, HeadwaterSaver.from_conn_string(url) as saver:

        def step(name: str) -> Any:
            def run(state: State) -> dict[str, Any]:
                del state
                db.add(("calls", name), 1)
                if name == "write" and process == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                return {"answer": ANSWERS[name], "steps": [f"{name} by {process}"]}

            return run

        builder = StateGraph(State)
        names = list(ANSWERS)
        for name in names:
            builder.add_node(name, step(name))
        for one, other in zip([START, *names], [*names, END], strict=True):
            builder.add_edge(one, other)
        graph = builder.compile(checkpointer=saver)
        begins = graph.get_state(THREAD).created_at is None
        # Without an input, the graph goes on from its last checkpoint. Each is durable before the
        # next step begins.
        first: State | None = {"answer": "", "steps": []} if begins else None
        graph.invoke(first, THREAD, durability="sync")


def result(url: str) -> dict[str, Any]:
    """The newest state, and the number of checkpoints."""
    with HeadwaterSaver.from_conn_string(url) as saver:
        checkpoints = list(saver.list(THREAD))
        return {"count": len(checkpoints), **checkpoints[0].checkpoint["channel_values"]}


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, ServerProcess(Path(directory)) as server:
        first = start(server.url, 1)
        assert first == -signal.SIGKILL
        server.kill()
        server.start()
        steps = [each.split()[0] for each in result(server.url)["steps"]]
        print(f"process 1: {', '.join(steps)}, and then it was killed in write")
        assert start(server.url, 2) == 0
        done = result(server.url)
        print("process 2:", ", ".join(each.split()[0] for each in done["steps"][len(steps) :]))
        print("the answer:", done["answer"])
        print("steps:", ", ".join(done["steps"]))
        with headwater.connect_blocking(server.url) as db:
            calls = [f"{name} {db.get(('calls', name))}" for name in ANSWERS]
        print("calls of the model:", ", ".join(calls))
        print("checkpoints:", done["count"])


def start(url: str, process: int) -> int:
    return subprocess.call([sys.executable, __file__, "--agent", url, str(process)])


if __name__ == "__main__":
    if "--agent" in sys.argv:
        agent(sys.argv[2], int(sys.argv[3]))
    else:
        main()
