import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from headwater_protocol import compiled

ASK = """
import sys, warnings
warnings.simplefilter("error" if {strict} else "ignore")
from headwater_protocol import compiled, frames
print(frames.__file__, compiled.in_use())
"""


def ask(protocol: Path, *, pure: str = "0", strict: bool = True) -> str:
    """What a new interpreter loads as `frames` from a copy of the protocol's package."""
    asked = subprocess.run(
        [sys.executable, "-c", ASK.format(strict=strict)],
        env={**os.environ, "PYTHONPATH": str(protocol), "HEADWATER_PURE": pure},
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout + asked.stderr


def checkout(path: Path) -> Path:
    """A package in which `frames` seems compiled: its extension module is an invalid file."""
    package = path / "protocol" / "headwater_protocol"
    package.mkdir(parents=True)
    source = Path(compiled.__file__).parent
    for name in ("compiled.py", "errors.py", "limits.py", "frames.py"):
        (package / name).write_bytes((source / name).read_bytes())
    (package / "__init__.py").write_text(
        "from headwater_protocol import compiled\n\ncompiled.choose()\n"
    )
    (package / "frames.abi3.so").write_bytes(b"no library at all")
    record(path, package / "frames.py")
    return package.parent


def record(path: Path, *sources: Path) -> None:
    digests = {
        str(source.relative_to(path)): hashlib.sha256(source.read_bytes()).hexdigest()
        for source in sources
    }
    (path / "protocol" / "headwater__mypyc.json").write_text(json.dumps(digests))


def test_a_compiled_module_of_the_current_source_is_loaded(tmp_path: Path) -> None:
    assert "ImportError" in ask(checkout(tmp_path)), "the invalid extension module"


def test_the_source_is_loaded_with_HEADWATER_PURE(tmp_path: Path) -> None:
    assert ask(checkout(tmp_path), pure="1").endswith("frames.py False\n")


def test_an_edited_source_is_loaded_with_a_warning(tmp_path: Path) -> None:
    protocol = checkout(tmp_path)
    with (protocol / "headwater_protocol" / "frames.py").open("a") as file:
        file.write("# edited\n")
    assert ask(protocol, strict=False).endswith("frames.py False\n")
    assert "RuntimeWarning: compiled modules are older than their source" in ask(protocol)


def test_a_missing_source_counts_as_edited(tmp_path: Path) -> None:
    protocol = checkout(tmp_path)
    (protocol / "headwater_protocol" / "frames.py").unlink()
    assert compiled.stale_sources(protocol) == ["protocol/headwater_protocol/frames.py"]


def test_an_installed_wheel_has_no_record_and_is_never_stale(tmp_path: Path) -> None:
    assert compiled.stale_sources(tmp_path) == []
