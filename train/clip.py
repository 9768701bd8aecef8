"""The CLIP: its task and its optimizer.

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

from codesign.errors import UserError
from codesign.models import ClipOutput, Gates, clamp_logit_scale
from codesign.models.chunked_contrastive import (
    Chunks,
    chunked_contrastive_loss,
    chunked_distillation_loss,
    chunked_sigmoid_loss,
)
from codesign.train import placement
from codesign.train.data import ImageTextBatch
from codesign.train.finetune.config import ClipTrainingConfig, LossConfig
from codesign.train.losses import (
    balanced_bias,
    contrastive_loss,
    distillation_loss,
    feature_distillation_loss,
    sigmoid_loss,
    similarity_logits,
)
from codesign.train.network import Network
from codesign.train.optim import clipped_adamw, decayed, warmup_cosine
from codesign.train.sharding import used
from codesign.train.task import Metrics

Array = jax.Array
States = tuple[nnx.State, nnx.State]
_NOT_LOCKED, _LOCKED = "trained", "locked"


class Weights(NamedTuple):
    """What is trained.

    Attributes:
      clip: the CLIP's parameters.
      logit_bias: of the sigmoid loss, []; others leave it alone, and may do without (None).
    """

    clip: nnx.State
    logit_bias: Any


class Fixed(NamedTuple):
    """What no step changes.

    Attributes:
      rest: of the CLIP's state, all but its parameters.
      teacher: parameters and rest of the teacher, or None.
    """

    rest: nnx.State
    teacher: States | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ClipTask:
    """Contrastive training of a CLIP, with a teacher or without; see `task.Task`.

    Batches are `ImageTextBatch`; outputs `ClipOutput`. There are no statistics.

    Attributes:
      student: the network trained.
      loss_config: what is minimised.
      mesh: devices.
      teacher: the network learnt from, or None.
      lock: the tower that stays, or "none".
      micro_batches: M.
      chunks: how the logits of batches that they divide are cut; None: not at all.
    """

    student: Network
    loss_config: LossConfig
    mesh: Mesh
    teacher: Network | None = None
    lock: str = "none"
    micro_batches: int = 1
    chunks: Chunks | None = None
    unrolled_on_cpu: bool = False

    def network(self, params: Weights) -> nnx.State:
        """The CLIP's parameters."""
        return params.clip

    def with_network(self, params: Weights, network: nnx.State) -> Weights:
        """With other parameters of the CLIP."""
        return params._replace(clip=network)

    def prepare(self, batch: ImageTextBatch, key: Array) -> ImageTextBatch:
        """The batch along the data axis of the mesh; images are varied where they are read."""
        keep = functools.partial(
            jax.lax.with_sharding_constraint, shardings=placement.batched(self.mesh)
        )
        return ImageTextBatch(*map(keep, batch))

    def teacher_outputs(self, fixed: Fixed, batch: ImageTextBatch) -> ClipOutput | None:
        """The teacher's embeddings."""
        if self.teacher is None or fixed.teacher is None:
            return None
        return self._embed(self.teacher, *fixed.teacher, batch)

    def first(self, params: Weights, fixed: Fixed, batch: ImageTextBatch, step: Array) -> Weights:
        """The sigmoid loss gets its bias at a run's very first step."""
        if self.loss_config.kind != "sigmoid":
            return params
        bias = jax.lax.cond(
            step == 0, lambda: self.first_bias(params.clip, fixed, batch), lambda: params.logit_bias
        )
        return params._replace(logit_bias=bias)

    def first_bias(self, clip: nnx.State, fixed: Fixed, batch: ImageTextBatch) -> Array:
        """The logit bias that suits the network and the first batch; see `balanced_bias`."""
        out = self._embed(self.student, clip, fixed.rest, batch)
        labels = pair_labels(batch.labels, self.loss_config.same_label)
        size = batch.labels.shape[0]
        positives = size if labels is None else jnp.sum(labels[:, None] == labels[None, :])
        return balanced_bias(similarity_logits(*out), positives)

    def forward(
        self, params: Weights, stats: Any, fixed: Fixed, batch: ImageTextBatch, gates: Any = None
    ) -> tuple[ClipOutput, Any]:
        """Embeddings of the batch."""
        clip = params.clip
        if self.lock != "none":  # leaves out the backward pass of that tower
            clip = jax.tree_util.tree_map_with_path(
                lambda path, x: jax.lax.stop_gradient(x) if path[0].key == self.lock else x, clip
            )
        return self._embed(self.student, clip, fixed.rest, batch, gates), stats

    def _embed(
        self,
        network: Network,
        params: nnx.State,
        rest: nnx.State,
        batch: ImageTextBatch,
        gates: Any = None,
    ) -> ClipOutput:
        with used(params, self.mesh, "blocks") as params:
            return embed_in_parts(network, params, rest, batch, self.micro_batches, gates)

    def loss(
        self,
        params: Weights,
        outputs: ClipOutput,
        teacher: ClipOutput | None,
        batch: ImageTextBatch,
    ) -> tuple[Array, Metrics]:
        """See `weighted_losses`."""
        return weighted_losses(
            outputs, params.logit_bias, teacher, batch.labels, self.loss_config, self.chunks
        )

    def divergence(self, outputs: ClipOutput, densest: ClipOutput) -> Array:
        """Divergence of the similarities within the batch."""
        return _divergence(outputs, densest, self.chunks)

    def constrain(self, params: Weights) -> Weights:
        """The scale of the logits stays below 100."""
        return params._replace(clip=clamp_logit_scale(params.clip))

    def metrics(self, params: Weights) -> Metrics:
        """The scale of the logits, and their bias where the loss has one."""
        scale: Any = params.clip["logit_scale"]
        found = {"logit_scale": jnp.exp(scale[...])}
        if self.loss_config.kind == "sigmoid":
            found["logit_bias"] = params.logit_bias
        return found


def embed_in_parts(
    network: Network,
    params: nnx.State,
    rest: nnx.State,
    batch: ImageTextBatch,
    parts: int,
    gates: Gates | None = None,
) -> ClipOutput:
    """Embeddings of the whole batch, in its order, from `parts` passes."""
    if parts == 1:
        return network.embed(params, rest, batch.images, batch.ids, gates)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def embed(part: tuple[Array, Array]) -> tuple[Array, Array]:
        out = network.embed(params, rest, *part, gates)
        return out.image_embedding, out.text_embedding

    # Part m holds the pairs m, m + M, ...: each device's own pairs stay on it.
    cut = jax.tree.map(lambda x: _by_part(x, parts), (batch.images, batch.ids))
    images, texts = (_joined(x) for x in jax.lax.map(embed, cut))
    scale: Any = params["logit_scale"]
    return ClipOutput(images, texts, jnp.exp(scale[...]))


def _by_part(x: Array, parts: int) -> Array:
    """[B, ...] -> [M, b, ...]."""
    return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)


def _joined(x: Array) -> Array:
    """[M, b, ...] -> [B, ...], the reverse of `_by_part`."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])


def pair_labels(labels: Array, same_label: bool) -> Array | None:
    """Labels for the losses: -1, no label, becomes one of its own for every pair."""
    if not same_label:
        return None
    return jnp.where(labels < 0, -1 - jnp.arange(labels.shape[0]), labels)


def chunks_of(rows: int, mesh: Mesh) -> Chunks | None:
    """Chunks of so many rows of logits over the devices of a mesh; 0: none.

    Raises:
      UserError: rows that cannot be split evenly over the devices.
    """
    if rows % mesh.size:
        raise UserError(
            f"optim.logits_chunk is {rows}: it must be a multiple of the {mesh.size} devices"
        )
    return Chunks(rows, mesh if mesh.size > 1 else None) if rows else None


def _cuts(chunks: Chunks | None, out: ClipOutput) -> Chunks | None:
    """The chunks, where there is more than one to the batch, as in every step of training."""
    size = out.image_embedding.shape[0]
    several = chunks is not None and size > chunks.rows and size % chunks.rows == 0
    return chunks if several else None


def _divergence(out: ClipOutput, teacher: ClipOutput, chunks: Chunks | None) -> Array:
    if cut := _cuts(chunks, out):
        return chunked_distillation_loss(out, teacher, chunks=cut)
    return distillation_loss(similarity_logits(*out), similarity_logits(*teacher))


def weighted_losses(
    out: ClipOutput,
    logit_bias: Array,
    teacher: ClipOutput | None,
    labels: Array,
    loss: LossConfig,
    chunks: Chunks | None = None,
) -> tuple[Array, dict[str, Array]]:
    """The loss of a batch's embeddings, and its parts; by chunks if given."""
    of_pairs = pair_labels(labels, loss.same_label)
    if loss.kind == "softmax":
        if cut := _cuts(chunks, out):
            contrastive = chunked_contrastive_loss(*out, of_pairs, chunks=cut)
        else:
            contrastive = contrastive_loss(*out, of_pairs)
    elif cut := _cuts(chunks, out):
        contrastive = chunked_sigmoid_loss(*out, logit_bias, of_pairs, chunks=cut)
    else:
        contrastive = sigmoid_loss(*out, logit_bias, of_pairs)
    total, parts = loss.contrastive * contrastive, {"contrastive_loss": contrastive}
    if teacher is not None:
        parts["distillation_loss"] = _divergence(out, teacher, chunks)
        total += loss.distillation * parts["distillation_loss"]
        if loss.features:
            parts["feature_loss"] = 0.5 * (
                feature_distillation_loss(out.image_embedding, teacher.image_embedding)
                + feature_distillation_loss(out.text_embedding, teacher.text_embedding)
            )
            total += loss.features * parts["feature_loss"]
    return total, {"loss": total} | parts


def make_optimizer(
    config: ClipTrainingConfig, params: nnx.State, steps: int, lr: float, warmup_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW under warm-up, cosine and clipping, and its learning rate; a locked tower is left out.

    What is locked has no moments either, and does not count in the norm that is clipped.
    """
    optim = config.optim
    rate = warmup_cosine(lr, warmup_steps, max(1, steps), optim.final_lr)
    decays: Any = Weights(decayed(params), False)
    adamw = clipped_adamw(optim, rate, decays)
    if config.lock == "none":
        return adamw, rate
    labels: Any = Weights(
        jax.tree_util.tree_map_with_path(
            lambda path, _: _LOCKED if path[0].key == config.lock else _NOT_LOCKED, params
        ),
        _NOT_LOCKED,
    )
    locked = optax.partition({_NOT_LOCKED: adamw, _LOCKED: optax.set_to_zero()}, labels)
    return locked, rate
