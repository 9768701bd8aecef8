"""One step of fine-tuning, compiled.

Axes: B pairs of the global batch, M micro-batches of b = B / M pairs, E joint embedding.

The towers may see the batch in parts while the loss sees it whole: each part's embeddings are
computed under `jax.checkpoint`, so the backward pass recomputes one part at a time and memory
is that of a part. That is the exact gradient of the whole batch's loss, the scheme of GradCache
(Gao et al., 2021), where plain accumulation would contrast each part with itself alone.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from codesign.models import ClipOutput, clamp_logit_scale
from codesign.train import placement
from codesign.train.data import ImageTextBatch
from codesign.train.finetune.config import FinetuneConfig, LossConfig
from codesign.train.losses import (
    balanced_bias,
    contrastive_loss,
    distillation_loss,
    feature_distillation_loss,
    sigmoid_loss,
    similarity_logits,
)
from codesign.train.network import Network
from codesign.train.optim import decayed, warmup_cosine

Array = jax.Array
_NOT_LOCKED, _LOCKED = "trained", "locked"


class Weights(NamedTuple):
    """What is trained.

    Attributes:
      clip: the CLIP's parameters.
      logit_bias: of the sigmoid loss, []; others leave it alone.
    """

    clip: nnx.State
    logit_bias: Array


class TrainState(NamedTuple):
    """What a step changes.

    Attributes:
      weights: as trained.
      average: their moving average, or None.
      opt_state: the optimizer's.
      step: steps taken, [].
    """

    weights: Weights
    average: Weights | None
    opt_state: optax.OptState
    step: Array

    @property
    def delivered(self) -> Weights:
        """What is evaluated and saved: the average where there is one."""
        return self.weights if self.average is None else self.average


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Everything a step needs that does not change; hashed by identity, static under jit.

    Attributes:
      student: the network trained.
      teacher: the network learnt from, or None.
      optimizer: of `Weights`.
      learning_rate: its schedule, for the metrics.
      loss: what is minimised.
      lock: the tower that stays, or "none".
      micro_batches: M.
      ema: decay of the moving average; 0: none.
      mesh: devices.
    """

    student: Network
    teacher: Network | None
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    loss: LossConfig
    lock: str
    micro_batches: int
    ema: float
    mesh: Mesh

    def init(self, params: nnx.State) -> TrainState:
        """The state before the first step."""
        weights = Weights(params, jnp.zeros((), jnp.float32))
        return TrainState(
            weights=weights,
            # A copy: the step's donated buffers must not be the same twice.
            average=jax.tree.map(jnp.copy, weights) if self.ema else None,
            opt_state=self.optimizer.init(weights),
            step=jnp.zeros((), jnp.int32),
        )


def make_optimizer(
    config: FinetuneConfig, params: nnx.State
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW under warm-up, cosine and clipping, and its learning rate; a locked tower is left out.

    What is locked has no moments either, and does not count in the norm that is clipped.
    """
    optim = config.optim
    rate = warmup_cosine(optim.lr, optim.warmup_steps, config.schedule.steps, optim.final_lr)
    decays: Any = Weights(decayed(params), False)  # type: ignore[arg-type]
    adamw = optax.chain(
        optax.clip_by_global_norm(optim.clip_norm),
        optax.adamw(
            rate, b2=optim.beta2, eps=optim.epsilon, weight_decay=optim.weight_decay, mask=decays
        ),
    )
    if config.lock == "none":
        return adamw, rate
    labels: Any = Weights(
        jax.tree_util.tree_map_with_path(
            lambda path, _: _LOCKED if path[0].key == config.lock else _NOT_LOCKED, params
        ),
        _NOT_LOCKED,  # type: ignore[arg-type]
    )
    locked = optax.partition({_NOT_LOCKED: adamw, _LOCKED: optax.set_to_zero()}, labels)
    return locked, rate


def embed_in_parts(
    network: Network, params: nnx.State, rest: nnx.State, batch: ImageTextBatch, parts: int
) -> ClipOutput:
    """Embeddings of the whole batch, in its order, from `parts` passes."""
    if parts == 1:
        return network.embed(params, rest, batch.images, batch.ids)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def embed(part: tuple[Array, Array]) -> tuple[Array, Array]:
        out = network.embed(params, rest, *part)
        return out.image_embedding, out.text_embedding

    # Part m holds the pairs m, m + M, ...: each device's own pairs stay on it.
    cut = jax.tree.map(lambda x: _by_part(x, parts), (batch.images, batch.ids))
    images, texts = (_whole(x) for x in jax.lax.map(embed, cut))
    scale: Any = params["logit_scale"]
    return ClipOutput(images, texts, jnp.exp(scale[...]))


def _by_part(x: Array, parts: int) -> Array:
    """[B, ...] -> [M, b, ...]."""
    return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)


def _whole(x: Array) -> Array:
    """[M, b, ...] -> [B, ...], the reverse of `_by_part`."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])


def pair_labels(labels: Array, same_label: bool) -> Array | None:
    """Labels for the losses: -1, no label, becomes one of its own for every pair."""
    if not same_label:
        return None
    return jnp.where(labels < 0, -1 - jnp.arange(labels.shape[0]), labels)


def total_loss(
    weights: Weights, rest: nnx.State, taught: ClipOutput | None, batch: ImageTextBatch,
    trainer: Trainer,
) -> tuple[Array, dict[str, Array]]:
    """The weighted losses of a batch, and each of them."""
    params = weights.clip
    if trainer.lock != "none":  # leaves out the backward pass of that tower
        params = jax.tree_util.tree_map_with_path(
            lambda path, x: jax.lax.stop_gradient(x) if path[0].key == trainer.lock else x, params
        )
    out = embed_in_parts(trainer.student, params, rest, batch, trainer.micro_batches)
    return weighted_losses(out, weights.logit_bias, taught, batch.labels, trainer.loss)


def weighted_losses(
    out: ClipOutput, logit_bias: Array, taught: ClipOutput | None, labels: Array, loss: LossConfig
) -> tuple[Array, dict[str, Array]]:
    """The loss of a batch's embeddings, and its parts."""
    of_pairs = pair_labels(labels, loss.same_label)
    if loss.kind == "softmax":
        contrastive = contrastive_loss(*out, of_pairs)
    else:
        contrastive = sigmoid_loss(*out, logit_bias, of_pairs)
    total, parts = loss.contrastive * contrastive, {"contrastive_loss": contrastive}
    if taught is not None:
        parts["distillation_loss"] = distillation_loss(
            similarity_logits(*out), similarity_logits(*taught)
        )
        total += loss.distillation * parts["distillation_loss"]
        if loss.features:
            parts["feature_loss"] = 0.5 * (
                feature_distillation_loss(out.image_embedding, taught.image_embedding)
                + feature_distillation_loss(out.text_embedding, taught.text_embedding)
            )
            total += loss.features * parts["feature_loss"]
    return total, {"loss": total} | parts


def split_batch(batch: ImageTextBatch, mesh: Mesh) -> ImageTextBatch:
    """The batch along the data axis of the mesh."""
    keep = functools.partial(
        jax.lax.with_sharding_constraint, shardings=placement.batched(mesh)
    )
    return ImageTextBatch(*map(keep, batch))


@functools.partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def train_step(
    state: TrainState, rest: nnx.State, teacher: tuple[nnx.State, nnx.State] | None,
    batch: ImageTextBatch, trainer: Trainer,
) -> tuple[TrainState, dict[str, Array]]:
    """One step; the sigmoid loss gets its bias at a run's very first.

    Args:
      state: given up.
      rest: what of the student's state is not trained.
      teacher: parameters and rest of the teacher, where there is one.
      batch: uint8 images [B,S,S,C], ids [B,T], labels [B].
      trainer: the constants.

    Returns:
      The next state, and metrics as scalars.
    """
    batch = split_batch(batch, trainer.mesh)
    taught = None
    if trainer.teacher is not None and teacher is not None:
        taught = embed_in_parts(trainer.teacher, *teacher, batch, trainer.micro_batches)
    before = state.weights
    if trainer.loss.kind == "sigmoid":
        bias = jax.lax.cond(
            state.step == 0,
            lambda: first_bias(before.clip, rest, batch, trainer),
            lambda: before.logit_bias,
        )
        before = before._replace(logit_bias=bias)
    (_, metrics), grads = jax.value_and_grad(total_loss, has_aux=True)(
        before, rest, taught, batch, trainer
    )
    updates, opt_state = trainer.optimizer.update(grads, state.opt_state, before)
    weights: Any = optax.apply_updates(before, updates)
    weights = Weights(clamp_logit_scale(weights.clip), weights.logit_bias)
    average = state.average
    if average is not None:
        # A short run's average should not be of its start: the decay rises to its value.
        decay = jnp.minimum(trainer.ema, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(weights, average, 1 - decay)
    metrics |= {
        "grad_norm": optax.tree.norm(grads),
        "logit_scale": jnp.exp(weights.clip["logit_scale"][...]),
        "learning_rate": trainer.learning_rate(state.step),
    }
    if trainer.loss.kind == "sigmoid":
        metrics["logit_bias"] = weights.logit_bias
    return TrainState(weights, average, opt_state, state.step + 1), metrics


def first_bias(
    params: nnx.State, rest: nnx.State, batch: ImageTextBatch, trainer: Trainer
) -> Array:
    """The logit bias that suits the network and the first batch; see `balanced_bias`."""
    out = embed_in_parts(trainer.student, params, rest, batch, trainer.micro_batches)
    labels = pair_labels(batch.labels, trainer.loss.same_label)
    size = batch.labels.shape[0]
    positives = size if labels is None else jnp.sum(labels[:, None] == labels[None, :])
    return balanced_bias(similarity_logits(*out), positives)
