"""What a dump and its load keep, and what a load leaves alone."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import headwater
from headwater import Event
from headwater.cli import main
from headwater.cli.dumps.dump import write_dump
from headwater.cli.dumps.held_commit import held_commit
from headwater.cli.server_process import ServerProcess
from headwater.codecs.codec import RawCodec


@pytest.fixture
def source(tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "source").mkdir()
    with ServerProcess(tmp_path / "source") as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "target").mkdir()
    with ServerProcess(tmp_path / "target") as server:
        yield server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dump.jsonl"


def call(server: ServerProcess, *arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(main, [*arguments, "--url", server.url], **options)


def dump(server: ServerProcess, file: Path) -> None:
    result = call(server, "dump", "-o", str(file))
    assert result.exit_code == 0, result.output


def load(server: ServerProcess, file: Path, *options: str) -> str:
    result = call(server, "load", str(file), *options)
    assert result.exit_code == 0, result.output
    return result.stderr


def redated(file: Path) -> list[str]:
    """Date the events of a dump at one a day, three years ago; the times that they have now."""
    times: list[str] = []
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if "stream" in line:
            # Two events of one commit have the same time.
            times.append(f"2023-06-{1 + len(times) // 2:02}T12:00:00.000001+00:00")
            line["time"] = times[-1]
    lines[0]["first_time"] = times[0]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return times


def times_of(db: headwater.BlockingDatabase) -> list[str]:
    return [event.time.isoformat() for event in db.read_all()]


def test_events_keep_their_times_and_what_goes_by_them_does_too(
    source: ServerProcess, target: ServerProcess, file: Path
) -> None:
    with headwater.connect_blocking(source.url) as db:
        db.put("key", 1)
        for number in range(10):
            db.append(f"order-{number % 3}", [Event("Placed", number), Event("Paid", number)])
        db.append("gone-1", Event("Hidden"))
        db.append("order-1", [Event("Last"), Event("Last")])
        db.delete_stream("gone-1")
        db.save_snapshot("order-1", version=2, state={"n": 2})
        db.erase("order-2", versions=[1])
    dump(source, file)
    times = redated(file)
    assert "warning" not in load(target, file)
    with headwater.connect_blocking(target.url) as db:
        assert times_of(db) == times
        middle = next(iter(db.read_all(after=8, limit=1))).time
        assert [e.position for e in db.read_all(since=middle, limit=1)] == [9]
        assert db.get("key") == 1
        # The server lives in the present again.
        db.append("order-1", Event("New"))
        assert db.ping().time - next(iter(db.read_all(reverse=True))).time < timedelta(hours=1)
    target.stop()
    checked = CliRunner().invoke(main, ["check", str(target.data)])
    assert checked.exit_code == 0, checked.output


def test_events_of_one_time_that_fill_several_parts_keep_their_times(
    source: ServerProcess, target: ServerProcess, file: Path
) -> None:
    with headwater.connect_blocking(source.url) as db:
        for number in range(3):
            db.append(f"many-{number}", [Event("E", n) for n in range(900)])
        expected = times_of(db)
    dump(source, file)
    assert "warning" not in load(target, file)
    with headwater.connect_blocking(target.url) as db:
        assert times_of(db) == expected


def test_a_load_that_cannot_keep_the_times_says_so(
    source: ServerProcess, target: ServerProcess, file: Path
) -> None:
    with headwater.connect_blocking(source.url) as db:
        db.append("order-1", [Event("Placed"), Event("Paid")])
    dump(source, file)
    redated(file)
    with headwater.connect_blocking(target.url) as db:
        db.put("newer", 1)
    told = load(target, file)
    assert "warning: 2 events have the time of this load" in told
    assert "possible are" in told
    # The second time nothing is written, so there is nothing to warn of.
    assert "warning" not in load(target, file)


def test_a_load_leaves_alone_what_is_there_already(
    source: ServerProcess, target: ServerProcess, file: Path
) -> None:
    with headwater.connect_blocking(source.url) as db:
        db.put("balance", 1)
        db.put("same", 1)
        db.add("hits", 5)
        db.append("s-1", [Event("E", n) for n in range(5)])
        db.set_retention("s-1", max_count=3)
        db.save_snapshot("s-1", version=4, state=4)
    dump(source, file)
    load(target, file)
    with headwater.connect_blocking(target.url) as db:
        db.put("balance", 99)
        db.add("hits", 1)
        db.delete("same")
        db.set_retention("s-1")
        db.append("s-1", [Event("New", n) for n in range(5)])
        db.save_snapshot("s-1", version=9, state=9)
        told = load(target, file)
        assert "2 keys have another value already and were left alone" in told
        assert [db.get(key) for key in ("balance", "hits", "same")] == [99, 6, 1]
        assert len(list(db.read("s-1"))) == 8
        loaded = db.load("s-1").snapshot
        assert loaded is not None
        assert (loaded.version, loaded.state) == (9, 9)
        assert "another value" not in load(target, file, "--overwrite")
        assert [db.get(key) for key in ("balance", "hits", "same")] == [1, 5, 1]


def test_a_dump_does_not_hide_the_events_of_another_stream_of_the_same_name(
    source: ServerProcess, target: ServerProcess, file: Path
) -> None:
    with headwater.connect_blocking(source.url) as db:
        db.append("a-1", [Event("E", n) for n in range(3)])
        db.truncate("a-1", before=3)
    dump(source, file)
    with headwater.connect_blocking(target.url) as db:
        db.append("a-1", Event("Other"))
        refused = call(target, "load", str(file))
        assert refused.exit_code == 1
        assert "has events of its own" in refused.stderr
        assert [event.type for event in db.read("a-1")] == ["Other"]


def test_groups_keep_their_settings_positions_and_parked_events(
    source: ServerProcess, target: ServerProcess, file: Path
) -> None:
    with headwater.connect_blocking(source.url) as db:
        for number in range(4):
            db.append(f"order-{number}", [Event("Placed"), Event("Paid")])
        db.groups.create("mailer", category="order", lease=7, attempts=4, retry_delay=3)
        db.groups.create("from-now", after=None, types=["Paid"], parked_stream="continue")
        db.groups.create("idle")
        with db.join("mailer", until_caught_up=True) as group:
            for delivery in group:
                if delivery.event.stream == "order-1":
                    delivery.park("no address")
                else:
                    delivery.ack()
        db.append("order-0", Event("Shipped"))
        infos = {name: db.groups.info(name) for name in ("mailer", "from-now", "idle")}
        assert infos["mailer"].parked == 1
    dump(source, file)
    assert "3 groups" in load(target, file)
    with headwater.connect_blocking(target.url) as db:
        for name, info in infos.items():
            found = db.groups.info(name)
            for what in ("filter", "lease", "attempts", "retry_delay", "parked_stream", "position"):
                assert getattr(found, what) == getattr(info, what), (name, what)
        (parked,) = db.groups.parked("mailer")
        assert (parked.event and parked.event.stream, parked.reason) == ("order-1", "no address")
        with db.join("mailer", until_caught_up=True) as group:
            seen = []
            for delivery in group:
                seen.append(delivery.event.type)
                delivery.ack()
        assert seen == ["Shipped"]
    # Once more: a group that has gone on is left alone, and that is told.
    assert "group mailer: left as it is" in load(target, file)


def test_users_keep_their_passwords_and_rights(
    source: ServerProcess, target: ServerProcess, file: Path
) -> None:
    with headwater.connect_blocking(source.url) as db:
        db.put("k", 1)
        db.add_user("ann", "pencil")
    environment = {"HEADWATER_USER": "ann", "HEADWATER_PASSWORD": "pencil"}
    with headwater.connect_blocking(source.url, user="ann", password="pencil") as db:
        db.add_user("bob", "crayon")
        db.add_user("nobody", "chalk")
        db.rights.set_role("auditor", "read:streams", "read:keys:orders")
        db.rights.grant("bob", "append:category:order", roles=["auditor"])
        db.rights.grant("nobody", "backup")
        db.rights.revoke("nobody", "backup")
        db.rights.limit("bob", request_time=2.5)
        rights = {name: db.rights.of(name) for name in db.users()}
        roles = db.rights.roles()
    dumped = call(source, "dump", "-o", str(file), env=environment)
    assert dumped.exit_code == 0, dumped.output
    assert "1 roles, 3 users" in dumped.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    load(target, file)
    for user, password in (("ann", "pencil"), ("bob", "crayon"), ("nobody", "chalk")):
        with headwater.connect_blocking(target.url, user=user, password=password) as db:
            assert db.rights.mine() == rights[user]
    with headwater.connect_blocking(target.url, user="ann", password="pencil") as db:
        assert db.rights.roles() == roles
    again = call(target, "load", str(file), env=environment)
    assert again.exit_code == 0, again.output
    without = call(source, "dump", "--without-users", env=environment)
    assert "user" not in without.stdout


def test_users_with_fewer_rights_dump_what_they_may_read_and_load_what_they_may_write(
    source: ServerProcess, target: ServerProcess, file: Path
) -> None:
    for server in (source, target):
        with headwater.connect_blocking(server.url) as db:
            db.add_user("ann", "pencil")
        with headwater.connect_blocking(server.url, user="ann", password="pencil") as db:
            db.add_user("bob", "crayon")
            db.rights.grant("bob", roles=["writer"])
            if server is source:
                db.put("k", 1)
                db.append("s-1", Event("E"))
    environment = {"HEADWATER_USER": "bob", "HEADWATER_PASSWORD": "crayon"}
    refused = call(source, "dump", "-o", str(file), env=environment)
    assert refused.exit_code == 1
    assert not file.exists()
    allowed = ("dump", "-o", str(file), "--without-users", "--without-groups")
    dumped = call(source, *allowed, env=environment)
    assert dumped.exit_code == 0, dumped.output
    loaded = call(target, "load", str(file), env=environment)
    assert loaded.exit_code == 0, loaded.output
    # Only an admin may hold the clock.
    assert "1 events have the time of this load" in loaded.stderr
    with headwater.connect_blocking(target.url, user="bob", password="crayon") as db:
        assert db.get("k") == 1
        assert [event.type for event in db.read("s-1")] == ["E"]


def test_a_dump_that_outlasts_the_history_window_is_of_one_commit(tmp_path: Path) -> None:
    options = ("--history-window", "0", "--checkpoint-commits", "20")
    with ServerProcess(tmp_path, options) as server, headwater.connect_blocking(server.url) as db:
        for number in range(3):
            with db.transaction() as tx:
                for place in range(1000):
                    tx.put((number, place), "x" * 100)
        commit = db.ping().commit
        lines: list[dict[str, Any]] = []

        def write(line: dict[str, Any]) -> None:
            lines.append(line)
            if len(lines) == 2:
                # Nothing but the dump keeps its commit readable now.
                for number in range(100):
                    db.put((2, 999), number)
                while db.stats()["oldest_readable_commit"] <= commit:
                    db.put("later", 1)

        raw = headwater.connect_blocking(server.url, codec=RawCodec())
        with raw, held_commit(headwater.connect_blocking(server.url), commit):
            counts = write_dump(raw, write, commit, with_users=True, with_groups=True)
        assert counts["keys"] == 3000
        assert lines[-2]["value"] == "x" * 100
        with pytest.raises(headwater.HistoryGone):
            db.at(commit=commit).get((2, 999))


def test_keys_keep_the_times_at_which_they_expire(
    source: ServerProcess, target: ServerProcess, file: Path
) -> None:
    far = datetime(2100, 1, 1, tzinfo=UTC)
    with headwater.connect_blocking(source.url) as db:
        for number in range(5):
            db.put(("session", number), "ann", expires_at=far + timedelta(days=number))
            db.put(("kept", number), number)
        expiries = list(db.expiries())
        everything = list(db.scan())
    dump(source, file)
    load(target, file)
    with headwater.connect_blocking(target.url) as db:
        assert list(db.expiries()) == expiries
        assert list(db.scan()) == everything


def test_a_key_that_expired_since_the_dump_is_not_there_after_the_load(
    source: ServerProcess, target: ServerProcess, file: Path
) -> None:
    with headwater.connect_blocking(source.url) as db:
        db.put("lease", "ann", ttl=3600)
        db.put("kept", 1)
    dump(source, file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if "expires_at" in line:
            line["expires_at"] = "2024-06-10T00:00:00+00:00"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    load(target, file)
    with headwater.connect_blocking(target.url) as db:
        assert list(db.scan()) == [(("kept",), 1)]
