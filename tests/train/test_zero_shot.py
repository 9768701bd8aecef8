"""Recall with ties against shuffled sorting; zero-shot and retrieval of a whole source."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.train.zero_shot import expected_recall


def brute(queries, candidates, query_owner, candidate_owner, k):
    """Every order of the candidates, sorted stably by similarity: the mean over all of them."""
    found, count = 0.0, 0
    for order in itertools.permutations(range(len(candidates))):
        for query, owner in zip(queries, query_owner, strict=True):
            nearest = sorted(order, key=lambda c: -(query @ candidates[c]))[:k]
            found += any(candidate_owner[c] == owner for c in nearest)
            count += 1
    return found / count


# Few and simple directions, so that similarities tie often and exactly.
AXES = np.eye(3, dtype=np.float32)


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_expected_recall_is_the_mean_over_orders_of_ties(data):
    owners = data.draw(st.lists(st.integers(0, 2), min_size=3, max_size=5))
    candidates = AXES[[data.draw(st.integers(0, 2)) for _ in owners]]
    query_owner = data.draw(st.lists(st.sampled_from(owners), min_size=1, max_size=3))
    queries = AXES[[data.draw(st.integers(0, 2)) for _ in query_owner]]
    ks = (1, 2, 3)
    found = expected_recall(queries, candidates, np.array(query_owner), np.array(owners), ks)
    for k, share in zip(ks, found, strict=True):
        expected = brute(queries, candidates, query_owner, owners, k)
        assert share == pytest.approx(expected, abs=1e-9)


def test_recall_without_ties_is_that_of_sorting():
    rng = np.random.default_rng(0)
    queries, candidates = rng.normal(size=(2, 40, 8)).astype(np.float32)
    owner, other = rng.permutation(40) // 2, np.arange(40) // 2
    ranked = np.argsort(-(queries @ candidates.T), axis=1)
    right = other[ranked] == owner[:, None]
    for k, share in zip(
        (1, 5, 10), expected_recall(queries, candidates, owner, other, (1, 5, 10)), strict=True
    ):
        assert share == pytest.approx(np.mean(right[:, :k].any(axis=1)))


def test_embeddings_that_are_all_the_same_score_chance():
    same = np.ones((20, 4), np.float32) / 2
    top_1, top_5 = expected_recall(same, same, np.arange(20), np.arange(20), (1, 5))
    assert top_1 == pytest.approx(1 / 20)
    assert top_5 == pytest.approx(5 / 20)
