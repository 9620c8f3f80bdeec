"""Leadership: whether this node may write to the log.

    follows ---- lead: claim ----> leads ---- depose ----> deposed
       ^  applies the entries        applies its own          serves what it has
       |  of its leader              commits                  until it is restarted

At any time one node leads. A claim is an entry of the log with a new epoch, so of two nodes that
both believe to lead, the one with the lower epoch is wrong. A follower that is promoted leads
without a restart. A deposed leader may have commits that no other node has, in its memory and in
its log, and they cannot be taken out. So it writes no more, and only a restart makes it a follower.
"""

from collections.abc import Callable

from headwater_protocol.errors import NotLeader, Unavailable
from headwater_protocol.numbers import TERM_SHIFT, term_of
from headwater_server.engine.transactions.sequencer import Group, Sequencer
from headwater_server.storage.wal.interface import FIRST_EPOCH, Epoch, LogEnd, WriteAheadLog


class Leadership:
    """The role of this node.

    Attributes:
        leads: this node has claimed the log and may write.
        takes_writes: it leads, and its log answers.
        deposed: it led, and another node leads now.
        leader: the address of the leader, as a URL without a password; None: unknown, or this node.
    """

    def __init__(
        self,
        log: WriteAheadLog,
        sequencer: Sequencer,
        clock: Callable[[], int],
        monotonic: Callable[[], int],
    ) -> None:
        """*clock* and *monotonic* give new commits their times."""
        self.leads = False
        self.takes_writes = False
        self.deposed = False
        self.leader: str | None = None
        self._log = log
        self._sequencer = sequencer
        self._clock = clock
        self._monotonic = monotonic
        self._unavailable: str | None = None

    @property
    def end(self) -> LogEnd:
        """The end of the log of this node."""
        return self._log.end_at(self._log.last_index)

    @property
    def epoch(self) -> Epoch:
        """The epoch of the newest entry of the log."""
        return self.end.epoch

    @property
    def next_term(self) -> Epoch:
        """The first epoch after another promotion."""
        return Epoch((term_of(self.epoch) + 1) << TERM_SHIFT)

    def lead(self, *, at_least: Epoch = FIRST_EPOCH) -> None:
        """Claim the log, all of whose entries are applied. Blocks for a sync.

        A node that was promoted claims *at_least* the epoch that its file NODE says.

        Raises:
            LogGoesOn, DiskFull: nothing was changed.
        """
        self.claim(at_least=at_least)
        self.begin()

    def claim(self, *, at_least: Epoch = FIRST_EPOCH) -> None:
        """The first part of `lead`: claim the log. Blocks for a sync; may run in another thread."""
        assert not self.deposed, "its commits cannot be taken back"
        self._log.claim(self._log.last_index, at_least=at_least)

    def begin(self) -> None:
        """The second part of `lead`: take writes from now on."""
        self._sequencer.start(self._clock, self._monotonic)
        self.leads = self.takes_writes = True
        self.leader = None

    def recovered(self) -> Group:
        """All that this node has when it begins to lead, as a group to be published.

        What is answered again from it waits until then; readers do not. To be called right after
        `begin`, before anything is written.
        """
        sequencer = self._sequencer
        sequencer.sequence += 1
        return Group(
            [],
            sequencer.sequence,
            sequencer.published,
            sequencer.published_position,
            (*sequencer.published_time,),
            self.end.index,
        )

    def depose(self, leader: str | None) -> None:
        """Another node has a higher epoch: write no more."""
        # A plan in steps was allowed while this node led.
        self._sequencer.interrupt_plan()
        self.leads = self.takes_writes = False
        self.deposed = True
        self.leader = leader

    def resign(self) -> None:
        """Write no more: another node may claim the log. All that was written is durable."""
        self._sequencer.interrupt_plan()
        self.leads = self.takes_writes = False

    def note_log(self, unavailable: str | None) -> None:
        """The log does not answer, and why; or it does (None)."""
        self._unavailable = unavailable
        self.takes_writes = self.leads and unavailable is None

    def check_leads(self) -> None:
        """Raise NotLeader or Unavailable unless this node may write.

        The details of NotLeader have the leader's address.
        """
        if self.leads:
            if self._unavailable is not None:
                raise Unavailable(self._unavailable)
            return
        where = f"the leader is {self.leader}" if self.leader else "the leader is unknown"
        what = "was deposed" if self.deposed else "follows"
        raise NotLeader(
            f"this node {what} and takes no writes; {where}", details={"leader": self.leader}
        )
