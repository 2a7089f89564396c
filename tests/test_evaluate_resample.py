"""Intervals and paired tests against cases whose answers are known."""

import numpy as np
import pytest

from lavcap_core.run.evaluate import resample
from lavcap_core.run.evaluate.resample import Sums, compare, intervals, sums


def of_mean(values):
    return sums({"m": float(np.mean(values))}, {"m": list(values)}, {}, {})


class Ratio:
    def resampled(self, statistics):
        return {"r": statistics[..., 0] / statistics[..., 1]}


def of_ratio(above, below):
    rows = np.array([above, below], dtype=float).T
    return sums({"r": rows[:, 0].sum() / rows[:, 1].sum()}, {}, {"ratio": rows}, {"ratio": Ratio()})


def test_interval_of_a_mean_of_zeros_and_ones_is_the_binomials():
    # Bin(20, 1/2): P(X <= 5) = 0.0207, P(X <= 6) = 0.0577, so that the quantiles are 6 and 14 of 20.
    assert intervals(of_mean([0.0, 1.0] * 10), seed=0) == {"m": (0.3, 0.7)}


def test_interval_of_many_clips_is_the_normal_one():
    values = np.random.default_rng(1).normal(size=900)
    low, high = intervals(of_mean(values), seed=0)["m"]
    error = values.std() / 30
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.05 * error)


def test_draws_hold_as_many_clips_as_there_are():
    parts = list(resample._draws(7, seed=3, draws=1200))
    assert [part.shape for part in parts] == [(500, 7), (500, 7), (200, 7)]
    assert all((part.sum(1) == 7).all() for part in parts)
    assert np.concatenate(parts).mean(0) == pytest.approx(np.ones(7), abs=0.1)


@pytest.mark.parametrize(("apart", "p"), [([1.0] * 4, 2 / 16), ([1.0] * 3 + [-1.0], 10 / 16), ([2.0, 1.0, 1.0], 2 / 8)])
def test_p_is_that_of_all_swaps(apart, p):
    """The share of the 2^N ways to swap whose difference is as large: counted by hand."""
    first = np.linspace(0.2, 0.8, len(apart))
    found = compare(of_mean(first), of_mean(first + apart), seed=0)["m"]
    assert found.difference == pytest.approx(np.mean(apart))
    assert found.p == pytest.approx(p, abs=0.015)


def test_equal_systems_differ_by_nothing():
    values = np.random.default_rng(0).random(50)
    found = compare(of_mean(values), of_mean(values), seed=0)["m"]
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_pairs_are_drawn_together():
    """A constant difference has an interval of no width, however the clips differ among themselves."""
    values = np.random.default_rng(0).random(50)
    found = compare(of_mean(values), of_mean(values + 0.1), seed=0)["m"]
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    assert found.p == pytest.approx(1 / 10_001)


def test_p_is_uniform_where_there_is_no_difference():
    generator = np.random.default_rng(5)
    found = [
        compare(of_mean(generator.normal(size=40)), of_mean(generator.normal(size=40)), seed=0, draws=500)["m"].p
        for _ in range(200)
    ]
    assert np.mean(np.array(found) < 0.1) == pytest.approx(0.1, abs=0.06)
    assert np.mean(found) == pytest.approx(0.5, abs=0.07)


def test_sums_give_what_means_give_where_both_are_the_same():
    generator = np.random.default_rng(2)
    first, second = generator.random(60), generator.random(60)
    ones = np.ones(60)
    means = compare(of_mean(first), of_mean(second), seed=1)["m"]
    ratios = compare(of_ratio(first, ones), of_ratio(second, ones), seed=1)["r"]
    assert vars(ratios) == pytest.approx(vars(means))
    assert intervals(of_ratio(first, ones), 1)["r"] == pytest.approx(intervals(of_mean(first), 1)["m"])


def test_a_ratio_of_sums_is_not_the_mean_of_ratios():
    above, below = [1.0, 0.0], [1.0, 9.0]
    low, high = intervals(of_ratio(above, below), seed=0)["r"]
    assert (low, high) == (0, 1)  # one clip twice, either way
    whole = of_ratio(above, below)["ratio"]
    assert whole.corpus(whole.rows.sum(0))["r"] == pytest.approx(0.1)


def test_what_is_no_mean_and_has_no_counts_has_no_interval():
    assert sums({"x": 0.9}, {"x": [0.0, 1.0]}, {}, {}) == {}
    assert sums({"x": float("nan")}, {"x": [float("nan"), 1.0]}, {}, {}) == {}
    assert intervals({}, seed=0) == {}
    assert intervals(of_mean([0.5]), seed=0) == {}
    assert compare({}, of_mean([1.0]), seed=0) == {}


def test_the_same_seed_gives_the_same_and_others_give_others():
    values = np.random.default_rng(0).random(30)
    assert intervals(of_mean(values), 4) == intervals(of_mean(values), 4)
    assert intervals(of_mean(values), 4) != intervals(of_mean(values), 5)


def test_scores_that_only_one_system_has_are_not_compared():
    one = of_mean([0.0, 1.0]) | of_ratio([1, 1], [2, 2])
    assert set(compare(one, of_mean([1.0, 1.0]), seed=0)) == {"m"}
    assert isinstance(one["ratio"], Sums)


def test_scores_are_paired_by_name_in_whatever_order_they_come():
    generator = np.random.default_rng(4)
    first = {name: list(generator.random(40)) for name in "ab"}
    second = {name: list(np.array(values) + 0.3) for name, values in first.items()}
    more = {"c": list(generator.random(40)), "b": second["b"], "a": second["a"]}

    def made(clips):
        return sums({name: float(np.mean(values)) for name, values in clips.items()}, clips, {}, {})

    for other in (second, dict(reversed(second.items())), more, {"b": second["b"]}):
        found = compare(made(first), made(other), seed=0)
        assert found.keys() == first.keys() & other.keys()
        assert [one.p for one in found.values()] == pytest.approx([1 / 10_001] * len(found))
