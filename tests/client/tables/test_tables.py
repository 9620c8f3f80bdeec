"""Events and keys as Arrow tables, and `headwater export`."""

import json
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow.parquet
import pytest
import trio
from click.testing import CliRunner, Result

import headwater
from headwater.cli.dumps.export import export
from headwater.cli.server_process import ServerProcess


@pytest.fixture
def server(tmp_path: Path) -> Any:
    with ServerProcess(tmp_path / "server") as server, headwater.connect_blocking(server.url) as db:
        for number in range(30):
            data = {"amount": number, "by": "ann" if number % 3 else "bob"}
            event = headwater.Event("Deposited", data, {"n": number}, tags=[f"day:{number % 2}"])
            db.append(f"account-{number % 5}", event)
            db.put(("balance", number), number)
        db.append("mail-1", headwater.Event("Sent", b"\xff"))
        db.erase("account-0", versions=[1])
        yield server


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir(exist_ok=True)


def run(server: ServerProcess, *arguments: str | Path) -> Result:
    return CliRunner().invoke(export, ["--url", server.url, *map(str, arguments)])


def test_events_are_a_table_on_both_faces(server: ServerProcess) -> None:
    with headwater.connect_blocking(server.url) as db:
        table = db.read_all().to_arrow()

    async def read() -> Any:
        async with headwater.connect(server.url) as db:
            return await db.read_all().to_arrow()

    assert trio.run(read) == table
    assert table.num_rows == 31
    rows = table.to_pylist()
    assert json.loads(rows[1]["data"]) == {"amount": 1, "by": "ann"}
    assert rows[1]["tags"] == ["day:1"]
    assert rows[0]["erased"]
    assert rows[0]["data"] is None
    assert [row["position"] for row in rows] == list(range(1, 32))


def test_an_event_that_cannot_be_decoded_hides_no_other(server: ServerProcess) -> None:
    with headwater.connect_blocking(server.url, codec=headwater.RawCodec()) as db:
        db.append("account-9", headwater.Event("Broken", b"\xc1"))
    with headwater.connect_blocking(server.url) as db:
        rows = db.read_all().to_arrow().to_pylist()
    assert [row["undecodable"] for row in rows] == [False] * 31 + [True]


def test_keys_are_a_table_and_commits_are_not(server: ServerProcess) -> None:
    with headwater.connect_blocking(server.url) as db:
        table = db.scan(("balance",)).to_arrow()
        assert table.num_rows == 30
        assert table.to_pylist()[3] == {"key": '["balance",3]', "value": "3"}
        with pytest.raises(headwater.InvalidArgument, match="only events and keys"):
            db.commits().to_arrow()


@pytest.mark.parametrize("form", ["parquet", "arrow", "jsonl"])
def test_events_are_exported_in_each_form(server: ServerProcess, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"events.{form}"
    result = run(server, file, "--category", "account")
    assert result.exit_code == 0, result.output
    assert "30 events, up to position 3" in result.output
    match form:
        case "parquet":
            frame = polars.read_parquet(file)
        case "arrow":
            frame = polars.read_ipc(file)
        case _:
            frame = polars.read_ndjson(file)
    assert frame.height == 30
    assert frame["position"].to_list() == list(range(1, 31))
    assert file.stat().st_mode & 0o077 == 0
    assert [each.name for each in tmp_path.iterdir() if "events" in each.name] == [file.name]


def test_the_next_export_continues_after_the_last_one(
    server: ServerProcess, tmp_path: Path
) -> None:
    first, second = tmp_path / "1.parquet", tmp_path / "2.parquet"
    position = run(server, first).output.split()[-1]
    with headwater.connect_blocking(server.url) as db:
        db.append("account-1", headwater.Event("Deposited", {"amount": 1}))
    assert run(server, second, "--after", position).exit_code == 0
    both = duckdb.sql(f"select count(*) from read_parquet(['{first}', '{second}'])")
    assert both is not None
    assert both.fetchall() == [(32,)]
    assert pyarrow.parquet.read_table(second).num_rows == 1


def test_keys_are_exported_as_of_a_commit(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "keys.parquet"
    result = run(server, file, "--keys", "--key-prefix", '["balance"]', "--commit", "10")
    assert result.exit_code == 0, result.output
    assert pyarrow.parquet.read_table(file).num_rows == 5


def test_a_file_is_replaced_only_when_told(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("mine")
    assert run(server, file).exit_code != 0
    assert file.read_text() == "mine"
    assert run(server, file, "--yes").exit_code == 0
    assert file.read_text().count("\n") == 31


@pytest.mark.parametrize(
    "arguments",
    [
        ["events.txt"],
        ["a.jsonl", "--keys", "--stream", "s"],
        ["a.jsonl", "--key-prefix", "[1]"],
        ["a.jsonl", "--keys", "--key-prefix", "nonsense"],
    ],
)
def test_arguments_that_do_not_fit_are_refused(server: ServerProcess, arguments: list[str]) -> None:
    result = run(server, *arguments)
    assert result.exit_code == 2
    assert not list(Path().glob("a.jsonl"))
