"""The promises of docs/protocol.md, tested with a client that was written from that page alone.

The tests share a server, so each test uses its own stream names and keys.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest

from headwater.cli.server_process import ServerProcess

from .bare_client import BareClient, ErrorAnswer, encode_key, new_transaction_id

KEY_SIZE_MAX = 8192
STREAM_NAME_SIZE_MAX = 512


@pytest.fixture
def client(real_server: ServerProcess) -> Iterator[BareClient]:
    yield from _connected(real_server)


@pytest.fixture
def other(real_server: ServerProcess) -> Iterator[BareClient]:
    yield from _connected(real_server)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the user ann, added by the command line."""
    with ServerProcess(tmp_path_factory.mktemp("guarded")) as server:
        add = ["-m", "headwater", "user", "add", "ann", "--url", server.url, "--password-stdin"]
        subprocess.run([sys.executable, *add], input=b"pencil\n", check=True, capture_output=True)
        yield server


@pytest.fixture
def name() -> str:
    """A random part of the names that a test uses."""
    return os.urandom(6).hex()


def _connected(server: ServerProcess) -> Iterator[BareClient]:
    with closing(BareClient(server.address)) as client:
        client.call("hello", 1, "bare client")
        yield client


def _refused(client: BareClient, code: str, operation: str, *arguments: Any) -> ErrorAnswer:
    """Send a request that must be answered with this error, and return it."""
    with pytest.raises(ErrorAnswer) as refusal:
        client.call(operation, *arguments)
    assert refusal.value.code == code
    return refusal.value


def _append(client: BareClient, stream: str, count: int, expect: int = -1) -> Any:
    events = [[None, "Counted", b"%d" % number, b""] for number in range(count)]
    write = ["append", stream, expect, events]
    return client.call("execute", new_transaction_id(), [], [], [write])[0]


def _ends(client: BareClient) -> bool:
    """Whether the server has closed the connection without another message."""
    with pytest.raises(ConnectionError, match="closed"):
        client.answer(-1)
    return True


class TestHello:
    def test_is_answered_with_version_server_features_mechanisms_and_database(
        self, real_server: ServerProcess
    ) -> None:
        with closing(BareClient(real_server.address)) as client:
            version, server, features, mechanisms, database = client.call("hello", 1)
            assert (version, features, mechanisms) == (1, [], [])
            assert server.startswith("headwater ")
            assert len(database) == 16

    def test_a_newer_client_is_answered_with_the_version_that_the_server_speaks(
        self, real_server: ServerProcess
    ) -> None:
        with closing(BareClient(real_server.address)) as client:
            assert client.call("hello", 65535, "later", ["telepathy"])[:3:2] == [1, []]

    def test_must_come_first(self, real_server: ServerProcess) -> None:
        with closing(BareClient(real_server.address)) as client:
            _refused(client, "protocol_error", "ping")
            assert _ends(client)

    def test_may_not_come_twice(self, client: BareClient) -> None:
        _refused(client, "protocol_error", "hello", 1)
        assert _ends(client)

    def test_a_refused_hello_may_be_sent_again(self, real_server: ServerProcess) -> None:
        with closing(BareClient(real_server.address)) as client:
            _refused(client, "invalid_argument", "hello", 0)
            assert client.call("hello", 1)[0] == 1


class TestRequests:
    def test_an_unknown_operation_fails_only_that_request(self, client: BareClient) -> None:
        error = _refused(client, "unknown_operation", "guess")
        assert not error.retryable
        assert len(client.call("ping")) == 2

    def test_a_wrong_argument_rolls_back_the_transaction_that_it_named(
        self, client: BareClient, name: str
    ) -> None:
        transaction, key = new_transaction_id(), encode_key(name)
        client.call("begin", transaction)
        wrong = client.send("write", transaction, [["put", "a str", b""]])
        behind = client.send("commit", transaction, [["put", key, b""]])
        with pytest.raises(ErrorAnswer, match="invalid_argument"):
            client.answer(wrong)
        with pytest.raises(ErrorAnswer, match="transaction_gone"):
            client.answer(behind)
        assert client.call("get", None, key) is None

    def test_a_read_that_the_engine_refuses_rolls_its_transaction_back_too(
        self, client: BareClient, name: str
    ) -> None:
        transaction = new_transaction_id()
        client.call("begin", transaction)
        _refused(client, "invalid_argument", "get", transaction, encode_key(name), 1)
        _refused(client, "transaction_gone", "commit", transaction)

    def test_an_unknown_operation_rolls_back_the_transaction_that_it_named(
        self, client: BareClient
    ) -> None:
        transaction = new_transaction_id()
        client.call("begin", transaction)
        _refused(client, "unknown_operation", "guess", transaction)
        _refused(client, "transaction_gone", "commit", transaction)

    def test_a_request_id_may_be_used_again_once_it_was_answered(self, client: BareClient) -> None:
        for _ in range(2):
            client.send_body(msgpack.packb([4294967295, "ping"]))
            assert len(client.answer(4294967295)) == 2

    def test_the_request_id_of_an_open_subscription_may_not_be_used(
        self, client: BareClient
    ) -> None:
        subscription = client.send("subscribe")
        client.answer(subscription)
        client.send_body(msgpack.packb([subscription, "ping"]))
        with pytest.raises(ErrorAnswer, match="protocol_error"):
            client.answer(0)
        assert _ends(client)

    @pytest.mark.parametrize(
        "vector",
        json.loads((Path(__file__).parent / "vectors" / "malformed.json").read_text()),
        ids=lambda vector: vector["why"],
    )
    def test_bytes_that_are_not_a_request_are_answered_like_the_vectors(
        self, client: BareClient, vector: dict[str, Any]
    ) -> None:
        client.socket.sendall(bytes.fromhex(vector["sent"]))
        with pytest.raises(ErrorAnswer) as refusal:
            client.answer(vector["request_id"])
        assert refusal.value.code == vector["code"]
        if vector["closes"]:
            assert _ends(client)
        else:
            assert len(client.call("ping")) == 2


class TestTransactions:
    def test_reads_as_of_its_begin_with_its_own_writes_on_top(
        self, client: BareClient, other: BareClient, name: str
    ) -> None:
        ours, theirs = encode_key(name, 1), encode_key(name, 2)
        transaction = new_transaction_id()
        (seen,) = client.call("begin", transaction)
        other.call("execute", new_transaction_id(), [], [], [["put", theirs, b"new"]])
        assert client.call("write", transaction, [["put", ours, b"mine"]]) is None
        assert client.call("get", transaction, ours) == b"mine"
        assert client.call("get", transaction, theirs) is None
        assert client.call("scan", transaction, encode_key(name), encode_key(name) + b"\xff") == [
            seen,
            [ours, b"mine"],
            False,
        ]
        assert client.call("rollback", transaction) is None
        assert other.call("get", None, ours) is None

    def test_begin_read_and_commit_can_be_sent_together(
        self, client: BareClient, name: str
    ) -> None:
        transaction, key = new_transaction_id(), encode_key(name)
        sent = [
            client.send("begin", transaction),
            client.send("get", transaction, key),
            client.send("commit", transaction, [["put", key, b""]]),
        ]
        (seen,), value, (commit, *rest) = (client.answer(request_id) for request_id in sent)
        assert value is None
        assert commit > seen
        assert rest[1:] == [None, None, {}]
        assert client.call("get", None, key) == b""

    def test_conflicts_if_a_key_that_it_read_was_written_since(
        self, client: BareClient, other: BareClient, name: str
    ) -> None:
        transaction, winner, key = new_transaction_id(), new_transaction_id(), encode_key(name)
        client.call("begin", transaction)
        client.call("get", transaction, key)
        ((commit, *_), _) = other.call("execute", winner, [], [], [["put", key, b"first"]])
        error = _refused(client, "conflict", "commit", transaction, [["put", key, b"second"]])
        assert error.retryable
        (conflict,) = error.details["conflicts"]
        assert conflict["kind"] == "read-write"
        assert (conflict["key"], conflict["commit"], conflict["transaction"]) == (
            key,
            commit,
            winner,
        )
        assert client.call("get", None, key) == b"first"
        _refused(client, "transaction_gone", "get", transaction, key)

    def test_a_commit_repeated_on_a_new_connection_gets_the_same_answer(
        self, client: BareClient, other: BareClient, name: str
    ) -> None:
        transaction = new_transaction_id()
        writes = [["append", name, 0, [[None, "Opened", b"", b""]]], ["add", encode_key(name), 1]]
        client.call("begin", transaction)
        first = client.call("commit", transaction, writes)
        client.close()
        assert other.call("commit", transaction, writes) == first
        assert other.call("commit", transaction) == first
        assert other.call("status", transaction) == ["committed", first]
        assert other.call("get", None, encode_key(name)) == msgpack.packb(1)

    def test_a_repeated_execute_has_the_reads_of_the_first_one(
        self, client: BareClient, other: BareClient, name: str
    ) -> None:
        key = encode_key(name)
        arguments = [new_transaction_id(), [], [["get", key]], [["put", key, b"1"]]]
        first = client.call("execute", *arguments)
        assert first[1] == [None]
        other.call("execute", new_transaction_id(), [], [], [["put", key, b"2"]])
        assert other.call("execute", *arguments) == first
        assert other.call("get", None, key) == b"2"

    def test_status_is_open_until_it_is_resolved(self, client: BareClient) -> None:
        transaction = new_transaction_id()
        assert client.call("status", transaction) == ["open", None]
        assert client.call("status", transaction, True) == ["aborted", None]
        assert client.call("status", transaction) == ["aborted", None]
        _refused(client, "transaction_aborted", "execute", transaction)

    def test_resolving_an_open_transaction_prevents_its_commit(
        self, client: BareClient, other: BareClient, name: str
    ) -> None:
        transaction = new_transaction_id()
        client.call("begin", transaction)
        assert other.call("status", transaction, True) == ["aborted", None]
        _refused(client, "transaction_aborted", "commit", transaction, [["delete", b"k"]])

    def test_a_transaction_without_writes_leaves_no_trace(self, client: BareClient) -> None:
        transaction = new_transaction_id()
        (seen,) = client.call("begin", transaction)
        assert client.call("commit", transaction)[0] == seen
        assert client.call("status", transaction) == ["open", None]
        _refused(client, "transaction_gone", "commit", transaction)

    def test_own_events_have_no_position_before_the_commit(
        self, client: BareClient, name: str
    ) -> None:
        transaction = new_transaction_id()
        (seen,) = client.call("begin", transaction)
        client.call("write", transaction, [["append", name, 0, [[None, "Opened", b"", b""]]]])
        read_at, version, (event,), _ = client.call("read_stream", transaction, name)
        assert (read_at, version) == (seen, 1)
        assert event[:4] == [0, name, 1, 0]
        assert event[5] == bytes(16)

    def test_belongs_to_its_connection(self, client: BareClient, other: BareClient) -> None:
        transaction = new_transaction_id()
        client.call("begin", transaction)
        _refused(other, "transaction_gone", "get", transaction, b"k")
        assert other.call("rollback", transaction) is None
        assert client.call("get", transaction, b"k" * 8) is None


class TestExecute:
    def test_reads_the_state_before_its_writes(self, client: BareClient, name: str) -> None:
        key = encode_key(name)
        write = ["append", name, 0, [[None, "Opened", b"data", b"metadata"]]]
        reads = [["get", key], ["read_stream", name, 0, 10, False], ["load", name, "", 0, None]]
        committed, results = client.call(
            "execute",
            new_transaction_id(),
            [["value", key, None], ["stream", name, 0]],
            reads,
            [["put", key, b"value"], write],
        )
        commit, time, first_position, last_position, versions = committed
        before = commit - 1
        assert results == [None, [before, 0, [], False], [before, 0, None, [], False, 1]]
        assert first_position == last_position
        assert versions == {name: 1}
        assert client.call("get", None, key) == b"value"
        read_at, version, (event,), more = client.call("read_stream", None, name)
        assert (read_at, version, more) == (commit, 1, False)
        assert event[:5] == [first_position, name, 1, commit, time]
        assert len(event[5]) == 16
        assert event[6:9] == ["Opened", b"data", b"metadata"]

    def test_says_which_conditions_failed_and_writes_nothing(
        self, client: BareClient, name: str
    ) -> None:
        key, another = encode_key(name), encode_key(name, "another")
        ((commit, *_), _) = client.call(
            "execute", new_transaction_id(), [], [], [["put", key, b"value"]]
        )
        conditions = [
            ["value", key, None],
            ["stream", name, -2],
            ["unchanged", key, key + b"\xff", commit - 1],
            ["unchanged", key, key + b"\xff", commit],
        ]
        error = _refused(
            client,
            "condition_failed",
            "execute",
            new_transaction_id(),
            conditions,
            [],
            [["put", another, b""]],
        )
        kinds = [conflict["kind"] for conflict in error.details["conflicts"]]
        assert kinds == ["condition", "expected version", "condition"]
        assert client.call("get", None, another) is None

    def test_the_error_of_an_append_at_a_wrong_version_has_the_actual_one(
        self, client: BareClient, name: str
    ) -> None:
        _append(client, name, 3)
        with pytest.raises(ErrorAnswer) as refusal:
            _append(client, name, 1, expect=2)
        assert refusal.value.code == "wrong_version"
        (conflict,) = refusal.value.details["conflicts"]
        assert (conflict["stream"], conflict["expected"], conflict["actual"]) == (name, 2, 3)

    def test_an_append_of_events_that_exist_counts_as_done(
        self, client: BareClient, name: str
    ) -> None:
        event_id = os.urandom(16)
        write = ["append", name, 0, [[event_id, "Opened", b"data", b""]]]
        for _ in range(2):
            client.call("execute", new_transaction_id(), [], [], [write])
        assert client.call("read_stream", None, name)[1] == 1
        other = ["append", name, 1, [[event_id, "Opened", b"other", b""]]]
        _refused(client, "duplicate_event", "execute", new_transaction_id(), [], [], [other])


class TestReads:
    def test_a_range_is_read_in_pages_in_both_directions(
        self, client: BareClient, name: str
    ) -> None:
        keys = [encode_key(name, number) for number in range(-3, 4)]
        end = encode_key(name) + b"\xff"
        writes = [["put", key, b"%d" % place] for place, key in enumerate(keys)]
        client.call("execute", new_transaction_id(), [], [], writes)

        start, forwards = encode_key(name), []
        more = True
        while more:
            _, page, more = client.call("scan", None, start, end, 3)
            forwards += page
            start = page[-2] + b"\0"
        assert forwards[::2] == keys
        assert forwards[1::2] == [b"%d" % place for place in range(7)]

        backwards = []
        more = True
        while more:
            _, page, more = client.call("scan", None, encode_key(name), end, 3, True)
            backwards += page
            end = page[-2]
        assert backwards[::2] == keys[::-1]

    def test_a_page_is_bounded_in_bytes(self, client: BareClient, name: str) -> None:
        keys = [encode_key(name, number) for number in range(3)]
        value = bytes(600_000)
        client.call("execute", new_transaction_id(), [], [], [["put", key, value] for key in keys])
        _, page, more = client.call("scan", None, encode_key(name), encode_key(name) + b"\xff")
        assert 2 <= len(page) < 6
        assert more

    def test_at_commit_reads_the_past(self, client: BareClient, name: str) -> None:
        key = encode_key(name)
        commits = []
        for value in (b"1", b"2"):
            writes = [["put", key, value], ["append", name, -1, [[None, "Put", value, b""]]]]
            (committed, _) = client.call("execute", new_transaction_id(), [], [], writes)
            commits.append(committed[0])
        assert client.call("get", None, key, commits[0] - 1) is None
        assert client.call("get", None, key, commits[0]) == b"1"
        assert client.call("get", None, key, None) == b"2"
        assert client.call("read_stream", None, name, 0, 10, False, commits[0])[:2] == [
            commits[0],
            1,
        ]
        _refused(client, "no_such_commit", "get", None, key, commits[1] + 1_000_000)

    def test_a_stream_is_read_in_both_directions(self, client: BareClient, name: str) -> None:
        _append(client, name, 5)

        def versions(*arguments: Any) -> tuple[list[int], bool]:
            _, version, events, more = client.call("read_stream", None, name, *arguments)
            assert version == 5
            return [event[2] for event in events], more

        assert versions() == ([1, 2, 3, 4, 5], False)
        assert versions(3) == ([4, 5], False)
        assert versions(0, 2) == ([1, 2], True)
        assert versions(0, 2, True) == ([5, 4], True)
        assert versions(4, 10, True) == ([3, 2, 1], False)

    def test_all_events_are_read_through_a_filter(self, client: BareClient, name: str) -> None:
        _, _, first, _, _ = _append(client, f"{name}-a", 2)
        _append(client, f"{name}x-b", 1)
        _, _, _, last, _ = _append(client, f"{name}-c", 1)

        def positions(chosen: dict[str, Any], *arguments: Any) -> list[int]:
            events = client.call("read_all", None, first - 1, chosen, *arguments)[2]
            return [event[0] for event in events]

        everything = list(range(first, last + 1))
        assert positions({}) == everything
        assert positions({"category": name}) == [first, first + 1, last]
        assert positions({"prefix": name}) == everything
        assert positions({"stream": f"{name}-c"}) == [last]
        assert positions({"category": name, "types": ["Other"]}) == []
        assert positions({"category": name}, 1) == [first]

    def test_events_have_their_tags_and_are_found_by_them(
        self, client: BareClient, name: str
    ) -> None:
        x, y = f"x:{name}", f"y:{name}"
        events = [
            [None, "Opened", b"1", b"", [y, x]],
            [None, "Closed", b"2", b"", [x]],
            [None, "Closed", b"3", b""],
            [None, "Closed", b"4", b"", [y]],
        ]
        client.call("execute", new_transaction_id(), [], [], [["append", name, 0, events]])
        stored = client.call("read_stream", None, name)[2]
        assert [event[9] for event in stored] == [[y, x], [x], [], [y]]

        def found(query: list[dict[str, Any]], *arguments: Any) -> list[bytes]:
            page = client.call("read_all", None, 0, {"query": query}, *arguments)
            return [event[7] for event in page[2]]

        assert found([{"tags": [x]}]) == [b"1", b"2"]
        assert found([{"tags": [x, y]}]) == [b"1"]
        assert found([{"tags": [x], "types": ["Opened"]}, {"tags": [y]}]) == [b"1", b"4"]
        assert found([{"tags": [y]}], 1, True) == [b"4"]
        wrong: list[Any] = [[], [{}], [{"tags": []}], [{"tags": [""]}], [{"names": [x]}]]
        for query in wrong:
            _refused(client, "invalid_argument", "read_all", None, 0, {"query": query})

    def test_an_append_may_require_that_no_event_matches_a_query(
        self, client: BareClient, name: str
    ) -> None:
        taken = {"query": [{"types": ["Taken"], "tags": [name]}]}

        def take(*condition: Any) -> list[Any]:
            return ["append", name, -1, [[None, "Taken", b"", b"", [name]]], *condition]

        ((commit, _, position, _, _), _) = client.call(
            "execute", new_transaction_id(), [], [], [take(taken)]
        )
        for conditions, writes in (
            ([], [take(taken)]),
            ([], [take(taken, position - 1)]),
            ([["no_events", taken, 0]], []),
        ):
            error = _refused(
                client, "condition_failed", "execute", new_transaction_id(), conditions, [], writes
            )
            (conflict,) = error.details["conflicts"]
            assert (conflict["position"], conflict["commit"]) == (position, commit)
            assert conflict["query"] == taken
        client.call(
            "execute",
            new_transaction_id(),
            [["no_events", taken, position]],
            [],
            [take(taken, position), take(None)],
        )
        far = ["append", name, -1, [[None, "T", b"", b""]], taken, 2**60]
        _refused(client, "position_not_reached", "execute", new_transaction_id(), [], [], [far])

    def test_the_newest_position_of_a_filter_is_found(self, client: BareClient, name: str) -> None:
        wanted = {"stream": name}
        assert client.call("newest_position", None, 0, wanted)[1:] == [0, False]
        _, _, first, last, _ = _append(client, name, 2)
        commit, position, more = client.call("newest_position", None, 0, wanted)
        assert (position, more) == (last, False)
        assert client.call("newest_position", None, last, wanted)[1] == first
        assert client.call("newest_position", None, first, wanted)[1] == 0
        assert client.call("newest_position", None, 0, wanted, commit - 1)[1] == 0
        assert client.call("newest_position", None)[1] >= last

    def test_the_position_before_a_time_is_found(self, client: BareClient, name: str) -> None:
        _, time, first, _, _ = _append(client, name, 2)
        before = client.call("position_before", time)
        assert before < first
        events = client.call("read_all", None, before, {"stream": name})[2]
        assert [event[2] for event in events] == [1, 2]
        assert client.call("position_before", time + 1) >= first + 1
        assert client.call("position_before", 0) == 0

    def test_load_has_the_newest_snapshot_and_the_events_after_it(
        self, client: BareClient, name: str
    ) -> None:
        _append(client, name, 3)
        snapshot = ["save_snapshot", name, "sum", 1, 2, b"state"]
        client.call("execute", new_transaction_id(), [], [], [snapshot])
        _, version, loaded, events, more, begins = client.call("load", None, name, "sum", 1)
        assert (version, loaded, more, begins) == (3, [2, b"state"], False, 1)
        assert [event[2] for event in events] == [3]
        _, _, loaded, events, *_ = client.call("load", None, name)
        assert (loaded, len(events)) == (None, 3)
        client.call("execute", new_transaction_id(), [], [], [["delete_stream", name]])
        _append(client, name, 1)
        assert client.call("load", None, name)[-1] == 4


class TestLimits:
    def test_a_key_of_the_largest_size_is_accepted_and_a_larger_one_is_refused(
        self, client: BareClient, name: str
    ) -> None:
        largest = encode_key(name).ljust(KEY_SIZE_MAX, b"\xff")
        client.call("execute", new_transaction_id(), [], [], [["put", largest, b"value"]])
        assert client.call("get", None, largest) == b"value"
        error = _refused(client, "too_large", "get", None, largest + b"\0")
        assert str(KEY_SIZE_MAX) in error.message
        _refused(client, "invalid_argument", "get", None, b"")
        _refused(client, "invalid_argument", "get", None, name)

    def test_a_stream_name_is_counted_in_utf_8_bytes(self, client: BareClient, name: str) -> None:
        longest = name + "é" * ((STREAM_NAME_SIZE_MAX - len(name)) // 2)
        assert len(longest.encode()) == STREAM_NAME_SIZE_MAX
        _append(client, longest, 1)
        assert client.call("read_stream", None, longest)[1] == 1
        _refused(client, "too_large", "read_stream", None, longest + "e")
        _refused(client, "invalid_argument", "read_stream", None, "")
        _refused(client, "invalid_argument", "read_stream", None, name.encode())


class TestSubscriptions:
    def test_pushes_past_events_then_new_ones_and_never_more_than_the_credit(
        self, client: BareClient, other: BareClient, name: str
    ) -> None:
        _, _, first, last, _ = _append(other, f"{name}-a", 5)
        subscription = client.send("subscribe", first - 1, {"category": name}, 2)
        assert client.answer(subscription) is None
        received: list[int] = []

        def take_events(count: int) -> None:
            until = len(received) + count
            while len(received) < until:
                kind, payload = client.push(subscription)
                if kind == "events":
                    received.extend(event[0] for event in payload)
                else:
                    assert kind == "fell_behind"
            assert len(received) == until

        take_events(2)
        assert client.call("credit", subscription, 1) is None
        take_events(1)
        client.call("credit", subscription, 100)
        take_events(2)
        assert received == list(range(first, last + 1))
        kind, position = client.push(subscription)
        assert kind == "caught_up"
        assert position >= last

        _, _, live, _, _ = _append(other, f"{name}-b", 1)
        take_events(1)
        assert received[-1] == live
        assert client.call("unsubscribe", subscription) is None
        _refused(client, "invalid_argument", "credit", subscription, 1)

    def test_starts_with_new_events_if_it_begins_at_the_last_position(
        self, client: BareClient, other: BareClient, name: str
    ) -> None:
        _, _, _, last, _ = _append(other, name, 1)
        subscription = client.send("subscribe", last, {}, 10)
        assert client.push(subscription) == ["caught_up", last]
        _append(other, name, 1)
        kind, (event,) = client.push(subscription)
        assert (kind, event[1:3]) == ("events", [name, 2])

    def test_a_position_that_does_not_exist_yet_is_refused(self, client: BareClient) -> None:
        _refused(client, "position_not_reached", "subscribe", 2**62)


class TestKeys:
    @pytest.mark.parametrize(
        ("members", "encoded"),
        [
            (("balance", "ann", 7), "0262616c616e63650002616e6e001507"),
            ((0, 1, 255, 256), "14150115ff160100"),
            ((-1, -255, -256), "13fe130012feff"),
            ((2**64 - 1,), "1cffffffffffffffff"),
            (("a\0b",), "026100ff6200"),
            ((b"\0\xff",), "0100ffff00"),
        ],
    )
    def test_are_encoded_as_the_page_shows(self, members: Any, encoded: str) -> None:
        assert encode_key(*members).hex() == encoded

    def test_are_encoded_like_the_vectors(self) -> None:
        vectors = json.loads((Path(__file__).parent / "vectors" / "keys.json").read_text())
        plain = [
            (vector["key"][0], vector["encoded"])
            for vector in vectors["keys"]
            if len(vector["key"]) == 1 and type(vector["key"][0]) in (int, str)
        ]
        assert len(plain) > 10
        for member, encoded in plain:
            assert encode_key(member).hex() == encoded


class TestScram:
    @pytest.fixture
    def stranger(self, guarded: ServerProcess) -> Iterator[BareClient]:
        with closing(BareClient(guarded.address)) as client:
            assert client.call("hello", 1)[3] == ["SCRAM-SHA-256"]
            yield client

    def test_the_right_password_is_accepted(self, stranger: BareClient) -> None:
        stranger.authenticate("ann", "pencil")
        assert stranger.call("user_list") == ["ann"]

    @pytest.mark.parametrize(("user", "password"), [("ann", "pen"), ("bob", "pencil")])
    def test_a_wrong_name_or_password_may_be_tried_again(
        self, stranger: BareClient, user: str, password: str
    ) -> None:
        with pytest.raises(ErrorAnswer, match="authentication_failed"):
            stranger.authenticate(user, password)
        stranger.authenticate("ann", "pencil")
        assert len(stranger.call("ping")) == 2

    def test_too_many_failed_attempts_end_the_connection(self, stranger: BareClient) -> None:
        for _ in range(3):
            with pytest.raises(ErrorAnswer, match="authentication_failed"):
                stranger.authenticate("ann", "pen")
        assert _ends(stranger)

    def test_nothing_else_is_answered_before_authentication(self, stranger: BareClient) -> None:
        _refused(stranger, "authentication_failed", "get", None, b"k")
        stranger.authenticate("ann", "pencil")
        assert stranger.call("get", None, b"k") is None

    def test_an_unauthenticated_client_may_not_send_large_frames(
        self, stranger: BareClient
    ) -> None:
        stranger.socket.sendall((16 * 1024 + 1).to_bytes(4, "big"))
        with pytest.raises(ErrorAnswer, match="protocol_error"):
            stranger.answer(0)
        assert _ends(stranger)
