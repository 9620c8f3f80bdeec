"""Addresses of pages: the object that a page shows, and the commit or time at which it is read.

    /stream?name=account-EV&at=1130&vs=1049
     path   object          moment  compared with

Names and keys are in the query and never in the path, because browsers and proxies change paths:
a stream may be called "..", "a//b" or "a%2Fb". A key is JSON, with a tag for what JSON does not
have (`["blob",{"$bytes":"AP8="}]`), so every key has an address, and most are legible.
"""

import binascii
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from headwater.cli.dumps.tagged_json import from_json, to_json
from headwater.errors import HeadwaterError, InvalidArgument
from headwater_protocol.keys import KeyTuple, encode_key

MOMENT: Final = ("at", "vs", "axis", "view")
"""The query parameters that choose the moment at which a page reads. Links keep them."""


def address(path: str, query: Mapping[str, Any]) -> str:
    """The address of a page. Members that are None or empty are left out."""
    given = {name: member for name, member in query.items() if member not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def key_address(key: KeyTuple) -> str:
    """A key, or a prefix of keys, as text for an address."""
    members = [to_json(member) for member in key]
    return json.dumps(members, ensure_ascii=False, separators=(",", ":"))


def key_from_address(text: str) -> KeyTuple:
    """Parse a key from the text in an address. The key may be empty: the prefix of all keys.

    Raises:
        InvalidArgument: the text is not a key.
    """
    try:
        tagged = json.loads(text)
        if not isinstance(tagged, list):
            raise InvalidArgument("a key is a JSON array of its members")
        key = tuple(from_json(member) for member in tagged)
        if key:
            encode_key(key)
    except (ValueError, TypeError, binascii.Error, RecursionError, HeadwaterError) as error:
        raise InvalidArgument(f"key: {text!r:.80} is no key: {error}") from error
    return key
