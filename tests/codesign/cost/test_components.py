"""Components: means of published silicon, brought to 22 nm; sets drawn from its ranges."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.cost import tables
from codesign.cost.components import SRAM_QUANTITIES, nominal, sampled
from codesign.cost.published import at_22_nm, published
from codesign.cost.scaling import scaling
from codesign.cost.technology import area_breakdown_mm2, technology
from codesign.costing import CATRANSFORMERS, PHYSICAL
from codesign.scenario import Scenario

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Components of the table and the part and quantity of silicon.csv that they are the mean of.
DERIVED = {
    ("mac", "area_um2"): "mac",
    ("mac", "energy_pj"): "mac",
    ("lane_mac", "area_um2"): "mac",
    ("lane_mac", "energy_pj"): "mac",
    ("accumulator_adder", "area_um2"): "accumulator_adder",
    ("accumulator_adder", "energy_pj"): "accumulator_adder",
    ("register_bit", "area_um2"): "register_bit",
    ("flip_flop_bit", "area_um2"): "flip_flop_bit",
    ("register_clock", "energy_pj"): "clock",
    ("control", "area_um2"): "control",
    ("control", "energy_pj"): "control",
    ("pads", "area_um2"): "pads",
    ("router", "area_um2"): "router",
    ("wire", "energy_pj"): "wire",
    ("weight_register_read", "energy_pj"): "register_access",
    ("lane_register_read", "energy_pj"): "lane_register_access",
}


@pytest.mark.parametrize(("component", "part"), DERIVED.items())
def test_components_are_the_means_of_silicon(component, part):
    name, column = component
    assert nominal(PHYSICAL).of(name, column) == pytest.approx(
        published(part, column).nominal, rel=1e-4
    )


def test_sram_factors_are_the_means_of_silicon():
    for name, quantity in SRAM_QUANTITIES.items():
        assert nominal(PHYSICAL).sram[name] == pytest.approx(
            published("sram", quantity).nominal, rel=1e-4
        )


def test_rows_at_22_nm_by_hand():
    """Logic by Stillmaker and Baas; an SRAM over CACTI's law of its size, by CACTI's nodes."""
    rows = {row["source"]: row for row in tables.rows("silicon")}
    horowitz = next(row for source, row in rows.items() if "137 um2" in source)
    assert at_22_nm(horowitz) == pytest.approx(419 * 0.251667)
    tpu = next(row for row in rows.values() if row["capacity_kib"] == "24576")
    # 29 % of 331 mm2 in 24 MiB; CACTI's 16 MiB of 128 bytes is 15.6 mm2 at 22 nm.
    at_22 = 95.99 / 24 * 16 / scaling(28).sram_area
    assert at_22_nm(tpu) == pytest.approx(at_22 / 15.6, rel=0.1)
    with pytest.raises(ValueError, match="nothing is published of the area_um2 of 'core'"):
        published("core", "area_um2")


def test_every_row_is_within_its_range_and_has_a_source():
    for row in tables.rows("silicon"):
        found = published(row["part"], row["quantity"])
        assert 0 < found.low <= at_22_nm(row) <= found.high
        assert found.low <= found.nominal <= found.high
        assert row["source"].strip()


def test_published_memories_and_arrays_within_a_factor():
    """A 28 nm buffer of 24 MiB has some 96 mm2; ITA's 1,024 MACs 0.173 mm2 at 22 nm."""
    buffer = jax.tree.map(float, Accelerator(1, 256, 256, 64, 64, 24))
    scenario = Scenario(node_nm=28, glb_bytes_per_cycle=256.0)
    assert 96 / 1.5 < float(area_breakdown_mm2(buffer, scenario)["glb"]) < 96 * 1.5
    ita = jax.tree.map(float, Accelerator(1, 16, 64, 64, 64, 1))
    area = area_breakdown_mm2(ita, Scenario())
    assert 0.173 / 2 < float(area["pe"] + area["vector"]) < 0.173 * 2
    tech = technology(ita, Scenario(clock_mhz=500.0))
    a_mac = tech.mac_pj + tech.read_pj["register"] + tech.clock_pj / 1024
    assert 16.9 / 2 < 2 / float(a_mac) < 16.9 * 2


@pytest.mark.parametrize(
    ("name", "chip", "nm", "without", "published"),
    [
        # Jouppi et al., ISCA 2017: 67 % of at most 331 mm2 are parts that the template has.
        ("TPUv1", (1, 256, 256, 4096, 256, 24), 28, (), 222),
        # The NVDLA primer's table of configurations.
        ("2,048 MACs, 512 KB", (1, 32, 64, 512, 128, 1 / 64), 28, (), 5.5),
        ("2,048 MACs, 512 KB", (1, 32, 64, 512, 128, 1 / 64), 16, (), 3.3),
        ("64 MACs, 128 KB", (1, 8, 8, 128, 32, 1 / 64), 28, (), 0.91),
        # ITA with its 64 KiB, a block beside its host (arXiv 2307.03493).
        ("ITA", (1, 16, 64, 64, 64, 1 / 64), 22, ("control",), 0.407),
        # Simba's area breakdown: 16 PEs, the global PE and the core.
        ("Simba", (16, 8, 8, 43, 64, 1 / 16), 16, (), 1.77),
    ],
)
def test_published_chips_have_half_to_twice_our_area(name, chip, nm, without, published):
    areas = area_breakdown_mm2(Accelerator(*map(float, chip)), Scenario(node_nm=nm))
    without = (*without, "pads", "dram_phy")
    ours = float(sum(x for part, x in areas.items() if part not in without))
    assert published / 2 < ours < published * 2, name


def test_samples_are_within_the_ranges_and_reproducible():
    drawn, base = sampled(PHYSICAL, 4000, seed=1), nominal(PHYSICAL)
    again = sampled(PHYSICAL, 4000, seed=1)
    jax.tree.map(np.testing.assert_array_equal, drawn, again)
    for (name, column), part in DERIVED.items():
        if name in ("accumulator_adder", "lane_register_read"):  # vary as what they belong to
            continue
        values, found = drawn.of(name, column), published(part, column)
        inside = np.mean((values >= found.low) & (values <= found.high))
        assert inside == pytest.approx(0.9, abs=0.02)
        assert math.exp(np.median(np.log(values))) == pytest.approx(found.nominal, rel=0.05)
    # What belongs together varies together, and what is no silicon does not.
    adder = drawn.of("accumulator_adder", "area_um2") / base.of("accumulator_adder", "area_um2")
    mac = drawn.of("mac", "area_um2") / base.of("mac", "area_um2")
    np.testing.assert_allclose(adder, mac, rtol=1e-5)
    assert not np.array_equal(sampled(PHYSICAL, 4000, seed=2).of("mac"), drawn.of("mac"))


def test_a_technology_of_samples_is_that_of_each():
    chip, drawn = jax.tree.map(np.float32, Accelerator()), sampled(PHYSICAL, 3)
    batch = jax.vmap(lambda c: technology(chip, Scenario(), c))(drawn)
    third = technology(chip, Scenario(), jax.tree.map(lambda x: x[2], drawn))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[2], y, rtol=1e-5), batch, third)
    assert np.ptp(batch.mac_pj) > 0 and np.ptp(batch.read_pj["glb"]) > 0


def test_the_reference_has_no_ranges():
    with pytest.raises(ValueError, match="catransformers costing has no ranges"):
        sampled(CATRANSFORMERS, 2)
