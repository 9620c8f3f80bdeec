"""Real nodes on a real NATS server: one dies, one is stopped, one steps down."""

import subprocess
import sys
from pathlib import Path

import pytest

import headwater
from headwater_server.storage.files.directory import FORMAT_NAME
from tests.cluster.nats_servers import NatsServers
from tests.cluster.torture import NAMES, RealCluster, real_cluster

WAIT_S_MAX = 60.0


def leader_of(cluster: RealCluster) -> str:
    while (name := cluster.leader()) is None:
        pass
    return name


def put(cluster: RealCluster, key: str) -> int:
    """Put a key at the leader, whichever node that is."""
    while True:
        try:
            with headwater.connect_blocking(cluster.nodes[leader_of(cluster)].url) as db:
                return db.put(key, 1).commit
        except (headwater.NotLeader, headwater.ConnectionLost):
            continue


def keys_of(cluster: RealCluster, name: str, commit: int) -> set[object]:
    with headwater.connect_blocking(cluster.nodes[name].url) as db:
        db.wait_commit(commit, timeout=WAIT_S_MAX)
        return {key for (key,) in db.scan(values=False)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nodes_take_over_from_each_other_and_lose_nothing(
    tmp_path: Path, nats_servers: NatsServers
) -> None:
    with real_cluster(tmp_path, nats_servers) as cluster:
        put(cluster, "first")
        first = leader_of(cluster)
        cluster.kill(first)
        put(cluster, "after a death")
        cluster.start(first)
        second = leader_of(cluster)
        assert second != first
        with headwater.connect_blocking(cluster.nodes[second].url) as db:
            db.cluster_resign()
        commit = put(cluster, "after a resignation")
        wanted = {"first", "after a death", "after a resignation"}
        for name in NAMES:
            assert keys_of(cluster, name, commit) == wanted
        with headwater.connect_blocking(cluster.nodes[leader_of(cluster)].url) as db:
            status = db.cluster_status()
        assert len(status["nodes"]) == 3
        assert status["problem"] is None


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_directory_of_a_cluster_is_not_opened_alone(
    tmp_path: Path, nats_servers: NatsServers
) -> None:
    with real_cluster(tmp_path, nats_servers) as cluster:
        node = cluster.nodes["a"]
        cluster.kill("a")
    assert (node.data / FORMAT_NAME).exists()
    command = [sys.executable, "-m", "headwater_server", "serve", "--data", str(node.data)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "node of a cluster" in ended.stderr
