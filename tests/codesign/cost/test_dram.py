"""DRAM as a part: bandwidth, power, capacity, carbon and slopes against counts by hand."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.architecture import Architecture, Tower, clip_vit_b16
from codesign.cost import dram, tables
from codesign.cost.capacity import contents_bytes, weight_bytes
from codesign.cost.estimate import estimate
from codesign.cost.model import clip_costs
from codesign.cost.technology import area_breakdown_mm2
from codesign.cost.traffic import Traffic
from codesign.scenario import Scenario
from codesign.workload.clip import CLIP_FAMILY, ClipNetwork
from codesign.workload.memory import Memory

pytestmark = pytest.mark.usefixtures("quick_compilation")

CHIP = Accelerator(1.0, 16.0, 8.0, 16.0, 16.0, 0.25, 2.0)
SMALL = Architecture(
    vision=Tower(2, 64, 2, 128),
    text=Tower(1, 32, 1, 64),
    patch=8,
    image=32,
    context=9,
    projection=32,
    head_dim=32,
    vocab=500,
)
GIB = 2**30


def capacity(gib: float, channels: float = 2, **changes) -> float:
    scenario = Scenario(dram_system_gb=0.0, **changes)
    return float(dram.capacity_gb(gib * GIB, float(channels), scenario))


# --- what can be bought ----------------------------------------------------------------------


def test_every_part_has_a_source_and_what_a_part_has():
    rows = tables.rows("dram")
    assert {"lpddr4", "lpddr4x", "lpddr5", "lpddr5x", "ddr4"} <= {r["technology"] for r in rows}
    for row in rows:
        part = dram.part(Scenario(dram_technology=row["technology"]))
        assert len(row["source"]) > 60, row
        assert list(part.densities_gb) == sorted(set(part.densities_gb))
        assert 0.3 < part.usable_share < 0.9
        assert part.idle_mw < part.active_mw


def test_bandwidth_energy_and_phy_by_hand():
    """Two x16 channels of LPDDR4-3200: 12.8 GB/s, of which 56 % at 625 MHz."""
    port = dram.port(CHIP, Scenario())
    assert port.bytes_per_cycle == pytest.approx(12.8e9 * 0.56 / 625e6)
    assert port.access_pj == pytest.approx(8 * (8 + 1.83))
    assert port.standby_w == pytest.approx(2 * 37.875e-3, rel=1e-3)
    assert float(area_breakdown_mm2(CHIP, Scenario())["dram_phy"]) == pytest.approx(1.8)
    # 0.57 mm2 are assumed of 10 nm.
    assert dram.port(CHIP, Scenario(node_nm=10)).phy_mm2 / 2 == pytest.approx(0.57, rel=0.01)
    own = Scenario(dram_data_rate_mts=1600.0, dram_channel_bits=32, dram_usable_share=0.9)
    assert dram.port(CHIP, own).bytes_per_cycle == pytest.approx(12.8e9 * 0.9 / 625e6)
    assert dram.port(CHIP, own).phy_mm2 == pytest.approx(3.6)


def test_a_wide_channel_is_as_many_side_by_side():
    """One of 64 pins costs in all what four of the row's 16 do."""
    four = dataclasses.replace(CHIP, channels=4)
    one = dataclasses.replace(CHIP, channels=1)
    wide = Scenario(dram_channel_bits=64, dram_between="standby")
    narrow = dataclasses.replace(wide, dram_channel_bits=None)
    for architecture in (SMALL, clip_vit_b16()):
        got = estimate(architecture, one, wide)
        expected = estimate(architecture, four, narrow)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)


def test_reads_and_writes_take_turns():
    """Neither alone limits; the reference's costing has a way for each."""
    from codesign.cost import catransformers, physical
    from codesign.cost.technology import technology

    class Work:
        tech = dataclasses.replace(
            technology(CHIP, Scenario()), words_per_cycle={"dram": 4.0, "glb": 1.0}
        )

    moved = Traffic({"dram": 100.0}, {"dram": 60.0}, 0.0, 0.0)
    assert float(physical.dram_cycles(moved, Work, 2.0, 3.0)) == 40
    assert float(catransformers.dram_cycles(moved, Work, 2.0, 3.0)) == 28


def test_technologies_differ_in_all_of_it():
    ports = [dram.port(CHIP, Scenario(dram_technology=t)) for t in ("lpddr4", "lpddr4x", "lpddr5")]
    assert ports[0].bytes_per_cycle < ports[1].bytes_per_cycle < ports[2].bytes_per_cycle
    assert ports[0].access_pj > ports[1].access_pj > ports[2].access_pj
    with pytest.raises(ValueError, match=r"^scenario.dram_technology: unknown technology 'lpddr6'"):
        dram.port(CHIP, Scenario(dram_technology="lpddr6"))


# --- capacity ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gib", "channels", "expected"),
    [
        (0.001, 2, 0.25),
        (0.25, 2, 0.25),
        (0.2501, 2, 0.5),
        (0.6, 2, 0.75),
        (0.6, 1, 0.75),
        (0.1, 1, 0.125),
        (0.6, 8, 1.0),
        (3.9, 2, 4),
        (4.1, 2, 8),
        (11, 2, 12),
    ],
)
def test_capacity_is_of_devices_that_exist(gib, channels, expected):
    """Channels of 1, 2, 3, 4, 6, 8, 12 or 16 Gb, all alike, and ranks of the largest."""
    assert capacity(gib, channels) == pytest.approx(expected)


def test_capacity_as_asked_for():
    assert capacity(0.3, dram_capacity="continuous") == pytest.approx(0.3)
    assert capacity(0.3, dram_gb=2.0) == 2
    with_system = Scenario(dram_system_gb=0.1)
    assert float(dram.capacity_gb(0.2 * GIB, 2.0, with_system)) == pytest.approx(0.5)


def test_capacity_has_the_mean_slope_over_devices():
    """And value 1 a GB inside a device, where nothing changes."""
    of = lambda gib: dram.capacity_gb(gib * GIB, 2.0, Scenario(dram_system_gb=0.0))  # noqa: E731
    value, slope = jax.value_and_grad(of)(0.6)
    assert (float(value), float(slope)) == pytest.approx((0.75, 1.0))
    sizes = np.linspace(0.5, 4.0, 400)
    values = np.array([capacity(s) for s in sizes])
    mean = np.polyfit(sizes, values, 1)[0]
    assert mean == pytest.approx(1, abs=0.15)
    # In channels: what each leaves free.
    by_channel = jax.grad(lambda c: dram.capacity_gb(0.6 * GIB, c, Scenario(dram_system_gb=0.0)))
    assert float(by_channel(2.0)) == pytest.approx(0.375 - 0.3)


def test_contents_follow_precision_sparsity_and_what_runs():
    memory = Memory(weights=1000, cache=30, activations=20, prunable=600)
    byte = Scenario()
    assert contents_bytes(memory, byte) == 1050
    assert contents_bytes(memory, Scenario(precision_bits=16)) == 2100
    assert contents_bytes(memory, Scenario(precision_bits=4)) == 525
    # 8 bits of position beside 8 of value: a quarter kept takes half; more than half, all.
    packed = Scenario(index_bits=8)
    assert weight_bytes(memory, packed, 0.25) == 700
    assert weight_bytes(memory, packed, 0.75) == weight_bytes(memory, packed) == 1000
    clip = ClipNetwork(clip_vit_b16()).memory()
    assert clip.weights == 149_620_737
    assert clip.prunable == 12 * 12 * 768**2 + 12 * 12 * 512**2
    relaxed = jax.tree.map(jnp.float32, clip_vit_b16())
    for name, value in ClipNetwork(relaxed).memory()._asdict().items():
        assert float(value) == pytest.approx(getattr(clip, name), rel=1e-6), name


def test_class_texts_that_were_computed_once_leave_the_image_tower():
    """Its operators, its weights (with the logit scale), and of a table's designs too."""
    clip = ClipNetwork(clip_vit_b16())
    pairs, alone, twice = (clip.operators(texts) for texts in (1, 0, 2))
    image = sum(
        g.m * g.k * g.n * g.count * g.batch for g in pairs.gemms if g.name.startswith("vision")
    )
    assert alone.macs == image and twice.macs - pairs.macs == pairs.macs - image
    assert clip.memory(0).weights == 86_192_640 + 1
    assert clip.memory(0).prunable == 12 * 12 * 768**2
    assert clip.memory(2) == clip.memory()
    pair, classifier = (
        contents_bytes(CLIP_FAMILY.memory(clip_vit_b16(), s), s)
        for s in (Scenario(), Scenario(texts_per_image=0.0))
    )
    assert pair - classifier == 149_620_737 - 86_192_641


# --- what it takes to keep it, and to make it ---------------------------------------------------


def test_energy_between_inferences_by_hand():
    """6 h of use a day at two a second, 0.75 GB: 0.48 s idle and 1.5 s of the night each."""
    of = lambda between: dram.devices(  # noqa: E731
        0.75, 2.0, 1.0, 0.02, Scenario(inferences_per_s=2.0, dram_between=between)
    )
    assert float(of("self_refresh").between_j) == pytest.approx(1.2e-3 * (0.48 + 1.5))
    awake_w = 7.6e-3 * 0.75 + 2 * 6.3e-3
    assert float(of("standby").between_j) == pytest.approx(awake_w * 0.48 + 1.2e-3 * 1.5)
    assert float(of("off").between_j) == 0
    busy = dram.devices(0.75, 2.0, 1.0, 0.9, Scenario(inferences_per_s=2.0))
    assert float(busy.between_j) == pytest.approx(1.2e-3 * 1.5)
    assert float(busy.refresh_w) == pytest.approx(5.7e-3, rel=0.01)


@pytest.mark.parametrize("technology", sorted(tables.table(*dram.PARTS)))
def test_a_device_asleep_takes_no_more_than_one_awake(technology):
    for density in dram.part(Scenario(dram_technology=technology)).densities_gb:
        off, asleep, awake = (
            float(
                dram.devices(
                    2 * density,
                    2.0,
                    1.0,
                    0.02,
                    Scenario(dram_technology=technology, dram_between=between),
                ).between_j
            )
            for between in ("off", "self_refresh", "standby")
        )
        assert off == 0 < asleep <= awake


def test_carbon_of_dies_and_packages():
    made = dram.devices(1.5, 4.0, dram.packages(3.0, Scenario()), 0.01, Scenario(dram_yield=0.8))
    assert float(made.kgco2e["dram"]) == pytest.approx(1.5 * 0.048 / 0.8)
    assert float(made.kgco2e["dram_packages"]) == pytest.approx(2 * 0.150)
    stacked = dram.devices(1.5, 4.0, 2.0, 0.01, Scenario(dram_package_g=0.0))
    assert float(stacked.kgco2e["dram_packages"]) == 0


# --- through the whole model ----------------------------------------------------------------


def test_slopes_through_the_memory_system_are_differences():
    """Carbon and latency by channels, within a device; what has steps is left out by name."""
    scenario = Scenario(dram_capacity="continuous")

    def of(channels):
        costs = clip_costs(SMALL, dataclasses.replace(CHIP, channels=channels), scenario)
        packages = costs.breakdown["embodied_kgco2e"]["dram_packages"]
        return jnp.stack([costs.latency_s, costs.energy_j, costs.carbon_kgco2e - packages])

    # One program for values and slopes: it compiles for longer than it runs.
    with_slopes = jax.jit(jax.vmap(lambda channels: jax.jvp(of, (channels,), (1.0,))))
    step = 0.02
    values, slopes = with_slopes(jnp.array([2 - step, 2.0, 2 + step]))
    differences = (values[2] - values[0]) / (2 * step)
    assert float(slopes[1, 0]) < 0 < float(slopes[1, 2])
    np.testing.assert_allclose(slopes[1], differences, rtol=0.02)


def test_codesign_cost_tells_the_capacity(tmp_path, capsys):
    from codesign.cli import main

    path = tmp_path / "clip.json"
    tower = {"layers": 1, "width": 64, "heads": 1, "ffn": 64}
    path.write_text(
        json.dumps(
            {
                "architecture": {"vision": tower, "text": tower},
                "accelerator": {"channels": 4},
                "scenario": {"dram_technology": "lpddr4x", "precision_bits": 16},
            }
        )
    )
    assert main(["cost", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accelerator"]["channels"] == 4
    assert found["costs"]["dram_gb"] == 0.5
    assert found["costs"]["breakdown"]["embodied_kgco2e"]["dram_packages"] == pytest.approx(0.3)
