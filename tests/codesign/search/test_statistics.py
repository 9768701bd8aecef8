"""Errors and intervals against closed forms, against exact tests, and by simulated coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from codesign.search.pareto import best_within, hypervolume, hypervolumes
from codesign.search.statistics import (
    equal_groups,
    mean_interval,
    paired_difference,
    percentile_interval,
    resampled_accuracy,
    standard_error,
)

BOX = {"worst_cost": 100.0, "best_cost": 1.0, "worst_accuracy": 0.5}


def images(count, right):
    """`right` images that are right, then those that are not."""
    return (np.arange(count) < right).astype(float)


@pytest.mark.parametrize(("count", "right"), [(360, 345), (50, 25), (10, 1)])
def test_the_standard_error_is_the_binomial_one(count, right):
    p = right / count
    assert standard_error(images(count, right)) == pytest.approx(math.sqrt(p * (1 - p) / count))


def test_the_standard_error_of_a_family_is_that_of_its_mean():
    """Subnets that err on the same images average nothing out; on different ones they do."""
    a, b = images(100, 80), images(100, 80)[::-1]
    same, apart = 0.5 * a + 0.5 * a, 0.5 * a + 0.5 * b
    assert standard_error(same) == pytest.approx(math.sqrt(0.16 / 100))
    assert standard_error(apart) == pytest.approx(math.sqrt((0.4 * 0.25 - 0.2**2) / 100))


@pytest.mark.parametrize("right", [0, 360])
def test_nothing_is_certain(right):
    """All right, or none, is known no better than to one image."""
    sample = images(360, right)
    assert standard_error(sample) == pytest.approx(1 / 360, rel=2e-3)
    low, high = percentile_interval(resampled_accuracy(sample[None])[:, 0])
    assert high - low > 2 / 360 and low <= sample.mean() <= high


def test_resampled_accuracies_spread_as_the_binomial_and_are_paired():
    a = images(400, 300)
    draws = resampled_accuracy(np.stack([a, a, 1 - a]), resamples=20000)
    assert draws.shape == (20000, 3)
    assert draws.std(axis=0) == pytest.approx(np.full(3, standard_error(a)), rel=0.03)
    np.testing.assert_array_equal(draws[:, 0], draws[:, 1])
    # The two added images are right and wrong for all designs, so a - b keeps to its mean.
    np.testing.assert_allclose((draws[:, 0] + draws[:, 2]).mean(), 1, atol=1e-3)


def test_resamples_repeat():
    a = np.random.default_rng(0).random((3, 50)) < 0.7
    np.testing.assert_array_equal(resampled_accuracy(a), resampled_accuracy(a))
    assert not np.array_equal(resampled_accuracy(a), resampled_accuracy(a, seed=1))


def discordant(gained, lost, count=360):
    """Two designs: one is right on `gained` images more, and wrong on `lost` others."""
    other = images(count, 250)
    one = other.copy()
    one[250 : 250 + gained], one[:lost] = 1, 0
    return one, other


@pytest.mark.parametrize(("gained", "lost"), [(12, 4), (0, 7), (9, 9), (0, 0)])
def test_a_known_paired_difference(gained, lost):
    found = paired_difference(*discordant(gained, lost))
    assert found.value == pytest.approx((gained - lost) / 360)
    spread = math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / 362)
    middle, reach = (gained - lost) / 362, 1.959964 * spread / 362
    assert found.interval == pytest.approx((middle - reach, middle + reach), abs=1e-8)


def test_equality_is_mcnemars():
    """Where the exact test is far from 5 % the interval says the same."""
    for gained in range(40):
        for lost in range(40):
            exact = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
            if not 0.03 < exact < 0.1:
                told_apart = paired_difference(*discordant(gained, lost)).distinguishable
                assert told_apart == (exact < 0.05)


def test_groups_of_equal_designs():
    """a = b and b = c within noise need not make a = c: b stands in both groups."""
    a, b, c = images(400, 390), images(400, 387), images(400, 384)
    far = images(400, 300)
    assert paired_difference(a, c).distinguishable and not paired_difference(a, b).distinguishable
    assert equal_groups(np.stack([far, c, a, b])) == [[2, 3], [3, 1]]
    assert equal_groups(np.stack([a, far])) == []
    assert equal_groups(np.stack([far, far, far])) == [[0, 1, 2]]


def test_mean_interval_is_students():
    values = [0.62, 0.70, 0.66, 0.69]
    mean, interval = mean_interval(values)
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert mean == pytest.approx(0.6675) and interval == pytest.approx(expected)
    assert mean_interval([0.5]) == (0.5, None)


def test_the_front_is_a_staircase():
    cost, accuracy = [10.0, 2.0, 50.0], np.array([[0.9, 0.6, 0.8], [0.5, 0.7, 0.6]])
    found = best_within(cost, accuracy, [1.0, 2.0, 10.0, 60.0])
    np.testing.assert_array_equal(found, [[-np.inf, 0.6, 0.9, 0.9], [-np.inf, 0.7, 0.7, 0.7]])


def test_hypervolumes_are_moocores():
    random = np.random.default_rng(0)
    cost = np.exp(random.uniform(0.1, 5.5, 9))  # some beyond the box
    accuracy = random.uniform(0.3, 1, (40, 9))
    expected = [hypervolume(list(cost), list(row), **BOX) for row in accuracy]
    np.testing.assert_allclose(hypervolumes(cost, accuracy, **BOX), expected, rtol=1e-12)


def test_a_hypervolume_is_a_share_of_the_box():
    assert hypervolumes([0.5], np.array([1.0]), **BOX) == pytest.approx(1)
    assert hypervolumes([], np.zeros((3, 0)), **BOX) == pytest.approx([0, 0, 0])
    assert hypervolumes([100.0], np.array([1.0]), **BOX) == 0


def measured(true, correlation, count, random):
    """Correctness [D, N] of designs of these accuracies; some images are hard for all of them."""
    shared, own = random.standard_normal(count), random.standard_normal((len(true), count))
    ease = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    return (ease < stats.norm.ppf(true)[:, None]).astype(float)


TRUE = np.array([0.80, 0.90, 0.945, 0.96, 0.965, 0.97])
COSTS = np.geomspace(2, 80, 6)


def covered(inside, trials):
    """How often, and whether that is 95 % as far as so many trials can tell."""
    return abs(inside / trials - 0.95) < 0.015 + 2.5 * math.sqrt(0.95 * 0.05 / trials)


def test_intervals_cover_the_truth():
    """Accuracy, difference and hypervolume, on 400 test sets of 360 images."""
    random, trials = np.random.default_rng(1), 400
    volume = hypervolumes(COSTS, TRUE, **BOX)
    inside = dict.fromkeys(("accuracy", "high accuracy", "difference", "hypervolume"), 0)
    for trial in range(trials):
        right = measured(TRUE, 0.7, 360, random)
        draws = resampled_accuracy(right, seed=trial, resamples=500)
        checks = {
            "accuracy": (percentile_interval(draws[:, 0]), TRUE[0]),
            "high accuracy": (percentile_interval(draws[:, 5]), TRUE[5]),
            "difference": (paired_difference(right[2], right[1]).interval, TRUE[2] - TRUE[1]),
            "hypervolume": (percentile_interval(hypervolumes(COSTS, draws, **BOX)), volume),
        }
        for name, ((low, high), truth) in checks.items():
            inside[name] += low <= truth <= high
    assert all(covered(count, trials) for count in inside.values()), inside


def test_equal_designs_are_seldom_told_apart():
    random, trials = np.random.default_rng(2), 600
    told_apart = sum(
        paired_difference(*measured(np.array([0.96, 0.96]), 0.7, 360, random)).distinguishable
        for _ in range(trials)
    )
    assert 0.02 < told_apart / trials < 0.08
