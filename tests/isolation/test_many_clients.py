"""Guarantees between many concurrent clients, over the wire."""

import secrets
import threading
from collections.abc import Callable
from typing import Any

import msgpack

from headwater.cli.server_process import ServerProcess
from headwater_protocol.errors import Conflict
from tests.wire import Wire


def _in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    outcomes: list[Any] = [None] * count
    failures: list[BaseException] = []

    def run(place: int) -> None:
        try:
            outcomes[place] = work(place)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    return outcomes


def test_one_of_eight_clients_commits_if_all_find_a_key_absent_and_insert_it(
    real_server: ServerProcess,
) -> None:
    key = secrets.token_bytes(8)
    all_have_read = threading.Barrier(8)

    def insert(place: int) -> bool:
        with Wire(real_server.address) as wire:
            identity = secrets.token_bytes(16)
            wire.ask("begin", identity)
            assert wire.ask("get", identity, key) is None
            all_have_read.wait()
            try:
                wire.ask("commit", identity, [["put", key, b"%d" % place]])
            except Conflict:
                return False
            return True

    outcomes = _in_threads(8, insert)
    assert outcomes.count(True) == 1
    with Wire(real_server.address) as wire:
        assert wire.ask("get", None, key) == b"%d" % outcomes.index(True)


def test_a_thousand_adds_from_thirty_two_clients_give_the_exact_sum_without_a_conflict(
    real_server: ServerProcess,
) -> None:
    key = secrets.token_bytes(8)

    def add(place: int) -> None:
        # 32 clients share 1,000 adds, so the first eight clients do one more than the others.
        with Wire(real_server.address) as wire:
            for _ in range(1000 // 32 + (place < 1000 % 32)):
                identity = secrets.token_bytes(16)
                wire.ask("begin", identity)
                wire.ask("commit", identity, [["add", key, 1]])

    _in_threads(32, add)
    with Wire(real_server.address) as wire:
        assert msgpack.unpackb(wire.ask("get", None, key)) == 1000


def test_the_second_of_two_commits_is_validated_against_the_first_before_it_is_durable(
    real_server: ServerProcess,
) -> None:
    key = secrets.token_bytes(8)
    with Wire(real_server.address) as wire:
        first, second = secrets.token_bytes(16), secrets.token_bytes(16)
        for identity in (first, second):
            wire.ask("begin", identity)
            wire.ask("get", identity, key)
        # Both commits are in one packet, so the server numbers the first and validates the
        # second before any fsync.
        for identity in (first, second):
            wire.queue("commit", identity, [["put", key, b"mine"]])
        outcomes = {}
        for request_id in wire.flush():
            try:
                wire.answer_to(request_id)
                outcomes[request_id] = "committed"
            except Conflict as error:
                outcomes[request_id] = error.conflicts[0]["transaction"]
    assert list(outcomes.values()) == ["committed", first]


def test_every_transaction_that_begins_after_an_acknowledgement_sees_the_commit(
    real_server: ServerProcess,
) -> None:
    key = secrets.token_bytes(8)
    with Wire(real_server.address) as writer, Wire(real_server.address) as reader:
        for number in range(200):
            value = b"%d" % number
            writer.ask("execute", secrets.token_bytes(16), [], [], [["put", key, value]])
            identity = secrets.token_bytes(16)
            reader.ask("begin", identity)
            assert reader.ask("get", identity, key) == value
            reader.ask("rollback", identity)


def test_a_read_view_stays_consistent_while_others_write_and_checkpoints_run(
    tmp_path_factory: Any,
) -> None:
    # A checkpoint every few commits, and an empty history window.
    options = ["--checkpoint-commits", "50", "--history-window", "0"]
    directory = tmp_path_factory.mktemp("whole")
    with (
        ServerProcess(directory, options) as server,
        Wire(server.address) as reader,
        Wire(server.address) as writer,
    ):
        prefix = secrets.token_bytes(4)
        keys = [prefix + b"/%02d" % number for number in range(20)]
        _write_all(writer, keys, b"before")
        identity = secrets.token_bytes(16)
        reader.ask("begin", identity)
        checkpoints = 0
        # Write until a checkpoint has run. How long that takes depends on the load.
        for number in range(10_000):
            if number % 7 == 0:
                _write_all(writer, keys, b"after %d" % number)
            else:
                delete = ["delete", keys[number % len(keys)]]
                writer.ask("execute", secrets.token_bytes(16), [], [], [delete])
            if number % 40 == 0:
                _, items, more = reader.ask("scan", identity, prefix, prefix + b"0")
                assert not more
                assert items[0::2] == keys
                assert set(items[1::2]) == {b"before"}
                checkpoints = writer.ask("stats")["checkpoints"]
                if checkpoints >= 5 and number >= 400:
                    break
        assert checkpoints >= 5
        for key in keys:
            assert reader.ask("get", identity, key) == b"before"


def _write_all(wire: Wire, keys: list[bytes], value: bytes) -> None:
    writes = [["put", key, value] for key in keys]
    wire.ask("execute", secrets.token_bytes(16), [], [], writes)
