"""SRAM laws: monotone, smooth, and as near to CACTI as benchmarks/fit_sram.py says."""

from __future__ import annotations

import importlib.resources
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign.cost import sram

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Mean and worst error on the sizes between powers of two, which the fit did not see, and
# on the sizes of the design grid.
HELD_OUT = {
    "read_pj_per_access": (0.055, 0.18),
    "write_pj_per_access": (0.03, 0.12),
    "area_mm2": (0.045, 0.26),
    "leakage_mw": (0.03, 0.12),
}
DESIGN_GRID = {
    "read_pj_per_access": (0.005, 0.015),
    "write_pj_per_access": (0.005, 0.015),
    "area_mm2": (0.05, 0.19),
    "leakage_mw": (0.02, 0.06),
}
L2_SIZES = list(itertools.product((64, 128, 256, 512, 1024), (32, 64, 128)))
GRID_SIZES = [*L2_SIZES, (2048, 64), (4096, 64), (8192, 64)]


@pytest.fixture(scope="module")
def cacti() -> np.ndarray:
    path = importlib.resources.files("codesign.cost.data") / "sram_cacti_22nm.csv"
    return np.genfromtxt(str(path), delimiter=",", names=True, skip_header=2)


laws = jax.jit(lambda c, w: {q: sram.law(q, c, w) for q in sram.QUANTITIES})


@pytest.mark.parametrize("quantity", sram.QUANTITIES)
def test_error_on_held_out_sizes(cacti, quantity):
    capacity = cacti["capacity_bytes"] / 1024
    between = np.log2(capacity) % 1 != 0
    error = sram.law(quantity, capacity, cacti["width_bits"] / 8) / cacti[quantity] - 1
    assert between.sum() == 36 and len(cacti) == 114
    mean, worst = HELD_OUT[quantity]
    assert abs(error[between]).mean() <= mean < 0.1
    assert abs(error[between]).max() <= worst
    assert abs(error.mean()) < 0.01


@pytest.mark.parametrize("quantity", sram.QUANTITIES)
def test_error_on_the_design_grid(quantity):
    capacity, width = np.array(GRID_SIZES, float).T
    truth = np.array([sram.cacti(quantity, c, w) for c, w in GRID_SIZES])
    error = abs(sram.law(quantity, capacity, width) / truth - 1)
    mean, worst = DESIGN_GRID[quantity]
    assert error.mean() <= mean
    assert error.max() <= worst


def test_monotone_and_smooth_on_a_fine_grid():
    """1.5 KiB to 100 MiB, past the table at both ends, and widths of 1 to 512 bytes."""
    octaves = np.linspace(0.6, 16.6, 801)
    capacity, width = np.meshgrid(2.0**octaves, np.geomspace(1, 512, 60), indexing="ij")
    for quantity, values in laws(capacity, width).items():
        log = np.log2(np.asarray(values, np.float64))
        assert (np.diff(log, axis=0) > -1e-5).all(), quantity
        # With width inside the table: past it, continuations of two widths may cross.
        assert (np.diff(log[(octaves >= 2) & (octaves <= 14)], axis=1) > -1e-5).all(), quantity
        # Rising with capacity everywhere, if slowly where CACTI hardly rises.
        assert (log[50:] - log[:-50] > 0.005).all(), quantity
        # No kinks: over 1/50 of an octave a quadratic spline's slope hardly changes.
        slope = np.diff(log[::10], axis=0) / (10 * 0.02)
        assert abs(np.diff(slope, axis=0)).max() < 0.4, quantity


def test_derivatives_are_the_slopes():
    """Those of logarithms, against central differences, on and off the powers of two."""
    octaves = jnp.array([1.0, 2.0, 4.3, 5.0, 6.5, 7.0, 7.75, 10.0, 12.0, 14.0, 15.2])
    for quantity in sram.QUANTITIES:
        log = jax.jit(lambda t, q=quantity: jnp.log2(sram.law(q, 2.0**t, 48.0)))
        slope = jax.jit(jax.vmap(jax.grad(log)))(octaves)
        step = 1 / 16
        rise = (log(octaves + step) - log(octaves - step)) / (2 * step)
        np.testing.assert_allclose(slope, rise, atol=0.02)
        assert (np.asarray(slope) > 0).all()


def test_law_by_hand():
    """At 16 KiB and 8 bytes, 3/4 of each coefficient and 1/8 of its neighbours'."""
    t = {}
    for row in sram.rows("sram_law_22nm"):
        if row["quantity"] == "write_pj_per_access":
            t[row["width_bytes"]] = {c: float(row[c]) for c in ("8", "16", "32")}
    shares = {"8": 1 / 8, "16": 3 / 4, "32": 1 / 8}
    widths = {"4": 1 / 8, "8": 3 / 4, "16": 1 / 8}
    product = 1.0
    for w, by_width in widths.items():
        for c, by_capacity in shares.items():
            product *= t[w][c] ** (by_width * by_capacity)
    assert float(sram.law("write_pj_per_access", 16.0, 8.0)) == pytest.approx(product, rel=1e-5)


def test_units_and_edges_of_width():
    read, milliwatt = (sram.law(q, 256.0, 32.0) for q in ("read_pj_per_access", "leakage_mw"))
    assert float(sram.read_pj_per_byte(256.0, 32.0)) == pytest.approx(float(read) / 32)
    assert float(sram.leakage_w(256.0, 32.0)) == pytest.approx(1e-3 * float(milliwatt))
    for law in (sram.read_pj_per_byte, sram.write_pj_per_byte):
        assert float(law(1024.0, 512.0)) == float(law(1024.0, 128.0))
    # A port of one byte opens the same four-byte array.
    assert float(sram.write_pj_per_byte(64.0, 1.0)) == pytest.approx(
        4 * float(sram.write_pj_per_byte(64.0, 4.0))
    )


@pytest.mark.parametrize("law", [sram.area_mm2, sram.leakage_w])
def test_a_port_of_several_arrays_costs_more(law):
    """Four arrays of 4 KiB, 128 bytes wide, are a memory of 16 KiB and 512 bytes."""
    assert float(law(16.0, 512.0)) == pytest.approx(4 * float(law(4.0, 128.0)), rel=0.1)
    for capacity in (4.0, 64.0, 256.0, 1024.0, 4096.0):
        widths = np.array([128.0, 192.0, 256.0, 512.0])
        grown = np.diff([float(law(capacity, w)) for w in widths])
        assert (grown > 0).all()
        np.testing.assert_allclose(grown, grown[0] * np.array([1, 1, 4]), rtol=2e-2)


def test_large_memories_are_banks():
    """Beyond 128 MiB, to 64 GiB: twice the banks, twice the cells, longer wires."""
    sizes = 1024.0 * np.array([128.0, 256.0, 1024.0, 65536.0])
    for quantity, values in laws(sizes, np.full(4, 64.0)).items():
        grown = np.log2(np.asarray(values, float)[1:] / np.asarray(values, float)[0])
        exponent = grown / np.array([1.0, 3.0, 9.0])
        if quantity in ("area_mm2", "leakage_mw"):
            np.testing.assert_allclose(exponent, 1.0, rtol=1e-4)
        else:
            assert (exponent > 0.4).all() and (exponent < 0.7).all(), quantity
    areas = [float(sram.area_mm2(1024.0 * mib, 64.0)) for mib in (120, 127, 128, 129, 140)]
    assert (np.diff(areas) > 0).all()


def test_past_the_table_the_law_is_a_power_of_capacity():
    c = np.array([16.0, 32.0, 64.0, 128.0]) * 1024
    for values in laws(c, np.full(4, 64.0)).values():
        steps = np.diff(np.log(np.asarray(values, float)))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


def test_cacti_rows():
    assert sram.cacti("read_pj_per_access", 128, 128) == 38.7216
    assert sram.cacti("area_mm2", 64, 32) == 0.0650164
    with pytest.raises(ValueError, match=r"no CACTI array of 100 KiB and 64 bytes wide"):
        sram.cacti("area_mm2", 100, 64)
    with pytest.raises(ValueError, match=r"unknown quantity 'area'; did you mean 'area_mm2'"):
        sram.cacti("area", 64, 64)


# --- the published reference's buffers ------------------------------------------------------


def test_reference_buffer_is_exact_at_its_sizes():
    """64 KiB: half of CACTI's 7.68413 and 6.16188 pJ, and 1.586 and 2 pJ of addresses."""
    at = jax.jit(sram.buffer_reference)(jnp.array([64.0, 4096.0]))
    np.testing.assert_allclose(at.read_pj, [5.42836, 34.3381], rtol=2e-6)
    np.testing.assert_allclose(at.write_pj, [5.08094, 30.6466], rtol=2e-6)
    np.testing.assert_allclose(at.area_mm2, [0.105921, 6.20751], rtol=2e-6)
    assert float(at.read_pj[0]) == pytest.approx(0.5 * 7.68413 + 1.586, rel=1e-3)
    assert float(at.write_pj[0]) == pytest.approx(0.5 * 6.16188 + 2.0, rel=1e-3)


def test_reference_buffer_between_and_past_its_sizes():
    """Straight in logarithms: half way from 64 to 96 KiB is the geometric mean."""
    middle = float(sram.buffer_reference((64 * 96) ** 0.5).area_mm2)
    assert middle == pytest.approx((0.105921 * 0.172317) ** 0.5, rel=1e-5)
    capacity = np.geomspace(1, 65536, 300)
    for values in sram.buffer_reference(capacity):
        assert (np.diff(values) > 0).all()
