"""What a search starts from: the limit that a scenario's inferences a second are."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from codesign.configs.quickstart import config as quickstart
from codesign.errors import UserError
from codesign.search.objectives import Limits
from codesign.train.config import TargetConfig
from simulators.tiny_search import SPACE

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = dataclasses.replace(
    quickstart, space=SPACE, targets=TargetConfig(designs=2, low=0.75, high=0.9)
)


@pytest.fixture(scope="module")
def slowest_s(prepared):
    """Latency of the supernet on its slowest accelerator."""
    table = prepared(CONFIG).tables.dense
    return float(table.on_every_accelerator(jnp.asarray(table.space.steps)).latency_s.max())


def busy(share, latency_s, limits=CONFIG.limits):
    """The config with as many inferences a second as take this share of the time."""
    scenario = dataclasses.replace(CONFIG.scenario, inferences_per_s=share / latency_s)
    return dataclasses.replace(CONFIG, scenario=scenario, limits=limits)


def test_chips_keep_up_with_the_inferences(prepared, slowest_s):
    """Where some chips do not, the time an inference may take is a limit like any other."""
    assert prepared(busy(0.99, slowest_s)).config.limits == CONFIG.limits
    setup = prepared(busy(1.5, slowest_s))
    assert setup.config.limits.latency_s == pytest.approx(slowest_s / 1.5)
    assert setup.trainer.limits == setup.config.limits
    chips = setup.space.part(setup.start, "accelerator")
    for network, chip in zip(setup.start, chips, strict=True):
        costs = setup.tables.dense.on_every_accelerator(jnp.asarray(network))
        flat = np.ravel_multi_index(tuple(chip), setup.tables.dense.chip.tops.shape)
        assert costs.latency_s[flat] <= slowest_s / 1.5


def test_the_tighter_limit_counts(prepared, slowest_s):
    strict, loose = slowest_s / 3, slowest_s * 3
    assert prepared(busy(1.5, slowest_s, Limits(strict))).config.limits.latency_s == strict
    limits = prepared(busy(1.5, slowest_s, Limits(loose))).config.limits
    assert limits.latency_s == pytest.approx(slowest_s / 1.5)


def test_more_inferences_than_any_chip_can_do_name_the_mend(prepared, slowest_s):
    with pytest.raises(UserError, match=r"lower scenario\.inferences_per_s$"):
        prepared(busy(1e6, slowest_s))
    with pytest.raises(UserError, match=r"raise them$"):
        prepared(busy(0.5, slowest_s, Limits(slowest_s / 1e6)))
