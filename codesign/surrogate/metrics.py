"""How far predictions are from the truth: errors, ranks, the best ones found, regret.

Every function takes arrays of positive quantities of which less is better, [N].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

Values = Any  # whatever NumPy makes an array of


def mape(truth: Values, predicted: Values) -> float:
    """Mean absolute error as a share of the truth."""
    return float(np.mean(_relative(truth, predicted)))


def max_error(truth: Values, predicted: Values) -> float:
    """Largest absolute error as a share of the truth."""
    return float(np.max(_relative(truth, predicted)))


def _relative(truth: Values, predicted: Values) -> np.ndarray:
    truth, predicted = np.asarray(truth, float), np.asarray(predicted, float)
    return np.abs(predicted - truth) / truth


def spearman(truth: Values, predicted: Values) -> float | None:
    """Rank correlation; None where all of one side are equal, or fewer than two."""
    return _correlation(stats.spearmanr, truth, predicted)


def kendall(truth: Values, predicted: Values) -> float | None:
    """Kendall's tau-b: pairs in the same order less pairs in the other; None as above."""
    return _correlation(stats.kendalltau, truth, predicted)


def _correlation(of: Any, truth: Values, predicted: Values) -> float | None:
    if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(predicted) == 0:
        return None
    return float(of(truth, predicted).statistic)


def top_k_recall(truth: Values, predicted: Values, k: int) -> float:
    """Share of the k truly best that are among the k predicted best; ties go by position."""
    best = lambda values: set(np.argsort(values, kind="stable")[:k].tolist())  # noqa: E731
    return len(best(truth) & best(predicted)) / k


def regret(truth: Values, predicted: Values) -> float:
    """How much worse than the true optimum the predicted optimum truly is, as a share."""
    truth = np.asarray(truth, float)
    return float(truth[np.argmin(predicted)] / truth.min() - 1)


def accuracy(truth: Values, predicted: Values, top_share: float) -> Mapping[str, Any]:
    """All of the above but regret, and how many they are of.

    Args:
      truth, predicted: [N], N at least 1.
      top_share: k of the top-k recall as a share of N, rounded up.
    """
    k = max(1, int(np.ceil(top_share * len(truth))))
    return {
        "count": len(truth),
        "mape": mape(truth, predicted),
        "max_error": max_error(truth, predicted),
        "kendall": kendall(truth, predicted),
        "spearman": spearman(truth, predicted),
        "top_k": k,
        "top_k_recall": top_k_recall(truth, predicted, k),
    }
