"""Sparse weights in the cost model: a closed form, limits, families, and the design file."""

from __future__ import annotations

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.architecture import Architecture, Tower, clip_vit_b16
from codesign.cli import main
from codesign.cost.demand import longest_row, with_index_bits
from codesign.cost.estimate import (
    estimate,
    estimate_family,
    estimate_subnets,
    family_costs,
)
from codesign.cost.family import build_family_table
from codesign.cost.mapper import _under, best_mapping, gemm_costs, gemm_run
from codesign.cost.mapping import skipping, work_of
from codesign.cost.technology import area_breakdown_mm2, technology
from codesign.errors import UserError
from codesign.scenario import Scenario
from codesign.space import AcceleratorChoices, DesignSpace, TowerChoices
from codesign.workload import clip_workload
from codesign.workload.clip import subnet_operators
from codesign.workload.vit import VIT_FAMILY, ElasticVit
from simulators.products import in_full

pytestmark = pytest.mark.usefixtures("quick_compilation")

CHIP = Accelerator(cores=1, pe_x=8, pe_y=4, l2_kib=64, l2_bytes_per_cycle=64, glb_mib=1)
SPARSE = Scenario(index_bits=8)
CLIP = Architecture(
    vision=Tower(2, 32, 2, 64),
    text=Tower(1, 16, 2, 32),
    patch=4,
    image=16,
    context=9,
    projection=12,
    head_dim=8,
    vocab=50,
)


@pytest.fixture(scope="module")
def run():
    """(m, k, n, density) each [64] -> costs [64] on CHIP, which skips zeros."""
    tech = technology(CHIP, SPARSE)
    return jax.jit(jax.vmap(lambda m, k, n, d: gemm_costs(m, k, n, CHIP, tech, d)))


def test_a_product_that_fits_on_chip_costs_what_can_be_counted_by_hand(run):
    m, k, n, density = 20, 128, 8, 0.25
    tech = technology(CHIP, SPARSE)
    cost = run(*(jnp.full(64, x, jnp.float32) for x in (m, k, n, density)))
    kept = density * k * n
    # Everything is read and written once: the inputs whole, of the weights what is kept, two
    # words each (8 bits of value, 8 of position), then the results.
    dram_words = m * k + 2 * kept + m * n
    dram_pj = dram_words * float(tech.read_pj["dram"])
    assert float(cost.energy_pj["dram"][0]) == pytest.approx(dram_pj, rel=1e-5)
    assert float(cost.energy_pj["mac"][0]) == pytest.approx(m * kept * float(tech.mac_pj), rel=1e-5)
    # Of every MAC: value, position and operand are read, the operand was written.
    read_pj, write_pj = float(tech.read_pj["register"]), float(tech.write_pj["register"])
    register_pj = m * kept * (3 * read_pj + write_pj)
    # 32 of a row fit: each weight once, or twice where half of k is loaded and used at a time.
    fills = (float(cost.energy_pj["register"][0]) - register_pj) / (2 * kept * write_pj)
    assert fills == pytest.approx(1, rel=1e-3) or fills == pytest.approx(2, rel=1e-3)
    # 8 columns, 32 kept weights a column on 4 rows of PEs.
    array_cycles = m * (density * k / 4)
    bus = dram_words / float(tech.words_per_cycle["dram"])
    assert cost.cycles[0] >= max(array_cycles, bus)
    assert cost.cycles[0] <= array_cycles + bus + 2 * n * m


def test_never_worse_than_dense_and_equal_to_it_where_nothing_is_pruned(run):
    rng = np.random.default_rng(0)
    m, k, n = rng.choice([1, 5, 17, 64, 100, 256], (3, 64)).astype(np.float32)
    tech = technology(CHIP, SPARSE)
    dense = jax.jit(jax.vmap(lambda m, k, n: gemm_run(m, k, n, CHIP, tech)))(m, k, n)

    def edp(cost):
        return (cost.dynamic_pj + cost.cycles * float(tech.static_pj)) * cost.cycles

    before = edp(dense)
    np.testing.assert_allclose(edp(run(m, k, n, np.ones(64, np.float32))), before, rtol=1e-5)
    for density in (0.9, 0.5, 0.25, 0.1, 0.05):
        now = edp(run(m, k, n, np.full(64, density, np.float32)))
        # Fewer weights never cost more, but for a lattice that does not hold every tiling.
        assert (now <= before * 1.05).all()
        before = np.minimum(now, before)
    big = m * k * n >= 64**3
    assert (before[big] < 0.6 * edp(dense)[big]).all()


def test_the_derivative_by_density_is_that_of_finite_differences(run):
    """Under one mapping, over a stair of it: a block of kept weights, four rows of PEs, more.

    Within the stair no tile is added, and the slope is a sixth less.
    """
    tech = technology(CHIP, SPARSE)

    def work(density):
        return skipping(work_of(20.0, 128.0, 16.0, CHIP, tech), density)

    best = jax.jit(best_mapping)(work(0.3))
    energy = jax.jit(lambda density: _under(best, work(density)).dynamic_pj)
    whole = lambda d: gemm_costs(20.0, 128.0, 16.0, CHIP, tech, d).dynamic_pj  # noqa: E731
    slope = jax.jit(jax.grad(whole))(0.3)
    stair = CHIP.pe_y / 128
    ahead, behind = energy(0.3 + stair / 2), energy(0.3 - stair / 2)
    assert float(slope) == pytest.approx(float(ahead - behind) / stair, rel=0.02)


def test_a_chip_that_skips_zeros_is_larger_and_leaks_more():
    dense, sparse = (technology(CHIP, s) for s in (Scenario(), SPARSE))
    assert sparse.leakage_pj > dense.leakage_pj
    assert sparse.clock_pj > dense.clock_pj
    areas = [area_breakdown_mm2(CHIP, s) for s in (Scenario(), SPARSE)]
    assert areas[1]["pe"] > areas[0]["pe"]
    assert {n: areas[1][n] for n in ("l2", "glb", "vector")} == {
        n: areas[0][n] for n in ("l2", "glb", "vector")
    }


def test_a_familys_energy_is_the_mean_by_shares_and_its_chip_is_paid_once():
    scenario = Scenario(subnet_shares=(0.1, 0.3, 0.6))
    subnets = estimate_subnets(CLIP, CHIP, scenario, (0.0, 0.5, 0.9))
    costs = family_costs(subnets)
    assert costs == estimate(CLIP, CHIP, scenario, (0.0, 0.5, 0.9))
    energies = [subnet.costs.energy_j for subnet in subnets]
    assert costs.energy_j == pytest.approx(np.dot((0.1, 0.3, 0.6), energies), rel=1e-6)
    assert costs.embodied_kgco2e == subnets[0].costs.embodied_kgco2e
    assert costs.latency_s == max(subnet.costs.latency_s for subnet in subnets)
    for name, total in (("energy_j", costs.energy_j), ("latency_s", costs.latency_s)):
        assert sum(costs.breakdown[name].values()) == pytest.approx(total, rel=1e-6)
    weights = [subnet.weight_bytes for subnet in subnets]
    assert weights[0] >= weights[1] > weights[2]


@pytest.mark.slow
def test_layer_by_layer_densities_price_as_the_uniform_ones_they_are():
    density = 0.25
    names = [
        f"{t}.blocks.{k}"
        for t in ("vision", "text")
        for k in ("query", "key", "value", "out", "fc1", "fc2")
    ]
    layers = {"vision": 2, "text": 1}
    densities = {name: [density] * layers[name.split(".")[0]] for name in names}
    work = subnet_operators(CLIP, densities).workload
    uniform = clip_workload(CLIP, density=density)
    assert work.macs == pytest.approx(float(uniform.macs), rel=1e-6)
    by_layer = estimate_family(CLIP, CHIP, Scenario(), [densities])[0]
    at_once = estimate_subnets(CLIP, CHIP, Scenario(), (1 - density,))[0]
    assert by_layer.sparsity == pytest.approx(1 - density)
    assert by_layer.costs.energy_j == pytest.approx(at_once.costs.energy_j, rel=1e-5)
    assert by_layer.weight_bytes == pytest.approx(at_once.weight_bytes)
    with pytest.raises(ValueError, match=r"no sparse 'vision.blocks.fc3'; did you mean"):
        subnet_operators(CLIP, {"vision.blocks.fc3": [0.5, 0.5]})
    with pytest.raises(ValueError, match="3 densities for 2 layers"):
        subnet_operators(CLIP, {"vision.blocks.fc1": [0.5, 0.5, 0.5]})


@pytest.mark.parametrize(("vision", "text"), [(0.1, 1.0), (1.0, 0.1), (0.3, 0.3)])
@pytest.mark.parametrize("texts", [0.0, 1.0])
def test_the_dram_holds_each_kernel_packed_or_dense_of_the_towers_that_run(vision, text, texts):
    scenario = Scenario(
        texts_per_image=texts, index_bits=8, dram_capacity="continuous", dram_system_gb=0.0
    )
    densities = {"vision.blocks.fc1": [vision, 1.0], "text.blocks.query": [text]}
    subnet = estimate_family(CLIP, CHIP, scenario, [densities])[0]
    dense = estimate_family(CLIP, CHIP, scenario, [{}])[0]

    def spared(density, words):
        # A word a weight and a word a position; 8 bits both.
        return max(0.0, 1 - 2 * density) * words

    v, t = CLIP.vision, CLIP.text
    least = spared(vision, v.width * v.ffn)
    least += spared(text, t.width * t.heads * CLIP.head_dim) if texts else 0.0
    assert dense.weight_bytes - subnet.weight_bytes == pytest.approx(least, abs=0.1)
    stored = 2**30 * (dense.costs.dram_gb - subnet.costs.dram_gb)
    assert stored == pytest.approx(least, rel=1e-3)


def test_the_longest_row_is_that_of_any_block_kernel_of_any_family():
    assert longest_row(clip_vit_b16()) == 3072
    wide_heads = ElasticVit(Tower(2, 64, heads=3, ffn=48), head_dim=32)
    assert longest_row(wide_heads, VIT_FAMILY) == 96
    wide_stream = ElasticVit(Tower(2, 64, heads=1, ffn=48), head_dim=32)
    assert longest_row(wide_stream, VIT_FAMILY) == 64


def test_index_bits_hold_the_longest_row():
    assert with_index_bits(Scenario(), 3072).index_bits == 12
    assert with_index_bits(Scenario(index_bits=16), 3072).index_bits == 16
    with pytest.raises(ValueError, match="8 bits tell 256 weights apart, a row has 3072; use 12"):
        with_index_bits(SPARSE, 3072)


def test_the_reference_costing_knows_no_sparse_weights():
    with pytest.raises(ValueError, match="catransformers costing has no sparse weights"):
        estimate_subnets(CLIP, CHIP, Scenario(costing="catransformers"), (0.5,))


SPACE = DesignSpace(
    base=CLIP,
    vision=TowerChoices((1, 2), (16, 32), (1, 2), (32, 64)),
    text=TowerChoices((1,), (16,), (1, 2), (32,)),
    accelerator=AcceleratorChoices((1,), (4, 8), (4,), (16,), (32,), (0.0625,)),
    sparsity=((0.0, 0.5), (0.8, 0.9)),
)


@pytest.fixture(scope="module")
def table():
    return build_family_table(SPACE, Scenario(subnet_shares=(0.25, 0.75)))


def test_the_table_has_the_costs_of_every_discrete_family(table):
    relaxed = jax.jit(table.relaxed)
    every = jax.jit(table.on_every_accelerator)
    choices = itertools.product((0, 1), (0, 1), (0, 1))
    for width, dense, sparse in choices:
        indices = np.array([1, width, 1, 0, 0, 0, 1, 0, dense, sparse, 0, 1, 0, 0, 0, 0, 0])
        architecture, chip = SPACE.architecture_at(indices), SPACE.accelerator_at(indices)
        sparsity = SPACE.sparsity_at(indices)
        assert sparsity == ((0.0, 0.5)[dense], (0.8, 0.9)[sparse])
        scenario = dataclasses.replace(table.scenario, subnet_shares=(0.25, 0.75))
        expected = estimate(architecture, chip, scenario, sparsity)
        found = relaxed(jnp.asarray(SPACE.encode(indices), jnp.float32))
        on_chips = every(jnp.asarray(indices))
        for name in ("latency_s", "energy_j", "area_mm2", "carbon_kgco2e"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-4), name
            assert getattr(on_chips, name)[1] == pytest.approx(getattr(expected, name), rel=1e-4), (
                name
            )


@pytest.mark.slow
def test_accelerators_price_families_in_full_float32(table):
    z = jnp.full(len(SPACE.steps), 0.4)
    assert in_full(jax.grad(lambda z: table.relaxed(z).energy_j), z)
    indices = jnp.zeros(len(SPACE.steps), jnp.int32)
    assert in_full(lambda indices: table.on_every_accelerator(indices).energy_j, indices)


def test_the_table_is_linear_between_two_sparsities(table):
    z = np.full(len(SPACE.dimensions), 1.0, np.float32)
    axis = SPACE.names.index("sparsity.1")

    def energy_at(at):
        return table.relaxed(jnp.asarray(z).at[axis].set(at)).energy_j

    def energy(at):
        return float(energy_at(at))

    ends = energy(0.0), energy(1.0)
    assert energy(0.25) == pytest.approx(0.75 * ends[0] + 0.25 * ends[1], rel=1e-5)
    assert float(jax.grad(energy_at)(0.5)) == pytest.approx(ends[1] - ends[0], rel=1e-3)
    assert ends[1] < ends[0]


@pytest.mark.parametrize(
    ("sparsity", "message"),
    [
        (((0.5, 0.3),), "must increase"),
        (((0.0, 0.5), (0.5, 0.9)), "from one to the next"),
        (((0.5, 1.0),), "lie in"),
        (((),), "must increase"),
    ],
)
def test_a_space_refuses_sparsities_that_are_no_family(sparsity, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SPACE, sparsity=sparsity)


@pytest.fixture
def design_file(tmp_path):
    path = tmp_path / "family.json"

    def write(**changes):
        design = {
            "architecture": {
                "vision": {"layers": 2, "width": 64, "heads": 1, "ffn": 128},
                "text": {"layers": 1, "width": 32, "heads": 1, "ffn": 64},
            },
            "accelerator": {},
            "sparsity": [0.5, 0.9],
        }
        path.write_text(json.dumps(design | changes))
        return str(path)

    return write


def test_codesign_cost_prices_a_family(design_file, capsys):
    path = design_file(scenario={"subnet_shares": [0.2, 0.8]})
    assert main(["cost", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sparsity"] == [0.5, 0.9]
    energies = [subnet["energy_j"] for subnet in found["subnets"]]
    assert found["costs"]["energy_j"] == pytest.approx(0.2 * energies[0] + 0.8 * energies[1])
    assert main(["cost", path]) == 0
    assert "90.0 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": [0.9, 0.5]}, "0.5 follows 0.9"),
        ({"sparsity": [0.5, 1.0]}, "1 is outside"),
        ({"sparsity": 0.5}, "expected a list"),
        ({"scenario": {"subnet_shares": [0.5, 0.2, 0.3]}}, "3 shares for 2 subnets"),
        ({"scenario": {"subnet_shares": [0.5, 0.2]}}, "add up to 0.7"),
        ({"scenario": {"index_bits": 3}}, "index_bits: 3 bits tell 8 weights apart"),
        ({"scenario": {"index_bits": 2.5}}, "expected a whole number"),
    ],
)
def test_codesign_cost_refuses_what_is_no_family_in_one_line(design_file, capsys, changes, message):
    path = design_file(**changes)
    assert main(["cost", path]) in (1, 2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_user_errors_are_what_the_command_line_shows(design_file):
    from codesign.design_file import load_design

    with pytest.raises(UserError, match="follows"):
        load_design(design_file(sparsity=[0.9, 0.5]))


@pytest.mark.slow
def test_the_best_chip_of_a_family_is_that_of_its_shares(design_file, capsys):
    path = design_file(scenario={"subnet_shares": [0.2, 0.8]})
    grid = [
        "--space.cores",
        "[1]",
        "--space.pe_x",
        "[8, 16]",
        "--space.pe_y",
        "[4]",
        "--space.l2_kib",
        "[64]",
        "--space.l2_bytes_per_cycle",
        "[64]",
        "--space.glb_mib",
        "[1]",
        "--scenario.subnet_shares",
        "[0.2, 0.8]",
    ]
    assert main(["search", "hardware", "--model", path, "--json", *grid]) == 0
    found = json.loads(capsys.readouterr().out)
    best = next(d for d in found["designs"] if d["name"] == "least-carbon")
    assert best["sparsity"] == [0.5, 0.9]
    scenario = dataclasses.replace(
        Scenario(),
        **{
            key: best["scenario"][key]
            for key in ("index_bits", "dram_gb")  # the latter is None
        },
        subnet_shares=(0.2, 0.8),
    )
    from codesign.design_file import load_design

    architecture = load_design(path).architecture
    costs = estimate(architecture, Accelerator(**best["accelerator"]), scenario, (0.5, 0.9))
    assert best["costs"]["carbon_kgco2e"] == pytest.approx(costs.carbon_kgco2e, rel=1e-5)
