"""The elastic supernet: what it is trained for, and how it ranks networks, against sliced ones."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from codesign.configs.quickstart import config as quickstart
from codesign.train.config import TargetConfig
from codesign.train.data.sources.base import subset
from codesign.train.losses import contrastive_loss, distillation_loss, similarity_logits
from codesign.train.search.elastic import elastic_loss, make_pool
from codesign.train.search.proxy import examples, proxy_of
from codesign.train.search.rates import learning_rates
from simulators.tiny_search import SPACE

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = dataclasses.replace(
    quickstart,
    space=SPACE,
    targets=TargetConfig(designs=2, low=0.8, high=0.9),
    optim=dataclasses.replace(quickstart.optim, batch_size=16),
)


@pytest.fixture(scope="module")
def setup(prepared):
    return prepared(CONFIG)


def network_at(setup, indices):
    """The network of choice indices, cut out and called by itself."""
    supernet = setup.model(setup.params, setup.constants.fixed)
    return supernet.slice_to(setup.space.architecture_at(np.asarray(indices)))


@nnx.jit
def called(network, pixels, ids):
    return network(pixels, ids)[0]


def outputs(setup, network, images, ids):
    return called(network, setup.trainer.task.student.normalised(images), ids)


def test_the_loss_is_that_of_sliced_networks_taught_by_the_whole_one(setup, batch):
    chosen = np.array([[0, 0, 0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0, 1, 1]])
    indices = np.zeros((2, len(setup.space.steps)), int)
    indices[:, :8] = chosen
    z = jnp.asarray(setup.space.encode(indices), jnp.float32)
    loss, metrics = jax.jit(
        lambda p: elastic_loss(p, z, setup.constants.fixed, batch, setup.trainer, setup.space)
    )(setup.params)
    whole = outputs(setup, network_at(setup, setup.space.steps), batch.images, batch.ids)
    own = [contrastive_loss(*whole, batch.labels)]
    taught = []
    for row in indices:
        out = outputs(setup, network_at(setup, row), batch.images, batch.ids)
        own.append(contrastive_loss(*out, batch.labels))
        taught.append(distillation_loss(similarity_logits(*out), similarity_logits(*whole)))
    np.testing.assert_allclose(metrics["loss"], own[0], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_of_parts"], own[1:], rtol=1e-5)
    expected = (sum(own) + CONFIG.optim.distillation * sum(taught)) / 3
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_the_whole_network_learns_nothing_from_its_parts_as_their_teacher(setup, batch):
    """What only the whole network has moves by its own loss alone."""
    z = jnp.zeros((1, len(setup.space.steps)))

    @jax.jit
    def gradient(distillation):
        trainer = dataclasses.replace(setup.trainer, distillation=distillation)
        grads = jax.grad(
            lambda p: elastic_loss(p, z, setup.constants.fixed, batch, trainer, setup.space)[0]
        )(setup.params)
        return optax.tree.norm(grads), grads.clip["vision"]["blocks"]["fc1"][...]

    (plain, fc1), (taught, fc1_taught) = gradient(0.0), gradient(10.0)
    assert taught != pytest.approx(float(plain)), "the parts do learn"
    # Channels and units above the smallest network's are open in the whole one only.
    np.testing.assert_allclose(fc1_taught[:, 8:, 16:], fc1[:, 8:, 16:], rtol=1e-4, atol=1e-8)
    assert np.abs(fc1[:, 8:, 16:]).max() > 0


def test_architectures_are_drawn_evenly_in_log_cost(setup):
    pool = make_pool(setup.tables.dense, "carbon", seed=0, size=512)
    assert (np.diff(pool.log_cost) >= 0).all()
    indices = np.round(np.asarray(setup.space.indices(pool.z)))[:, :8]
    assert (indices == 0).all(axis=1).any() and (indices == setup.space.steps[:8]).all(axis=1).any()
    drawn = pool.draw(jax.random.key(0), 4000)
    by_design = {
        row.tobytes(): cost
        for row, cost in zip(np.asarray(pool.z), np.asarray(pool.log_cost), strict=True)
    }
    costs = np.array([by_design[row.tobytes()] for row in np.asarray(drawn)])
    low, high = float(pool.log_cost[0]), float(pool.log_cost[-1])
    share = (costs - low) / (high - low)
    gap = np.max(np.diff(np.unique(np.asarray(pool.log_cost)))) / (high - low)
    for level in (0.25, 0.5, 0.75):
        assert abs(np.mean(share <= level) - level) < 0.03 + gap
    of_pool = (np.asarray(pool.log_cost) - low) / (high - low)
    assert np.ptp(np.histogram(of_pool, 4)[0]) > np.ptp(np.histogram(share, 4)[0]) * 512 / 4000


@nnx.jit
def encoded(network, pixels, ids):
    return network.encode_image(pixels)[0], network.encode_text(ids)[0]


def test_the_proxy_of_every_network_is_that_of_the_sliced_one(setup):
    """Some pairs of towers, called one after another, in NumPy's float64."""
    held = examples(setup.held_out.validation, setup.processor, 40, 1)
    assert held.images.shape[0] == 40
    fixed = setup.constants.fixed
    proxy = proxy_of(setup.trainer.task.student, setup.params, fixed, setup.space, held)
    assert proxy.loss.shape == (16, 16)
    k, templates, _ = held.ids.shape
    for image, text in ((0, 0), (4, 6), (11, 5), (15, 15)):
        indices = [*np.unravel_index(image, (2,) * 4), *np.unravel_index(text, (2,) * 4)]
        network = network_at(setup, indices)
        images, texts = encoded(
            network,
            setup.trainer.task.student.normalised(held.images),
            held.ids.reshape(k * templates, -1),
        )
        means = np.asarray(texts, float).reshape(k, templates, -1).mean(axis=1)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        scale = np.exp(float(nnx.state(network, nnx.Param)["logit_scale"][...]))
        logits = scale * np.asarray(images, float) @ means.T
        logits -= logits.max(axis=1, keepdims=True)
        likely = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        loss = -likely[np.arange(40), held.targets].mean()
        assert proxy.loss[image, text] == pytest.approx(loss, rel=1e-4)
        right = (logits.argmax(axis=1) == held.targets).mean()
        assert proxy.accuracy[image, text] == pytest.approx(right, abs=1.01 / 40)


def test_a_ranking_is_of_all_classes_whatever_their_order(setup):
    """Folders are read class by class; named data sets are shuffled, of which the first do."""
    validation = setup.held_out.validation
    in_order = subset(validation, np.argsort(validation.labels, kind="stable"))
    for source, classes in ((in_order, 1), (dataclasses.replace(in_order, shuffled=False), 10)):
        held = examples(source, setup.processor, 40, 1)
        assert len(set(held.targets.tolist())) >= min(classes, 8)
        assert (classes > 1) or set(held.targets.tolist()) < set(range(3))
    again = examples(dataclasses.replace(in_order, shuffled=False), setup.processor, 40, 1)
    np.testing.assert_array_equal(held.images, again.images)
    assert validation.shuffled
    np.testing.assert_array_equal(
        examples(validation, setup.processor, 40, 1).targets, validation.labels[:40]
    )
    assert len(examples(in_order, setup.processor, 10**6, 1).images) == len(in_order)


def test_a_snap_looks_at_all_classes_whatever_their_order(setup):
    feed, data = setup.feed, setup.feed.data
    assert feed.shuffled and list(feed.sample(30).labels) == list(data.labels[:30])
    order = np.argsort(data.labels, kind="stable")
    sorted_ = data._replace(images=data.images[order], labels=data.labels[order])
    batch = dataclasses.replace(feed, data=sorted_, shuffled=False).sample(60)
    assert set(batch.labels.tolist()) == set(range(10)) and len(batch.images) == 60


def test_the_elastic_rate_rises_falls_and_ends_at_nothing():
    schedule = dataclasses.replace(quickstart.schedule, elastic_steps=200)
    config = dataclasses.replace(CONFIG, schedule=schedule)
    rate = learning_rates(config).elastic
    assert float(rate(0)) == 0 and float(rate(50)) == pytest.approx(config.optim.elastic_lr)
    assert float(rate(200)) == pytest.approx(0, abs=1e-9)
    assert float(rate(125)) == pytest.approx(config.optim.elastic_lr / 2, rel=1e-5)


@pytest.mark.parametrize("steps", [1, 30, 50])
def test_a_short_elastic_phase_rises_for_half_of_it(steps):
    schedule = dataclasses.replace(quickstart.schedule, elastic_steps=steps)
    rate = learning_rates(dataclasses.replace(CONFIG, schedule=schedule)).elastic
    rates = np.array([float(rate(step)) for step in range(steps + 1)])
    assert rates.argmax() == steps // 2 and rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("warmup", [0, 50])
@pytest.mark.parametrize(("joint", "tune"), [(300, 380), (0, 380), (0, 40), (20, 40), (60, 2)])
def test_the_candidates_rate_reaches_its_peak_and_ends_at_nothing(joint, tune, warmup):
    """Also where no joint phase is as long as the warm-up: with elastic training, as of a rival."""
    schedule = dataclasses.replace(quickstart.schedule, joint_steps=joint, tune_steps=tune)
    optim = dataclasses.replace(quickstart.optim, warmup_steps=warmup)
    config = dataclasses.replace(CONFIG, schedule=schedule, optim=optim)
    rate, peak = learning_rates(config).candidates, config.optim.lr
    rates = np.array([float(rate(step)) for step in range(joint + tune + 1)]) / peak
    assert rates.max() == pytest.approx(1) and rates[-1] == pytest.approx(0, abs=1e-9)
    top = int(rates.argmax())
    assert (np.diff(rates[: top + 1]) >= 0).all() and (np.diff(rates[top:]) <= 0).all()
    assert tune / 2 <= len(rates) - np.flatnonzero(rates >= 1 - 1e-6)[-1] <= tune + 1
