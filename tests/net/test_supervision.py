"""What the process tells at its start."""

import pytest
from structlog.testing import capture_logs

from headwater_server.net.settings import ServerSettings
from headwater_server.net.supervision import tell
from tests.engine.database import Database


@pytest.mark.parametrize(
    ("tls", "local_only", "warned"),
    [(False, False, True), (True, False, False), (False, True, False), (True, True, False)],
)
def test_a_server_that_others_can_reach_without_tls_warns(
    tls: bool, local_only: bool, warned: bool
) -> None:
    with capture_logs() as logged:
        tell(
            ServerSettings(data="data"),
            ["10.0.0.1:4323"],
            Database().engine,
            tls=tls,
            local_only=local_only,
        )
    warnings = [line["event"] for line in logged if line["log_level"] == "warning"]
    assert bool(warnings) == warned
    assert all("without TLS" in line for line in warnings)
