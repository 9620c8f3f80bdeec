"""Two flipped bits in the files of a NATS server: noticed, and nothing that was answered is lost.

    python -m tests.cluster.flipped_bits --rounds 10

In each round a node is stopped, writes go on, and a NATS server that does not lead the stream is
killed. Two bits in the middle of one of its files are flipped. It starts again and is made the
leader of the stream. Then the node that was stopped has to read the stream. It must end up equal to
the others, or say what is missing; the rest must have everything that was answered.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import headwater
from headwater_server.net.jetstream.connection import NatsConnection
from tests.cluster.torture import NAMES, RealCluster, real_cluster

STREAM: Final = "torture"
WRITES: Final = 1500
WAIT_S_MAX: Final = 60.0
LOOK_S: Final = 0.1


def asked(cluster: RealCluster, what: str, fields: Any = None) -> dict[str, Any]:
    """Ask the stream, by any server that runs; an empty answer if nobody answers."""
    urls = [server.url for server in cluster.nats.servers if server.runs]
    service = NatsConnection.open(urls, "a test")
    try:
        payload = b"" if fields is None else json.dumps(fields).encode()
        reply = service.post(f"$JS.API.{what}.{STREAM}", payload, None, 2.0).wait()
        return {} if reply is None or not reply.data else dict(json.loads(reply.data))
    finally:
        service.close()


def stream_leader(cluster: RealCluster) -> str | None:
    info = asked(cluster, "STREAM.INFO")
    leader: str | None = info.get("cluster", {}).get("leader")
    return leader


def flip(directory: Path) -> str:
    """Flip a bit in two places of the middle block of the stream."""
    blocks = sorted(directory.glob(f"jetstream/$G/streams/{STREAM}/msgs/*.blk"))
    block = blocks[len(blocks) // 2]
    content = bytearray(block.read_bytes())
    for place in (len(content) // 4, len(content) // 2):
        content[place] ^= 1
    block.write_bytes(content)
    return f"{block.name} of {len(blocks)}"


def write(cluster: RealCluster, first: int) -> int:
    """Write keys one after another; return the last number that was answered."""
    number = first
    until = time.monotonic() + WAIT_S_MAX
    while number < first + WRITES and time.monotonic() < until:
        leader = cluster.leader()
        if leader is None:
            continue
        try:
            with headwater.connect_blocking(cluster.nodes[leader].url, retry_timeout=0.1) as db:
                while number < first + WRITES:
                    db.put(("k", number + 1), number + 1)
                    number += 1
        except headwater.HeadwaterError:
            continue
    return number


def has_all(cluster: RealCluster, name: str, last: int) -> bool:
    try:
        with headwater.connect_blocking(cluster.nodes[name].url, retry_timeout=0.1) as db:
            return (
                db.get(("k", last)) == last
                and db.get(("k", 1)) == 1
                and (len(list(db.scan(("k",)))) >= last)
            )
    except headwater.HeadwaterError:
        return False


def problem_at(cluster: RealCluster, name: str) -> str | None:
    try:
        with headwater.connect_blocking(cluster.nodes[name].url, retry_timeout=0.1) as db:
            found: str | None = db.cluster_status()["problem"]
            return found
    except headwater.HeadwaterError as error:
        return str(error)


def alarms(cluster: RealCluster) -> int:
    """How often nodes have said that entries of the stream are missing or damaged."""
    words = ("the stream of the log is damaged", "the stream lacks entries")
    logs = [node.log.read_text(errors="replace") for node in cluster.nodes.values()]
    return sum(log.count(word) for log in logs for word in words)


def one_round(cluster: RealCluster, last: int, number: int) -> tuple[str, int]:
    behind, before = NAMES[number % len(NAMES)], alarms(cluster)
    cluster.running.discard(behind)
    cluster.nodes[behind].stop()
    last = write(cluster, last)
    leader = stream_leader(cluster)
    victim = next(each for each in cluster.nats.servers if each.name != leader)
    victim.kill()
    where = flip(victim.store)
    victim.start()
    cluster.nats.wait_until_ready()
    until = time.monotonic() + WAIT_S_MAX
    while stream_leader(cluster) != victim.name and time.monotonic() < until:
        asked(cluster, "STREAM.LEADER.STEPDOWN", {"placement": {"preferred": victim.name}})
        time.sleep(1)  # an election of another program
    cluster.start(behind)
    last = write(cluster, last)
    until = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < until:
        if all(has_all(cluster, name, last) for name in NAMES):
            words = "noticed and mended" if alarms(cluster) > before else "the stream is whole"
            return f"{words} ({victim.name}, {where})", last
        time.sleep(LOOK_S)  # other processes catch up
    having = [name for name in NAMES if has_all(cluster, name, last)]
    stopped = {name: problem_at(cluster, name) for name in NAMES if name not in having}
    if having and all(stopped.values()):
        return f"stopped: {stopped}", last
    return f"LOST: {having} have all {last}; the others say {stopped}", last


def main() -> int:
    """Damage a stream, again and again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory, real_cluster(Path(directory)) as cluster:
        last = 0
        for number in range(given.rounds):
            outcome, last = one_round(cluster, last, number)
            print(f"round {number + 1}: {outcome}; {last} keys", flush=True)
            outcomes[outcome.split(" (")[0].split(":")[0]] += 1
    print(dict(outcomes))
    return min(1, outcomes["LOST"])


if __name__ == "__main__":
    sys.exit(main())
