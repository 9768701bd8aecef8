"""SRAM laws: monotone, and as near to CACTI as benchmarks/fit_sram.py says."""

from __future__ import annotations

import importlib.resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.cost import sram

LAWS = {
    "read_pj_per_access": sram.access_law,
    "write_pj_per_access": sram.access_law,
    "area_mm2": sram.area_law,
    "leakage_mw": sram.leakage_law,
}
# Mean error over the CACTI table, and on every fourth row, which the fit did not see.
MEAN_ERROR = {
    "read_pj_per_access": 0.10, "write_pj_per_access": 0.06, "area_mm2": 0.105, "leakage_mw": 0.05,
}


@pytest.fixture(scope="module")
def cacti() -> np.ndarray:
    path = importlib.resources.files("codesign.cost.data") / "sram_cacti_22nm.csv"
    return np.genfromtxt(str(path), delimiter=",", names=True, skip_header=2)


@pytest.mark.parametrize("quantity", LAWS)
def test_error_against_cacti(cacti, quantity):
    law = LAWS[quantity](
        sram._law(quantity), cacti["capacity_bytes"] / 1024, cacti["width_bits"] / 8
    )
    error = law / cacti[quantity] - 1
    held_out = np.arange(len(cacti)) % 4 == 1
    assert len(cacti) > 100
    assert abs(error).mean() <= MEAN_ERROR[quantity]
    assert abs(error[held_out]).mean() <= 1.15 * MEAN_ERROR[quantity]
    assert abs(error.mean()) < 0.04


capacity = st.floats(4, 8192)
width = st.floats(4, 128)
factor = st.floats(1.01, 4)


@given(capacity, width, factor)
def test_more_capacity_or_width_never_costs_less(capacity, width, factor):
    for quantity, law in LAWS.items():
        p = sram._law(quantity)
        here = law(p, capacity, width)
        assert here > 0
        assert law(p, factor * capacity, width) >= here
        assert law(p, capacity, factor * width) >= here


@given(capacity, width)
def test_per_byte_is_per_access_over_its_width(capacity, width):
    read = sram.access_law(sram._law("read_pj_per_access"), capacity, width)
    write = sram.access_law(sram._law("write_pj_per_access"), capacity, width)
    assert float(sram.read_pj_per_byte(capacity, width)) == pytest.approx(read / width, rel=1e-5)
    assert float(sram.write_pj_per_byte(capacity, width)) == pytest.approx(write / width, rel=1e-5)
    milliwatt = sram.leakage_law(sram._law("leakage_mw"), capacity, width)
    assert float(sram.leakage_w(capacity, width)) == pytest.approx(1e-3 * milliwatt, rel=1e-5)


def test_a_port_wider_than_any_array_is_several_arrays():
    for law in (sram.read_pj_per_byte, sram.write_pj_per_byte, sram.area_mm2, sram.leakage_w):
        assert float(law(1024.0, 512.0)) == float(law(1024.0, 128.0))


def test_law_by_hand():
    """sum of powers: 2 x 4^1 + 3 x 4^0.5 x 9^0.5 + 5 x 9^1 = 8 + 18 + 45."""
    p = np.array([2, 1, 3, 0.5, 0.5, 5, 1])
    assert sram.access_law(p, 9.0, 4.0) == pytest.approx(71)
    assert sram.area_law(np.array([2, 0.5, 1]), 9.0, 4.0) == pytest.approx(24)
    assert sram.leakage_law(np.array([2, 0.5, 3, 0.5]), 9.0, 4.0) == pytest.approx(12)
