import json
from pathlib import Path

from click.testing import CliRunner

from bench.restart import main


def test_a_small_run_measures_and_prints_every_figure(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    sizes = ["--keys", "2000", "--kills", "1", "--commits", "100", "--touches", "100"]
    result = CliRunner().invoke(main, [*sizes, "--json", str(figures)])
    assert result.exit_code == 0, result.output
    assert "private memory: after the restart" in result.output
    found = json.loads(figures.read_text())
    assert found["keys"] == found["events"] == 2000
    assert len(found["restart_s"]) == 1
    assert found["restarted_mib"] > 0
