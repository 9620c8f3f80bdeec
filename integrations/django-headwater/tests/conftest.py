"""Django's settings, and a server process that all tests of a worker share."""

import sys
from collections.abc import Iterator
from pathlib import Path

import django
import pytest
from django.conf import settings
from django.test.utils import get_runner, setup_test_environment, teardown_test_environment

from headwater.cli.server_process import ServerProcess

# `make test-integrations` unpacks it there.
DJANGO_TESTS = Path(sys.prefix) / "sdists" / f"django-{django.__version__}" / "tests"

if not DJANGO_TESTS.is_dir():
    raise RuntimeError(f"{DJANGO_TESTS} is missing; run `make test-integrations`")

sys.path.insert(0, str(DJANGO_TESTS))
# As Django's own runner of its tests sets them.
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3"}},
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "django.contrib.sessions",
        "cache",
        "sessions_tests",
    ],
    SECRET_KEY="of the tests",
    USE_TZ=False,
    ROOT_URLCONF=[],
    MIGRATION_MODULES={"auth": None, "contenttypes": None, "sessions": None},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()


@pytest.fixture(scope="session", autouse=True)
def django_environment() -> Iterator[None]:
    setup_test_environment()
    runner = get_runner(settings)(verbosity=0, interactive=False)
    databases = runner.setup_databases()
    yield
    runner.teardown_databases(databases)
    teardown_test_environment()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(Path(tmp_path_factory.mktemp("server"))) as process:
        yield process
