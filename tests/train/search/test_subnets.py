"""Subnets in the joint search: gated masks are those of the slice, sparsities are relaxed."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from codesign.architecture import Architecture, Tower
from codesign.cli import main
from codesign.models import CLIP, gates_for
from codesign.models.subnets import load_family, subnet_specs
from codesign.train.search.measure import uniform_subnets
from codesign.train.search.subnets import RelaxedSubnets

pytestmark = pytest.mark.usefixtures("quick_compilation")

LEVELS = (0.0, 0.5, 0.9)
LARGEST = Architecture(
    vision=Tower(2, 24, 3, 40),
    text=Tower(2, 16, 2, 24),
    patch=4,
    image=8,
    context=6,
    projection=8,
    head_dim=4,
    vocab=20,
    channels=1,
)
CHOICES = dataclasses.replace(
    LARGEST,
    vision=Tower((1, 2), (8, 16, 24), (1, 2, 3), (16, 40)),
    text=Tower((1, 2), (8, 16), (1, 2), (8, 24)),
)
SMALLER = dataclasses.replace(LARGEST, vision=Tower(1, 16, 2, 16), text=Tower(2, 8, 1, 24))


@pytest.fixture(scope="module")
def clip():
    return CLIP(LARGEST, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def relaxed(clip):
    return RelaxedSubnets(subnet_specs(clip), LEVELS, (0.5, 0.3, 0.2))


@pytest.fixture(scope="module")
def gates(clip):
    ranks = (clip.vision.blocks.layer_rank[...], clip.text.blocks.layer_rank[...])
    return gates_for(SMALLER, CHOICES, *ranks)


@pytest.fixture(scope="module")
def masked(clip, relaxed, gates):
    """Weights [K] -> the parameters of the subnets, and their masks."""
    params = nnx.state(clip, nnx.Param)

    @jax.jit
    def run(weights, sparse):
        masks = relaxed.masks(params, gates)
        return relaxed.networks(params, masks, weights, sparse), masks

    return run


@pytest.mark.slow
def test_a_gated_subnet_computes_what_the_subnet_of_the_slice_does(clip, gates, masked):
    graphdef, _, rest = nnx.split(clip, nnx.Param, ...)
    sliced = clip.slice_to(SMALLER)
    masks, _ = uniform_subnets(sliced, LEVELS)
    from codesign.models.subnets import subnet

    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(3, 8, 8, 1)), jnp.float32)
    ids = jnp.asarray(rng.integers(0, 20, (3, 6)))
    every, _ = masked(jnp.eye(3), 1.0)
    for k in range(3):
        own = jax.tree.map(lambda x, k=k: x[k], every)
        found, _ = nnx.merge(graphdef, own, rest)(images, ids, gates)
        expected, _ = subnet(sliced, masks, k)(images, ids)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.slow
def test_a_relaxed_sparsity_lies_between_its_levels_and_has_their_difference_as_slope(
    clip, relaxed, gates
):
    params = nnx.state(clip, nnx.Param)
    masks = relaxed.masks(params, gates)
    name = "vision.blocks.fc1"

    def kernel(share):
        weights = jnp.stack([jnp.zeros_like(share), 1 - share, share])[None]
        every = relaxed.networks(params, masks, weights, 1.0)
        return every["vision"]["blocks"]["fc1"][...][0]

    at, slope = jax.jvp(kernel, (jnp.float32(0.25),), (jnp.float32(1.0),))
    whole = np.asarray(clip.vision.blocks.fc1[...])
    kept = np.asarray(masks[name])
    np.testing.assert_allclose(at, whole * np.select([kept > 2, kept > 1], [1, 0.75], 0), rtol=1e-6)
    np.testing.assert_allclose(slope, whole * np.where(kept == 2, -1, 0), rtol=1e-6)


def test_a_dense_member_keeps_all_its_weights(clip, masked):
    every, _ = masked(jnp.eye(3), 0.0)
    for x, whole in zip(
        jax.tree.leaves(every), jax.tree.leaves(nnx.state(clip, nnx.Param)), strict=True
    ):
        np.testing.assert_array_equal(x, jnp.broadcast_to(whole, x.shape))


@pytest.mark.slow
def test_a_search_finds_families_and_dense_rivals(tmp_path, capsys):
    small = [
        "--schedule.warmup_steps",
        "8",
        "--schedule.joint_steps",
        "8",
        "--schedule.tune_steps",
        "8",
        "--schedule.chunk_steps",
        "4",
        "--schedule.checkpoint_steps",
        "4",
        "--targets.designs",
        "1",
        "--targets.dense_designs",
        "1",
        "--optim.batch_size",
        "16",
        "--space.sparsity",
        "[[0.0, 0.5], [0.8, 0.9]]",
        "--space.vision.width",
        "[32, 64]",
        "--space.vision.ffn",
        "[64, 128]",
        "--space.text.ffn",
        "[32, 64]",
        "--targets.low",
        "0.6",
    ]
    run = tmp_path / "run"
    assert main(["search", "digits_family", "--out", str(run), "--json", *small]) == 0
    found = json.loads(capsys.readouterr().out)
    by_name = {design["name"]: design for design in found["designs"]}
    family, rival = by_name["carbon-00"], by_name["dense-00"]
    assert rival["role"] == "reference" and rival["sparsity"] == [] and "subnets" not in rival
    assert family["role"] == "found" and len(family["sparsity"]) == 2
    shares = [subnet["share"] for subnet in family["subnets"]]
    assert shares == [0.1, 0.9]
    for key, total in (("accuracy", family["accuracy"]), ("energy_j", family["costs"]["energy_j"])):
        mean = sum(s["share"] * s[key] for s in family["subnets"])
        assert total == pytest.approx(mean, rel=1e-4)
    for design in (family, rival):
        assert design["costs"]["carbon_kgco2e"] <= design["target_carbon_kgco2e"] * (1 + 1e-4)
    # What designs.json holds prices as it did, and the networks can be read.
    assert main(["cost", str(run / "designs.json"), "--name", "carbon-00", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["costs"]["energy_j"] == pytest.approx(family["costs"]["energy_j"], rel=1e-5)
    stored = load_family(run / "checkpoints" / "designs" / "carbon-00")
    assert list(stored.sparsities) == family["sparsity"]
