"""Names of quantities and shares."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.quantities import percents


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([], []),
        ([0.5], ["50%"]),
        ([0.8, 0.9], ["80%", "90%"]),
        ([0.5, 0.92, 0.924], ["50.0%", "92.0%", "92.4%"]),
        ([0.0, 0.995], ["0.0%", "99.5%"]),
        ([0.0, 1.0], ["0%", "100%"]),
    ],
)
def test_shares_have_the_decimals_that_tell_them_apart(shares, expected):
    assert percents(shares) == expected


@given(st.lists(st.integers(0, 10_000), unique=True, max_size=6))
def test_no_two_shares_are_written_alike(parts):
    found = percents([part / 10_000 for part in parts])
    assert len(set(found)) == len(parts)
    for part, text in zip(parts, found, strict=True):
        assert float(text.removesuffix("%")) == pytest.approx(part / 100, abs=0.51)
