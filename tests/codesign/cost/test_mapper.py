"""The mapper: bounds, closed forms, a published simulator, monotony and gradients.

Traffic formulas are held against a loop-nest simulator in test_mapper_traffic.py.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.accelerator import Accelerator
from codesign.cost.execution import Execution
from codesign.cost.mapper import Best, _under, best_mapping, gemm_costs
from codesign.cost.mapping import tiles_of, work_of
from codesign.cost.schedules import walk_at
from codesign.cost.technology import Technology, technology
from codesign.scenario import Scenario
from simulators.events import event, technology_of, with_events

pytestmark = pytest.mark.usefixtures("quick_compilation")

ZIGZAG = Path(__file__).parents[1] / "data" / "zigzag_samples.csv"
ROUND = technology_of(
    mac_pj=0.25,
    register_read_pj=0.125,
    register_write_pj=0.5,
    lane_pj=1.0,
    l2_read_pj=1.0,
    l2_write_pj=2.0,
    glb_read_pj=5.0,
    glb_write_pj=7.0,
    dram_pj=64.0,
    leakage_pj=3.0,
    dram_words_per_cycle=128.0,
    glb_words_per_cycle=512.0,
)
CHIP_CHOICES = (
    (1, 2, 4),
    (32, 64, 128, 256),
    (2, 4, 8, 16, 32, 64),
    (64, 128, 256, 512, 1024),
    (32, 64, 128),
    (2, 4, 8),
)
BATCH = 64

Case = tuple[tuple[float, float, float], Accelerator, Technology]


@jax.jit
@jax.vmap
def _priced(gemm, chip, tech):
    return gemm_costs(*gemm, chip, tech)


def stack(cases: list[Case]) -> tuple:
    """Cases as arrays, padded with the last to whole batches, so that jit compiles once."""
    padded = cases + cases[-1:] * (-len(cases) % BATCH)
    return jax.tree.map(lambda *x: np.asarray(x, np.float32), *padded)


def price(cases: list[Case]) -> Execution:
    """Costs [len(cases)], by one compiled function."""
    whole = stack(cases)
    parts = [
        _priced(*jax.tree.map(lambda x, i=i: x[i : i + BATCH], whole))
        for i in range(0, len(whole[0][0]), BATCH)
    ]
    return jax.tree.map(lambda *x: np.concatenate(x)[: len(cases)].astype(float), *parts)


def edp(costs: Execution, cases: list[Case]) -> np.ndarray:
    """Energy x delay with leakage, pJ cycles: what the mapper minimises."""
    leakage = np.array([float(tech.leakage_pj) for _, _, tech in cases])
    return costs.cycles * (costs.dynamic_pj + leakage * costs.cycles)


_technology = jax.jit(lambda chip: technology(chip, Scenario()))


def technology_of(chip: Accelerator) -> Technology:
    """Of the default scenario, in numbers; compiled, because thousands are asked for."""
    return jax.tree.map(float, jax.device_get(_technology(jax.tree.map(float, chip))))


def random_cases(number: int, seed: int = 0) -> list[Case]:
    """GEMMs of all sizes, half of them CLIP's, on accelerators of the default grid."""
    rng = np.random.default_rng(seed)
    cases = []
    for i in range(number):
        if i % 2:
            gemm = tuple(float(x) for x in rng.integers(1, [300, 3072, 3072]))
        else:
            gemm = (
                float(rng.choice([50, 77, 197])),
                *(float(x) for x in rng.choice([64, 384, 512, 768, 3072], size=2)),
            )
        chip = Accelerator(*(float(rng.choice(c)) for c in CHIP_CHOICES))
        cases.append((gemm, chip, technology_of(chip)))
    return cases


def test_one_tile_by_hand():
    """[10, 4] x [4, 16] on 16 x 4 PEs: one tile, one block of registers, nothing twice.

    I 40, W 64, O 160 bytes. Array: 10 rows, one a cycle. Before it, W and the first row of
    I from DRAM at 128 a cycle and 64 weights from L2 at 64 a cycle; after it, a row of O.
    """
    costs = price([((10, 4, 16), Accelerator(1, 16, 4, 64, 64, 2), ROUND)])
    assert costs.cycles[0] == pytest.approx(68 / 128 + 64 / 64 + 10 + 16 / 128)
    assert costs.energy_pj["mac"][0] == pytest.approx(640 * 0.25)
    assert costs.energy_pj["register"][0] == pytest.approx(640 * 0.125 + 64 * 0.5)
    # L2: I and W written, read once each; O written, and read to go up.
    assert costs.energy_pj["l2"][0] == pytest.approx((40 + 64 + 160) * 1 + (40 + 64 + 160) * 2)
    assert costs.energy_pj["glb"][0] == pytest.approx((40 + 64 + 160) * 5 + (40 + 64 + 160) * 7)
    assert costs.energy_pj["dram"][0] == pytest.approx((40 + 64 + 160) * 64)


def test_two_cores_by_hand():
    """[1, 4] x [4, 32] on 2 cores of 16 x 4: n is split, I is read once and sent to both.

    8 of the 16 columns work, twice: half as many weights then wait for L2 before the
    array starts, and the 4 inputs of a core are read once more. The array takes 2 cycles,
    longer than L2 with (2 x 2 x 4 + 128 + 32) bytes at 2 x 64 a cycle.
    """
    costs = price([((1, 4, 32), Accelerator(2, 16, 4, 64, 64, 2), ROUND)])
    assert costs.energy_pj["glb"][0] == pytest.approx((4 + 128 + 32) * (5 + 7))
    assert costs.energy_pj["l2"][0] == pytest.approx((16 + 128 + 32) * 1 + (8 + 128 + 32) * 2)
    assert costs.cycles[0] == pytest.approx((4 + 64) / 128 + 32 / 64 + 2 + 16 / 128)


def test_never_better_than_roofline():
    cases = random_cases(512)
    costs = price(cases)
    m, k, n = np.array([gemm for gemm, _, _ in cases]).T
    pes = np.array([chip.cores * chip.pe_x * chip.pe_y for _, chip, _ in cases])
    tech = jax.tree.map(lambda *x: np.array(x), *(tech for _, _, tech in cases))
    macs, read, written = m * k * n, m * k + k * n, m * n
    assert np.isfinite(costs.cycles).all()
    bandwidth = tech.words_per_cycle["dram"]
    roofline = np.maximum(macs / pes, (read + written) / bandwidth)
    assert (costs.cycles >= roofline * (1 - 1e-5)).all()
    for energy, least in (
        (costs.energy_pj["mac"], macs * tech.mac_pj),
        (
            costs.energy_pj["register"],
            macs * tech.read_pj["register"] + k * n * tech.write_pj["register"],
        ),
        (costs.energy_pj["l2"], (read + written) * (tech.read_pj["l2"] + tech.write_pj["l2"])),
        (costs.energy_pj["glb"], (read + written) * (tech.read_pj["glb"] + tech.write_pj["glb"])),
        (costs.energy_pj["dram"], (read + written) * tech.read_pj["dram"]),
    ):
        assert (energy >= least * (1 - 1e-5)).all()


def every_chip(rng: np.random.Generator) -> Accelerator:
    """A chip drawn from all that a design file may ask for."""
    powers = ((0, 4), (0, 10), (0, 10), (0, 12), (0, 9), (-6, 6))
    return Accelerator(*(2.0 ** rng.integers(a, b + 1) for a, b in powers))


def test_compulsory_traffic_is_a_floor_on_every_chip_and_everything_is_mapped():
    """Also k far below a block of registers, where a tile is a ten-thousandth of it."""
    rng, cases = np.random.default_rng(9), []
    for i in range(512):
        gemm = np.exp(rng.uniform(0, np.log(16384), 3)).round()
        if i % 2:
            gemm[1] = rng.integers(1, 5)
        chip = every_chip(rng)
        cases.append((tuple(gemm), chip, technology_of(chip)))
    costs = price(cases)
    m, k, n = np.array([gemm for gemm, _, _ in cases]).T
    tech = jax.tree.map(lambda *x: np.array(x), *(tech for _, _, tech in cases))
    moved = m * k + k * n + m * n
    assert np.isfinite(costs.cycles).all()
    for energy, least in (
        (
            costs.energy_pj["register"],
            m * k * n * tech.read_pj["register"] + k * n * tech.write_pj["register"],
        ),
        (costs.energy_pj["l2"], moved * (tech.read_pj["l2"] + tech.write_pj["l2"])),
        (costs.energy_pj["glb"], moved * (tech.read_pj["glb"] + tech.write_pj["glb"])),
        (costs.energy_pj["dram"], moved * tech.read_pj["dram"]),
    ):
        assert (energy >= least * (1 - 1e-5)).all()


def test_products_larger_than_the_buffers_cost_what_the_exact_mapper_finds():
    """Energy x delay of the exact mapper, which takes a minute for each: `Exact()` of both points.

    Both are bound by the DRAM. Of the second chip's wide arrays a part is better than all, which
    the exact mapper does not look at.
    """
    chips = [Accelerator(4, 256, 8, 1024, 32, 2), Accelerator(4, 256, 64, 1024, 64, 2)]
    cases = [
        (gemm, chip, technology_of(chip))
        for gemm, chip in zip([(4096, 4096, 4096), (8192, 4096, 4096)], chips, strict=True)
    ]
    exact = [(2.048e7, 5.0305e10), (4.096e7, 9.2652e10)]
    found = [float(x) for x in edp(price(cases), cases)[:2]]
    for (cycles, dynamic_pj), (_, _, tech), ours in zip(exact, cases, found, strict=True):
        theirs = (dynamic_pj + float(tech.static_pj) * cycles) * cycles
        assert ours < 1.03 * theirs


def test_near_roofline_where_shapes_suit():
    """Large GEMMs whose sizes the array divides, on chips whose buffers feed it."""
    cases = []
    for cores, pe_x, pe_y in ((1, 32, 4), (1, 64, 16), (2, 64, 16), (4, 64, 16), (2, 128, 32)):
        chip = Accelerator(cores, pe_x, pe_y, 512, 128, 4)
        tech = technology_of(chip)
        cases += [
            ((m, k, n), chip, tech)
            for m in (196, 1024)
            for k, n in ((768, 768), (768, 3072), (3072, 768), (2048, 4096))
        ]
    costs = price(cases)
    for (gemm, chip, tech), cycles in zip(cases, costs.cycles, strict=True):
        m, k, n = gemm
        moved = (m * k + k * n + m * n) / tech.words_per_cycle["dram"]
        roofline = max(m * k * n / chip.pes, moved)
        assert roofline * (1 - 1e-5) <= cycles < 2 * roofline


def test_infeasible_is_infinite():
    costs = price(
        [
            ((64, 64, 64), Accelerator(1, 32, 8, 0.003, 32, 4), ROUND),
            ((64, 64, 64), Accelerator(1, 32, 8, 64, 32, 5e-6), ROUND),
            ((64, 64, 64), Accelerator(1, 32, 8, 64, 32, 4), ROUND),
        ]
    )
    assert np.isinf(costs.cycles[:2]).all()
    assert np.isfinite(costs.cycles[2])


def test_every_tiny_gemm_fits_large_buffers():
    """A tile far smaller than its buffer is still one tile, not none."""
    gemms = [(1, 1, 1), (1, 512, 1), (1, 1, 3072), (2, 3, 5)]
    chip = Accelerator(1, 32, 2, 1024, 32, 8)
    costs = price([(gemm, chip, ROUND) for gemm in gemms])
    assert np.isfinite(costs.cycles).all()
    assert costs.energy_pj["dram"][0] == pytest.approx(3 * 64)


def zigzag_cases() -> tuple[list[Case], np.ndarray, np.ndarray, np.ndarray]:
    """Samples as cases, their cycles, energies pJ, and accumulator accesses, one a column sum."""
    lines = [x for x in ZIGZAG.read_text().splitlines() if not x.startswith("#")]
    rows = list(csv.DictReader(lines))
    energies = with_events(
        ROUND,
        mac_pj=0.2,
        register_read_pj=0.03,
        register_write_pj=0.03,
        l2_read_pj=1.0,
        l2_write_pj=1.0,
        glb_read_pj=5.0,
        glb_write_pj=5.0,
        dram_pj=60.0,
        leakage_pj=0.0,
        glb_words_per_cycle=256.0,
    )
    cases, accumulations = [], []
    for row in rows:
        gemm = tuple(float(x) for x in row["gemm_MxKxN"].split("x"))
        pe_x, pe_y, cores, _, l2, _, bandwidth, glb = (
            float(x) for x in re.findall(r"\d+", row["hardware"])
        )
        cases.append((gemm, Accelerator(cores, pe_x, pe_y, l2, bandwidth, glb), energies))
        accumulations.append(np.prod(gemm) / pe_y)
    cycles = np.array([float(row["cycles"]) for row in rows])
    energy_pj = np.array([1e6 * float(row["energy_uJ"]) for row in rows])
    return cases, cycles, energy_pj, np.array(accumulations)


def test_agrees_with_zigzag():
    """45 samples, shared energies per byte: access counts and latency are what may differ.

    ZigZag uses the whole array always; where a part of it is better, ours takes the part.
    """
    cases, cycles, energy_pj, accumulations = zigzag_cases()
    costs = price(cases)
    latency = costs.cycles / cycles - 1
    total_pj = costs.dynamic_pj + 0.1 * accumulations
    energy = total_pj / energy_pj - 1
    rank = lambda x: np.argsort(np.argsort(x))  # noqa: E731
    assert len(cases) == 45
    assert np.median(abs(latency)) < 0.05
    assert abs(latency).mean() < 0.20
    assert abs(energy).mean() < 0.07
    assert np.corrcoef(rank(costs.cycles), rank(cycles))[0, 1] > 0.97
    assert np.corrcoef(rank(total_pj), rank(energy_pj))[0, 1] > 0.95
    # Where filling the array is a small part, the two agree closely.
    large = cycles > 40_000
    assert large.sum() > 15
    assert abs(latency[large]).mean() < 0.08


dimension = st.one_of(st.integers(1, 3072), st.sampled_from([64, 77, 197, 512, 768]))
chips = st.tuples(*(st.sampled_from(c) for c in CHIP_CHOICES)).map(lambda x: Accelerator(*x))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(dimension, dimension, dimension, chips)
def test_more_of_a_free_resource_never_costs_more(m, k, n, chip):
    """At the same energy per byte: more bandwidth anywhere, or a larger global buffer."""
    tech = technology_of(chip)
    replace = dataclasses.replace
    better = [
        (chip, with_events(tech, dram_words_per_cycle=2 * tech.words_per_cycle["dram"])),
        (chip, with_events(tech, glb_words_per_cycle=2 * tech.words_per_cycle["glb"])),
        (replace(chip, l2_bytes_per_cycle=2 * chip.l2_bytes_per_cycle), tech),
        (replace(chip, glb_mib=1.5 * chip.glb_mib), tech),
        (replace(chip, glb_mib=4 * chip.glb_mib), tech),
    ]
    cases = [((m, k, n), *x) for x in [(chip, tech), *better]]
    costs = price(cases)
    products = edp(costs, cases)
    assert (products[1:] <= products[0] * (1 + 1e-5)).all()


def small_chip(rng: np.random.Generator) -> Accelerator:
    """A chip of the size of configs/quickstart.py's."""
    axes = (
        (1, 2),
        (4, 8, 16, 32),
        (4, 8, 16),
        (4, 8, 16, 32, 64),
        (8, 16, 32, 64),
        (0.0625, 0.125, 0.25, 0.5),
    )
    return Accelerator(*(float(rng.choice(axis)) for axis in axes))


def default_chip(rng: np.random.Generator) -> Accelerator:
    return Accelerator(*(float(rng.choice(axis)) for axis in CHIP_CHOICES))


@pytest.mark.parametrize(
    ("chip", "share", "worst"),
    [(default_chip, 0.002, 1.25), (small_chip, 0.002, 1.25), (every_chip, 0.010, 4)],
)
def test_twice_a_resource_hardly_ever_costs_more(chip, share, worst):
    """Parts of a machine are among the mappings, so that no more of it is used than helps.

    At fixed energies per access. The mapper has the parts that win, not all of them: what
    is left is told by docs/cost-model.md.
    """
    rng, cases, twice = np.random.default_rng(1), [], []
    for i in range(2048):
        gemm = tuple(np.exp(rng.uniform(0, np.log(16384), 3)).round())
        if i % 2:
            tokens, width = float(rng.choice([50, 77, 197, 257])), 64.0 * rng.integers(4, 17)
            gemm = (tokens, width, 4 * width) if i % 4 == 1 else (tokens, 64.0, tokens)
        one = chip(rng)
        tech = technology_of(one)
        resource = dataclasses.fields(one)[i % 6].name
        more = dataclasses.replace(one, **{resource: 2 * getattr(one, resource)})
        cases.append((gemm, one, tech))
        twice.append((gemm, more, tech))
    ratio = edp(price(twice), twice) / edp(price(cases), cases)
    assert np.mean(ratio > 1.02) <= share
    assert ratio.max() < worst
    assert np.mean(ratio) < 0.95


@settings(max_examples=40, deadline=None, derandomize=True)
@given(dimension, dimension, dimension, chips, st.integers(1, 500))
def test_more_work_never_takes_less_mac_energy(m, k, n, chip, more):
    tech = technology_of(chip)
    gemms = [(m, k, n), (m + more, k, n), (m, k + more, n), (m, k, n + more)]
    costs = price([(gemm, chip, tech) for gemm in gemms])
    assert (costs.energy_pj["mac"][1:] > costs.energy_pj["mac"][0]).all()
    assert (costs.energy_pj["dram"][1:] > costs.energy_pj["dram"][0] * (1 - 1e-6)).all()


def test_jit_equals_no_jit_and_vmap_equals_loop():
    cases = random_cases(2, seed=2)
    batched = price(cases)
    for i, (gemm, chip, tech) in enumerate(cases):
        alone = gemm_costs(*gemm, chip, tech)
        of_many = batched.map(lambda x, i=i: x[i])
        for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(of_many), strict=True):
            assert float(one) == pytest.approx(other, rel=1e-5)


@jax.jit
@jax.vmap
def _jacobian(gemm, chip, tech):
    """d [cycles, dynamic_pj] in (gemm, chip, tech)."""
    return jax.jacfwd(
        lambda inputs: (lambda c: jnp.stack([c.cycles, c.dynamic_pj]))(
            gemm_costs(*inputs[0], *inputs[1:])
        )
    )((gemm, chip, tech))


def jacobian(cases: list[Case]) -> tuple:
    """Derivatives with a leading [len(cases)], as a tree like a case; at most a batch."""
    assert len(cases) <= BATCH
    return jax.tree.map(lambda x: np.asarray(x)[: len(cases)], _jacobian(*stack(cases)))


@jax.jit
@jax.vmap
def _best(gemm, chip, tech):
    return best_mapping(work_of(*gemm, chip, tech))


@jax.jit
@jax.vmap
def _held(best, gemm, chip, tech):
    cost = _under(best, work_of(*gemm, chip, tech))
    return jnp.stack([cost.cycles, cost.dynamic_pj])


@jax.jit
@jax.vmap
def _row_tiles(best, gemm, chip, tech):
    work = work_of(*gemm, chip, tech)
    return tiles_of(work, best.point, walk_at(best.schedule)).trips["m"]


def row_tiles(best: Best, cases: list[Case]) -> np.ndarray:
    """How many tiles of rows each case has under one mapping."""
    same = jax.tree.map(lambda x: np.repeat(x[None], BATCH, axis=0), best)
    return np.asarray(_row_tiles(same, *stack(cases)))[: len(cases)]


def differences(best: Best, changed: list[Case], steps: list[float]) -> np.ndarray:
    """Central differences [steps, (cycles, dynamic_pj)] under one mapping, of cases in pairs."""
    same = jax.tree.map(lambda x: np.repeat(x[None], BATCH, axis=0), best)
    assert len(changed) <= BATCH
    values = np.asarray(_held(same, *stack(changed)), float)[: len(changed)]
    return (values[1::2] - values[::2]) / (2 * np.array(steps)[:, None])


def stairs(best: Best, chip: Accelerator) -> tuple[int, int]:
    """How far k and n must go for every tile under a mapping to grow by whole blocks.

    A tile is the dimension by its number of trips, in blocks of the array's rows or columns, and
    a column of the array sums as many rows as fill its registers.
    """
    k_trips, n_trips = (
        1 if np.isinf(t) else int(t) for t in (best.point.k_trips, best.point.n_trips)
    )
    return math.lcm(32 * chip.pe_y, chip.pe_y * k_trips), chip.pe_x * n_trips


def row_step(best: Best, case: Case) -> int:
    """How far m must go for one more tile of rows: as many as one holds; a row if one holds all."""
    (m, *_), *_ = case
    tiles = [
        row_tiles(best, [moved(case, "m", rows - m) for rows in range(first, first + BATCH)])
        for first in range(1, m, BATCH)
    ]
    one = int((np.concatenate(tiles) == 1).sum())
    return 1 if one >= m else one


def moved(case: Case, name: str, step: float) -> Case:
    """The case with one number changed."""
    gemm, chip, tech = case
    if name in "mkn":
        return tuple(x + step * (d == name) for d, x in zip("mkn", gemm, strict=True)), chip, tech
    if hasattr(chip, name):
        return gemm, dataclasses.replace(chip, **{name: getattr(chip, name) + step}), tech
    return gemm, chip, with_events(tech, **{name: event(tech, name) + step})


def test_gradients_are_finite_differences_under_one_mapping():
    """m by a row, or by a tile of rows where there are several; k and n by so much that all tiles
    grow by whole blocks of the array; bandwidths by a little.

    Within a block or a tile, ceil makes the cost a staircase; the gradient is its mean slope. Over
    less than a stair, or from one mapping to the next best, a difference is another one; so it is
    where L2 has no room for as many rows any more, a kink.
    """
    designs = [
        # Not 96 rows: there array and DRAM take as long as each other, a kink of their larger.
        ((128, 1536, 768), Accelerator(1, 64, 16, 256, 64, 4)),
        ((128, 1536, 512), Accelerator(1, 64, 16, 256, 64, 4)),
        ((96, 1536, 768), Accelerator(1, 32, 8, 256, 64, 4)),
        ((197, 768, 1536), Accelerator(1, 64, 8, 512, 128, 4)),
        ((197, 3072, 768), Accelerator(2, 128, 16, 256, 64, 4)),
    ]
    cases = [(gemm, chip, technology_of(chip)) for gemm, chip in designs]
    by_gemm, by_chip, by_tech = jacobian(cases)
    found = jax.tree.map(np.asarray, _best(*stack(cases)))
    checked = collections.Counter()
    for i, case in enumerate(cases):
        gemm, chip, _ = case
        best = jax.tree.map(lambda x, i=i: x[i], found)
        k_step, n_step = stairs(best, chip)
        checks = [
            ("m", row_step(best, case), by_gemm[0], 0.01),
            ("k", k_step, by_gemm[1], 0.06),
            ("n", n_step, by_gemm[2], 0.06),
            ("l2_bytes_per_cycle", 1, by_chip.l2_bytes_per_cycle, 0.01),
            ("dram_words_per_cycle", 1, by_tech.words_per_cycle["dram"], 0.01),
            ("glb_words_per_cycle", 4, by_tech.words_per_cycle["glb"], 0.01),
            ("dram_pj", 1, by_tech.read_pj["dram"] + by_tech.write_pj["dram"], 0.01),
        ]
        both = [moved(case, name, s * step) for name, step, _, _ in checks for s in (-1, 1)]
        slopes = differences(best, both, [step for _, step, _, _ in checks])
        rows, alone = row_tiles(best, both).reshape(-1, 2), row_tiles(best, [case])
        for (name, _, gradient, tolerance), slope, at in zip(checks, slopes, rows, strict=True):
            if name == "m" or (at == alone).all():
                checked[name] += 1
                assert gradient[i] == pytest.approx(slope, rel=tolerance, abs=0.02), (name, gemm)
    assert min(checked[name] for name, *_ in checks) >= 2


def test_gradients_are_finite_everywhere():
    """Relaxed sizes and chips between the choices included."""
    rng = np.random.default_rng(4)
    relaxed = []
    for gemm, chip, _ in random_cases(BATCH, seed=5):
        between = jax.tree.map(lambda x: float(x * rng.uniform(1, 1.4)), (gemm, chip))
        tech = technology_of(between[1])
        relaxed.append((*between, tech))
    for cases in (relaxed, random_cases(BATCH, seed=6)):
        leaves = jax.tree.leaves(jacobian(cases))
        assert len(leaves) == len(jax.tree.leaves(cases[0]))
        assert all(np.isfinite(x).all() for x in leaves)
