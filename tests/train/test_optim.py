"""Which weights decay, and the learning rate's course."""

import jax
import numpy as np
import pytest
from flax import nnx

from codesign.architecture import Architecture, Tower
from codesign.models import CLIP
from codesign.train.optim import decayed, warmup_cosine

TINY = Architecture(
    vision=Tower(layers=2, width=8, heads=2, ffn=16),
    text=Tower(layers=1, width=8, heads=2, ffn=16),
    patch=4,
    image=8,
    context=6,
    projection=8,
    head_dim=4,
    vocab=20,
)


def test_matrices_and_tables_decay_and_nothing_else():
    params = nnx.state(nnx.eval_shape(lambda: CLIP(TINY, rngs=nnx.Rngs(0))), nnx.Param)
    marks = {
        ".".join(str(key.key) for key in path): mark
        for path, mark in jax.tree_util.tree_flatten_with_path(decayed(params))[0]
    }
    kernels = {"query", "key", "value", "out", "fc1", "fc2"}
    tables = {"projection", "positions", "patch_kernel", "token_table"}
    for name, mark in marks.items():
        assert mark == (name.split(".")[-1] in kernels | tables), name
    assert sum(marks.values()) == 2 * 8 + 2


@pytest.mark.parametrize("warmup", [0, 10])
def test_learning_rate_rises_then_falls_along_a_cosine(warmup):
    rate = warmup_cosine(0.5, warmup, 50, 0.1)
    steps = np.arange(51)
    found = np.asarray([float(rate(step)) for step in steps])
    along = (steps - warmup) / (50 - warmup)
    falling = 0.5 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * along)))
    rising = 0.5 * steps / max(1, warmup)
    np.testing.assert_allclose(found, np.where(steps < warmup, rising, falling), rtol=1e-5)
