"""The tests that Django ships for cache backends and session engines, from its sources."""

from collections.abc import Iterator
from typing import Any

import pytest
from cache.tests import (  # type: ignore[import-not-found]
    BaseCacheTests,
    caches_setting_for_tests,
)
from django.test import TestCase, override_settings
from django_headwater.sessions import SessionStore
from sessions_tests.tests import SessionTestsMixin  # type: ignore[import-not-found]

from headwater.cli.server_process import ServerProcess


@pytest.fixture(scope="class", autouse=True)
def on_headwater(server: ServerProcess) -> Iterator[None]:
    caches = caches_setting_for_tests(
        BACKEND="django_headwater.cache.HeadwaterCache", LOCATION=server.url
    )
    # Django counts the entries of these, so that they need a space of their own.
    for name in ("cull", "zero_cull"):
        caches[name]["OPTIONS"] = caches[name]["OPTIONS"] | {"SPACE": name}
    with override_settings(CACHES=caches, HEADWATER_SESSIONS={"LOCATION": server.url}):
        yield


class TestCache(BaseCacheTests, TestCase):  # type: ignore[misc]
    incr_decr_type_error = TypeError


class TestSessions(SessionTestsMixin, TestCase):  # type: ignore[misc]
    backend: Any = SessionStore


def test_the_suites_are_as_large_as_they_were() -> None:
    def count(suite: type) -> int:
        return sum(name.startswith("test_") for name in dir(suite))

    assert count(TestCache) >= 54
    assert count(TestSessions) >= 60
