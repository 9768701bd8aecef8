"""Networks of any size are priced by programs of none: against the program of each network."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from codesign import Accelerator, Scenario
from codesign.cost.costing import costing_of
from codesign.cost.discrete import Job, priced
from codesign.cost.model import workload_costs
from codesign.workload.blocks import Operators
from codesign.workload.operators import Gemm, VectorOp

pytestmark = pytest.mark.usefixtures("quick_compilation")

CHIPS = Accelerator(4, 64, 16, 256, 64, 8), Accelerator(1, 8, 4, 16, 32, 0.125)
DENSE = Operators(
    tuple(Gemm(f"g{i}", 50 + i, 8 * i + 1, 96, count=i + 1, batch=2) for i in range(40)),
    (VectorOp("add", "add", 9_600, 3), VectorOp("norm", "layernorm", 4_800)),
)
SPARSE = Operators(
    (Gemm("a", 196, 768, 3072, density=0.25), Gemm("b", 1, 1, 1), Gemm("c", 77, 512, 512)), ()
)
SPLIT = "latency_s", "energy_j"


def job(operators, chip, **scenario):
    scenario = Scenario(**scenario)
    return Job(operators.under(costing_of(scenario)), chip, scenario, 5e6)


JOBS = [
    job(DENSE, CHIPS[0]),
    job(SPARSE, CHIPS[1], index_bits=4, inferences_per_s=20.0),
    job(DENSE, CHIPS[1], costing="catransformers"),
    job(SPARSE, CHIPS[0], precision_bits=16, index_bits=4),
]


@pytest.fixture(scope="module")
def together():
    return priced(JOBS)


@pytest.mark.parametrize("i", range(len(JOBS)))
def test_a_price_is_that_of_the_network_s_own_program(together, i):
    work, *rest = JOBS[i]
    own = jax.jit(workload_costs)(work, *rest)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), together[i].costs, own)


def test_operators_sum_to_the_network(together):
    for (work, *_), found in zip(JOBS, together, strict=True):
        assert [len(x) for x in found.gemms] == [len(work.gemm_names)] * 2
        assert [len(x) for x in found.vector] == [len(work.vector_names)] * 2
        seconds, joules = (np.sum(g) + np.sum(v) for g, v in zip(*found[1:], strict=True))
        assert seconds == pytest.approx(found.costs.latency_s, rel=1e-5)
        between = ("idle", "dram_refresh", "dram_between")
        parts = found.costs.breakdown["energy_j"]
        assert joules == pytest.approx(
            sum(parts.values()) - sum(parts[name] for name in between), rel=1e-5
        )


def test_a_price_does_not_depend_on_what_is_priced_beside(together):
    for one, found in zip(JOBS, together, strict=True):
        (alone,) = priced([one])
        jax.tree.map(np.testing.assert_array_equal, alone, found)


def test_a_product_that_fits_nowhere_is_infinitely_slow():
    chip = dataclasses.replace(CHIPS[1], l2_kib=0.003)
    (found,) = priced([job(SPARSE, chip, index_bits=4)])
    assert found.costs.latency_s == np.inf
    assert np.isinf(found.gemms[0]).any()
