import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import headwater
from headwater.cli.handlers.snapshots import verify_snapshots
from headwater.cli.server_process import ServerProcess

MODULE = """
from headwater import MsgpackCodec, Repository

def evolve(total, event):
    return total + event.data

counter = Repository(0, evolve, snapshot_every=5, name="counter")
never_used = Repository(0, evolve, name="never_used")
codec = MsgpackCodec()

class Namespace:
    counter = counter
"""


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "counting_application.py").write_text(MODULE)
    (tmp_path / "broken_application.py").write_text("1 / 0")
    (tmp_path / "needy_application.py").write_text("import no_such_module_anywhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("counting_application", None)


def verify(server: ServerProcess, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(verify_snapshots, [*arguments, "--url", server.url])
    return result.exit_code, result.output


def fill(db: headwater.BlockingDatabase, *streams: str) -> None:
    counter = headwater.Repository(
        0, lambda total, event: total + event.data, snapshot_every=5, name="counter"
    )
    for stream in streams:
        for _ in range(12):
            counter.on(db).decide(stream, lambda total: headwater.Event("Counted", 1))


def test_each_different_snapshot_is_reported(application: None, tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server, headwater.connect_blocking(server.url) as db:
        fill(db, "counter-a", "counter-b")
        place = "counting_application:counter"
        equal = "4 snapshots: 4 equal, 0 differ, 0 unreadable, 0 of truncated events\n"
        assert verify(server, place) == (0, equal)
        assert verify(server, "counting_application:Namespace.counter") == (0, equal)

        for version, state in ((11, 10), (12, "text")):
            db.save_snapshot("counter-b", version=version, state=state, schema=1, name="counter")
        code, output = verify(server, place, "--codec", "counting_application:codec")
        assert code == 1
        assert output.splitlines() == [
            "counter-b at version 11: the snapshot has 10, but the replay gives 11",
            "counter-b at version 12: the snapshot has 'text', but the replay gives 12",
            "4 snapshots: 2 equal, 2 differ, 0 unreadable, 0 of truncated events",
        ]
        assert verify(server, place, "--prefix", "counter-a")[0] == 0
        assert verify(server, "counting_application:never_used")[1].startswith("0 snapshots")

        with db.transaction() as tx:
            tx.save_snapshot("counter-a", version=12, state=0, schema=1, name="counter")
            # Replace the encoded state by bytes that cannot be decoded.
            tx._core._writes[-1][-1] = b"\xc1"
        code, output = verify(server, place, "--prefix", "counter-a")
        assert code == 1
        assert "counter-a at version 12: the snapshot cannot be decoded" in output


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("counting_application", "expected module:attribute"),
        (":counter", "expected module:attribute"),
        ("no_such_application:counter", "there is no module no_such_application"),
        ("counting_application:nothing", "counting_application has no nothing"),
        ("counting_application:codec", "is not a headwater.Repository but a MsgpackCodec"),
        ("broken_application:counter", "failed: ZeroDivisionError"),
        ("needy_application:counter", "needs no_such_module_anywhere"),
    ],
)
def test_an_argument_that_does_not_name_a_repository_is_refused(
    place: str, message: str, application: None
) -> None:
    result = CliRunner().invoke(verify_snapshots, [place, "--url", "headwater://127.0.0.1:1"])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
