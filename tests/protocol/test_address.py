"""URLs of servers."""

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

import headwater
from headwater.errors import InvalidArgument
from headwater_protocol.address import Address, parse_address


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
