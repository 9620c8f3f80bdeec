"""What a database object has seen: reads at any node must not be older.

    put at the leader  --> committed as 812 --> seen 812
    get at a follower  read_at_least(812)   --> it waits until it shows 812; answers, and is at 815
    get at another one read_at_least(815)

A commit number names a state only together with the term: the number of promotions before it. A
node that was promoted without the newest commits goes on with other ones of the same numbers. So
the term comes first, and an answer of an earlier term is older, whatever its number.
"""

import threading


class Seen:
    """The newest state that was seen. Threads may share it.

    Attributes:
        term, commit: of that state.
    """

    def __init__(self) -> None:
        self.term = 0
        self.commit = 0
        # Reentrant, because a signal handler may use the database, too.
        self._lock = threading.RLock()

    def abandon(self) -> None:
        """A thread of the parent process may hold the lock: take another one in the child."""
        self._lock = threading.RLock()

    def note(self, commit: int, term: int | None = None) -> None:
        """Note a commit that was seen; without *term*, in the newest one."""
        with self._lock:
            if term is not None and term > self.term:
                self.term = term
            if commit > self.commit:
                self.commit = commit

    def is_older(self, term: int) -> bool:
        """Whether an answer of this term is older than what was seen."""
        return term < self.term

    def lead(self, term: int, commit: int) -> int | None:
        """A node of this term leads, and has this newest commit.

        Returns:
            The commit that was seen before, if it is lost: the node was promoted without it. From
            then on, what was seen is what the node has.
        """
        with self._lock:
            if term <= self.term:
                return None
            lost = self.commit if commit < self.commit else None
            self.term = term
            if lost is not None:
                self.commit = commit
            return lost
