"""What a sample of test images, or of seeds, can tell: errors, intervals, equality.

Axes: D designs, N test images, B resamples, S seeds.

All designs are measured on the same images, so that they are compared image by image: what
is hard for all of them is no difference between them. `right` [D, N] is how far a design is
right on an image: 0 or 1; of a family of subnets, the share of use of those that are right.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

Values = Any  # whatever NumPy makes an array of

COVERAGE = 0.95
RESAMPLES = 2000


class Interval(NamedTuple):
    """The ends of an interval that covers the true value COVERAGE of the time."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """A paired difference of accuracies and its interval, shares of the images."""

    value: float
    interval: Interval

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out 0: otherwise the two are equal, as far as known."""
        return not self.interval.low <= 0 <= self.interval.high


def standard_error(right: Values) -> Any:
    """Standard error of the accuracy, [..., N] -> [...].

    Of zeros and ones this is the binomial sqrt(p (1 - p) / N). Where all images are alike,
    which would make it 0, it is that of one image that differs.
    """
    right = np.asarray(right, float)
    images = right.shape[-1]
    one_differs = (images - 1) / images**2
    return np.sqrt(np.maximum(right.var(axis=-1), one_differs) / images)


def resampled_accuracy(right: Values, *, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Accuracies of the designs on bootstrap resamples of the images, [D, N] -> [B, D].

    One resample is of the same images for all designs. Two images are added before, one that
    all designs get right and one that none does (Laplace's rule of succession): a plain
    bootstrap takes an accuracy near 1 for better known than it is, and one of 1 for certain.

    Images that tell the same of every design are drawn together, as a multinomial of their
    number, which is the same distribution at a fraction of the work.
    """
    right = np.asarray(right, float)
    ends = np.broadcast_to([0.0, 1.0], (len(right), 2))
    patterns, counts = np.unique(np.hstack([right, ends]), axis=1, return_counts=True)
    images = counts.sum()
    drawn = np.random.default_rng(seed).multinomial(images, counts / images, size=resamples)
    return drawn @ patterns.T / images


def percentile_interval(draws: Values) -> Interval:
    """The interval that leaves out equally many bootstrap draws [B] below and above."""
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(np.asarray(draws, float), [tail, 1 - tail])
    return Interval(float(low), float(high))


def paired_difference(right: Values, other: Values) -> Difference:
    """How much more accurate one design is than another on the same images, [N] and [N].

    The interval is Agresti and Min's for matched pairs (Statistics in Medicine 24, 2005): Wald's,
    with half an image added to each cell of the two-by-two table. Where few images tell the two
    apart it agrees with McNemar's exact test, which a Wald interval or a bootstrap does not.
    """
    difference = np.asarray(right, float) - np.asarray(other, float)
    images = len(difference) + 2
    centre = difference.sum() / images
    spread = math.sqrt((difference**2).sum() + 1 - images * centre**2) / images
    reach = NormalDist().inv_cdf((1 + COVERAGE) / 2) * spread
    return Difference(float(difference.mean()), Interval(centre - reach, centre + reach))


def equal_groups(right: Values) -> list[list[int]]:
    """Groups of designs of which no two differ by more than noise, [D, N].

    Equality within noise is not transitive, so a design may stand in several groups; each
    group is a stretch of the order of accuracy, as long as it can be.

    Returns:
      Groups of two designs or more, best first, each from its most accurate design down.
    """
    right = np.asarray(right, float)
    order = np.argsort(-right.mean(axis=1), kind="stable")
    groups: list[list[int]] = []
    reached = 0
    for start, first in enumerate(order):
        group = [int(first)]
        for design in order[start + 1 :]:
            pairs = (paired_difference(right[design], right[member]) for member in group)
            if any(pair.distinguishable for pair in pairs):
                break
            group.append(int(design))
        if len(group) > 1 and start + len(group) > reached:
            groups.append(group)
        reached = max(reached, start + len(group))
    return groups


def rank_correlation(x: Values, y: Values) -> float:
    """Spearman's correlation of two samples [D]; nan where one of them does not vary."""
    from scipy import stats  # not above, as in `mean_interval`

    x, y = (stats.rankdata(np.asarray(v, float)) for v in (x, y))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def partial_rank_correlation(x: Values, y: Values, given: Values) -> float:
    """Spearman's correlation of x and y [D] with that of both with a third taken out.

    nan where it is not determined: for fewer than four designs, or an x or y that the third
    ranks alone.
    """
    xy, xz, yz = (rank_correlation(*pair) for pair in ((x, y), (x, given), (y, given)))
    rest = (1 - xz**2) * (1 - yz**2)
    if len(np.asarray(x)) < 4 or not rest > 1e-12:
        return math.nan
    return (xy - xz * yz) / math.sqrt(rest)


def mean_interval(values: Sequence[float]) -> tuple[float, Interval | None]:
    """Mean over independent runs [S] and Student's interval of it; None for a single run."""
    sample = np.asarray(values, float)
    mean = float(sample.mean())
    if len(sample) < 2:
        return mean, None
    from scipy import special  # not above: a quarter of a second, for those who read one run

    quantile = float(special.stdtrit(len(sample) - 1, (1 + COVERAGE) / 2))
    reach = quantile * float(sample.std(ddof=1)) / math.sqrt(len(sample))
    return mean, Interval(mean - reach, mean + reach)
