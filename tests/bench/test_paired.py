import os
from pathlib import Path

import pytest

from bench import clients, paired
from bench.checkouts import HERE, Checkout, CheckoutFailed, check_same_form, without_settings
from bench.load import LoadFailed
from bench.paired import Row, Side, order_of, ratios_of, row_names, scripts_of
from bench.restarts import COMMITS, replay_rate
from bench.workloads import WORKLOADS


def test_a_ratio_is_new_divided_by_base_within_a_round() -> None:
    # In the second round the machine was half as fast for both sides.
    assert ratios_of([100.0, 50.0], [150.0, 75.0]) == [1.5, 1.5]


def test_a_round_that_one_side_did_not_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios_of([100.0, 50.0], [150.0])


def test_a_row_has_the_median_of_the_ratios_and_not_the_ratio_of_the_medians() -> None:
    row = Row("put", "a put", "requests/s")
    row.base = Side([100.0, 10.0, 40.0], [2.0, 2.0, 2.0])
    row.new = Side([110.0, 30.0, 20.0], [1.0, 1.0, 1.0])
    name, median, least, _, most, cpu, *figures = row.line().split()
    assert (name, median, least, most, cpu) == ("put", "1.100", "0.500", "3.000", "0.500")
    assert figures == ["40.0", "->", "30.0", "requests/s"]


def test_a_row_of_latencies_says_that_less_is_better() -> None:
    sides = Side([2.0]), Side([1.0])
    row = Row("p99", "a percentile", "us", less_is_better=True, base=sides[0], new=sides[1])
    assert row.line().endswith("us (less is better)")
    assert row.line().split()[1] == "0.500"


def test_each_side_goes_first_in_every_other_round() -> None:
    firsts = [order_of(number)[0] for number in range(4)]
    assert firsts == ["base", "new", "base", "new"]
    assert all(sorted(order_of(number)) == ["base", "new"] for number in range(4))


def test_both_sides_get_requests_for_the_same_keys_in_a_round() -> None:
    get = next(each for each in WORKLOADS if each.name == "get")
    one, same, other = (
        [script.pack() for script in scripts_of(get, number)] for number in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_compiled_is_not_compared_with_source() -> None:
    check_same_form({"base": True, "new": True})
    check_same_form({"base": False, "new": False})
    with pytest.raises(CheckoutFailed, match="base runs compiled, new runs from source"):
        check_same_form({"base": True, "new": False})


def test_a_comparison_of_compiled_with_source_needs_an_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Checkout, "is_compiled", lambda checkout: checkout.name == "base")
    checkouts = {name: Checkout(name, HERE) for name in ("base", "new")}
    paired.prepare(checkouts, compile_both=False, mixed=True)
    with pytest.raises(CheckoutFailed, match="--mixed"):
        paired.prepare(checkouts, compile_both=False, mixed=False)


def test_a_checkout_is_refused_if_other_code_would_run(tmp_path: Path) -> None:
    # The folders are missing, so an installed Headwater, or none, would be imported.
    with pytest.raises(CheckoutFailed, match=f"the import finds|{tmp_path} cannot be imported"):
        Checkout("base", tmp_path).is_compiled()


def test_a_checkout_says_whether_it_is_compiled() -> None:
    assert Checkout("new", HERE).is_compiled() in (True, False)


def test_settings_of_our_own_environment_do_not_reach_a_server() -> None:
    kept = without_settings({"HEADWATER_PURE": "1", "HEADWATER_DATA": "x", "PATH": "y"})
    assert kept == {"PATH": "y"}
    folders = Checkout("new", HERE).environment["PYTHONPATH"].split(os.pathsep)
    assert [Path(each) for each in folders] == [
        *(HERE / name for name in ("protocol", "client", "server")),
        HERE,
    ]


def test_the_replay_takes_the_difference_of_a_start_with_and_without_the_log() -> None:
    assert replay_rate(2.5, 0.5) == COMMITS / 2.0
    with pytest.raises(LoadFailed, match=r"took 0.5 s, without 0.5 s"):
        replay_rate(0.5, 0.5)


def test_every_row_has_a_unique_name() -> None:
    names = row_names()
    assert len(names) == len(set(names))
    wanted = "put put-16-deep put-alone get get-16-deep blocking-get scan append append-100"
    wanted += " interactive transfer conditional-append read-all sustained recovery"
    assert set(wanted.split()) == set(names)


def test_the_error_of_a_failed_client_loop_has_its_output() -> None:
    with pytest.raises(LoadFailed, match=r"(?s)no-such-loop: .*KeyError"):
        clients.measure("no-such-loop", 1, 0.1, checkout=HERE)
