"""A node refuses a stream whose settings lose commits, and names each of them."""

from typing import Any

import pytest

from headwater_protocol.errors import InvalidArgument
from headwater_server.net.jetstream.connection import NatsConnection
from headwater_server.storage.errors import Unavailable
from headwater_server.storage.jetstream.settings import (
    DUPLICATE_WINDOW_NS,
    StreamPlan,
    check_config,
    check_server,
)
from headwater_server.storage.jetstream.stream import Stream
from tests.cluster.nats_servers import NatsServers, free_ports

PLAN = StreamPlan("log", 3, b"database-of-test")


def test_a_stream_as_it_is_made_is_safe() -> None:
    assert check_config(PLAN.config(), "log", replicas_min=3) == b"database-of-test"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("storage", "memory"),
        ("retention", "workqueue"),
        ("discard", "old"),
        ("max_age", 1),
        ("max_msgs", 1000),
        ("max_bytes", 1 << 30),
        ("max_msgs_per_subject", 1),
        ("max_msg_size", 1000),
        ("deny_delete", False),
        ("allow_direct", False),
        ("no_ack", True),
        ("sealed", True),
        ("allow_rollup_hdrs", True),
        ("mirror", {"name": "other"}),
        ("persist_mode", "async"),
        ("subjects", ["headwater.log.log", "more"]),
        ("duplicate_window", DUPLICATE_WINDOW_NS - 1),
        ("num_replicas", 1),
    ],
)
def test_an_unsafe_setting_is_named(setting: str, value: Any) -> None:
    config = {**PLAN.config(), setting: value}
    with pytest.raises(InvalidArgument, match=setting):
        check_config(config, "log", replicas_min=3)


def test_a_stream_of_another_program_is_not_used() -> None:
    with pytest.raises(InvalidArgument, match="metadata"):
        check_config({**PLAN.config(), "metadata": {}}, "log", replicas_min=3)


def test_old_servers_and_small_messages_are_refused() -> None:
    check_server((2, 12), 1 << 20, "n1")
    with pytest.raises(InvalidArgument, match=r"n1 is nats-server 2\.11; 2\.12 or newer"):
        check_server((2, 11), 1 << 20, "n1")
    with pytest.raises(InvalidArgument, match="max_payload is 65536"):
        check_server((2, 15), 65536, "n1")


def test_the_real_server_keeps_the_settings_and_a_second_database_gets_the_id_of_the_first(
    nats_servers: NatsServers,
) -> None:
    service = NatsConnection.open(nats_servers.urls, "a test")
    try:
        stream = Stream(service, "settings", replicas_min=nats_servers.replicas)
        assert stream.find() is None
        replicas = nats_servers.replicas
        made = stream.make(StreamPlan("settings", replicas, b"database-of-test", 41))
        assert (made.first, made.last, made.messages) == (41, 40, 0)
        second = stream.make(StreamPlan("settings", replicas, b"another-database"))
        assert second.database_id == b"database-of-test"
        other = Stream(service, "settings", replicas_min=5)
        with pytest.raises(InvalidArgument, match="num_replicas"):
            other.find()
    finally:
        service.close()


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="none of the 2 NATS servers"):
        NatsConnection.open([f"nats://127.0.0.1:{port}" for port in free_ports(2)], "a test")
