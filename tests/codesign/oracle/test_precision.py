"""Words of 4, 8 and 16 bits: the mapper and every oracle against each other and closed forms."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.cost.physical import PRECISIONS_BITS
from codesign.oracle import SAMPLED_SCENARIO
from codesign.oracle.collect import collect
from codesign.oracle.exact import Exact
from codesign.oracle.interface import Constants, OracleError, Point, Sample
from codesign.oracle.stored import points, stored_pairs
from codesign.oracle.systolic import systolic_cycles
from codesign.oracle.zigzag import ZigZag
from codesign.scenario import Scenario
from codesign.surrogate.features import bounds
from codesign.surrogate.models import Analytic
from codesign.surrogate.oracles import BUILT_IN, _Shipped
from codesign.surrogate.points import Points, observe, predict

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROUND = Constants(
    mac_pj=0.25,
    register_read_pj=0.125,
    register_write_pj=0.5,
    l2_read_pj=1.0,
    l2_write_pj=2.0,
    glb_read_pj=5.0,
    glb_write_pj=7.0,
    dram_pj=64.0,
    static_pj=3.0,
    dram_bytes_per_cycle=1024.0,
    glb_bytes_per_cycle=1024.0,
)
CHIP = Accelerator(cores=1, pe_x=64, pe_y=16, l2_kib=512, l2_bytes_per_cycle=512, glb_mib=4)
PER_CYCLE_OR_MAC = ("mac_pj", "static_pj")
GEMMS = ((197, 768, 768), (197, 64, 197), (77, 512, 2048), (50, 768, 3072), (1, 512, 512))
CHIPS = (
    Accelerator(1, 64, 16, 256, 64, 4),
    Accelerator(2, 128, 8, 64, 32, 2),
    Accelerator(4, 32, 32, 64, 128, 2),
    Accelerator(1, 256, 16, 128, 32, 2),
)
needs_zigzag = pytest.mark.skipif(
    importlib.util.find_spec("zigzag") is None, reason="zigzag-dse is not installed"
)


def mapper(point: Point) -> Sample:
    """The cost model's mapper, asked like an oracle."""
    found = predict(Analytic(), Points.of([point]))
    return Sample(float(found.cycles[0]), float(found.energy_pj[0]))


Pricer = Callable[[Point], Sample]
PRICERS = [mapper, Exact(), pytest.param(ZigZag(), marks=needs_zigzag)]


def point(bits: int, gemm: tuple[int, int, int], chip: Accelerator = CHIP, **rates: Any) -> Point:
    return Point(*gemm, chip, dataclasses.replace(ROUND, precision_bits=bits, **rates))


@pytest.mark.parametrize("bits", PRECISIONS_BITS)
def test_mapper_and_exact_mapper_agree(bits):
    """Products and chips that overflow buffers and saturate each memory."""
    asked = points([(g, c) for g in GEMMS for c in CHIPS], Scenario(precision_bits=bits))
    truth = np.array([Exact()(p)[:2] for p in asked])
    found = np.array([mapper(p)[:2] for p in asked])
    ratio = found / truth
    assert np.abs(ratio - 1).mean() < 0.004
    assert (np.abs(ratio - 1) < 0.05).all()
    static = np.array([p.constants.static_pj for p in asked])
    ours, exact = ((e + static * c) * c for c, e in (found.T, truth.T))
    # The mapper may use a part of the array, which the exact one does not look at.
    assert (ours < 1.02 * exact).all() and (ours > 0.95 * exact).all()
    assert np.abs(ours / exact - 1).mean() < 0.01


@pytest.mark.parametrize("price", PRICERS)
@pytest.mark.parametrize("bits", PRECISIONS_BITS)
def test_a_vector_times_a_matrix_takes_as_long_as_its_bytes(price: Pricer, bits: int):
    """One row on weights that are used once: each memory's time is its bytes over its rate.

    k fits the registers' rows, so that no sum is ever anywhere but in an accumulator.
    """
    m, k, n = gemm = (1, 512, 4096)
    word = bits / 8
    operands, result = word * (m * k + k * n), word * m * n
    slow = 8.0  # bytes a cycle, of one memory at a time
    # ZigZag overlaps less of the start, and has an L2 an operand.
    slack = 0.07 if isinstance(price, ZigZag) else 0.01
    dram = price(point(bits, gemm, dram_bytes_per_cycle=slow))
    glb = price(point(bits, gemm, glb_bytes_per_cycle=slow))
    chip = dataclasses.replace(CHIP, l2_bytes_per_cycle=slow)
    l2 = price(point(bits, gemm, chip))
    # A read for each block of 64 columns of the row that the L2 holds.
    l2_reads = word * (m * k * n / CHIP.pe_x + k * n + m * n)
    assert dram.cycles == pytest.approx(operands / slow, rel=slack)
    assert glb.cycles == pytest.approx((operands + result) / slow, rel=slack)
    assert l2.cycles == pytest.approx(l2_reads / slow, rel=slack)


@pytest.mark.parametrize("price", PRICERS)
@pytest.mark.parametrize("bits", PRECISIONS_BITS)
def test_energy_of_a_product_that_fits_everywhere(price: Pricer, bits: int):
    """Each operand once through each memory, by hand; ZigZag drops what is less than a line."""
    m, k, n = gemm = (1, 512, 64)
    word = bits / 8
    c = ROUND
    size_i, size_w, size_o = (word * x for x in (m * k, k * n, m * n))
    moved = size_i + size_w + size_o
    expected = (
        m * k * n * (c.mac_pj + word * c.register_read_pj)
        + size_w * c.register_write_pj
        + moved * (c.l2_read_pj + c.l2_write_pj + c.glb_read_pj + c.glb_write_pj + c.dram_pj)
    )
    slack = 0.02 if isinstance(price, ZigZag) else 1e-3
    assert price(point(bits, gemm)).energy_pj == pytest.approx(expected, rel=slack)


@pytest.mark.parametrize("bits", PRECISIONS_BITS)
def test_surrogates_lower_bounds_are_below_and_in_bytes(bits: int):
    """What a learned surrogate corrects; the features besides are finite at every precision."""
    (m, k, n), chip = GEMMS[0], CHIPS[1]
    # 2 channels x 2 bytes x 2,500 MT/s, half of it, at 625 MHz: 8 bytes a cycle.
    memory = Scenario(precision_bits=bits, dram_data_rate_mts=2500.0, dram_usable_share=0.5)
    asked = points([((m, k, n), chip)], memory)
    seen = Points.of(asked)
    low = bounds(*seen)
    assert float(low.load[0]) == pytest.approx(bits / 8 * (m * k + k * n) / 8.0)
    assert float(low.store[0]) == pytest.approx(bits / 8 * m * n / 8.0)
    sample = Exact()(asked[0])
    assert float(low.cycles[0]) <= sample.cycles and float(low.energy_pj[0]) <= sample.energy_pj
    assert np.isfinite(observe("learned", seen).features).all()


@pytest.mark.parametrize("price", PRICERS[:2])
@pytest.mark.parametrize("bits", PRECISIONS_BITS)
def test_partial_sums_have_32_bits_at_every_precision(price: Pricer, bits: int):
    """Two blocks of registers along k: the sums of the first go to L2 and come back.

    Rows innermost (weights are loaded once): 4 bytes a sum each way, whatever a word is.
    """
    m, k, n = gemm = (512, 1024, 64)
    word = bits / 8
    chip = dataclasses.replace(CHIP, l2_kib=4096, glb_mib=16, l2_bytes_per_cycle=1.0)
    sample = price(point(bits, gemm, chip))
    l2_reads = word * (m * k + k * n + m * n) + 4 * m * n
    first_registers = word * 32 * chip.pe_y * n  # before the array can start
    assert sample.cycles == pytest.approx((l2_reads + first_registers) / 1.0, rel=0.01)


@pytest.mark.parametrize("price", PRICERS[:2])
def test_where_sums_stay_in_accumulators_only_bytes_a_word_count(price: Pricer):
    """Twice as wide words, buffers and ports: the same mapping in the same time."""
    for m, k, n in ((197, 512, 256), (50, 64, 768), (77, 300, 1000)):
        for chip in CHIPS:
            if k > 32 * chip.pe_y:
                continue
            at_8 = price(point(8, (m, k, n), chip, dram_bytes_per_cycle=16.0))
            for bits in (4, 16):
                r = bits / 8
                wide = dataclasses.replace(
                    chip,
                    l2_kib=r * chip.l2_kib,
                    glb_mib=r * chip.glb_mib,
                    l2_bytes_per_cycle=r * chip.l2_bytes_per_cycle,
                )
                moved = [x for x in vars(ROUND) if x.endswith("_pj") and x not in PER_CYCLE_OR_MAC]
                costs = {name: getattr(ROUND, name) / r for name in moved}
                rates = {"dram_bytes_per_cycle": r * 16.0, "glb_bytes_per_cycle": r * 1024.0}
                sample = price(point(bits, (m, k, n), wide, **costs, **rates))
                assert sample.cycles == pytest.approx(at_8.cycles, rel=1e-6)
                assert sample.energy_pj == pytest.approx(at_8.energy_pj, rel=1e-6)


def test_a_rigid_array_takes_as_long_at_every_precision():
    """It knows no bytes; the mapper's array time is as free of them where nothing else limits."""
    gemm, chip = (4096, 512, 64), dataclasses.replace(CHIP, l2_kib=4096, glb_mib=16)
    cycles = [mapper(point(bits, gemm, chip)).cycles for bits in PRECISIONS_BITS]
    rigid = systolic_cycles(*gemm, rows=chip.pe_y, columns=chip.pe_x)
    for found in cycles:
        assert found == pytest.approx(rigid, rel=0.05)
        assert found >= math.prod(gemm) / chip.pes


@dataclasses.dataclass(frozen=True)
class Eight:
    """An oracle that says nothing of precisions."""

    name: str = "eight"

    def fingerprint(self) -> str:
        return "v1"

    def __call__(self, p: Point) -> Sample:
        return Sample(1.0, 1.0)


def test_an_oracle_is_asked_only_for_what_it_prices():
    asked = {bits: point(bits, GEMMS[1]) for bits in PRECISIONS_BITS}
    found = collect(Eight(), asked.values(), cache=None, processes=0, progress=False)
    assert list(found.answers) == [asked[8]]
    assert found.failures[asked[16]] == "eight prices words of 8 bits, not of 16"
    for oracle in (make() for make in BUILT_IN.values()):
        assert oracle.precisions_bits == PRECISIONS_BITS
    with pytest.raises(OracleError, match="not stored"):
        _Shipped(Exact())(asked[16])


def test_stored_samples_answer_their_own_precision_only():
    """The package's are of 8 bits; a wider word's constants a byte may be the same."""
    pairs = stored_pairs(ZigZag(), SAMPLED_SCENARIO)[:20]
    wide = [
        p._replace(constants=dataclasses.replace(p.constants, precision_bits=16)) for p in pairs
    ]
    for asked, answers in ((pairs, 20), (wide, 0)):
        found = collect(_Shipped(ZigZag()), asked, cache=None, processes=0, progress=False)
        assert len(found.answers) == answers


def test_other_costings_are_refused_at_the_door():
    with pytest.raises(ValueError, match="oracles price physical costs, not catransformers"):
        Constants.of(CHIP, Scenario(costing="catransformers"))
