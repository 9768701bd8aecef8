"""The two costings: published rows, the reference's mapper by brute force, every switch."""

from __future__ import annotations

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign import Accelerator, Architecture, Tower, estimate
from codesign.cli import main
from codesign.cost.mapper import gemm_costs, price
from codesign.cost.mapping import Point, tiles_of, work_of
from codesign.cost.schedules import SCHEDULES
from codesign.cost.technology import area_breakdown_mm2, technology, tensor_l2_kib
from codesign.cost.unrolling import divisors, largest_divisor, smallest_divisor
from codesign.cost.vector_unit import vector_costs
from codesign.costing import CATRANSFORMERS, NAMES, PHYSICAL, costing_of, default_scenario
from codesign.design_file import parse_design, under_costing
from codesign.errors import UserError
from codesign.scenario import Scenario
from codesign.workload import Gemm, VectorOp, gather

pytestmark = pytest.mark.usefixtures("quick_compilation")

REFERENCE = default_scenario("catransformers")
PLAIN = {"architecture": {}, "accelerator": {}}
B_TEXT, B_VISION = Tower(12, 512, 8, 2048), Tower(12, 768, 12, 3072)
# CATransformers (arXiv 2505.01386), as published: kgCO2e, ms.
PUBLISHED = {
    "clip-b-16": (B_VISION, B_TEXT, 16, (1, 256, 8, 64, 128, 2), 0.54, 18.5),
    "clip-b-16-two-cores": (B_VISION, B_TEXT, 16, (2, 256, 16, 256, 128, 4), 0.69, 5.4),
    "clip-b-32": (B_VISION, B_TEXT, 32, (1, 32, 32, 64, 64, 2), 0.42, 15.1),
    "carbonclip-s": (
        Tower(8, 672, 6, 1920),
        Tower(6, 512, 6, 1024),
        16,
        (1, 256, 4, 64, 64, 2),
        0.36,
        12.0,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rows_of_the_reference_come_out(name):
    vision, text, patch, chip, carbon, latency_ms = PUBLISHED[name]
    clip = Architecture(vision, text, patch=patch, activation="quick_gelu")
    costs = estimate(clip, Accelerator(*chip), REFERENCE)
    assert costs.carbon_kgco2e == pytest.approx(carbon, rel=0.05)
    assert 1e3 * costs.latency_s == pytest.approx(latency_ms, rel=0.10)


# ---- the reference's mapper, by brute force --------------------------------------------


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _factors(limit: int, dims: tuple[int, int, int]) -> np.ndarray:
    """All divisors (a, b, c) of m, k, n of product up to the limit, [F, 3]."""
    ways = itertools.product(*([d for d in _divisors(n) if d <= limit] for n in dims))
    return np.array([w for w in ways if np.prod(w) <= limit])


def _front(points: np.ndarray) -> np.ndarray:
    """Points [P, 2] that no other beats in both."""
    points = points[np.lexsort((points[:, 1], points[:, 0]))]
    least = np.minimum.accumulate(points[:, 1])
    return points[np.r_[True, points[1:, 1] < least[:-1]]]


def _moved(loops: list[tuple[str, np.ndarray]], irrelevant: str) -> np.ndarray:
    times, inside = 1.0, False
    for dim, trips in reversed(loops):
        if dim == irrelevant:
            times = times * np.where(inside, trips, 1)
        else:
            inside = inside | (trips > 1)
    return times


def _tilings(dims: tuple[int, int, int], words: float) -> np.ndarray:
    """Tiles (m, k, n) of exact divisors whose three operands fit."""
    tiles = np.array(list(itertools.product(*(_divisors(n) for n in dims))))
    m, k, n = tiles.T
    return tiles[m * k + k * n + m * n <= words]


def brute_force(dims, chip, tech) -> tuple[float, float]:
    """Cycles and energy (pJ) of least energy x delay, over everything the reference may do.

    Any exact divisors along both array axes and the cores; any tiles of exact divisors in
    both buffers; all orders of loops at both levels. Tiles need not hold a whole number of
    unrolled blocks, so this is a lower bound.
    """
    sizes = dims[0] * dims[1], dims[1] * dims[2], dims[0] * dims[2]
    macs = float(np.prod(dims))
    best = np.inf, np.nan, np.nan
    for cores in _factors(int(chip.cores), dims):
        share = tuple(d // c for d, c in zip(dims, cores, strict=True))
        x, y = _factors(int(chip.pe_x), share), _factors(int(chip.pe_y), share)
        pes = (x[:, None] * y[None]).reshape(-1, 3)
        pes = np.unique(pes[(np.array(share) % pes == 0).all(axis=1)], axis=0).astype(float)
        l2_pj = tech.read_pj["l2"] * (macs / pes[:, 2] + 2 * macs / pes[:, 1] - sizes[2])
        in_array = np.stack(
            [
                np.prod(share) / pes.prod(axis=1),
                macs * (tech.mac_pj + tech.read_pj["register"]) + l2_pj,
            ],
            axis=1,
        )
        low = _tilings(share, float(tensor_l2_kib(chip, CATRANSFORMERS)) * 1024)
        high = _tilings(dims, chip.glb_mib * 2**20)
        high, low = np.repeat(high, len(low), axis=0), np.tile(low, (len(high), 1))
        whole = (high % (low * cores) == 0).all(axis=1)
        high, on_chip = high[whole], low[whole] * cores
        outer = dict(zip("mkn", (np.array(dims) / high).T, strict=True))
        inner = dict(zip("mkn", (high / on_chip).T, strict=True))
        beyond = []
        for above, below in itertools.product(itertools.permutations("mkn"), repeat=2):
            loops = [(d, outer[d]) for d in above]
            i, w, o = (s * _moved(loops, d) for s, d in zip(sizes, "nmk", strict=True))
            dram_read, dram_write = i + w + o - sizes[2], o
            loops = loops + [(d, inner[d]) for d in below]
            i, w, o = (s * _moved(loops, d) for s, d in zip(sizes, "nmk", strict=True))
            o = o * cores[1]
            glb_read, glb_write = i + w + o - sizes[2] + dram_write, o + dram_read
            # A tile's weights pass the registers again for every tile of rows, unless all fit.
            blocks = on_chip[:, 1] * on_chip[:, 2] / (chip.pe_x * chip.pe_y * 32 * cores.prod())
            in_tile = [*loops, ("k", np.maximum(blocks, 1))]
            fills = sizes[1] * _moved(in_tile, "m") * cores[0]
            energy = (
                (dram_read + dram_write) * tech.read_pj["dram"]
                + (glb_read + glb_write) * tech.read_pj["glb"]
                + (i * cores[2] + w * cores[0] + fills + 2 * o - sizes[2]) * tech.read_pj["l2"]
                + fills * tech.write_pj["register"]
            )
            cycles = np.maximum(
                np.maximum(dram_read, dram_write) / tech.words_per_cycle["dram"],
                np.maximum(glb_read, glb_write) / tech.words_per_cycle["glb"],
            )
            beyond.append(np.stack([cycles, energy], axis=1))
        a, b = _front(in_array), _front(_front(np.concatenate(beyond)))
        cycles = np.maximum(a[:, None, 0], b[None, :, 0])
        energy = a[:, None, 1] + b[None, :, 1]
        at = np.unravel_index(np.argmin(cycles * energy), cycles.shape)
        best = min(best, (cycles[at] * energy[at], cycles[at], energy[at]))
    return best[1:]


CASES = [
    ((197, 768, 768), (2, 64, 4, 256, 128, 2)),
    ((2364, 197, 197), (1, 256, 8, 64, 128, 2)),
    ((616, 77, 77), (1, 32, 32, 64, 64, 2)),
    ((77, 512, 384), (1, 256, 4, 64, 64, 2)),
    ((197, 672, 384), (1, 256, 4, 64, 64, 2)),
    ((1182, 64, 64), (4, 128, 16, 128, 64, 4)),
    ((196, 768, 512), (1, 64, 32, 64, 64, 2)),
    ((77, 448, 320), (2, 128, 2, 128, 32, 8)),
]


@pytest.mark.slow
def test_mapper_is_near_the_best_of_all_the_reference_may_do():
    chips = Accelerator(
        *np.array([c for _, c in CASES], np.float32).T, channels=np.ones(len(CASES), np.float32)
    )
    m, k, n = np.array([g for g, _ in CASES], np.float32).T
    tech = technology(chips, REFERENCE)
    found = jax.jit(jax.vmap(gemm_costs))(m, k, n, chips, tech)
    ratios = []
    for i, (gemm, _) in enumerate(CASES):
        chip, one = jax.tree.map(lambda x, i=i: float(x[i]), (chips, tech))
        cycles, energy = brute_force(gemm, chip, one)
        ratios.append([found.cycles[i] / cycles, found.dynamic_pj[i] / energy])
    ratios = np.array(ratios)
    assert np.abs(ratios - 1).mean(axis=0).max() < 0.02
    assert ratios.max() < 1.06
    assert ratios.prod(axis=1).min() > 0.999  # nothing beats the lower bound


def test_divisors():
    for number in (1, 77, 197, 768, 2364, 5040, 27720, 49152):
        table = np.asarray(divisors(jnp.float32(number)))
        expected = [d for d in _divisors(number) if d <= 256]
        assert sorted(set(table.tolist())) == expected
        for limit in (1, 3, 10, 200):
            least = [d for d in expected if d >= limit]
            assert largest_divisor(table, number, limit) == max(d for d in expected if d <= limit)
            assert smallest_divisor(table, number, limit) == (min(least) if least else number)


# ---- the switches ------------------------------------------------------------------------


def test_operators_as_each_costing_counts_them():
    gemms = [Gemm("vision.scores", 197, 64, 197, 2, batch=12), Gemm("values", 197, 197, 64, 2, 12)]
    ops = [
        VectorOp("act", "quick_gelu", 100),
        VectorOp("mask", "mask", 10),
        VectorOp("drop", "dropout", 10),
    ]
    ours, theirs = (gather(gemms, ops, costing) for costing in (PHYSICAL, CATRANSFORMERS))
    assert ours.m.tolist() == [197, 197] and theirs.m.tolist() == [2364, 2364]
    assert ours.k.tolist() == [64, 197] and theirs.k.tolist() == [197, 64]
    assert ours.count.tolist() == [24, 24] and theirs.count.tolist() == [2, 2]
    assert ours.vector_cycles.tolist() == [14, 1]
    assert theirs.vector_cycles.tolist() == [1, 12, 1, 1, 1, 2]


def test_vector_core_of_the_reference():
    chip = Accelerator(2.0, 32.0, 8.0, 64.0, 64.0, 2.0)
    ops = [VectorOp("soft", "softmax", 7700, rows=100), VectorOp("sum", "add", 200_000, operands=2)]
    workload, tech = gather([], ops, CATRANSFORMERS), technology(chip, REFERENCE)
    costs = vector_costs(workload, chip, tech)
    cycles = [-(-7700 // 64) * 10 + 100 * 2 + 10, 200_000 / 64]
    assert costs.cycles.tolist() == pytest.approx(cycles)
    lane = 0.469035 + 0.0888227 + 2 * 0.11843
    pj = {part: x.tolist() for part, x in costs.energy_pj.items()}
    assert pj["vector"] == pytest.approx([c * 64 * lane for c in cycles], rel=1e-5)
    pieces = -(-200_000 // 65536)
    assert pj["dram"] == pytest.approx([4 * 7700 * 64, 2 * 200_000 * 64 / pieces])
    assert pj["l2"] == pytest.approx([7700 * 5.42836, 200_000 / 2 * 5.42836], rel=1e-5)


@pytest.mark.parametrize(
    ("pe_x", "pe_y", "asked", "given"),
    [(256, 8, 64, 64), (256, 16, 64, 128), (256, 32, 64, 256), (128, 64, 64, 128), (32, 4, 64, 64)],
)
def test_area_of_the_reference(pe_x, pe_y, asked, given):
    """Two buffers a core, the array's with a minimum; PEs of table areas."""
    chip = Accelerator(2.0, float(pe_x), float(pe_y), float(asked), 64.0, 4.0)
    kib = {64: 0.105921, 128: 0.219485, 256: 0.447768}
    area = area_breakdown_mm2(chip, REFERENCE)
    assert area["l2"] == pytest.approx(2 * (kib[asked] + kib[given]), rel=1e-5)
    assert area["glb"] == pytest.approx(6.20751, rel=1e-5)
    assert area["pe"] == pytest.approx(2e-6 * pe_x * pe_y * (379.847 + 0.348053), rel=1e-5)
    assert area["vector"] == pytest.approx(2e-6 * pe_x * (379.847 + 0.13052), rel=1e-5)


MAPPER_SWITCHES = (
    "buffer_copies",
    "array_passes",
    "wide_sums",
    "weights_bypass",
    "fill_and_drain",
    "l2_cycles",
    "l2_kib",
)


@pytest.mark.parametrize("name", MAPPER_SWITCHES)
def test_every_switch_of_the_mapper_is_felt(name):
    """One mapping of one GEMM, without and with each convention of the reference."""
    chip = Accelerator(2.0, 256.0, 16.0, 64.0, 4.0, 2.0)
    tech = technology(chip, Scenario())

    def costs_under(costing):
        work = work_of(77.0, 2048.0, 512.0, chip, dataclasses.replace(tech, costing=costing))
        # m over the cores, one column block, one register block
        shares = jnp.ones(4)
        point = Point(jnp.int32(0), jnp.inf, jnp.float32(1), jnp.bool_(True), *shares, jnp.int32(0))
        walk = SCHEDULES[1].walk
        tiles = tiles_of(work, point, walk._replace(one_row=np.bool_(False)))
        return jax.tree.leaves(price(walk, work, tiles)[0])

    bent = dataclasses.replace(PHYSICAL, **{name: getattr(CATRANSFORMERS, name)})
    assert [float(x) for x in costs_under(bent)] != [float(x) for x in costs_under(PHYSICAL)]


# ---- from a file and the command line ----------------------------------------------------


def test_costing_option_brings_its_scenario():
    design = parse_design({**PLAIN, "scenario": {"use_grid": "iceland"}})
    theirs = under_costing(design, "catransformers")
    assert theirs.scenario == REFERENCE
    assert theirs.scenario.lifetime_inferences == pytest.approx(30e6)
    assert under_costing(design, "physical") == design
    stated = parse_design(
        {**PLAIN, "scenario": {"costing": "catransformers", "use_grid": "iceland"}}
    )
    assert stated.scenario == dataclasses.replace(REFERENCE, use_grid="iceland")
    assert under_costing(stated, "catransformers") == stated


def test_costing_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "clip.json"
    path.write_text(json.dumps(PLAIN))
    assert main(["cost", str(path), "--costing", "catransformers", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["scenario"]["costing"] == "catransformers"
    assert out["costs"]["breakdown"]["energy_j"]["leakage"] == 0
    assert main(["cost", str(path), "--costing", "catransformer"]) == 2
    assert "did you mean 'catransformers'?" in capsys.readouterr().err


def test_unknown_costing():
    assert set(NAMES) == {"physical", "catransformers"}
    with pytest.raises(ValueError, match=r"scenario\.costing: there is no 'fysical'; did you mean"):
        costing_of(Scenario(costing="fysical"))
    with pytest.raises(UserError, match=r"scenario\.costing: unknown \"x\""):
        parse_design({**PLAIN, "scenario": {"costing": "x"}})
