"""Which arrays are split over devices, and that no number depends on it.

The steps run in one process of eight devices a kind of training: on the first of them alone, on
all with everything whole, and on two by four with everything split in four.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, PartitionSpec

from codesign.architecture import Architecture, Tower
from codesign.dress.masks import Masks
from codesign.errors import UserError
from codesign.models import CLIP
from codesign.models.layout import FSDP
from codesign.train import placement
from codesign.train.clip import Fixed, Weights, make_optimizer
from codesign.train.data import SourceConfig
from codesign.train.finetune.config import FinetuneConfig
from codesign.train.sharding import WHOLE_AXES, shardings, split_axis
from codesign.train.step import TrainState
from simulators import split_steps

P = PartitionSpec
NETWORK = Architecture(
    vision=Tower(layers=2, width=16, heads=2, ffn=32),
    text=Tower(layers=1, width=16, heads=3, ffn=36),
    patch=4,
    image=8,
    channels=1,
    context=12,
    projection=16,
    head_dim=8,
    vocab=64,
)
SHAPES = st.lists(st.integers(1, 96), max_size=5).map(tuple)
PARTS = st.sampled_from([1, 2, 3, 4, 8])


@given(SHAPES, PARTS, st.data())
def test_the_longest_axis_that_divides_is_split_whatever_is_stacked_before(shape, parts, data):
    axes = "".join(data.draw(st.permutations("LTVDFHKEO"))[: len(shape)])
    axis = split_axis(shape, parts, axes)
    may = [i for i, x in enumerate(axes) if x not in WHOLE_AXES and shape[i] % parts == 0]
    if axis is None:
        vector = len(axes.replace("L", "").replace("HK", "J")) < 2
        assert parts == 1 or vector or not may
    else:
        assert axis in may and parts > 1
        assert all((shape[i], i) <= (shape[axis], axis) for i in may)
    stacked = split_axis((8, *shape), parts, axes)
    assert stacked == (None if axis is None else axis + 1)


@given(SHAPES, PARTS)
def test_arrays_without_letters_are_split_by_shape(shape, parts):
    axis = split_axis(shape, parts)
    assert (axis is None) == (
        parts == 1 or len(shape) < 3 or not any(size % parts == 0 for size in shape)
    )
    if axis is not None:
        assert shape[axis] == max(size for size in shape if size % parts == 0)
        assert axis == split_axis(shape, parts, "O" * len(shape))


def test_more_letters_than_axes_are_an_error():
    with pytest.raises(ValueError, match="'DF' of an array of shape"):
        split_axis((8,), 2, "DF")


def specs(tree, parts=4):
    mesh = AbstractMesh((2, parts), ("data", FSDP))
    return jax.tree.map(lambda s: s.spec, shardings(tree, mesh))


def is_spec(x):
    return isinstance(x, PartitionSpec)


def of(tree, *names):
    for name in names:
        tree = tree[name]
    return jax.tree.leaves(tree, is_leaf=is_spec)


@pytest.fixture(scope="module")
def state():
    """A state of training, with an average, as shapes."""
    params = nnx.state(nnx.eval_shape(lambda: CLIP(NETWORK, rngs=nnx.Rngs(0))), nnx.Param)
    weights = Weights(params, jax.ShapeDtypeStruct((), jnp.float32))
    config = FinetuneConfig(train=SourceConfig(path="unused"))
    optimizer, _ = make_optimizer(config, params, 10, 1e-3, 1)
    return TrainState(weights, weights, (), jax.eval_shape(optimizer.init, weights), 0)


def test_matrices_of_a_network_are_split_and_vectors_are_whole(state):
    found = specs(state.params.clip)
    vision = ("vision", "blocks")
    assert of(found, *vision, "fc1") == [P(None, None, FSDP)]  # L D F
    assert of(found, *vision, "fc2") == [P(None, FSDP)]
    assert of(found, *vision, "query") == [P(None, FSDP)]
    assert of(found, *vision, "out") == [P(None, None, None, FSDP)]
    for name in ("fc1_bias", "query_bias", "ln_1_scale", "out_bias"):
        assert of(found, *vision, name) == [P()]
    assert of(found, "vision", "patch_kernel") == [P(None, None, None, FSDP)]
    assert of(found, "text", "token_table") == [P(None, FSDP)]  # whose rows are looked up
    assert of(found, "vision", "class_token") == of(found, "logit_scale") == [P()]
    # 5 divides nothing, and 32 but the longest.
    assert set(jax.tree.leaves(specs(state.params.clip, 5), is_leaf=is_spec)) == {P()}
    assert of(specs(state.params.clip, 32), *vision, "fc1") == [P(None, None, FSDP)]


def test_what_mirrors_the_parameters_is_split_as_they_are(state):
    found = specs(state)
    expected = jax.tree.leaves(found.params, is_leaf=is_spec)
    assert sum(spec != P() for spec in expected) >= 14
    adam = next(s for s in found.opt_state[1] if hasattr(s, "mu"))
    for mirror in (found.average, adam.mu, adam.nu):
        assert jax.tree.leaves(mirror, is_leaf=is_spec) == expected
    assert adam.count == found.step == P()
    teacher = specs(Fixed(nnx.State({}), (state.params.clip, nnx.State({}))))
    assert jax.tree.leaves(teacher, is_leaf=is_spec) == expected[: len(expected) - 1]
    # Candidates of a search are stacked in front.
    many = jax.tree.map(lambda x: jax.ShapeDtypeStruct((6, *x.shape), x.dtype), state.params)
    shifted = [P(None, *spec) if spec else P() for spec in expected]
    assert jax.tree.leaves(specs(many), is_leaf=is_spec) == shifted


def test_masks_are_split_as_their_kernels(state):
    kernel = state.params.clip["vision"]["blocks"]["fc1"]
    mask = jax.ShapeDtypeStruct(kernel.shape, jnp.uint8)
    masks = specs(Masks({"fc1": mask}, {"fc1": jax.ShapeDtypeStruct((3, 2), jnp.int32)}))
    assert masks.levels["fc1"] == P(None, None, FSDP) and masks.counts["fc1"] == P()


def test_a_number_that_does_not_divide_the_devices_is_one_line():
    with pytest.raises(UserError, match=r"--fsdp 1000 does not divide the \d+ device"):
        placement.make_mesh(1000)


@pytest.fixture(scope="module", params=["ema", "dress", "resnet", "search"])
def found(request, tmp_path_factory):
    """Losses and shares of every layout of a kind of run; see `split_steps`."""
    folder = tmp_path_factory.mktemp(request.param)
    done = subprocess.run(
        [sys.executable, split_steps.__file__, request.param, str(folder)],
        text=True,
        capture_output=True,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


@pytest.mark.slow
def test_losses_are_those_of_one_device_however_all_is_laid_out(found):
    for stage, losses in found["one"]["losses"].items():
        assert len(losses) == split_steps.STEPS
        for layout in {"data", "fsdp"} & set(found):
            np.testing.assert_allclose(
                found[layout]["losses"][stage], losses, rtol=1e-5, atol=1e-6, err_msg=stage
            )


@pytest.mark.slow
def test_every_device_holds_a_quarter_of_the_matrices(found):
    for stage, parts in found["fsdp"]["held"].items():
        assert "params" in parts, stage
        for name, (numbers, on_each) in parts.items():
            assert on_each == numbers / 4, (stage, name)
            assert found["one"]["held"][stage][name] == [numbers, numbers]


@pytest.mark.slow
def test_a_checkpoint_goes_on_however_it_was_laid_out(found):
    # It was written by the layout of two by four.
    np.testing.assert_allclose(found["one"]["resumed"], found["fsdp"]["resumed"], rtol=1e-5)


@pytest.mark.slow
def test_the_same_family_is_delivered(found):
    assert len({json.dumps(found[name].get("family")) for name in found}) == 1
