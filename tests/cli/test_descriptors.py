"""The limit of open files is raised as far as possible, and never lowered."""

import resource
from collections.abc import Iterator

import pytest

from headwater_server.cli.descriptors import raise_limit


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def soft_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_a_low_soft_limit_is_raised(limits: tuple[int, int]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    assert raise_limit(300) == 300
    assert soft_limit() == 300


def test_a_sufficient_limit_is_not_changed(limits: tuple[int, int]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, limits[1]))
    assert raise_limit(256) == 300
    assert soft_limit() == 300


def test_a_soft_limit_is_raised_to_the_hard_limit_at_most(
    limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    # A process that lowers its hard limit cannot raise it again.
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 280))
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: asked.append(given))
    assert raise_limit(1000) == 280
    assert asked == [(280, 280)]
    monkeypatch.undo()


def test_a_refusal_of_the_system_is_not_an_error(
    limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_limit(1000) == 256
    monkeypatch.undo()
    assert soft_limit() == 256
