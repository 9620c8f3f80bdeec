"""How long subscriptions and consumers wait for a server that is away."""

import math

import pytest

import headwater
from tests.client.faces import FACES, run_on
from tests.client.fake_server import FakeServer


@pytest.mark.parametrize("face", FACES)
def test_with_an_endless_retry_timeout_they_wait_as_long_as_it_takes(face: str) -> None:
    """Many attempts fail, after pauses that grow, and none of them is the last."""
    with FakeServer() as server:
        server.on("subscribe", server.DROP, server.DROP, None)

        async def scenario(db: headwater.Database) -> None:
            async with db.subscribe() as feed:
                assert feed.position == 0
            async with db.transaction() as tx:
                tx.put("k", 1)

        server.on("execute", server.DROP, [[1, 0, 0, 0, {}], []])
        run_on(face, server.url, scenario, retry_timeout=math.inf)
        assert len(server.named("subscribe")) == 3
