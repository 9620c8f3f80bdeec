"""The checker of lists finds every anomaly, and nothing in a sound history."""

from tests.simulation.elle import check_lists
from tests.simulation.history import Append, Attempt, Outcome, Read


class Transactions:
    """A handwritten history: each transaction is one line of words.

    `a x 1` appends element x1 to list x; `r x 1 2` reads x as [x1, x2].
    """

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []

    def add(
        self,
        *words: str,
        outcome: Outcome = Outcome.COMMITTED,
        isolation: str = "serializable",
        begun: int = 0,
        ended: int | None = 1000,
    ) -> "Transactions":
        attempt = Attempt(
            len(self.attempts), "hand", "lists", begun, 0, isolation, ended=ended, outcome=outcome
        )
        for line in words:
            word, name, *numbers = line.split()
            elements = [f"{name}{number}" for number in numbers]
            if word == "a":
                attempt.operations.append(Append(name, [(each, "") for each in elements]))
            else:
                attempt.operations.append(Read(name, 0, elements))
        self.attempts.append(attempt)
        return self

    def anomalies(self, **final: str) -> set[str]:
        """The names of the anomalies found; *final* is each list's numbers at the end."""
        lists = {name: [f"{name}{each}" for each in order.split()] for name, order in final.items()}
        return {anomaly.name for anomaly in check_lists(self.attempts, lists)}


def test_a_sound_history_has_no_anomaly() -> None:
    history = (
        Transactions()
        .add("r x", "a x 1")
        .add("r x 1", "a x 2", "r x 1 2", "a y 1")
        .add("r x 1 2", "r y 1", isolation="snapshot")
        .add("a x 3", outcome=Outcome.UNKNOWN, ended=None)
        .add("a x 4", outcome=Outcome.UNKNOWN, ended=None)
        .add("a x 5", outcome=Outcome.ABORTED)
    )
    assert history.anomalies(x="1 2 3", y="1") == set()


def test_g0_two_transactions_whose_writes_interleave() -> None:
    history = Transactions().add("a x 1", "a y 1").add("a x 2", "a y 2")
    assert history.anomalies(x="1 2", y="2 1") == {"G0"}
    assert history.anomalies(x="1 2", y="1 2") == set()


def test_g1a_a_read_of_an_aborted_write() -> None:
    history = Transactions().add("a x 1", outcome=Outcome.ABORTED).add("r x 1")
    assert "G1a" in history.anomalies(x="1")


def test_g1a_an_aborted_write_that_stays() -> None:
    history = Transactions().add("a x 1", outcome=Outcome.ABORTED)
    assert history.anomalies(x="1") == {"G1a"}


def test_g1a_applies_to_aborted_readers_too() -> None:
    history = Transactions().add("a x 1", outcome=Outcome.ABORTED)
    history.add("r x 1", outcome=Outcome.ABORTED)
    assert "G1a" in history.anomalies(x="1")


def test_g1b_a_read_of_the_middle_of_a_transaction() -> None:
    history = Transactions().add("a x 1", "a x 2").add("r x 1")
    assert "G1b" in history.anomalies(x="1 2")


def test_g1c_two_transactions_that_each_saw_the_other() -> None:
    history = Transactions().add("a x 1", "r y 1").add("a y 1", "r x 1")
    assert history.anomalies(x="1", y="1") == {"G1c"}


def test_g_single_a_read_skew() -> None:
    history = Transactions().add("a x 1", "a y 1").add("r x", "r y 1", isolation="snapshot")
    assert history.anomalies(x="1", y="1") == {"G-single"}


def test_g_single_a_lost_update() -> None:
    history = Transactions()
    history.add("r x", "a x 1", isolation="snapshot")
    history.add("r x", "a x 2", isolation="snapshot")
    assert history.anomalies(x="1 2") == {"G-single"}


def test_g2_a_write_skew_is_an_anomaly_between_serializable_transactions() -> None:
    for isolation, found in (("serializable", {"G2"}), ("snapshot", set())):
        history = Transactions()
        history.add("r x", "r y", "a x 1", isolation=isolation)
        history.add("r x", "r y", "a y 1", isolation=isolation)
        assert history.anomalies(x="1", y="1") == found


def test_g2_is_allowed_if_one_of_the_two_has_snapshot_isolation() -> None:
    history = Transactions().add("r x", "r y", "a x 1")
    history.add("r x", "r y", "a y 1", isolation="snapshot")
    assert history.anomalies(x="1", y="1") == set()


def test_g2_of_three() -> None:
    history = Transactions()
    history.add("r x", "a y 1").add("r y", "a z 1").add("r z", "a x 1")
    assert history.anomalies(x="1", y="1", z="1") == {"G2"}


def test_real_time_a_stale_read_after_an_acknowledgement() -> None:
    history = Transactions().add("a x 1", begun=1, ended=2).add("r x", begun=3, ended=4)
    assert history.anomalies(x="1") == {"G-single-realtime"}
    concurrent = Transactions().add("a x 1", begun=1, ended=4).add("r x", begun=3, ended=5)
    assert concurrent.anomalies(x="1") == set()


def test_real_time_writes_in_the_wrong_order() -> None:
    history = Transactions().add("a x 1", begun=1, ended=2).add("a x 2", begun=3, ended=4)
    assert history.anomalies(x="2 1") == {"G0-realtime"}


def test_an_unknown_attempt_has_no_end_in_real_time() -> None:
    history = Transactions()
    history.add("a x 1", begun=1, ended=2, outcome=Outcome.UNKNOWN).add("r x", begun=3, ended=4)
    assert history.anomalies(x="1") == set()


def test_a_missing_acknowledged_write_is_lost() -> None:
    history = Transactions().add("a x 1").add("a x 2")
    assert history.anomalies(x="1") == {"lost write"}


def test_a_read_that_later_reads_contradict_is_reported() -> None:
    history = Transactions().add("a x 1").add("a x 2").add("r x 2", isolation="snapshot")
    assert "incompatible order" in history.anomalies(x="1 2")


def test_an_element_that_nobody_wrote_is_reported() -> None:
    assert "garbage read" in Transactions().add("r x 7").anomalies(x="7")


def test_a_duplicate_element_is_reported() -> None:
    history = Transactions().add("a x 1").add("r x 1 1")
    assert "duplicate elements" in history.anomalies(x="1 1")


def test_a_transaction_that_does_not_see_its_own_write_is_reported() -> None:
    history = Transactions().add("a x 1").add("r x 1", "a x 2", "r x 1")
    assert "internal" in history.anomalies(x="1 2")


def test_a_transaction_that_reads_a_list_twice_differently_is_reported() -> None:
    history = Transactions().add("a x 1").add("r x", "r x 1", isolation="snapshot")
    assert "internal" in history.anomalies(x="1")


def test_without_a_final_state_the_longest_read_gives_the_order() -> None:
    history = Transactions().add("a x 1", "a y 1").add("r x", "r y 1").add("r x 1")
    assert history.anomalies() == {"G-single"}


def test_a_cycle_is_reported_with_all_its_edges() -> None:
    history = Transactions().add("a x 1", "a y 1").add("a x 2", "a y 2")
    (anomaly,) = check_lists(history.attempts, {"x": ["x1", "x2"], "y": ["y2", "y1"]})
    assert "x2 comes after x1 in x" in anomaly.story
    assert "y1 comes after y2 in y" in anomaly.story
