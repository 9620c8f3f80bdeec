"""The file NODE of a data directory: which part this node has among the nodes of a database.

    no file       the node leads, alone or with followers
    following     it applies the entries of a leader
    leading       it was promoted
    deposed       it led, and another node was promoted
    clustered     it is one of several nodes with their log in a stream, and any of them may lead

NODE is replaced as a whole, in one rename.
"""

import json
import zlib
from dataclasses import asdict, dataclass
from typing import Any, Final

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.files.file_system import FileSystem, join

NODE_NAME: Final = "NODE"
FOLLOWING: Final = "following"
LEADING: Final = "leading"
DEPOSED: Final = "deposed"
CLUSTERED: Final = "clustered"

_SIZE_MAX: Final = 4096
"""Bytes of NODE that we read: more than any version writes."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """What NODE says.

    Attributes:
        state: FOLLOWING, LEADING, DEPOSED or CLUSTERED.
        node: identifies the node among others.
        leader: the address of the leader, a URL without a password; None: unknown, or this node.
        index: of a promoted or deposed node, the last entry that both leaders have; else 0.
        hash: of that entry, in hexadecimal.
        epoch: of the node that was promoted, else 0.
    """

    state: str
    node: str
    leader: str | None = None
    index: int = 0
    hash: str = ""
    epoch: int = 0


def read_node(file_system: FileSystem, directory: str) -> NodeState | None:
    """What NODE says; None if there is none.

    Raises:
        DamagedFile: it is not what was written.
    """
    path = join(directory, NODE_NAME)
    if not file_system.exists(path):
        return None
    file = file_system.open(path, writable=False)
    try:
        data = file.read_at(0, _SIZE_MAX)
    finally:
        file.close()
    try:
        fields: dict[str, Any] = json.loads(data)
        crc = fields.pop("crc32")
        if crc == _crc(fields):
            return NodeState(**fields)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise DamagedFile(f"{path}: it is not what was written", details={"file": path, "offset": 0})


def write_node(file_system: FileSystem, directory: str, state: NodeState) -> None:
    """Replace NODE, durably."""
    path = join(directory, NODE_NAME)
    temporary = path + ".tmp"
    if file_system.exists(temporary):
        file_system.remove(temporary)
    fields = asdict(state)
    file = file_system.create(temporary)
    try:
        text = json.dumps({**fields, "crc32": _crc(fields)}, sort_keys=True)
        file.write_at(0, text.encode() + b"\n")
        file.sync()
    finally:
        file.close()
    file_system.rename(temporary, path)
    file_system.sync_directory(directory)


def _crc(fields: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())
