"""The command line against a real server."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import headwater
from headwater.cli import main
from headwater.cli.server_process import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of its own, since the tests know its whole content."""
    with ServerProcess(Path(tmp_path_factory.mktemp("source"))) as server:
        fill(server.url)
        yield server


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as server:
        yield server


def fill(url: str) -> None:
    with headwater.connect_blocking(url) as db:
        with db.transaction() as tx:
            for number in range(2500):
                tx.put(("number", number), {"square": number * number})
            tx.put(("odd", b"\0", uuid.UUID(int=1), (None, 1.5)), b"\xff")
        for number in range(30):
            events = [headwater.Event("Counted", [number, n], {"by": "fill"}) for n in range(70)]
            db.append(f"counter-{number % 7}", events)
            if number > 20:
                db.save_snapshot(f"counter-{number % 7}", version=70, state={"n": 70}, schema=2)
        db.append("with-id", headwater.Event("Named", None, id=uuid.UUID(int=5), tags=["x", "y:1"]))


def call(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(main, [*arguments], **options)


def content(url: str) -> dict[str, Any]:
    with headwater.connect_blocking(url) as db:
        return {
            "keys": [*db.scan()],
            "events": [
                (e.position, e.stream, e.version, e.id, e.type, e.data, e.metadata, e.tags)
                for e in db.read_all()
            ],
            "snapshots": [*db.snapshots()],
        }


def test_ping_shows_the_address_and_the_time(server: ServerProcess) -> None:
    result = call("ping", "--url", server.url, "-n", "3", "--interval", "0")
    assert result.exit_code == 0, result.output
    assert result.output.count("commit") == 3
    assert "mean" in result.output


def test_stats_are_a_table_or_json(server: ServerProcess) -> None:
    figures = json.loads(call("stats", "--url", server.url, "--json").output)
    assert figures
    table = call("stats", "--url", server.url)
    assert table.exit_code == 0
    assert next(iter(figures)).replace("_", " ") in table.output
    # A time is told as one, and not as microseconds since 1970.
    assert f"{figures['time']:,}"[:5] not in table.output
    assert " UTC" in table.output


def test_a_dump_loads_into_an_empty_database_as_it_was(
    server: ServerProcess, empty: ServerProcess, tmp_path: Path
) -> None:
    file = str(tmp_path / "dump.jsonl")
    result = call("dump", "--url", server.url, "-o", file)
    assert result.exit_code == 0, result.output
    assert "2,501 keys, 2,101 events" in result.stderr
    result = call("load", "--url", empty.url, file)
    assert result.exit_code == 0, result.output
    assert "2,501 keys, 2,101 events" in result.stderr
    source = content(server.url)
    assert content(empty.url) == source
    # Once more: everything is there already.
    result = call("load", "--url", empty.url, file)
    assert result.exit_code == 0, result.output
    assert content(empty.url) == source


def test_a_load_that_was_interrupted_can_be_run_again(
    server: ServerProcess, empty: ServerProcess, tmp_path: Path
) -> None:
    file = tmp_path / "dump.jsonl"
    call("dump", "--url", server.url, "-o", str(file))
    half = tmp_path / "half.jsonl"
    half.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:3900]))
    result = call("load", "--url", empty.url, str(half))
    assert result.exit_code == 1
    assert "ends early" in result.output
    assert call("load", "--url", empty.url, str(file)).exit_code == 0
    assert content(empty.url) == content(server.url)


def test_a_dump_is_of_one_commit(server: ServerProcess) -> None:
    result = call("dump", "--url", server.url, "--commit", "2")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines[0]["commit"] == 2
    assert lines[-1] == {"end": {"keys": 2501, "events": 70, "snapshots": 0}}


def test_a_stream_that_has_other_events_is_not_written_over(
    server: ServerProcess, empty: ServerProcess, tmp_path: Path
) -> None:
    file = str(tmp_path / "dump.jsonl")
    call("dump", "--url", server.url, "-o", file)
    with headwater.connect_blocking(empty.url) as db:
        db.append("counter-0", headwater.Event("Other"))
    result = call("load", "--url", empty.url, file)
    assert result.exit_code == 1
    assert "lines 2" in result.output
    with headwater.connect_blocking(empty.url) as db:
        assert [event.type for event in db.read("counter-0")] == ["Other"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not JSON"),
        ("[]\n", "not a line of a dump"),
        ('{"headwater": 9}\n', "not a dump of format 3 or older"),
        ('{"headwater": 1}\n{"key": ["a"]}\n{"end": {}}\n', "lines 2 to 2: not lines of a dump"),
        ('{"headwater": 1}\n{"end": {"keys": 1}}\n', "its last line says"),
    ],
)
def test_a_file_that_is_not_a_dump_is_refused(empty: ServerProcess, text: str, what: str) -> None:
    result = call("load", "--url", empty.url, "-", input=text)
    assert result.exit_code == 1
    assert what in result.output


def test_users_are_added_changed_listed_and_removed(empty: ServerProcess) -> None:
    url = empty.url

    def as_ann(*arguments: str, password: str = "pencil", **options: Any) -> Result:
        environment = {"HEADWATER_URL": url, "HEADWATER_USER": "ann"}
        environment["HEADWATER_PASSWORD"] = password
        return call(*arguments, env=environment, **options)

    typed = "pencil\npencil\n"
    added = call("user", "add", "ann", "--url", url, input=typed)
    assert added.exit_code == 0, added.output
    assert "pencil" not in added.output
    assert as_ann("user", "add", "bob", "--password-stdin", input="x\n").exit_code == 0
    assert as_ann("user", "list").stdout == "USER\nann\nbob\n"
    assert as_ann("user", "list", "--json").stdout == '{"user": "ann"}\n{"user": "bob"}\n'
    twice = as_ann("user", "add", "bob", "--password-stdin", input="x\n")
    assert twice.exit_code == 1
    changed = as_ann("user", "passwd", "ann", "--password-stdin", input="crayon\n")
    assert changed.exit_code == 0
    assert as_ann("ping").exit_code == 1
    assert as_ann("user", "remove", "bob", input="n\n", password="crayon").exit_code == 1
    assert as_ann("user", "remove", "bob", "--yes", password="crayon").exit_code == 0
    assert as_ann("user", "list", password="crayon").stdout == "USER\nann\n"
    refused = call("stats", "--url", url)
    assert refused.exit_code == 1
    assert "requires a user and password" in refused.output


def test_rights_and_roles_are_given_shown_and_taken_away(empty: ServerProcess) -> None:
    def asked(user: str, *arguments: str) -> Result:
        environment = {"HEADWATER_URL": empty.url, "HEADWATER_USER": user}
        return call(*arguments, env={**environment, "HEADWATER_PASSWORD": "pencil"})

    def by_ann(*arguments: str) -> str:
        result = asked("ann", *arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    call("user", "add", "ann", "--url", empty.url, "--password-stdin", input="pencil\n")
    for name in ("bob", "eve"):
        with headwater.connect_blocking(empty.url, user="ann", password="pencil") as db:
            db.add_user(name, "pencil")
    assert by_ann("user", "show", "bob").splitlines()[1].startswith("everything")
    by_ann("role", "set", "clerk", "read:category:order", "append:category:order")
    by_ann("user", "grant", "bob", "read:keys:orders", "--role", "clerk")
    assert by_ann("user", "show", "bob", "--json") == (
        '{"kind": "role", "name": "clerk"}\n{"kind": "grant", "name": "read:keys:orders"}\n'
    )
    assert "append:category:order" in by_ann("role", "list")
    mine = asked("bob", "user", "show")
    assert "read:keys:orders" in mine.output
    refused = asked("bob", "stats")
    assert refused.exit_code == 1
    assert "needs the right admin" in refused.output
    by_ann("user", "revoke", "bob", "read:keys:orders", "--role", "clerk")
    by_ann("role", "remove", "clerk", "--yes")
    assert asked("ann", "user", "grant", "bob", "reads").exit_code == 1
    assert asked("ann", "user", "grant", "bob").exit_code == 2


def test_users_are_managed_in_the_directory_of_a_stopped_server(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        data = str(server.data)
        busy = call("user", "list", "--data", data)
        assert busy.exit_code == 1
        assert len(busy.stderr.splitlines()) == 1
    added = call("user", "add", "ann", "--data", data, "--password-stdin", input="pencil\n")
    assert added.exit_code == 0, added.output
    assert call("user", "list", "--data", data).stdout.splitlines()[-1] == "ann"
    granted = call("user", "grant", "ann", "--data", data, "--role", "admin")
    assert granted.exit_code == 0, granted.output
    with server, headwater.connect_blocking(server.url, user="ann", password="pencil") as db:
        assert db.users() == ["ann"]


def test_the_first_user_can_be_added_before_the_first_start(tmp_path: Path) -> None:
    data = str(tmp_path / "not there yet")
    listed = call("user", "list", "--data", data)
    assert listed.exit_code == 2
    assert "does not exist" in listed.stderr
    added = call("user", "add", "ann", "--data", data, "--password-stdin", input="pencil\n")
    assert added.exit_code == 0, added.output
    assert call("user", "list", "--data", data).stdout.splitlines()[-1] == "ann"


def test_settings_come_from_flags_then_the_environment_then_a_file(
    server: ServerProcess, tmp_path: Path
) -> None:
    file = tmp_path / "headwater.toml"
    file.write_text(f'url = "{server.url}"\nlisten = "of a server"\n[ping]\ncount = 2\n')
    assert call("ping", "--config", str(file)).output.count(" commit ") == 2
    assert call("ping", env={"HEADWATER_CONFIG": str(file)}).exit_code == 0
    nowhere = "headwater://127.0.0.1:1"
    environment = {"HEADWATER_CONFIG": str(file), "HEADWATER_URL": nowhere}
    assert call("ping", env=environment).exit_code == 1
    assert call("ping", "--url", server.url, env=environment).exit_code == 0
    file.write_text("[ping]\ncont = 2\n")
    wrong = call("ping", "--config", str(file))
    assert wrong.exit_code == 2
    assert "unknown setting 'cont'" in wrong.output


def test_errors_are_one_line_and_their_exit_codes_tell_them_apart() -> None:
    lost = call("ping", "--url", "headwater://127.0.0.1:1")
    assert (lost.exit_code, lost.stdout) == (1, "")
    assert lost.stderr == "Error: cannot connect to 127.0.0.1:1: Connection refused\n"
    assert call("ping", "--url", "http://x").exit_code == 2
    assert call("ping", "--no-such-option").exit_code == 2
    assert call("dance").exit_code == 2


def test_help_shows_each_command_and_each_default() -> None:
    assert {"ping", "stats", "dump", "load", "user"} <= set(main.list_commands(click.Context(main)))
    for name in ("ping", "stats", "dump", "load"):
        helped = call(name, "--help")
        assert "headwater://localhost:4323" in helped.output
        assert "HEADWATER_URL" in helped.output
    assert "headwater 0." in call("--version").output


def test_python_m_headwater_runs_headwater() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headwater", "--version"], capture_output=True, check=True
    )
    assert done.stdout.startswith(b"headwater ")


def retained(url: str) -> None:
    with headwater.connect_blocking(url) as db:
        db.append("clicks", [headwater.Event("Clicked", n) for n in range(9)])
        db.append("person", [headwater.Event("Named", name, "by") for name in ("ann", "bob")])
        db.append("gone", headwater.Event("Was", 1))
        db.truncate("clicks", before=4)
        db.set_retention("clicks", max_count=3, max_age=3600)
        db.erase("person", versions=[1])
        db.delete_stream("gone")


def test_a_dump_keeps_retention_and_erasures(empty: ServerProcess, tmp_path: Path) -> None:
    retained(empty.url)
    path = tmp_path / "dump.jsonl"
    assert call("dump", "--url", empty.url, "-o", str(path)).exit_code == 0
    assert "ann" not in path.read_text()
    (tmp_path / "other").mkdir()
    with ServerProcess(tmp_path / "other") as other:
        # Twice: a load can be run again.
        for _ in range(2):
            result = call("load", "--url", other.url, str(path))
            assert result.exit_code == 0, result.output
        with headwater.connect_blocking(other.url) as db:
            assert [(e.version, e.data) for e in db.read("clicks")] == [(7, 6), (8, 7), (9, 8)]
            assert [(e.data, e.erased) for e in db.read("person")] == [(None, True), ("bob", False)]
            there = {each.stream: each for each in db.streams()}
            assert there.keys() == {"clicks", "person"}
            assert (there["clicks"].version, there["clicks"].max_count) == (9, 3)


def test_the_command_line_lists_streams_and_their_retention(empty: ServerProcess) -> None:
    url = ("--url", empty.url)
    retained(empty.url)
    listed = [json.loads(line) for line in call("streams", *url, "--json").output.splitlines()]
    assert [(row["stream"], row["first"]) for row in listed] == [("clicks", 7), ("person", 1)]
    assert "person" in call("streams", *url, "--categories").output
    assert call("stream", "truncate", *url, "clicks", "--before", "9", "--yes").exit_code == 0
    assert call("stream", "keep", *url, "person", "--max-count", "5", "--yes").exit_code == 0
    assert call("stream", "erase", *url, "person", "1-2", "--yes").exit_code == 0
    assert call("stream", "erase", *url, "person", "x", "--yes").exit_code == 2
    result = call("stream", "erase", *url, "person", "3", "--yes")
    assert result.exit_code == 1
    assert "has no version 3" in result.output
    # A range beyond the end used to take all memory. A reversed range, and a mistyped stream in a
    # deletion, used to change nothing and report success.
    for versions, message in (("2-9999999999999", "has no version 9999999999999"), ("2-1", "2-1")):
        result = call("stream", "erase", *url, "person", versions, "--yes")
        assert result.exit_code != 0
        assert message in result.output
    for command in (("delete", "--yes"), ("erase", "1", "--yes")):
        result = call("stream", command[0], *url, "persn", *command[1:])
        assert result.exit_code == 1
        assert "there is no stream 'persn'" in result.output
    assert call("stream", "delete", *url, "clicks", input="n\n").exit_code == 1
    assert call("stream", "delete", *url, "clicks", "--yes").exit_code == 0
    listed = [json.loads(line) for line in call("streams", *url, "--json").output.splitlines()]
    assert [(row["stream"], row["max_count"]) for row in listed] == [("person", 5)]
    with headwater.connect_blocking(empty.url) as db:
        assert all(event.erased for event in db.read("person"))
