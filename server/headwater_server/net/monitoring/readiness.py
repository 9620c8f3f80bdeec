"""Readiness: whether the server can serve every request now, and if not, why.

A server is not ready before its log is replayed, and while it shuts down. It is not ready either
while it refuses or holds back writes. A load balancer then sends requests elsewhere, and a
supervisor does not take the server for broken: for that, it asks for health.
"""

from typing import Any

from headwater_server.net.service import Service


class Readiness:
    """The state of a server, from before its log is replayed until its end.

    Attributes:
        service: of the running server; None while the log is replayed.
        replayed: records of the log that were replayed.
    """

    def __init__(self) -> None:
        self.service: Service | None = None
        self.replayed = 0

    def note_replayed(self, count: int) -> None:
        """So many records of the log were replayed; may be called in any thread."""
        self.replayed = count

    def reasons(self) -> list[dict[str, str]]:
        """Why the server is not ready, each with a fixed word and a sentence; empty if it is."""
        if self.service is None:
            what = f"the log is being replayed; {self.replayed} records so far"
            return [{"reason": "replaying", "message": what}]
        service, found = self.service, []
        if service.failures.failed:
            found.append(("failed", "the server failed, and the process is about to end"))
        if service.stopping:
            found.append(("stopping", "the server is shutting down"))
        read_only = service.engine.read_only_reason
        if read_only is not None:
            found.append(("read_only", read_only))
        cluster = service.cluster
        if cluster is not None and cluster.unready is not None:
            found.append(("cluster", cluster.unready))
        if service.group_commit.overloaded:
            found.append(("disk_behind", "too many bytes of commits wait for the disk"))
        if service.group_commit.held:
            found.append(("checkpoint_behind", "commits wait until a checkpoint is written"))
        return [{"reason": word, "message": what} for word, what in found]

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether the server is ready, and the JSON that says so."""
        reasons = self.reasons()
        return not reasons, {"ready": not reasons, "reasons": reasons}

    def healthy(self) -> tuple[bool, dict[str, Any]]:
        """Whether the process works, and the JSON that says so."""
        healthy = self.service is None or not self.service.failures.failed
        return healthy, {"healthy": healthy}
