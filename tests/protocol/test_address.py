"""URLs of servers."""

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

import headwater
from headwater.errors import InvalidArgument
from headwater_protocol.address import Address, parse_address, parse_addresses


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("headwater://db.example.org", "db.example.org", 4323),
        ("headwater://db.example.org:99", "db.example.org", 99),
        ("headwater://localhost:99/", "localhost", 99),
        ("headwater://[::1]:99", "::1", 99),
        ("headwater://[::1]", "::1", 4323),
        ("headwater://", "localhost", 4323),
        ("headwater://:99", "localhost", 99),
    ],
)
def test_a_url_contains_host_and_port(url: str, host: str, port: int) -> None:
    assert parse_address(url) == Address(host, port)


def test_the_url_of_a_unix_socket_contains_its_path() -> None:
    address = parse_address("headwater+unix:///run/head%20water.sock")
    assert address.path == "/run/head water.sock"
    assert str(address) == "/run/head water.sock"


def test_user_and_password_in_a_url_are_decoded_and_may_be_arguments_instead() -> None:
    address = parse_address("headwater://an%40n:p%3Aw@host")
    assert (address.user, address.password) == ("an@n", "p:w")
    other = parse_address("headwater://ann:x@host", user="bob", password="y")
    assert (other.user, other.password) == ("bob", "y")


def test_a_password_is_never_shown() -> None:
    address = parse_address("headwater://ann:secret@[::1]")
    assert "secret" not in f"{address} {address!r}"
    assert str(address) == "[::1]:4323"


@pytest.mark.parametrize("url", ["headwaters://h", "headwater://h?tls=1", "headwater://h?tls=true"])
def test_tls_is_chosen_by_the_url_or_by_an_argument(url: str) -> None:
    context = parse_address(url).tls
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert parse_address(url, tls=False).tls is None


def test_a_file_of_authorities_is_read(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    context = parse_address(f"headwaters://h?ca_file={file}").tls
    assert context is not None
    assert len(context.get_ca_certs()) >= 1


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://host", "scheme 'http'"),
        ("localhost:4323", "scheme"),
        ("headwater://host/path", "'/path'"),
        ("headwater://host:99999", "url: "),
        ("headwater://[::1", "url: "),
        ("headwater://host?tsl=1", "tsl=1"),
        ("headwater://host?tls=maybe", "tls=maybe"),
        ("headwater+unix://", "headwater[+]unix:///"),
        ("headwater+unix://host/path", "headwater[+]unix:///"),
        ("headwater+unix:///path?tls=1", "TLS is not possible"),
        ("headwater://host?ca_file=/x", "it needs TLS"),
        ("headwaters://host?ca_file=/no/such/file", "/no/such/file"),
    ],
)
def test_the_error_of_a_wrong_url_says_what_is_wrong(url: str, what: str) -> None:
    with pytest.raises(InvalidArgument, match=what):
        parse_address(url)


@pytest.mark.parametrize("name", ["connect_timeout", "request_timeout", "retry_timeout"])
@pytest.mark.parametrize("seconds", ["5", None, True, -1, float("nan")])
def test_a_timeout_that_is_not_a_number_of_seconds_is_refused(name: str, seconds: Any) -> None:
    for make in (headwater.connect, headwater.connect_blocking):
        with pytest.raises(InvalidArgument, match=name):
            make(**{name: seconds})


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("headwater://a:1,b:2,c", [("a", 1), ("b", 2), ("c", 4323)]),
        ("headwater://a,b/", [("a", 4323), ("b", 4323)]),
        (
            "headwater://[::1]:1,[fe80::1],127.0.0.1:3",
            [("::1", 1), ("fe80::1", 4323), ("127.0.0.1", 3)],
        ),
        ("headwater://a:1,a:2", [("a", 1), ("a", 2)]),
    ],
)
def test_a_url_may_have_the_addresses_of_several_nodes(
    url: str, nodes: list[tuple[str, int]]
) -> None:
    parsed = parse_addresses(url)
    assert [(each.host, each.port) for each in parsed.nodes] == nodes
    assert parsed.read == "leader"


def test_all_nodes_have_the_same_user_and_tls() -> None:
    parsed = parse_addresses("headwaters://ann:a%2Cb%40c@a,b:9?read=nearest")
    assert {(each.user, each.password) for each in parsed.nodes} == {("ann", "a,b@c")}
    assert parsed.nodes[0].tls is parsed.nodes[1].tls is not None
    assert parsed.read == "nearest"


def test_one_address_is_asked_alone_unless_the_url_says_where_to_read() -> None:
    assert parse_addresses("headwater://a").read is None
    assert parse_addresses("headwater://a?read=leader").read == "leader"
    assert parse_addresses("headwater+unix:///a.sock?read=follower").read == "follower"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("headwater://a,,b", "url: address 2 of 3 is empty"),
        ("headwater://,a", "url: address 1 of 2 is empty"),
        ("headwater://a:1,b:x", "url: address 2 of 2: b:x: Port could not be cast"),
        ("headwater://a:1,b:70000", "url: address 2 of 2: b:70000: Port out of range"),
        (
            "headwater://a,::1",
            "url: address 2 of 2: ::1: .*; an IPv6 address is written in brackets",
        ),
        ("headwater://a:1,b,a:1", "url: address 3 of 3: a:1 is the same as address 1"),
        ("headwater://a,b?read=any", "url: read=any; known: leader, nearest, follower"),
        ("headwater://a,b/path", "url: unexpected path '/path' after the host"),
        (
            "headwater://" + ",".join(f"h{n}" for n in range(17)),
            "url: 17 addresses; allowed are 16",
        ),
    ],
)
def test_an_address_that_is_wrong_is_refused_with_its_place(url: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse_addresses(url)


@pytest.mark.parametrize("url", ["headwater://a,b", "headwater://a?read=nearest"])
def test_who_needs_one_node_refuses_several(url: str) -> None:
    with pytest.raises(InvalidArgument, match="url: "):
        parse_address(url)
