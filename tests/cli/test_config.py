"""`headwater init`, `headwater config check`, and the list that they and the docs are made from."""

import re
from pathlib import Path

import click
import pytest
import trustme
from click.testing import CliRunner

from headwater_server.cli.main import main
from headwater_server.cli.options import server_options, settings_from
from headwater_server.cli.serve import serve
from headwater_server.cli.settings_file import SUBJECTS, all_settings, as_toml, template
from headwater_server.net.settings import ServerSettings
from tests.settings_page import PAGE, page


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    ended = CliRunner(env=environment).invoke(main, arguments)
    return ended.exit_code, ended.output


def parsed(text: str, folder: Path) -> ServerSettings:
    file = folder / "settings.toml"
    file.write_text(text)
    found: list[ServerSettings] = []

    @click.command("serve")
    @server_options
    def command(**values: object) -> None:
        found.append(settings_from(values))

    command.main(["--config", str(file)], standalone_mode=False)
    return found[0]


def test_every_setting_is_declared_once_with_three_spellings() -> None:
    settings = [setting for subject in all_settings().values() for setting in subject]
    names = [setting.name for setting in settings]
    assert len(set(names)) == len(names)
    assert {f"--{name}" for name in names} | {"--config"} == {
        option.opts[0] for option in serve.params
    }
    for setting in settings:
        assert setting.variable == "HEADWATER_" + setting.name.upper().replace("-", "_")
        assert setting.what
    assert {name for subject in SUBJECTS.values() for name in subject} <= set(names)


def test_the_file_that_init_writes_has_the_defaults(tmp_path: Path) -> None:
    text = template("d")
    assert parsed(text, tmp_path) == ServerSettings(data="d")
    # The same if every line with a default counts.
    defaults = {
        setting.name: setting.default
        for subject in all_settings().values()
        for setting in subject
        if setting.default is not None
    }
    for name in defaults:
        assert f"\n# {name} = " in text
        text = text.replace(f"\n# {name} = ", f"\n{name} = ")
    assert parsed(text, tmp_path) == ServerSettings(data="d")


def test_init_writes_a_new_file_and_never_over_an_old_one(tmp_path: Path) -> None:
    file = tmp_path / "headwater.toml"
    data = tmp_path / 'a "quoted" name'
    status, told = run("init", str(file), "--data", str(data))
    assert status == 0
    assert str(file) in told
    assert run("config", "check", str(file))[0] == 0
    file.write_text("mine")
    status, told = run("init", str(file))
    assert status == 1
    assert "exists" in told
    assert file.read_text() == "mine"
    assert run("init", "-")[1] == template("/var/lib/headwater")


def test_check_shows_what_is_set_and_where(tmp_path: Path) -> None:
    file = tmp_path / "headwater.toml"
    file.write_text('data = "d"\nlisten = ["localhost:1"]\nhistory-window = 5\n')
    status, told = run("config", "check", str(file), HEADWATER_HISTORY_WINDOW="7")
    assert status == 0
    assert told.splitlines() == [
        'data = "d"  # file',
        'listen = ["localhost:1"]  # file',
        "history-window = 7  # environment",
        "The settings are in order.",
    ]


def test_check_shows_no_password(tmp_path: Path) -> None:
    secret = "qwertz"
    given = {"HEADWATER_FOLLOW": f"headwater://u:{secret}@h:1", "HEADWATER_PEER_PASSWORD": secret}
    _, told = run("config", "check", HEADWATER_DATA="d", **given)
    assert "h:1" in told
    assert "peer-password" in told
    assert secret not in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('data = "file"', "data: "),
        ('data = "d"\nbackup-dir = "none"', "backup-dir: there is no directory none"),
        ('data = "d"\narchive = "none"', "archive: there is no directory none"),
        ('data = "d"\nunix = "none/socket"', "unix: there is no directory"),
        ('data = "d"\ntls-cert = "none.pem"', "none.pem"),
        ('data = "d"\ntls-cert = "cert.pem"', "cert.pem"),
        ('data = "d"\nfollow = "http://db"', "follow: "),
    ],
)
def test_check_finds_what_would_keep_a_server_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    # A certificate without its key.
    pem = trustme.CA().issue_cert("localhost").cert_chain_pems[0]
    pem.write_to_path("cert.pem")
    Path("headwater.toml").write_text(text)
    status, told = run("config", "check", "headwater.toml")
    assert status == 1
    assert re.search(rf"^Error: .*{re.escape(said)}", told, re.MULTILINE)


@pytest.mark.parametrize("text", ["", 'data = "d"\nhistory-windov = 1', "data = ", "data = 1\n[["])
def test_a_file_that_serve_would_refuse_is_wrong_usage(tmp_path: Path, text: str) -> None:
    file = tmp_path / "headwater.toml"
    file.write_text(text)
    assert run("config", "check", str(file))[0] == 2


def test_values_are_written_as_toml() -> None:
    assert as_toml(5.0) == "5"
    assert as_toml(0.5) == "0.5"
    assert as_toml(('a"b', "c\\d")) == '["a\\"b", "c\\\\d"]'


def test_the_page_of_settings_is_current() -> None:
    assert PAGE.read_text() == page(), "run python -m tests.settings_page"
