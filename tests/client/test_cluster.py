"""What a client is told by a server that is no node of a cluster."""

import pytest

import headwater
from headwater.cli.server_process import ServerProcess


def test_a_lone_server_says_that_it_is_not_a_node_of_a_cluster(
    real_server: ServerProcess,
) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        with pytest.raises(headwater.InvalidArgument, match="not a node of a cluster"):
            db.cluster_status()
        with pytest.raises(headwater.InvalidArgument, match="not a node of a cluster"):
            db.cluster_resign()
