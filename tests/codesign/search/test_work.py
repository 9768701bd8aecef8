"""MAC-equivalents against counts by hand."""

import numpy as np
import pytest

from codesign.search.work import forward_equivalents, mac_equivalents


def test_steps_are_weighted_by_products():
    # Ten steps of the whole, ten of a quarter of it, thirty of a half: 10 + 2.5 + 15.
    assert mac_equivalents([10, 10, 30], [400, 100, 200], 400) == pytest.approx(27.5)
    assert mac_equivalents(380, np.array([400.0, 100.0]), 400) == pytest.approx(475)
    assert mac_equivalents([], [], 400) == 0


def test_a_forward_pass_is_a_third_of_a_step():
    # 128 examples are two batches of 64; of a network of half the products: 2 x 1/2 / 3.
    assert forward_equivalents(128, [200], 64, 400) == pytest.approx(1 / 3)
    assert forward_equivalents([64, 64], [400, 100], 64, 400) == pytest.approx(1.25 / 3)
