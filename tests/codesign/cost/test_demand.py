"""What is priced, whoever prices it: `estimate`, intervals and the hardware search."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from codesign import Accelerator, Architecture, Scenario, Tower, estimate
from codesign.cli import main
from codesign.cost import uncertainty
from codesign.cost.demand import Demand, dense_demand, family_demand, sparse_demand
from codesign.cost.discrete import Job, priced
from codesign.cost.estimate import estimate_subnets
from codesign.cost.model import Costs
from codesign.workload.kernels import clip_kernels

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLIP = Architecture(
    vision=Tower(1, 32, 2, 64),
    text=Tower(1, 16, 1, 32),
    patch=8,
    image=32,
    context=8,
    projection=16,
    head_dim=16,
    vocab=100,
)
CHIP = Accelerator(1, 16, 4, 16, 32, 0.125)
SPARSITY = (0.5, 0.75)
SCENARIO = Scenario(texts_per_image=0.0, subnet_shares=(0.25, 0.75))


def test_a_demand_is_what_estimate_prices():
    alone = dataclasses.replace(SCENARIO, subnet_shares=None)
    sparse = sparse_demand(CLIP, SCENARIO, SPARSITY)
    subnets = estimate_subnets(CLIP, CHIP, SCENARIO, SPARSITY)
    assert sparse.shares == (0.25, 0.75) and sparse.scenario.index_bits == 6
    for demand, costs in (
        (dense_demand(CLIP, alone), [estimate(CLIP, CHIP, alone)]),
        (sparse, [subnet.costs for subnet in subnets]),
    ):
        jobs = [Job(work, CHIP, demand.scenario, demand.contents) for work in demand.workloads]
        for (found, *_), expected in zip(priced(jobs), costs, strict=True):
            for name in ("latency_s", "energy_j", "area_mm2", "embodied_kgco2e"):
                np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5)


def test_a_familys_layers_have_their_own_densities():
    uniform = [{kernel.name: [1 - level] for kernel in clip_kernels()} for level in SPARSITY]
    family, sparse = family_demand(CLIP, SCENARIO, uniform), sparse_demand(CLIP, SCENARIO, SPARSITY)
    assert (family.shares, family.scenario) == (sparse.shares, sparse.scenario)
    assert family.contents == pytest.approx(sparse.contents)
    for ours, theirs in zip(family.workloads, sparse.workloads, strict=True):
        assert float(ours.macs) == pytest.approx(float(theirs.macs))


def test_texts_are_the_scenarios():
    pairs, alone = (dense_demand(CLIP, Scenario(texts_per_image=n)) for n in (1.0, 0.0))
    assert any(name.startswith("text.") for name in pairs.workloads[0].gemm_names)
    runs = zip(alone.workloads[0].gemm_names, alone.workloads[0].count, strict=True)
    assert not any(count for name, count in runs if name.startswith("text."))
    assert alone.contents < pairs.contents


@pytest.mark.parametrize("sparsity", [(), SPARSITY], ids=["dense", "sparse"])
def test_intervals_are_of_the_same_demand(sparsity, tmp_path, monkeypatch, capsys):
    """They once had a text tower that the costs beside them had not."""
    scenario = SCENARIO if sparsity else dataclasses.replace(SCENARIO, subnet_shares=None)
    given = []

    def captured(works, shares, chips, scenario, samples, *, contents):
        given.append(Demand(works, shares, contents, scenario))
        return Costs(*(np.ones(samples) for _ in range(6)))

    monkeypatch.setattr(uncertainty, "uncertain_costs", captured)
    design = {
        "architecture": dataclasses.asdict(CLIP),
        "accelerator": dataclasses.asdict(CHIP),
        "scenario": {"texts_per_image": 0, "subnet_shares": scenario.subnet_shares},
        "sparsity": list(sparsity),
    }
    (tmp_path / "design.json").write_text(json.dumps(design))
    assert main(["cost", str(tmp_path / "design.json"), "--uncertainty", "2", "--json"]) == 0
    assert "uncertainty" in json.loads(capsys.readouterr().out)
    expected = sparse_demand(CLIP, scenario, sparsity) if sparsity else dense_demand(CLIP, scenario)
    (found,) = given
    assert found[1:] == expected[1:]
    for ours, theirs in zip(found.workloads, expected.workloads, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
