"""Metrics against brute force and closed forms; pairs of neighbours; agreement of changes."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.accelerator import Accelerator
from codesign.cost.technology import technology
from codesign.scenario import Scenario
from codesign.surrogate import gradients, metrics
from codesign.surrogate.points import FACTORS, Points

values = st.lists(st.floats(0.1, 100.0), min_size=2, max_size=8)


def signs(x):
    return [np.sign(b - a) for a, b in itertools.combinations(x, 2)]


@settings(deadline=None)
@given(values, st.data())
def test_correlations_agree_with_their_definitions(truth, data):
    predicted = data.draw(st.permutations(truth)) if len(set(truth)) == len(truth) else truth
    if len(set(truth)) < len(truth):
        return
    together = np.dot(signs(truth), signs(predicted))
    assert metrics.kendall(truth, predicted) == pytest.approx(together / len(signs(truth)))
    rank = lambda x: np.argsort(np.argsort(x))  # noqa: E731
    expected = np.corrcoef(rank(truth), rank(predicted))[0, 1]
    assert metrics.spearman(truth, predicted) == pytest.approx(expected)


def test_correlations_are_unknown_where_nothing_varies():
    assert metrics.spearman([1.0, 1.0], [1.0, 2.0]) is None
    assert metrics.kendall([1.0, 2.0], [3.0, 3.0]) is None
    assert metrics.kendall([1.0], [3.0]) is None


def test_errors_are_shares_of_the_truth():
    truth, predicted = [1.0, 2.0, 4.0], [1.1, 1.0, 4.0]
    assert metrics.mape(truth, predicted) == pytest.approx((0.1 + 0.5 + 0.0) / 3)
    assert metrics.max_error(truth, predicted) == pytest.approx(0.5)


@settings(deadline=None)
@given(values, st.integers(1, 8), st.randoms())
def test_top_k_recall_counts_the_best_that_are_found(truth, k, random):
    k = min(k, len(truth))
    predicted = [random.random() for _ in truth]
    best = lambda x: sorted(range(len(x)), key=lambda i: (x[i], i))[:k]  # noqa: E731
    found = sum(i in best(predicted) for i in best(truth))
    assert metrics.top_k_recall(truth, predicted, k) == found / k


def test_regret_is_what_the_choice_costs_over_the_best():
    # The surrogate takes the second for the best; truly it costs 3, the best costs 2.
    assert metrics.regret([5.0, 3.0, 2.0], [9.0, 1.0, 4.0]) == pytest.approx(0.5)
    assert metrics.regret([5.0, 3.0, 2.0], [9.0, 7.0, 4.0]) == 0.0


def test_accuracy_rounds_the_top_share_up():
    row = metrics.accuracy([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], top_share=0.5)
    assert (row["count"], row["top_k"], row["top_k_recall"]) == (3, 2, 0.5)


def points_of(factors):
    """Points of rows of factors, with constants that nothing here looks at."""
    m, k, n, *chip = np.array(factors, np.float32).T
    ones = np.ones_like(m)
    tech = jax.tree.map(lambda _: ones, technology(Accelerator(), Scenario()))
    return Points(m, k, n, Accelerator(*chip), tech)


@settings(deadline=None)
@given(st.data())
def test_pairs_are_neighbours_in_exactly_one_factor(data):
    steps = data.draw(
        st.lists(st.tuples(*[st.integers(0, 2)] * 2, st.integers(0, 1)), min_size=2, max_size=12)
    )
    rows = [(64, 64, 64 * 2**a, 1, 2**b, 16, 64 * 2**c, 64, 2) for a, b, c in steps]
    pairs = gradients.one_factor_pairs(points_of(rows))
    found = {(rows[i], rows[j]) for i, j in zip(pairs.first, pairs.second, strict=True)}
    doubled = set()
    for a, b in itertools.permutations(set(rows), 2):
        ratios = sorted(y / x for x, y in zip(a, b, strict=True))
        if ratios[-1] == 2 and ratios[-2] == 1 and ratios[0] == 1:
            doubled.add((a, b))
    assert found == doubled
    for i, j, f in zip(*pairs, strict=True):
        assert rows[j][f] == 2 * rows[i][f] and FACTORS[f] in ("n", "pe_x", "l2_kib")


def test_agreement_of_changes():
    truth = np.array([0.5, -0.5, 0.001, 0.2])
    same = gradients.agreement(truth, 2 * truth)
    assert same["sign_agreement"] == 1.0 and same["cosine"] == pytest.approx(1.0)
    assert same["relative_error"] == pytest.approx(1.0)
    # Four pairs, three of which have a direction, one of these wrong.
    mixed = gradients.agreement(truth, np.array([0.5, -0.5, -0.001, -0.2]))
    assert (mixed["pairs"], mixed["directed"]) == (4, 3)
    assert mixed["sign_agreement"] == pytest.approx(2 / 3)
    assert gradients.agreement(np.zeros(2), np.ones(2))["sign_agreement"] is None
