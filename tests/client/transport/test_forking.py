"""A connection belongs to the process that opened it. After fork() the child opens its own."""

import asyncio
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

import headwater
from headwater.cli.server_process import ServerProcess

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


class Child:
    """A forked child that runs a function, and what the function returned."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._result, sender = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                result = work()
            except BaseException as error:
                result = repr(error)
            os.write(sender, json.dumps(result).encode())
            os._exit(0)
        os.close(sender)

    def result(self) -> Any:
        with open(self._result, "rb") as file:
            data = file.read()
        os.waitpid(self._pid, 0)
        return json.loads(data)


def test_parent_and_children_each_get_their_own_answers(real_server: ServerProcess) -> None:
    with headwater.connect_blocking(real_server.url, request_timeout=5) as db:
        names = ["parent", "first", "second"]
        for name in names:
            db.put(("fork", name), name)

        def read(name: str) -> list[str]:
            return sorted({db.get(("fork", name)) for _ in range(300)})

        children = [Child(lambda name=name: read(name)) for name in names[1:]]  # type: ignore[misc]
        assert read("parent") == ["parent"]
        assert [child.result() for child in children] == [["first"], ["second"]]


def test_writes_of_parent_and_child_are_all_there(real_server: ServerProcess) -> None:
    with headwater.connect_blocking(real_server.url, request_timeout=5) as db:

        def write(name: str) -> int:
            for number in range(100):
                db.put(("forked", name, number), number)
            return 100

        child = Child(lambda: write("child"))
        write("parent")
        assert child.result() == 100
        assert len(list(db.scan(("forked",)))) == 200


@pytest.mark.parametrize("end", ["close()", "leaving the block", "exit"])
def test_a_child_that_ends_its_copy_does_not_touch_the_parents(
    end: str, real_server: ServerProcess
) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        tx = db.transaction()
        tx.get("a")
        tx.put(("fork", end), 1)

        def work() -> None:
            if end == "close()":
                db.close()
            elif end == "leaving the block":
                db.__exit__(None, None, None)

        assert Child(work).result() is None
        assert tx.commit() is not None
        # The same connection, not a new one.
        (connection,) = db._core._channel._connections
        assert not connection.closed


def test_a_transaction_of_the_parent_cannot_commit_in_the_child(
    real_server: ServerProcess,
) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        tx = db.transaction()
        tx.get("a")
        tx.put(("fork", "twice"), 1)

        def commit() -> str:
            try:
                tx.commit()
            except headwater.ConnectionLost as error:
                return str(error)
            return "committed"

        assert "belongs to a parent process" in Child(commit).result()
        assert tx.commit() is not None


def test_a_subscription_goes_on_in_the_child_with_a_connection_of_its_own(
    real_server: ServerProcess,
) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        db.append("forked-1", [headwater.Event("A", n) for n in range(3)])
        with db.subscribe(stream="forked-1") as feed:
            events = feed.events()
            first = next(events)

            def rest() -> list[int]:
                return [next(events).data, next(events).data]

            assert first.data == 0
            child = Child(rest)
            assert [next(events).data, next(events).data] == [1, 2]
            assert child.result() == [1, 2]


def test_a_lock_that_a_thread_held_at_the_fork_does_not_stop_the_child(
    real_server: ServerProcess,
) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        db.put(("fork", "locked"), 1)
        (connection,) = db._core._channel._connections
        db._core._channel._opening._lock.acquire()  # type: ignore[attr-defined]
        connection._lock.acquire()  # type: ignore[attr-defined]

        def read_in_a_thread() -> Any:
            # In a thread, because the locks are reentrant.
            found: list[Any] = []
            thread = threading.Thread(target=lambda: found.append(db.get(("fork", "locked"))))
            thread.start()
            thread.join(10)
            return found

        child = Child(read_in_a_thread)
        assert child.result() == [1]


def test_a_child_of_an_event_loop_does_not_touch_the_parents_connection(
    real_server: ServerProcess,
) -> None:
    async def main() -> None:
        async with headwater.connect(real_server.url) as db:
            await db.put(("fork", "loop"), 1)

            def work() -> str:
                async def again() -> None:
                    await db.get(("fork", "loop"))

                try:
                    asyncio.new_event_loop().run_until_complete(again())
                except headwater.InvalidArgument as error:
                    return str(error)
                return "no error"

            assert "another event loop" in Child(work).result()
            assert await db.get(("fork", "loop")) == 1
            (connection,) = db._channel._connections
            assert not connection.closed

    asyncio.run(main())
