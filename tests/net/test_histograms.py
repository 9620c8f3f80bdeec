"""Histograms count each value in the first bucket whose bound it does not exceed."""

import random

from headwater_server.net.histograms import Histogram, durations


def test_each_value_counts_in_the_first_bucket_that_can_hold_it() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    source = random.Random(seed)
    values = [source.randrange(2 ** source.randrange(1, 40)) for _ in range(500)]
    values += [bound + off for bound in (3, 6, 12, 24, 48) for off in (-1, 0, 1)]
    histogram = Histogram(3, 5)
    for value in values:
        histogram.add(value)
    assert histogram.cumulative() == [
        (bound, sum(value <= bound for value in values)) for bound in (3, 6, 12, 24, 48)
    ]
    assert histogram.count == len(values)
    assert histogram.sum == sum(values)


def test_values_above_all_bounds_are_counted_too() -> None:
    histogram = Histogram(1, 2)
    histogram.add(10**18)
    assert histogram.counts == [0, 0, 1]
    assert histogram.cumulative() == [(1, 0), (2, 0)]


def test_a_quantile_is_a_bound_that_enough_values_do_not_exceed() -> None:
    histogram = Histogram(10, 3)
    for value in (5, 5, 5, 15, 25):
        histogram.add(value)
    assert histogram.quantile(0.5) == 10
    assert histogram.quantile(0.8) == 20
    assert histogram.quantile(1.0) == 40
    histogram.add(1000)
    assert histogram.quantile(1.0) is None


def test_durations_range_from_microseconds_to_seconds() -> None:
    bounds = [bound for bound, _ in durations().cumulative()]
    assert bounds[0] == 16_000
    assert 16 * 10**9 < bounds[-1] < 17 * 10**9
