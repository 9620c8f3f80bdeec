"""The test vectors equal what the code writes, and the code reads them like another client."""

import base64
import hashlib
import hmac
import json
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
import pytest

from headwater_protocol.connection import (
    Answer,
    ClientConnection,
    Failure,
    Push,
    Refused,
    Request,
    Violation,
)
from headwater_protocol.errors import HeadwaterError, InvalidArgument
from headwater_protocol.keys import decode_key, encode_key, prefix_range
from headwater_protocol.operations import OK, OPERATIONS
from headwater_protocol.states import State
from tests.protocol.connections import connection_in, ready_pair
from tests.vectors import examples
from tests.vectors.generate import FILES, FOLDER, text


def from_json(value: Any) -> Any:
    match value:
        case {"bytes": digits}:
            return bytes.fromhex(digits)
        case {"int": digits}:
            return int(digits)
        case {"float": digits}:
            return float(digits)
        case {"uuid": digits}:
            return UUID(digits)
        case {"datetime": moment}:
            return datetime.fromisoformat(moment)
        case {"tuple": members}:
            return tuple(map(from_json, members))
        case {"map": members}:
            return {name: from_json(member) for name, member in members.items()}
        case list():
            return [*map(from_json, value)]
        case _:
            return value


def load(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


@pytest.mark.parametrize("name", FILES)
def test_each_file_equals_what_the_generator_writes(name: str) -> None:
    assert (FOLDER / name).read_text() == text(name), "run python -m tests.vectors.generate"


def test_the_readme_lists_exactly_the_files() -> None:
    readme = (FOLDER / "README.md").read_text()
    assert {path.name for path in Path(FOLDER).glob("*.json")} == FILES.keys()
    assert all(f"`{name}`" in readme for name in FILES)


def test_keys_are_encoded_and_decoded_like_the_vectors() -> None:
    vectors = load("keys.json")
    for vector in vectors["keys"] + vectors["in_order"]:
        key = tuple(map(from_json, vector["key"]))
        assert encode_key(key).hex() == vector["encoded"]
        assert decode_key(bytes.fromhex(vector["encoded"])) == key
    for vector in vectors["prefix_ranges"]:
        start, end = prefix_range(tuple(map(from_json, vector["prefix"])))
        assert (start.hex(), end.hex()) == (vector["start"], vector["end"])
    for vector in vectors["refused"]:
        with pytest.raises(InvalidArgument):
            decode_key(bytes.fromhex(vector["encoded"]))


def test_the_keys_in_order_are_in_order() -> None:
    encoded = [bytes.fromhex(vector["encoded"]) for vector in load("keys.json")["in_order"]]
    assert encoded == sorted(set(encoded))


def test_every_operation_has_a_request_that_a_server_accepts() -> None:
    vectors = load("requests.json")
    assert {vector["message"][1] for vector in vectors} == OPERATIONS.keys()
    states = {"hello": State.HELLO, "authenticate": State.AUTHENTICATION}
    for vector in vectors:
        request_id, name, *arguments = from_json(vector["message"])
        frame = bytes.fromhex(vector["frame"])
        assert int.from_bytes(frame[:4], "big") == len(frame) - 4
        assert msgpack.unpackb(frame[4:]) == from_json(vector["message"])
        server = connection_in(states.get(name, State.READY))
        (item,) = server.receive(frame)
        assert isinstance(item, Request)
        assert (item.request_id, item.name) == (request_id, name)
        assert item.arguments[: len(arguments)] == arguments


def test_a_client_accepts_every_response() -> None:
    names = [vector["message"][1] for vector in load("requests.json")]
    for vector in load("responses.json"):
        request_id, status, payload = from_json(vector["message"])
        client, _ = ready_pair()
        if vector["what"].startswith("an answer to"):
            name = names[request_id - 1]
            client.in_flight[request_id] = name
            client._enter(
                {"hello": State.GREETING, "authenticate": State.AUTHENTICATING}.get(
                    name, State.READY
                )
            )
        else:
            is_push = "push" in vector["what"]
            client.in_flight[request_id] = "subscription" if is_push else "commit"
        (item,) = client.receive(bytes.fromhex(vector["frame"]))
        assert isinstance(item, Answer | Push | Failure), vector["what"]
        if status == OK:
            assert item == Answer(request_id, payload)


def test_a_client_knows_every_error_code() -> None:
    for vector in load("errors.json"):
        client, _ = ready_pair()
        client.in_flight[7] = "commit"
        (item,) = client.receive(bytes.fromhex(vector["frame"]))
        assert isinstance(item, Failure)
        assert (item.error.code, item.error.retryable) == (vector["code"], vector["retryable"])
        assert type(item.error) is not HeadwaterError or vector["code"] == "error"


def test_a_server_refuses_malformed_requests_like_the_vectors() -> None:
    for vector in load("malformed.json"):
        server = connection_in(State.READY)
        (item,) = server.receive(bytes.fromhex(vector["sent"]))
        assert isinstance(item, Violation if vector["closes"] else Refused), vector["why"]
        assert isinstance(item, Violation | Refused)
        assert (item.request_id, item.error.code) == (vector["request_id"], vector["code"])
        assert server.closed == vector["closes"]
        # The answer can be encoded and decoded.
        client = ClientConnection()
        client.in_flight[7] = "get"
        (failure,) = client.receive(server.error(item.request_id, item.error))
        assert isinstance(failure, Failure)
        assert failure.error.code == vector["code"]


def test_the_scram_example_is_that_of_the_rfc_and_its_proofs_are_right() -> None:
    """The steps of docs/protocol.md, computed with hashes only."""

    def hmac_sha256(key: bytes, message: bytes) -> bytes:
        return hmac.digest(key, message, "sha256")

    client_first, server_first, client_final, server_final = examples.SCRAM
    salted = hashlib.pbkdf2_hmac(
        "sha256", b"pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096
    )
    client_key = hmac_sha256(salted, b"Client Key")
    stored_key = hashlib.sha256(client_key).digest()
    without_proof, proof = client_final.split(b",p=")
    signed = b",".join([client_first.removeprefix(b"n,,"), server_first, without_proof])
    signature = hmac_sha256(stored_key, signed)
    mixed = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
    assert base64.b64decode(proof) == mixed
    server_key = hmac_sha256(salted, b"Server Key")
    assert server_final == b"v=" + base64.b64encode(hmac_sha256(server_key, signed))
