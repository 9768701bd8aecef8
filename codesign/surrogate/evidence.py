"""Evidence: a plan's points with an oracle's answers, and nothing that it did not answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from codesign.oracle.interface import Sample
from codesign.surrogate.designs import Complete
from codesign.surrogate.features import bounds
from codesign.surrogate.models import Prediction
from codesign.surrogate.plan import Plan
from codesign.surrogate.points import Points, Samples

# A GEMM of more MACs is a large one.
LARGE_MACS = 1e7


class Evidence(NamedTuple):
    """What one oracle says.

    Attributes:
      oracle, fingerprint: which oracle, in which version and with which settings.
      samples: points and their truth, [N].
      train, gemms, neighbours: rows to fit on, to test on, to difference.
      designs: complete designs held out.
      pool: one CLIP on many accelerators.
      unanswered: points of the plan without an answer.
    """

    oracle: str
    fingerprint: str
    samples: Samples
    train: np.ndarray
    gemms: np.ndarray
    neighbours: np.ndarray
    designs: list[Complete]
    pool: list[Complete]
    unanswered: int


def gather(oracle: str, fingerprint: str, plan: Plan, answers: Sequence[Sample | None]) -> Evidence:
    """Evidence of the answers, one a point of the plan; designs that miss one are left out."""
    known = np.array([a is not None for a in answers], bool)
    place = np.cumsum(known) - 1

    def rows(old: np.ndarray) -> np.ndarray:
        return place[old[known[old]]] if len(old) else old

    def complete(designs: Sequence[Complete]) -> list[Complete]:
        return [d._replace(rows=place[d.rows]) for d in designs if known[d.rows].all()]

    given = [a for a in answers if a is not None]
    return Evidence(
        oracle=oracle,
        fingerprint=fingerprint,
        samples=Samples(
            Points.of([p for p, a in zip(plan.points, answers, strict=True) if a is not None]),
            Prediction(np.array([a.cycles for a in given]), np.array([a.energy_pj for a in given])),
        ),
        train=rows(plan.train),
        gemms=rows(plan.gemms),
        neighbours=rows(plan.neighbours),
        designs=complete(plan.designs),
        pool=complete(plan.pool),
        unanswered=int((~known).sum()),
    )


def subsets(points: Points) -> dict[str, np.ndarray]:
    """Points [N] by kind, as flags [N]; they overlap.

    Returns:
      all; large: over LARGE_MACS; attention: scores or values of one head; starved: the DRAM
      bus, or one core's L2 while it feeds the array's rows, needs longer than the MACs.
    """
    m, k, n = points.m, points.k, points.n
    low = bounds(*points)
    chip = points.accelerator
    rows_fed = np.minimum(chip.pe_y, k)
    return {
        "all": np.ones(len(m), bool),
        "large": points.macs > LARGE_MACS,
        "attention": (m > 1) & (((m == n) & (k < m)) | ((m == k) & (n < m))),
        "starved": (np.maximum(low.load, low.store) > low.compute)
        | (rows_fed * points.tech.word_bytes > chip.l2_bytes_per_cycle),
    }
