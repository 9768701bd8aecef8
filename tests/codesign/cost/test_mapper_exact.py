"""The mapper of the cost model against the exact one, on GEMMs and chips used in no choice."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.cost.mapper import gemm_run
from codesign.cost.technology import technology
from codesign.oracle.exact import Exact
from codesign.oracle.interface import Constants, Point
from codesign.scenario import Scenario
from codesign.space import AcceleratorChoices

pytestmark = pytest.mark.usefixtures("quick_compilation")

PAIRS = 60


def clip_pairs(seed: int) -> list[tuple[tuple[int, int, int], Accelerator]]:
    """GEMMs of pruned CLIPs on chips of the design grid, all drawn at random."""
    rng = np.random.default_rng(seed)
    choices = AcceleratorChoices()
    axes = [getattr(choices, name) for name in choices.__dataclass_fields__]
    pairs = []
    for _ in range(PAIRS):
        tokens = int(rng.choice([50, 77, 197, 257]))
        width, ffn = 64 * int(rng.integers(4, 13)), 128 * int(rng.integers(6, 25))
        qkv = 64 * int(rng.integers(4, 13))
        gemms = [
            (tokens, width, qkv),
            (tokens, 64, tokens),
            (tokens, tokens, 64),
            (tokens, qkv, width),
            (tokens, width, ffn),
            (tokens, ffn, width),
        ]
        chip = Accelerator(*(axis[int(rng.integers(len(axis)))] for axis in axes))
        pairs.append((gemms[int(rng.integers(len(gemms)))], chip))
    return pairs


def test_energy_x_delay_is_hardly_above_the_exact_mappers():
    pairs = clip_pairs(seed=2026)
    chips = [chip for _, chip in pairs]
    constants = Constants.of_all(chips, Scenario())
    exact = Exact()
    samples = [
        exact(Point(*gemm, chip, c)) for (gemm, chip), c in zip(pairs, constants, strict=True)
    ]
    cycles, energy = np.array([s[:2] for s in samples]).T
    stacked = jax.tree.map(lambda *x: np.asarray(x, np.float32), *chips)
    m, k, n = np.array([gemm for gemm, _ in pairs], np.float32).T
    found = jax.jit(jax.vmap(gemm_run))(m, k, n, stacked, technology(stacked, Scenario()))
    static = np.asarray(technology(stacked, Scenario()).static_pj, float)
    edp = lambda cycles, pj: (pj + static * cycles) * cycles  # noqa: E731
    ours = edp(np.asarray(found.cycles, float), np.asarray(found.dynamic_pj, float))
    ratio = ours / edp(cycles, energy)
    # The exact mapper uses the whole array always, so it may be beaten.
    assert ratio.max() < 1.025
    assert np.maximum(ratio, 1).mean() < 1.003
    as_exact = ratio > 0.99
    assert as_exact.mean() > 0.8
    assert np.abs(np.asarray(found.cycles) / cycles - 1)[as_exact].mean() < 0.005
    assert np.abs(np.asarray(found.dynamic_pj) / energy - 1)[as_exact].mean() < 0.005
