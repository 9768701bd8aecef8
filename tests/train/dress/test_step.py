"""Joint steps against the sum written out, and post-training that touches nothing but norms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from codesign.architecture import Architecture, Tower
from codesign.dress.masks import apply, loss_weights, subnet_masks
from codesign.models.formats import ImageSettings
from codesign.models.subnets import norm_parameters, subnet_specs
from codesign.train import placement
from codesign.train.clip import ClipTask, Fixed, Weights
from codesign.train.data import ImageTextBatch
from codesign.train.finetune.config import LossConfig
from codesign.train.losses import contrastive_loss, distillation_loss, similarity_logits
from codesign.train.network import Network
from codesign.train.subnets import (
    SubnetTrainer,
    joint_gradient,
    joint_objective,
    joint_step,
    post_step,
)
from simulators.networks import random_clip

pytestmark = pytest.mark.usefixtures("quick_compilation")

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
SPARSITIES = (0.25, 0.5, 0.75)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return ImageTextBatch(
        jnp.asarray(rng.integers(0, 256, (8, 8, 8, 3)), jnp.uint8),
        jnp.asarray(rng.integers(0, 20, (8, 6)), jnp.int32),
        jnp.full(8, -1, jnp.int32),
    )


class Subject:
    """A tiny network, its masks, and the losses of its subnets written out."""

    def __init__(self, gamma=1.0, train_dense=False, **subnets):
        self.model = random_clip(TINY)
        graphdef, self.params, self.rest = nnx.split(self.model, nnx.Param, ...)
        specs = subnet_specs(self.model)
        self.network = Network(graphdef, ImageSettings(size=8))
        self.trainer = SubnetTrainer(
            task=ClipTask(self.network, LossConfig(), placement.make_mesh()),
            optimizer=optax.sgd(1e-2),
            masks_of=lambda p: subnet_masks(p, specs, SPARSITIES),
            subnets=3,
            norms=tuple(norm_parameters(self.model)),
            post_optimizer=optax.sgd(1e-2),
            **subnets,
        )
        dense = [-1] if train_dense else []
        self.members = jnp.asarray([*dense, 0, 1, 2], jnp.int32)
        self.shares = loss_weights((*(0.0 for _ in dense), *SPARSITIES), gamma)
        self.masks = jax.jit(lambda p: subnet_masks(p, specs, SPARSITIES))(self.params)
        self.weights = Weights(self.params, jnp.zeros(()))

    def loss(self, params, k, densest=None):
        data = batch()
        out = self.network.embed(apply(params, self.masks, k), self.rest, data.images, data.ids)
        loss = contrastive_loss(*out)
        if densest is not None:
            loss += self.trainer.in_place * distillation_loss(
                similarity_logits(*out), similarity_logits(*densest)
            )
        return loss

    def gradient(self):
        state = self.begun()._replace(masks=self.masks)
        rest = Fixed(self.rest), batch(), None, self.members, self.shares, self.trainer
        return jax.jit(lambda state: joint_gradient(state, *rest)[:2])(state)

    def begun(self):
        return self.trainer.begin(jax.tree.map(jnp.copy, self.weights))

    def step(self, state, data):
        more = self.members, self.shares, jax.random.key(0), self.trainer
        return joint_step(state, Fixed(self.rest), data, *more)


@pytest.mark.parametrize("begins_run", [False, True])
def test_the_sigmoid_loss_gets_its_bias_from_the_first_batch_of_a_run(begins_run):
    subject = Subject()
    task = ClipTask(subject.network, LossConfig(kind="sigmoid"), placement.make_mesh())
    trainer = dataclasses.replace(subject.trainer, task=task, begins_run=begins_run)
    fixed = Fixed(subject.rest)
    rest = subject.members, subject.shares, jax.random.key(0), trainer

    @jax.jit
    def started(state, data):
        return joint_objective(state, fixed, data, *rest)[0]

    bias = float(task.first_bias(subject.params, fixed, batch())) if begins_run else 0.0
    first = started(subject.begun(), batch())
    assert float(first.logit_bias) == pytest.approx(bias, rel=1e-5) and (bias < -1) == begins_run
    # Later batches leave it.
    state = subject.begun()._replace(params=first, step=jnp.ones((), jnp.int32))
    assert float(started(state, batch(1)).logit_bias) == float(first.logit_bias)


def assert_close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("vmapped", [False, True])
def test_the_joint_gradient_is_the_weighted_sum_over_members(vmapped):
    subject = Subject(gamma=2.0, train_dense=True, vmapped=vmapped)
    shares = np.asarray([1.0, 0.75, 0.5, 0.25]) ** 2
    shares /= shares.sum()

    def total(params):
        return sum(pi * subject.loss(params, k) for pi, k in zip(shares, (-1, 0, 1, 2)))  # noqa: B905

    losses, grads = subject.gradient()
    expected, expected_grads = jax.jit(jax.value_and_grad(total))(subject.params)
    np.testing.assert_allclose(np.dot(shares, losses), expected, rtol=1e-5)
    assert_close(grads.clip, expected_grads)


@pytest.mark.slow
def test_the_densest_member_teaches_the_others_and_learns_nothing_from_it():
    subject = Subject(in_place=0.7)
    data = batch()
    densest = subject.network.embed(
        apply(subject.params, subject.masks, 0), subject.rest, data.images, data.ids
    )
    shares = np.asarray(subject.shares)

    def total(params):
        first = shares[0] * subject.loss(params, 0)
        return first + sum(shares[k] * subject.loss(params, k, densest) for k in (1, 2))

    _, grads = subject.gradient()
    assert_close(grads.clip, jax.jit(jax.grad(total))(subject.params))


def test_a_weight_that_no_subnet_keeps_gets_no_gradient():
    subject = Subject()
    _, grads = subject.gradient()
    kernel = grads.clip["vision"]["blocks"]["fc1"][...]
    levels = np.asarray(subject.masks.levels["vision.blocks.fc1"])
    assert np.all(np.asarray(kernel)[levels == 0] == 0)
    assert np.mean(np.asarray(kernel)[levels > 0] != 0) > 0.9


@pytest.mark.slow
def test_masks_are_renewed_every_so_many_steps_and_fit_the_weights():
    subject = Subject(refresh_steps=3)
    state = subject.begun()
    seen = []
    for step in range(4):
        before = jax.tree.map(np.asarray, state.params)
        state, metrics = subject.step(state, batch(step))
        if step % 3 == 0:
            wanted = subject.trainer.masks(before)
        seen.append(metrics["subnet_loss"].shape)
        for found, expected in zip(
            jax.tree.leaves(state.masks), jax.tree.leaves(wanted), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
    assert seen == [(3,)] * 4 and int(state.step) == 4


@pytest.mark.slow
def test_post_training_moves_each_subnets_norms_alone():
    subject = Subject()
    norms = norm_parameters(subject.model)
    state = subject.trainer.begin_post(subject.begun())
    state, metrics = post_step(
        state, Fixed(subject.rest), batch(), jax.random.key(0), subject.trainer
    )
    assert_close(state.params.clip, subject.params)
    name = "vision.blocks.ln_1_scale"
    for k in range(3):

        def loss(scale, k=k):
            params = nnx.State(jax.tree.map(lambda x: x, subject.params))
            params["vision"]["blocks"]["ln_1_scale"] = params["vision"]["blocks"][
                "ln_1_scale"
            ].replace(scale)
            return subject.loss(params, k)

        value, grad = jax.value_and_grad(loss)(norms[name])
        np.testing.assert_allclose(metrics["subnet_loss"][k], value, rtol=1e-5)
        expected = norms[name] - 1e-2 * grad
        np.testing.assert_allclose(state.norms[name][k], expected, rtol=1e-4, atol=1e-6)
