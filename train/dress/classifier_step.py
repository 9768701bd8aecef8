"""The former steps of a classifier's subnets, over `codesign.train.subnets`.

A state here also holds what of a network is neither trained nor a statistic, which the steps now
take as `fixed`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from codesign.dress.masks import Masks
from codesign.train import classifier as new
from codesign.train import subnets
from codesign.train.data import ImageTextBatch

Array = jax.Array


class Held(NamedTuple):
    """A state of `codesign.train.subnets`, and what no step changes."""

    state: subnets.JointState | subnets.PostState
    rest: Any


def _moved(old: str, now: str) -> None:
    warnings.warn(f"{__name__}.{old} is now {now}", DeprecationWarning, stacklevel=3)


class ClassifierTrainer:
    """The former name of `codesign.train.subnets.SubnetTrainer` of a `ClassifierTask`."""

    def __init__(
        self,
        classifier: new.Classifier,
        optimizer: optax.GradientTransformation,
        masks_of: Callable[[Any], Masks],
        subnets: int,
        *args: Any,
        label_smoothing: float = 0.0,
        **more: Any,
    ) -> None:
        _moved("ClassifierTrainer", "codesign.train.subnets.SubnetTrainer")
        task = new.ClassifierTask(classifier, label_smoothing)
        self.task, self.trainer = task, _trainer(task, optimizer, masks_of, subnets, *args, **more)

    def begin(self, variables: new.Variables) -> Held:
        """The state before the first step, of copies."""
        params, stats, rest = jax.tree.map(jnp.copy, variables)
        return Held(self.trainer.begin(params, stats), rest)

    def begin_post(self, held: Held) -> Held:
        """After joint training, of copies."""
        return Held(self.trainer.begin_post(jax.tree.map(jnp.copy, held.state)), held.rest)


def _trainer(*args: Any, **more: Any) -> subnets.SubnetTrainer:
    return subnets.SubnetTrainer(*args, **more)


def joint_step(
    held: Held,
    images: Array,
    labels: Array,
    members: Array,
    weights: Array,
    key: Array,
    trainer: ClassifierTrainer,
) -> tuple[Held, dict[str, Array]]:
    """See `codesign.train.subnets.joint_step`."""
    _moved("joint_step", "codesign.train.subnets.joint_step")
    batch = ImageTextBatch(images, None, labels)
    state, metrics = subnets.joint_step(
        held.state, held.rest, batch, members, weights, key, trainer.trainer
    )
    return Held(state, held.rest), metrics


def post_step(
    held: Held, images: Array, labels: Array, key: Array, trainer: ClassifierTrainer
) -> tuple[Held, dict[str, Array]]:
    """See `codesign.train.subnets.post_step`."""
    _moved("post_step", "codesign.train.subnets.post_step")
    batch = ImageTextBatch(images, None, labels)
    state, metrics = subnets.post_step(held.state, held.rest, batch, key, trainer.trainer)
    return Held(state, held.rest), metrics


def evaluate(
    held: Held,
    members: Iterable[int],
    images: np.ndarray,
    labels: np.ndarray,
    classifier: new.Classifier,
    batch_size: int = 500,
) -> np.ndarray:
    """See `codesign.train.classifier.evaluate`."""
    _moved("evaluate", "codesign.train.classifier.evaluate")
    task = new.ClassifierTask(classifier)
    return new.evaluate(held.state, held.rest, members, images, labels, task, batch_size)
