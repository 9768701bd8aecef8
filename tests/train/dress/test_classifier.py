"""Steps of a classifier's subnets against sums written out, NumPy's statistics, frozen bits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from codesign.dress.masks import Masks
from codesign.dress.trees import named_leaves, replace_leaves
from codesign.errors import UserError
from codesign.models.resnet import ResNet, ResNetConfig
from codesign.train import classifier as classifiers
from codesign.train import step as steps
from codesign.train import subnets as subnet_steps
from codesign.train.classifier import (
    ClassifierTask,
    Variables,
    check_images,
    cross_entropy,
    decayed_kernels,
    make_optimizer,
    norm_names,
    split_classifier,
)
from codesign.train.data import ImageTextBatch
from codesign.train.subnets import SubnetTrainer

pytestmark = pytest.mark.usefixtures("quick_compilation")

SUBNETS = 3
MEAN, STD = (0.4,), (0.3,)
KEY = jax.random.key(0)
NOTHING = nnx.State({})  # of networks whose every array is trained or a statistic


class Net(nnx.Module):
    """A convolution, BatchNorm and a head."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, images):
        x = jax.nn.relu(self.norm(self.conv(images)))
        return self.head(x.mean(axis=(1, 2)))


class Plain(nnx.Module):
    """Without BatchNorm, and with an array that is neither trained nor a statistic."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(36, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)
        self.order = nnx.Variable(jnp.asarray([2, 0, 1]))

    def __call__(self, images):
        x = jax.nn.relu(self.norm(self.hidden(images.reshape(len(images), -1))))
        return self.head(x)[:, self.order[...]]


def batch(seed=0, size=8):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (size, 6, 6, 1), dtype=np.uint8)
    return images, rng.integers(0, 3, size).astype(np.int32)


def normalised(images):
    return (images / np.float32(255) - np.float32(MEAN)) / np.float32(STD)


def masks_of(params):
    """By magnitude, as a share of the largest: nested, and compiled at once."""
    kernels = {n: jnp.abs(x) for n, x in named_leaves(params).items() if n.endswith("kernel")}
    cuts = 0.2 * jnp.arange(1, SUBNETS + 1)
    levels = {
        name: jnp.sum(x[..., None] > cuts * jnp.max(x), axis=-1).astype(jnp.uint8)
        for name, x in kernels.items()
    }
    return Masks(levels, {})


def joint_step(state, images, labels, members, weights, key, trainer, rest=NOTHING):
    data = ImageTextBatch(images, None, labels)
    return subnet_steps.joint_step(state, rest, data, members, weights, key, trainer)


def post_step(state, images, labels, key, trainer, rest=NOTHING):
    data = ImageTextBatch(images, None, labels)
    return subnet_steps.post_step(state, rest, data, key, trainer)


def joint_gradient(state, rest, images, labels, members, weights, trainer):
    data = classifiers.Prepared(images, labels)
    return subnet_steps.joint_gradient(state, rest, data, None, members, weights, trainer)


def subject(kind=Net, label_smoothing=0.0, **fields):
    """A trainer, its state before the first step, and the network's arrays."""
    classifier, variables = split_classifier(kind(nnx.Rngs(0)), MEAN, STD)
    trainer = SubnetTrainer(
        **{
            "task": ClassifierTask(classifier, label_smoothing),
            "optimizer": optax.sgd(0.1),
            "masks_of": masks_of,
            "subnets": SUBNETS,
            "norms": norm_names(kind(nnx.Rngs(0))),
            "post_optimizer": optax.sgd(0.1),
        }
        | fields
    )
    copies = jax.tree.map(jnp.copy, (variables.params, variables.stats))
    return trainer, trainer.begin(*copies), variables


@pytest.fixture(scope="module")
def shared():
    """What most tests look at, so that its programs are compiled once."""
    return subject()


def masked(params, masks, k):
    """By a product with the mask, where the steps choose."""
    kept = {n: np.asarray(levels) > k for n, levels in masks.levels.items()}
    return replace_leaves(params, {n: named_leaves(params)[n] * kept[n] for n in kept})


def assert_close(found, expected, **tolerance):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 1e-4, "atol": 1e-6} | tolerance))


@pytest.mark.parametrize(
    ("kind", "in_place", "vmapped"),
    [
        (Net, 0.7, False),
        (Plain, 0.0, False),
        pytest.param(Net, 0.7, True, marks=pytest.mark.slow),
        pytest.param(Plain, 0.0, True, marks=pytest.mark.slow),
    ],
)
def test_the_joint_gradient_is_the_weighted_sum_over_members(kind, in_place, vmapped):
    trainer, state, variables = subject(
        kind, in_place=in_place, vmapped=vmapped, label_smoothing=0.1
    )
    images, labels = batch()
    members, weights = (1, -1, 2), (0.5, 0.3, 0.2)
    targets = 0.9 * np.eye(3)[labels] + 0.1 / 3

    def total(params):
        loss, teacher = 0.0, None
        for k, weight in zip(members, weights, strict=True):
            own = Variables(masked(params, state.masks, k), variables.stats, variables.rest)
            logits = trainer.task.classifier.train(own, normalised(images))[0]
            logs = jax.nn.log_softmax(logits)
            loss -= weight * jnp.mean(jnp.sum(targets * logs, axis=1))
            if teacher is None:
                teacher = jax.lax.stop_gradient(logs)
            else:
                apart = jnp.sum(jnp.exp(teacher) * (teacher - logs), axis=1)
                loss += weight * in_place * jnp.mean(apart)
        return loss

    expected, expected_grads = jax.jit(jax.value_and_grad(total))(state.params)
    losses, grads, _ = jax.jit(joint_gradient, static_argnums=6)(
        state,
        variables.rest,
        normalised(images),
        labels,
        jnp.asarray(members),
        jnp.asarray(weights),
        trainer,
    )
    np.testing.assert_allclose(np.dot(weights, losses), expected, rtol=1e-5)
    assert_close(grads, expected_grads)
    name = next(iter(state.masks.levels))
    none, grad = state.masks.levels[name] <= 1, named_leaves(grads)[name]
    _, only, _ = jax.jit(joint_gradient, static_argnums=6)(
        state,
        variables.rest,
        normalised(images),
        labels,
        jnp.asarray([1, 1, 2]),
        jnp.asarray(weights),
        trainer,
    )
    assert np.all(named_leaves(only)[name][none] == 0) and np.any(grad[none] != 0)


def stepped(trainer, state, seeds, members=(0, 1, 2), weights=(0.5, 0.3, 0.2)):
    state = jax.tree.map(jnp.copy, state)
    for seed in seeds:
        state, metrics = joint_step(
            state, *batch(seed), jnp.asarray(members, jnp.int32), jnp.asarray(weights), KEY, trainer
        )
    return state, metrics


def test_other_members_weights_and_masks_compile_nothing(shared):
    trainer, state, _ = shared
    first, metrics = stepped(trainer, state, [0])
    assert metrics["subnet_loss"].shape == (3,) and int(first.step) == 1
    known = subnet_steps.joint_step._cache_size()
    other = state._replace(
        masks=Masks(
            {n: 3 - levels for n, levels in state.masks.levels.items()}, state.masks.counts
        ),
        step=state.step + 1,
    )
    second, _ = stepped(trainer, other, [0, 1], members=(2, -1, 0), weights=(0.1, 0.1, 0.8))
    assert subnet_steps.joint_step._cache_size() == known
    moved = (x.params["head"]["kernel"][...] for x in (first, second))
    assert not np.allclose(*moved)
    same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, first, second)
    assert all(jax.tree.leaves(same))


def test_masks_are_renewed_every_so_many_steps_and_fit_the_weights(shared):
    trainer, state, _ = shared
    trainer = dataclasses.replace(trainer, refresh_steps=2)
    state = jax.tree.map(jnp.copy, state)
    for step in range(3):
        if step % 2 == 0:
            wanted = jax.tree.map(np.asarray, jax.jit(trainer.masks_of)(state.params))
        state, _ = joint_step(
            state, *batch(step), jnp.asarray([0, 1, 2]), jnp.ones(3) / 3, KEY, trainer
        )
        assert_close(state.masks, wanted, rtol=0, atol=0)
    now = jax.jit(trainer.masks_of)(state.params)
    assert any(np.any(now.levels[n] != wanted.levels[n]) for n in now.levels)


def numpy_statistics(kernel, images):
    """Mean and variance of a 3 x 3 convolution's outputs, each channel, in float64."""
    kernel = np.asarray(kernel, np.float64)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    side = images.shape[1]
    out = sum(
        np.einsum("BSTC,CD->BSTD", padded[:, i : i + side, j : j + side], kernel[i, j])
        for i in range(3)
        for j in range(3)
    )
    return out.mean(axis=(0, 1, 2)), out.var(axis=(0, 1, 2))


@pytest.mark.slow
def test_a_joint_step_takes_the_memory_of_a_dense_one():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)  # scheduling is what is tested
    model = ResNet(ResNetConfig(depth=8, width=8, channels=1), rngs=nnx.Rngs(0))
    classifier, variables = split_classifier(model, MEAN, STD)
    task = ClassifierTask(classifier)
    trainer = SubnetTrainer(task, optax.sgd(0.1), masks_of, SUBNETS)
    alone = steps.Trainer(task, optax.sgd(0.1), optax.constant_schedule(0.1))
    params, stats, rest = variables
    data = ImageTextBatch(jnp.zeros((32, 16, 16, 1), jnp.uint8), None, jnp.zeros(32, jnp.int32))
    members = jnp.arange(3), jnp.ones(3) / 3
    programs = (
        steps.train_step.lower(alone.init(params, stats), rest, data, KEY, alone),
        subnet_steps.joint_step.lower(
            trainer.begin(params, stats), rest, data, *members, KEY, trainer
        ),
    )
    dense, joint = (p.compile().memory_analysis().temp_size_in_bytes for p in programs)
    jax.config.update("jax_disable_most_optimizations", before)
    assert 0 < joint < 1.3 * dense


def test_running_statistics_are_those_of_the_members_that_ran(shared):
    trainer, state, _ = shared
    after, _ = stepped(trainer, state, [5], members=(2, -1, 2))
    images = np.float64(normalised(batch(5)[0]))
    for k, times in ((0, 0), (1, 0), (2, 2), (-1, 1)):
        kernel = masked(state.params, after.masks, k)["conv"]["kernel"][...]
        stays = steps.MOMENTUM**times
        for name, start, seen in zip(("mean", "var"), (0, 1), numpy_statistics(kernel, images)):  # noqa: B905
            expected = stays * start + (1 - stays) * seen
            found = after.stats["norm"][name][k]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_statistics_alone_are_their_means_over_the_data(shared):
    trainer, state, _ = shared
    measuring = dataclasses.replace(trainer, post_optimizer=None)
    post = measuring.begin_post(jax.tree.map(jnp.copy, state))
    for seed in range(3):
        post, _ = post_step(post, *batch(seed), KEY, measuring)
    for k in range(3):
        kernel = masked(state.params, state.masks, k)["conv"]["kernel"][...]
        seen = [numpy_statistics(kernel, np.float64(normalised(batch(s)[0]))) for s in range(3)]
        for name, expected in zip(("mean", "var"), np.mean(seen, axis=0)):  # noqa: B905
            found = post.stats["norm"][name][k]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert_close(post.norms["norm.scale"], np.ones((3, 4)), rtol=0, atol=0)


def test_post_training_moves_each_subnets_norms_alone(shared):
    trainer, state, first = shared
    post = trainer.begin_post(jax.tree.map(jnp.copy, state))
    before = jax.tree.map(np.asarray, post)
    images, labels = batch(3)
    post, metrics = post_step(post, images, labels, KEY, trainer)
    for a, b in zip(jax.tree.leaves(post.params), jax.tree.leaves(before.params), strict=True):
        assert np.asarray(a).tobytes() == b.tobytes()
    assert_close(post.masks, before.masks, rtol=0, atol=0)
    assert post.norms.keys() == {"norm.scale", "norm.bias"}

    @jax.jit
    def gradient(params, scale):
        def loss(scale):
            own = replace_leaves(params, {"norm.scale": scale})
            variables = Variables(own, jax.tree.map(lambda x: x[0], state.stats), first.rest)
            logits = trainer.task.classifier.train(variables, normalised(images))[0]
            return cross_entropy(logits, labels)

        return jax.value_and_grad(loss)(scale)

    for k in range(3):
        value, grad = gradient(masked(before.params, before.masks, k), np.ones(4, np.float32))
        np.testing.assert_allclose(metrics["subnet_loss"][k], value, rtol=1e-5)
        np.testing.assert_allclose(post.norms["norm.scale"][k], 1 - 0.1 * grad, rtol=1e-5)


def test_a_dense_step_is_a_joint_step_of_the_dense_network(shared):
    trainer, state, _ = shared
    joint, _ = stepped(trainer, state, [1], members=(-1, 0, 0), weights=(1.0, 0.0, 0.0))
    alone = steps.Trainer(trainer.task, optax.sgd(0.1), optax.constant_schedule(0.1))
    stats = jax.tree.map(lambda x: x[-1], state.stats)
    begun = alone.init(jax.tree.map(jnp.copy, state.params), stats)
    images, labels = batch(1)
    dense, metrics = steps.train_step(
        begun, nnx.State({}), ImageTextBatch(images, None, labels), KEY, alone
    )
    assert_close(dense.params, joint.params)
    assert_close(dense.stats, jax.tree.map(lambda x: x[-1], joint.stats))
    assert np.all(np.isfinite(metrics["grad_norm"]))
    means = trainer.begin(dense.params, dense.stats).stats["norm"]["mean"]
    np.testing.assert_array_equal(means[0], dense.stats["norm"]["mean"])


def test_evaluation_counts_every_image_once(shared):
    trainer, state, first = shared
    state, _ = stepped(trainer, state, range(4))
    images, labels = batch(9, size=11)
    found = classifiers.evaluate(
        state, first.rest, (0, 2, -1), images, labels, trainer.task, batch_size=4
    )
    for accuracy, k in zip(found, (0, 2, -1), strict=True):
        stats = jax.tree.map(lambda x, k=k: x[k], state.stats)
        own = Variables(masked(state.params, state.masks, k), stats, first.rest)
        model = trainer.task.classifier.model(own)
        right = np.argmax(model(jnp.asarray(normalised(images))), axis=1) == labels
        assert accuracy == pytest.approx(right.mean())


def test_only_kernels_decay(shared):
    _, state, variables = shared
    decays = named_leaves(decayed_kernels(variables.params))
    assert {name for name, does in decays.items() if does} == {"conv.kernel", "head.kernel"}
    nothing = jax.tree.map(jnp.zeros_like, state.params)
    for kind in ("sgd", "adamw"):
        optimizer = make_optimizer(kind, 0.5, 0.1, decayed_kernels(variables.params))
        begun = jax.jit(optimizer.init)(state.params)
        updates, _ = jax.jit(optimizer.update)(nothing, begun, state.params)
        for name, update in named_leaves(updates).items():
            assert np.any(update != 0) == decays[name], name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.asarray([0, 3])}, "label 3"),
        ({"labels": np.asarray([-1, 0])}, "label -1"),
        ({"labels": np.asarray([0])}, "2 images and 1 labels"),
        ({"images": np.zeros((2, 6, 6, 3), np.uint8)}, "3 channels"),
        ({"images": np.zeros((2, 6, 6, 1))}, "float64"),
        ({"images": np.zeros((2, 6, 4, 1), np.uint8)}, r"\(2, 6, 4, 1\)"),
    ],
)
def test_images_that_cannot_be_trained_on_are_one_line(changes, message):
    arguments = {"images": np.zeros((2, 6, 6, 1), np.uint8), "labels": np.asarray([0, 2])}
    check_images(**arguments, channels=1, classes=3)
    with pytest.raises(UserError, match=message) as caught:
        check_images(**arguments | changes, channels=1, classes=3)
    assert "\n" not in str(caught.value)
