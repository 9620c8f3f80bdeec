"""No file of a real server has erased data, a few seconds later and after a restart."""

import time
from pathlib import Path

import headwater
from headwater.cli.server_process import ServerProcess

SECRET = b"the data that must go"
STATE = b"a state with the data in it"
DEADLINE_S = 40.0


def holds(directory: Path, *secrets: bytes) -> list[str]:
    found = []
    for path in directory.rglob("*"):
        try:
            data = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:
            continue
        if any(secret in data for secret in secrets):
            found.append(path.name)
    return found


def test_erased_data_is_in_no_file_of_a_real_server(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server, headwater.connect_blocking(server.url) as db:
        for number in range(50):
            db.append("person-1", headwater.Event("Moved", SECRET))
            db.append("other-1", headwater.Event("Moved", b"%d" % number))
        db.save_snapshot("person-1", version=50, state=STATE)
        assert holds(tmp_path, SECRET, STATE)
        db.erase("person-1", versions=range(1, 51))
        deadline = time.monotonic() + DEADLINE_S
        while found := holds(tmp_path, SECRET, STATE):
            assert time.monotonic() < deadline, found
            db.ping()
    with ServerProcess(tmp_path) as server, headwater.connect_blocking(server.url) as db:
        assert all(event.erased for event in db.read("person-1"))
        assert [event.data for event in db.read("other-1")] == [b"%d" % n for n in range(50)]
        assert db.load("person-1").snapshot is None
        assert not holds(tmp_path, SECRET, STATE)
