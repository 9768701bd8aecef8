"""The exact mapper against a walker that replays mappings, enumeration, and closed forms."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pickle
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.accelerator import Accelerator
from codesign.oracle import exact
from codesign.oracle.exact import best_mapping
from codesign.oracle.interface import Constants, OracleError, Point, Sample
from codesign.oracle.nest import DIMS, Mapping, Tiles, evaluate
from simulators.replay import replay

pytestmark = pytest.mark.usefixtures("quick_compilation")

EVERY_ORDER = ["".join(order) for order in itertools.permutations("mkn")]
CONSTANTS = Constants(
    mac_pj=0.3,
    register_read_pj=0.1,
    register_write_pj=0.13,
    l2_read_pj=0.9,
    l2_write_pj=1.1,
    glb_read_pj=3.0,
    glb_write_pj=3.5,
    dram_pj=64.0,
    static_pj=40.0,
    dram_bytes_per_cycle=16.0,
    glb_bytes_per_cycle=32.0,
)
ROOMY = Accelerator(cores=1, pe_x=4, pe_y=1, l2_kib=64, l2_bytes_per_cycle=8, glb_mib=1)


def point(m: int, k: int, n: int, chip: Accelerator = ROOMY, **constants: float) -> Point:
    return Point(m, k, n, chip, dataclasses.replace(CONSTANTS, **constants))


def one(p: Point, mapping: Mapping) -> tuple[Any, bool, bool]:
    """Costs of a single mapping, and whether it fits L2 and GLB."""
    cores = np.array([[mapping.cores if d == mapping.split else 1] for d in DIMS], np.float64)
    tile, block = (np.array(x, np.float64)[:, None] for x in (mapping.tile, mapping.block))
    tiles = Tiles(cores, tile, np.array([mapping.weights_stay]))
    priced, fits_l2, fits_glb = evaluate(p, mapping.orders, tiles, block)
    return priced, bool(fits_l2[0]), bool(fits_glb[0])


CHIPS = (
    Accelerator(1, 2, 1, 64, 8, 1),
    Accelerator(2, 4, 1, 64, 8, 1),
    Accelerator(3, 2, 1, 64, 8, 1),
)


def mappings(p: Point, rng: np.random.Generator, number: int) -> list[Mapping]:
    """Random mappings, whole tiles of array columns."""
    found = []
    tiles = exact.every_tile(p)
    for _ in range(number):
        i = int(rng.integers(tiles.stays.size))
        cores, tile = tiles.cores[:, i].astype(int), tiles.tile[:, i].astype(int)
        trips = [math.ceil(math.ceil(d / c) / t) for d, c, t in zip(p, cores, tile, strict=False)]
        found.append(
            Mapping(
                split=DIMS[int(np.argmax(cores))],
                cores=int(cores.max()),
                tile=tuple(int(t) for t in tile),
                block=tuple(int(rng.integers(1, t + 1)) for t in trips),
                orders=tuple(EVERY_ORDER[int(rng.integers(6))] for _ in range(3)),
                weights_stay=bool(tiles.stays[i]),
            )
        )
    return found


def is_even(p: Point, mapping: Mapping) -> bool:
    """Whether all blocks, and all tiles, are alike."""
    for i, dim in enumerate(DIMS):
        cores = mapping.cores if dim == mapping.split else 1
        size = mapping.tile[i] * cores
        if p[i] % size or (p[i] // size) % mapping.block[i]:
            return False
    return True


def modelled(priced: Any) -> dict[str, float]:
    e = priced.events
    names = ("register_writes", "l2_reads", "l2_writes", "glb_reads", "glb_writes", "dram_bytes")
    return {name: float(getattr(e, name)[0]) for name in names}


def walked(count: Counter[str]) -> dict[str, float]:
    return {
        "register_writes": count["fills"],
        "dram_bytes": count["dram_reads"] + count["dram_writes"],
        **{name: count[name] for name in ("l2_reads", "l2_writes", "glb_reads", "glb_writes")},
    }


@pytest.fixture(scope="module")
def replayed() -> list[tuple[Point, Mapping, dict[str, float], Counter[str]]]:
    """Random mappings of small GEMMs, as modelled and as walked."""
    rng = np.random.default_rng(0)
    rows = []
    for (m, k, n), chip in itertools.product(
        ((4, 64, 8), (6, 96, 12), (8, 36, 8), (5, 70, 9), (1, 100, 12)), CHIPS
    ):
        p = point(m, k, n, chip)
        for mapping in mappings(p, rng, 45):
            rows.append((p, mapping, modelled(one(p, mapping)[0]), replay(p, mapping)))
    return rows


def test_traffic_of_even_mappings_is_that_of_replaying_them(replayed):
    even = [row for row in replayed if is_even(row[0], row[1])]
    assert len(even) > 80
    assert {m.split for _, m, _, _ in even if m.cores > 1} == set(DIMS)
    for _, mapping, model, count in even:
        assert model == walked(count), mapping


def test_traffic_of_uneven_mappings_is_nearly_that_of_replaying_them(replayed):
    """A last block of one tile moves nothing, which a sequencer of full blocks does not see.

    And a core without a part of the last tile gets what the others get.
    """
    uneven = [row for row in replayed if not is_even(row[0], row[1])]
    assert len(uneven) > 150
    ratios = np.array(
        [[x / walked(count)[name] for name, x in model.items()] for _, _, model, count in uneven]
    )
    assert ratios.min() == 1.0
    assert np.mean(ratios == 1.0) > 0.8
    assert ratios.mean() < 1.02


def test_capacity_is_what_the_replay_held_at_most(replayed):
    even = [row for row in replayed if is_even(row[0], row[1])]
    for (p, mapping, _, count), spare in itertools.product(even, (0, -1)):
        chip = dataclasses.replace(
            p.accelerator,
            l2_kib=(count["l2"] + spare) / 2**10,
            glb_mib=(count["glb"] + spare) / 2**20,
        )
        _, *fits = one(p._replace(accelerator=chip), mapping)
        assert fits == [spare == 0] * 2, mapping


# --- Closed forms and examples by hand. --------------------------------------------------


def test_a_single_tile_by_hand():
    """[4, 8] x [8, 4] on 4 x 1 PEs: one block of registers (32 deep), one pass."""
    p = point(4, 8, 4)
    mapping = Mapping("m", 1, (4, 8, 4), (1, 1, 1), ("mkn", "mkn", "nkm"), False)
    priced, *fits = one(p, mapping)
    assert fits == [True, True]
    assert modelled(priced) == {
        "register_writes": 32,
        "l2_reads": 32 + 32 + 16,  # rows of I, weights, results
        "l2_writes": 32 + 32 + 16,
        "glb_reads": 32 + 32 + 16,
        "glb_writes": 32 + 32 + 16,
        "dram_bytes": 32 + 32 + 16,
    }
    # Fill (I and W from DRAM, registers), 4 rows x 8 products, drain; the L2's port has 10.
    assert priced.cycles[0] == 64 / 16 + 32 / 8 + 32 + 16 / 16
    energy = 128 * 0.4 + 32 * 0.13 + 80 * (0.9 + 1.1 + 3.0 + 3.5 + 64.0)
    assert priced.energy_pj[0] == pytest.approx(energy)
    assert priced.edp[0] == pytest.approx((energy + 41 * 40) * 41)


def test_sums_deeper_than_the_registers_return_to_l2():
    """96 deep in registers of 32: 3 passes, so 2 times 4 bytes there and back a result."""
    p = point(4, 96, 4)
    deep = Mapping("m", 1, (4, 96, 4), (1, 1, 1), ("mkn", "mkn", "nkm"), True)
    assert modelled(one(p, deep)[0])["l2_reads"] == 4 * 96 + 96 * 4 + 16 + 2 * 4 * 16
    # Rows outside k keep the sums and load all weights for every row.
    rows = deep._replace(orders=("mkn", "mkn", "nmk"))
    assert modelled(one(p, rows)[0])["l2_reads"] == 4 * 96 + 4 * 96 * 4 + 16


def test_a_single_row_keeps_its_sums_in_the_accumulators():
    events = best_mapping(point(1, 96, 4)).sample.events
    assert events.l2_reads == 96 + 96 * 4 + 4


@pytest.mark.parametrize("dims", [(20, 96, 24), (37, 64, 53), (1, 200, 100)])
def test_where_everything_fits_dram_traffic_is_compulsory(dims):
    m, k, n = dims
    sample = best_mapping(point(m, k, n)).sample
    assert sample.events.dram_bytes == m * k + k * n + m * n
    assert sample.cycles >= max(m * k * n / 4, (m * k + k * n) / 16)
    assert sample.energy_pj == sample.events.energy_pj(point(m, k, n))


def test_cores_share_the_work():
    """Much faster links: the time of 4 cores is a quarter."""
    fast = {"dram_bytes_per_cycle": 1e6, "glb_bytes_per_cycle": 1e6}
    chips = [dataclasses.replace(ROOMY, cores=c, l2_bytes_per_cycle=1e6) for c in (1, 4)]
    alone, four = (best_mapping(point(64, 64, 64, chip, **fast)).sample.cycles for chip in chips)
    assert alone / four == pytest.approx(4, rel=1e-3)


# --- The search. -------------------------------------------------------------------------


def sizes(whole: int, unit: int) -> set[int]:
    return {min(whole, unit * math.ceil(whole / unit / t)) for t in range(1, whole + 1)}


def enumerated(p: Point) -> float:
    """Least energy x delay by looking at everything, all six orders at each of three levels."""
    chip, best = p.accelerator, math.inf
    rows = []
    for cores, split in itertools.product(range(1, chip.cores + 1), range(3)):
        if cores > p[split]:
            continue
        shared = [cores if d == split else 1 for d in range(3)]
        share = [math.ceil(p[d] / shared[d]) for d in range(3)]
        full = {min(share[1], 32 * chip.pe_y * i) for i in range(1, 99)}
        depths = sizes(share[1], chip.pe_y) | full
        for tile in itertools.product(sizes(share[0], 1), depths, sizes(share[2], chip.pe_x)):
            trips = [math.ceil(s / t) for s, t in zip(share, tile, strict=True)]
            for block in itertools.product(*(sizes(t, 1) for t in trips)):
                rows.extend((*shared, *tile, *block, stays) for stays in (0, 1))
    table = np.array(rows, np.float64).T
    tiles = Tiles(table[:3], table[3:6], table[9] == 1)
    for orders in itertools.product(EVERY_ORDER, repeat=3):
        priced, fits_l2, fits_glb = evaluate(p, orders, tiles, table[6:9])
        best = min(best, np.where(fits_l2 & fits_glb, priced.edp, np.inf).min())
    return float(best)


TIGHT = [
    ((3, 70, 4), Accelerator(1, 2, 2, 0.25, 4, 2**-12)),
    ((3, 36, 4), Accelerator(2, 2, 1, 0.1, 4, 2**-13)),
    ((6, 34, 8), Accelerator(2, 4, 4, 0.2, 2, 2**-12)),
    ((4, 128, 4), Accelerator(2, 4, 2, 0.25, 16, 2**-12)),
]


@pytest.mark.parametrize(("dims", "chip"), TIGHT)
def test_nothing_is_better_by_enumeration(dims, chip):
    p = point(*dims, chip)
    assert best_mapping(p).edp == pytest.approx(enumerated(p), rel=1e-12)


@pytest.mark.parametrize(("dims", "chip"), TIGHT)
def test_the_mapping_found_costs_what_is_said(dims, chip):
    p = point(*dims, chip)
    found = best_mapping(p)
    priced, *fits = one(p, found.mapping)
    assert fits == [True, True]
    assert priced.cycles[0] == found.sample.cycles
    assert priced.energy_pj[0] == found.sample.energy_pj
    assert found.edp == (found.sample.energy_pj + 40 * found.sample.cycles) * found.sample.cycles


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("dims", [(7, 75, 9), (13, 40, 11), (1, 90, 30)])
def test_winners_cost_what_replaying_them_costs(dims, chip):
    p = point(*dims, dataclasses.replace(chip, l2_kib=0.5, glb_mib=2**-9))
    found = best_mapping(p)
    count = walked(replay(p, found.mapping))
    assert found.sample.events._asdict() == pytest.approx(count, rel=0.02)


chips = st.builds(
    Accelerator,
    cores=st.sampled_from((1, 2, 3)),
    pe_x=st.sampled_from((2, 4, 8)),
    pe_y=st.sampled_from((1, 2, 4)),
    l2_kib=st.sampled_from((0.5, 1, 3)),
    l2_bytes_per_cycle=st.sampled_from((2, 8)),
    glb_mib=st.sampled_from((2**-10, 2**-9, 2**-7)),
)
small = st.integers(1, 40)
# Larger: every mapping of the smaller chip is one of the larger, and none is slower.
GROWTH = (
    "l2_kib",
    "glb_mib",
    "l2_bytes_per_cycle",
    "cores",
    "dram_bytes_per_cycle",
    "glb_bytes_per_cycle",
)


@settings(max_examples=40, deadline=None)
@given(small, st.integers(1, 150), small, chips, st.sampled_from(GROWTH), st.integers(2, 3))
def test_more_machine_at_the_same_energies_is_never_worse(m, k, n, chip, grown, times):
    p = point(m, k, n, chip)
    try:
        before = best_mapping(p).edp
    except OracleError:
        return
    if hasattr(chip, grown):
        chip = dataclasses.replace(chip, **{grown: getattr(chip, grown) * times})
        after = best_mapping(point(m, k, n, chip)).edp
    else:
        after = best_mapping(point(m, k, n, chip, **{grown: getattr(CONSTANTS, grown) * times})).edp
    assert after <= before * (1 + 1e-12)


def test_fewer_mappings_are_never_better(monkeypatch):
    p = point(12, 130, 20, Accelerator(2, 4, 1, 1, 4, 2**-9))
    whole = best_mapping(p).edp
    every = exact.every_tile(p)
    found = []
    for few in (every.stays, every.cores.max(0) == 1, every.tile[0] * every.cores[0] == 12):
        tiles = every.take(np.flatnonzero(few))
        monkeypatch.setattr(exact, "every_tile", lambda p, tiles=tiles: tiles)
        found.append(best_mapping(p).edp)
    assert min(found) >= whole
    assert max(found) > whole * 1.01


@pytest.mark.parametrize(
    ("field", "size", "said"),
    [
        ("l2_kib", 0.0009765625, "GEMM 8 x 64 x 8: no tile fits a local buffer of .* KiB"),
        ("glb_mib", 2**-18, "GEMM 8 x 64 x 8: no block fits a global buffer of .* MiB"),
    ],
)
def test_what_does_not_fit_is_named(field, size, said):
    with pytest.raises(OracleError, match=said) as raised:
        exact.Exact()(point(8, 64, 8, dataclasses.replace(ROOMY, **{field: size})))
    assert "\n" not in str(raised.value)


def test_it_is_an_oracle():
    oracle = pickle.loads(pickle.dumps(exact.Exact()))
    sample = oracle(point(8, 64, 8))
    assert isinstance(sample, Sample)
    assert all(type(x) is float for x in (sample.cycles, sample.energy_pj, *sample.events))
    assert sample == exact.Exact()(point(8, 64, 8))
    assert oracle.name == "exact"
    assert oracle.fingerprint() == exact.Exact().fingerprint()
    assert not set(oracle.fingerprint()) & set(",\n")


def test_a_large_gemm_takes_seconds():
    chip = Accelerator(2, 64, 16, 256, 64, 4)
    rates = {"dram_bytes_per_cycle": 128.0, "glb_bytes_per_cycle": 512.0}
    start = time.process_time()
    best_mapping(point(197, 768, 3072, chip, **rates))
    assert time.process_time() - start < 5
