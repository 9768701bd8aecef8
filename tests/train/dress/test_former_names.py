"""The former names of a classifier's steps warn, name the new ones, and compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from codesign.dress.masks import subnet_masks
from codesign.dress.trees import kernel_specs
from codesign.models.resnet import ResNet, ResNetConfig
from codesign.train.classifier import ClassifierTask, evaluate, norm_names, split_classifier
from codesign.train.data import ImageTextBatch
from codesign.train.subnets import SubnetTrainer, joint_step, post_step

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.slow
def test_they_do_what_the_new_ones_do():
    from codesign.train.dress import classifier, classifier_step

    with pytest.warns(DeprecationWarning, match="now codesign.train.classifier.norm_names"):
        assert classifier.norm_names is norm_names
    model = ResNet(ResNetConfig(depth=8, width=2, channels=1), rngs=nnx.Rngs(0))
    graph, variables = split_classifier(model, (0.3,), (0.4,))
    specs = kernel_specs(variables.params, ("blocks.2.*",))
    rng, key = np.random.default_rng(0), jax.random.key(0)
    images, labels = rng.integers(0, 256, (8, 8, 8, 1), np.uint8), np.arange(8, dtype=np.int32)
    members, weights = jnp.arange(2), jnp.asarray([0.6, 0.4])
    settings = {
        "subnets": 2,
        "norms": norm_names(model),
        "masks_of": lambda params: subnet_masks(params, specs, (0.5, 0.8)),
    }
    task, (params, stats, rest) = ClassifierTask(graph), jax.tree.map(jnp.copy, variables)
    trainer = SubnetTrainer(task, optax.sgd(0.1), **settings)
    batch = ImageTextBatch(images, None, labels)
    state, told = joint_step(
        trainer.begin(params, stats), rest, batch, members, weights, key, trainer
    )
    state, _ = post_step(trainer.begin_post(state), rest, batch, key, trainer)
    expected = evaluate(state, rest, (0, 1), images, labels, task)
    with pytest.warns(DeprecationWarning, match="subnets.SubnetTrainer"):
        former = classifier_step.ClassifierTrainer(graph, optax.sgd(0.1), **settings)
    held = former.begin(variables)
    more = images, labels, members, weights, key, former
    with pytest.warns(DeprecationWarning, match="subnets.joint_step"):
        held, metrics = classifier_step.joint_step(held, *more)
    held = former.begin_post(held)
    with pytest.warns(DeprecationWarning, match="subnets.post_step"):
        held, _ = classifier_step.post_step(held, images, labels, key, former)
    with pytest.warns(DeprecationWarning, match="classifier.evaluate"):
        found = classifier_step.evaluate(held, (0, 1), images, labels, graph)
    np.testing.assert_array_equal(metrics["subnet_loss"], told["subnet_loss"])
    np.testing.assert_array_equal(found, expected)
