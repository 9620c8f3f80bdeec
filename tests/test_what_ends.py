"""The page of what ends by itself is what the code says, and leaves nothing out."""

import re

import click

from headwater_protocol import limits
from headwater_server.cli.serve import serve
from headwater_server.engine.settings import EngineSettings
from headwater_server.net.settings import ServerSettings, SessionSettings
from tests import what_ends


def test_the_page_is_what_the_code_says() -> None:
    assert what_ends.PAGE.read_text() == what_ends.page(), "run: python -m tests.what_ends"


def test_every_setting_and_limit_is_on_the_page_or_left_out_on_purpose() -> None:
    known = {
        *(f"{owner.__name__}.{name}"
          for owner in (ServerSettings, SessionSettings, EngineSettings)
          for name in owner.__dataclass_fields__),
        *(f"limits.{name}" for name, value in vars(limits).items()
          if name.isupper() and isinstance(value, int)),
    }  # fmt: skip
    assert known >= what_ends.LEFT_OUT, "what is left out does not exist"
    assert known >= what_ends.SETTINGS_SHOWN
    assert not what_ends.LEFT_OUT & what_ends.SETTINGS_SHOWN
    reasons = what_ends.docstrings(limits)
    for name, _ in what_ends.shown_limits():
        assert reasons.get(name), f"limits.{name} has no reason"


def test_every_option_that_the_page_names_is_one_of_serve() -> None:
    options = {name for one in serve.params if isinstance(one, click.Option) for name in one.opts}
    named = set(re.findall(r"`(--[a-z-]+)`", what_ends.page()))
    assert named
    assert named <= options
