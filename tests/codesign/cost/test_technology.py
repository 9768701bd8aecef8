"""Energy, area and standing power by node and precision, against the sources' own numbers."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.cost import sram
from codesign.cost.scaling import nodes_nm, scaling
from codesign.cost.technology import Technology, area_breakdown_mm2, technology
from codesign.costing import default_scenario
from codesign.scenario import Scenario
from simulators.events import event

pytestmark = pytest.mark.usefixtures("quick_compilation")

CHIP = jax.tree.map(float, Accelerator(2, 64, 16, 256, 64, 4))
PES, COLUMNS = 2 * 64 * 16, 2 * 64


# No way from the GLB to a core that depends on the cores' size.
ONE_CORE = dataclasses.replace(CHIP, cores=1.0)


def at(chip: Accelerator = CHIP, **changes) -> Technology:
    return technology(chip, Scenario(**changes))


# --- energy that passes with time ----------------------------------------------------------


def test_leakage_by_hand():
    """Aladdin's leakage at 40 nm (uW) and area (um2): a multiplier and adder, a flip-flop."""
    mac_density = (77.86 / 16 + 2.25) / (6350 / 16 + 278) * 0.338453 / 0.36641
    bit_density = 0.07395 / 5.98 * 0.338453 / 0.36641
    mac, latch, bit = 164.185 * mac_density, 0.505763 * bit_density, 1.39054 * bit_density
    logic_uw = PES * (mac + 256 * latch + 8 * bit) + COLUMNS * 32 * bit + COLUMNS * (mac + 96 * bit)
    logic_uw += 1540.8 + 129.008  # control, and the second core's router
    sram_mw = sram.cacti("leakage_mw", 4096, 64) + 2 * sram.cacti("leakage_mw", 256, 64)
    by_hand = (logic_uw * 1e-6 + sram_mw * 1e-3) / 625e6 * 1e12
    assert float(at().leakage_pj) == pytest.approx(by_hand, rel=0.01)


def test_clock_by_hand():
    """7.94 fJ a flip-flop and cycle at 40 nm: 8 and a gate a PE, 12 a lane, 32 bits a column."""
    by_hand = 0.007936518 * 0.338453 * (PES * 9 + COLUMNS * (12 + 32))
    assert float(at().clock_pj) == pytest.approx(by_hand, rel=1e-4)
    # Per cycle: a slower clock does not change it.
    assert float(at(clock_mhz=100.0).clock_pj) == pytest.approx(by_hand, rel=1e-4)
    # A tenth to two fifths of a busy array's power is the usual share of a clock.
    busy = PES * float(at().mac_pj + at().read_pj["register"])
    assert 0.1 < float(at().clock_pj) / (busy + float(at().clock_pj)) < 0.4


def test_dram_background_by_hand():
    """LPDDR4 data sheet: IDD3N of a channel at its three supplies, whatever its capacity."""
    standby_mw = 2.25 * 1.8 + 30 * 1.1 + 0.75 * 1.1
    by_hand = CHIP.channels * standby_mw * 1e-3 / 625e6 * 1e12
    for gb in (None, 0.0, 4.0):
        assert float(at(dram_gb=gb).dram_background_pj) == pytest.approx(by_hand, rel=1e-3)
    more = dataclasses.replace(CHIP, channels=4.0)
    assert float(technology(more, Scenario()).dram_background_pj) == pytest.approx(
        2 * float(at().dram_background_pj)
    )


def test_static_energy_is_the_sum_and_slower_clocks_pay_more():
    fast, slow = at(), at(clock_mhz=312.5)
    parts = ("leakage_pj", "clock_pj", "control_pj", "dram_background_pj")
    assert float(fast.static_pj) == pytest.approx(sum(float(getattr(fast, p)) for p in parts))
    for part in ("leakage_pj", "dram_background_pj"):
        assert float(getattr(slow, part)) == pytest.approx(2 * float(getattr(fast, part)))


def test_control_takes_its_energy_every_cycle():
    assert float(at().control_pj) == pytest.approx(31.9675)
    assert float(at(node_nm=16).control_pj) == pytest.approx(31.9675 * 0.173548 / 0.294108, 1e-4)


def test_words_of_the_glb_are_carried_to_the_cores():
    """0.778 pJ a byte and mm over sqrt(C) - 1 cores as wide as the root of their area."""
    glb_pj, read = {}, {}
    for cores in (1, 4, 16):
        chip = jax.tree.map(float, Accelerator(cores, 64, 16, 256, 64, 4))
        tech, area = technology(chip, Scenario()), area_breakdown_mm2(chip, Scenario())
        pitch_mm = float((area["pe"] + area["vector"] + area["l2"]) / cores) ** 0.5
        glb_pj[cores] = 0.778119 * pitch_mm * (cores**0.5 - 1)
        read[cores] = float(tech.read_pj["glb"])
        assert float(tech.write_pj["glb"] - tech.read_pj["glb"]) == pytest.approx(
            float(technology(CHIP, Scenario()).write_pj["glb"] - at().read_pj["glb"]), abs=1e-5
        )
    assert glb_pj[1] == 0
    for cores in (4, 16):
        assert read[cores] - read[1] == pytest.approx(glb_pj[cores], rel=1e-4)


def test_a_slope_in_the_number_of_cores():
    """Area, leakage and the way to the cores, against central differences."""

    def whole(cores):
        chip = dataclasses.replace(CHIP, cores=cores)
        tech = technology(chip, Scenario())
        area = sum(area_breakdown_mm2(chip, Scenario()).values())
        return area + tech.read_pj["glb"] + 1e-2 * tech.static_pj

    for cores in (1.0, 2.0, 5.5):
        slope = jax.grad(whole)(cores)
        rise = (whole(cores + 0.125) - whole(cores - 0.125)) / 0.25
        assert float(slope) == pytest.approx(float(rise), rel=0.01) and slope > 0


# --- node ----------------------------------------------------------------------------------


def test_logic_follows_stillmaker_and_baas():
    """Energy and area over 45 nm: 0.659 and 0.460 at 32, 0.0943 and 0.059 at 7; 22 between."""
    energy22 = 0.65934 + (0.221061 - 0.65934) * 10 / 12
    area22 = 0.46 + (0.21 - 0.46) * 10 / 12
    for nm, energy, area in (
        (45, 1, 1),
        (32, 0.65934, 0.46),
        (20, 0.221061, 0.21),
        (10, 0.117766, 0.1),
        (7, 0.094309, 0.059),
    ):
        factors = scaling(nm)
        assert factors.logic_energy == pytest.approx(energy / energy22, rel=1e-4)
        assert factors.logic_area == pytest.approx(area / area22, rel=1e-4)
        assert float(at(node_nm=nm).mac_pj) == pytest.approx(0.148202 * energy / energy22, 1e-4)
        pe = area_breakdown_mm2(CHIP, Scenario(node_nm=nm))["pe"]
        pe_22 = area_breakdown_mm2(CHIP, Scenario())["pe"]
        assert float(pe / pe_22) == pytest.approx(area / area22, rel=1e-4)


@pytest.mark.parametrize(
    ("nm", "read_pj", "write_pj", "area_mm2", "leakage_mw"),
    [(32, 52.0282, 41.2264, 1.6503, 0.0419081), (45, 93.5192, 76.1829, 3.26283, 0.0249626)],
)
def test_sram_follows_cacti_at_its_own_nodes(nm, read_pj, write_pj, area_mm2, leakage_mw):
    """CACTI at 1 MiB and 8 bytes, 32 and 45 nm, against our 22 nm law times the factor."""
    factors = scaling(nm)
    law = {q: float(sram.law(q, 1024.0, 8.0)) for q in sram.QUANTITIES}
    for factor, quantity, truth in (
        (factors.sram_read, "read_pj_per_access", read_pj),
        (factors.sram_write, "write_pj_per_access", write_pj),
        (factors.sram_area, "area_mm2", area_mm2),
        (factors.sram_leakage, "leakage_mw", leakage_mw),
    ):
        assert factor * law[quantity] == pytest.approx(truth, rel=0.12)


def test_nodes_change_what_they_should():
    """Finer is never dearer or larger; DRAM keeps its energy; 22 nm is the table itself."""
    assert all(x == 1.0 for x in scaling(22))
    techs = [at(node_nm=nm) for nm in sorted(nodes_nm())]
    areas = [
        sum(area_breakdown_mm2(CHIP, Scenario(node_nm=nm)).values()) for nm in sorted(nodes_nm())
    ]
    for field in (
        "mac_pj",
        "register_read_pj",
        "lane_pj",
        "l2_read_pj",
        "glb_write_pj",
        "clock_pj",
    ):
        values = [float(event(tech, field)) for tech in techs]
        assert (np.diff(values) > 0).all(), field
    assert (np.diff(np.array(areas, float)) > 0).all()
    assert len({float(tech.read_pj["dram"]) for tech in techs}) == 1
    assert len({float(tech.dram_background_pj) for tech in techs}) == 1


def test_published_bitcells_shrink_like_the_rule():
    """High-density 6T cells, um2: 0.092 at 22, 0.070 at 16, 0.042 at 10, 0.027 at 7 nm."""
    for nm, cell in ((16, 0.070), (10, 0.042), (7, 0.027)):
        assert scaling(nm).sram_area == pytest.approx(cell / 0.092, rel=0.25)


# --- precision -----------------------------------------------------------------------------


def test_multipliers_grow_with_the_square_of_the_word():
    """Against Horowitz (ISSCC 2014, 45 nm, pJ): multiply 0.2 at 8 bits, 3.1 at 32; add 0.1."""
    adder = 0.0524555
    eight, sixteen, four = (float(at(precision_bits=b).mac_pj) - adder for b in (8, 16, 4))
    assert sixteen / eight == pytest.approx(4, rel=1e-5)
    assert eight / four == pytest.approx(4, rel=1e-5)
    # Horowitz's exponent between 8 and 32 bits is log(15.5) / log 4 = 1.98.
    assert np.log(sixteen / eight) / np.log(2) == pytest.approx(np.log(15.5) / np.log(4), abs=0.03)


def test_words_follow_the_precision():
    byte = at(ONE_CORE)
    for bits in (4, 16):
        tech, ratio = at(ONE_CORE, precision_bits=bits), bits / 8
        for field in (
            "register_read_pj",
            "register_write_pj",
            "l2_read_pj",
            "l2_write_pj",
            "glb_read_pj",
            "glb_write_pj",
            "dram_pj",
            "word_bytes",
        ):
            assert float(event(tech, field)) == pytest.approx(ratio * float(event(byte, field))), (
                field
            )
        # Bandwidths are of bytes; sums keep their 32 bits.
        for field in ("dram_words_per_cycle", "glb_words_per_cycle", "partial_sum_words"):
            assert float(event(tech, field)) == pytest.approx(float(event(byte, field)) / ratio)
        area, area_8 = (area_breakdown_mm2(CHIP, Scenario(precision_bits=b)) for b in (bits, 8))
        assert all(float(area[part]) == float(area_8[part]) for part in ("l2", "glb"))
        mac, bit = (164.185 - 55.1775) * ratio**2 + 55.1775, 1.39054
        pes = PES * (mac + 32 * bits * 0.505763 + bits * bit) + COLUMNS * 32 * bit
        assert float(area["pe"]) == pytest.approx(1e-6 * pes, rel=1e-5)


def test_eight_bits_at_22_nm_are_the_component_table():
    tech = at(ONE_CORE)
    assert float(tech.mac_pj) == pytest.approx(0.148202)
    assert float(tech.lane_pj) == pytest.approx(0.148202 + 0.0195702 + 2 * 0.0260936)
    # CACTI's 256 KiB and 4 MiB of 64 bytes, times what silicon takes over it.
    assert float(tech.read_pj["l2"]) == pytest.approx(2.58425 * 50.7165 / 64, rel=0.01)
    assert float(tech.read_pj["glb"]) == pytest.approx(2.58425 * 239.623 / 64, rel=0.01)
    assert float(tech.word_bytes) == 1 and float(tech.partial_sum_words) == 4


# --- the other costing ---------------------------------------------------------------------


def test_the_reference_charges_no_standing_power_and_knows_one_process():
    scenario = default_scenario("catransformers")
    assert float(technology(CHIP, scenario).static_pj) == 0
    for changes in ({"precision_bits": 16}, {"node_nm": 7}):
        with pytest.raises(ValueError, match="catransformers knows 8 bits at 22 nm"):
            technology(CHIP, dataclasses.replace(scenario, **changes))
