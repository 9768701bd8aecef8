"""What a step of CLIP training takes of every device, before anything is run: a model of its own.

Counted are matrix products, arrays that are held, and arrays that are exchanged, as the programs of
`step.py` under the rules of `sharding.py` have them; the tests hold it against the compiled
programs' own counts. It tells what fits and what waits for links; it does not tell time.

Axes: L layers, T tokens, D channels, J query channels, F hidden units, of either tower; E joint
embedding, B pairs of the global batch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import AbstractMesh

from codesign.architecture import Architecture
from codesign.models import CLIP
from codesign.models.dialect import Dialect, TowerDialect
from codesign.models.layout import FSDP
from codesign.train.sharding import shardings

F32 = 4


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """A step of fine-tuning, and the devices it is laid out on.

    Attributes:
      architecture: of the CLIP, integer dimensions.
      batch: pairs B, over all devices.
      data: groups of devices that hold the weights once each.
      fsdp: devices of a group, over which weights and optimizer are split.
      micro_batches: parts that the batch goes through the towers in.
      logits_chunk: rows of logits at once, over all devices; 0: all.
      remat: whether blocks are computed again in the backward pass.
      bfloat16: whether activations are.
      ema: whether there is a moving average.
      fused_attention: whether attention keeps its logits off the memory, as cuDNN's does.
      text_head_dim: channels of a head of the text tower, where they are others.
    """

    architecture: Architecture
    batch: int
    data: int = 1
    fsdp: int = 1
    micro_batches: int = 1
    logits_chunk: int = 0
    remat: bool = False
    bfloat16: bool = True
    ema: bool = False
    fused_attention: bool = True
    text_head_dim: int | None = None

    @property
    def devices(self) -> int:
        """All of them."""
        return self.data * self.fsdp

    @property
    def pairs(self) -> int:
        """Pairs in the towers of a device at once."""
        return self.batch // self.devices // self.micro_batches

    @property
    def word_bytes(self) -> int:
        """Of an activation."""
        return 2 if self.bfloat16 else F32


class _Tower(NamedTuple):
    """Dimensions of a tower: layers, tokens, channels, query channels, hidden units, heads."""

    layers: int
    tokens: int
    width: int
    query: int
    ffn: int
    heads: int


def _towers(plan: StepPlan) -> tuple[_Tower, ...]:
    a = plan.architecture
    tokens = {"vision": a.vision_tokens, "text": a.context}
    channels = {"vision": a.head_dim, "text": plan.text_head_dim or a.head_dim}
    towers = ((tower, tokens[name], channels[name]) for name, tower in a.towers.items())
    return tuple(
        _Tower(t.layers, n, t.width, t.heads * head, t.ffn, t.heads) for t, n, head in towers
    )


def flops(plan: StepPlan) -> float:
    """Floating-point operations of a step's matrix products, of one device.

    Every product has two for its gradients, but that of the pixels one. Blocks compute their
    attention's logits again in the backward pass, or with `remat` all but their last product; with
    micro-batches all of the forward pass is computed once more (`clip.embed_in_parts`).
    """
    a = plan.architecture
    macs = 0.0
    for t in _towers(plan):
        scores = t.tokens**2 * t.query
        last = t.tokens * t.width * t.ffn
        forward = 4 * t.tokens * t.width * t.query + 2 * scores + 2 * last
        again = forward - last if plan.remat else scores
        read_out = t.width * a.projection
        macs += t.layers * (3 * forward + again) + 3 * read_out
        if plan.micro_batches > 1:
            macs += t.layers * forward + read_out
    pixels = a.patches * a.patch**2 * a.channels * a.vision.width
    macs += (3 if plan.micro_batches > 1 else 2) * pixels
    # Logits and their two gradients; by chunks logits four times, and no more gradients.
    macs += plan.batch * a.projection * (6 if plan.logits_chunk else 3)
    return 2 * macs * plan.batch / plan.devices


class Memory(NamedTuple):
    """Bytes of one device.

    Attributes:
      state: weights, optimizer and moving average, f32.
      gradients: of the weights, f32, where they are kept; among several devices twice, before and
        after they are summed.
      gathered: copies of weights in the type of the activations; of split ones also two layers, and
        all that is not of blocks, put together.
      activations: what the backward pass needs of a micro-batch, and one block's own.
      logits: of the loss, and the embeddings of the batch.
    """

    state: int
    gradients: int
    gathered: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Their sum: not all of it is held at once."""
        return sum(self)


@functools.cache
def _weights(architecture: Architecture, text_head_dim: int | None) -> dict[str, nnx.State]:
    """Shapes of the parameters: of the blocks, and of all else."""
    dialect = Dialect(text=TowerDialect(head_dim=text_head_dim))

    def new() -> CLIP:
        return CLIP(architecture, rngs=nnx.Rngs(0), dialect=dialect)

    def is_of_block(path: tuple[Any, ...], _: Any) -> bool:
        return "blocks" in path

    blocks, others = nnx.split_state(nnx.state(nnx.eval_shape(new), nnx.Param), is_of_block, ...)
    return {"blocks": blocks, "others": others}


class Weights(NamedTuple):
    """Bytes of the f32 parameters in all, and of one device, by the rule of `sharding.py`."""

    blocks: int
    others: int
    held: int

    @property
    def total(self) -> int:
        """Of the whole network."""
        return self.blocks + self.others


def weight_bytes(plan: StepPlan) -> Weights:
    """What the parameters take."""
    mesh: Any = AbstractMesh((plan.data, plan.fsdp), ("data", FSDP))
    whole, held = {}, 0
    for name, params in _weights(plan.architecture, plan.text_head_dim).items():
        shapes = [x.shape for x in jax.tree.leaves(params)]
        splits = jax.tree.leaves(shardings(params, mesh))
        whole[name] = F32 * sum(math.prod(shape) for shape in shapes)
        parts = (s.shard_shape(shape) for s, shape in zip(splits, shapes, strict=True))
        held += F32 * sum(math.prod(part) for part in parts)
    return Weights(held=held, **whole)


def memory_bytes(plan: StepPlan) -> Memory:
    """What a step holds on each device."""
    a, word, pairs = plan.architecture, plan.word_bytes, plan.pairs
    weights, towers = weight_bytes(plan), _towers(plan)
    gathered = weights.held * word // F32 if plan.bfloat16 else 0
    gradients = weights.held * (2 if plan.devices > 1 else 1)
    if plan.fsdp > 1:
        layer = max(4 * t.width * t.query + 2 * t.width * t.ffn for t in towers)
        gathered += 2 * layer * word + weights.others
        gradients += weights.others
    kept, at_work = 0, 0
    for t in towers:
        # `models.remat`: queries, keys, values, what attention mixes, two sums, hidden units.
        of_block = t.tokens * (4 * t.query + 2 * t.width + t.ffn)
        kept += t.layers * (t.tokens * t.width if plan.remat else of_block) * word
        scores = 0 if plan.fused_attention else 2 * t.heads * t.tokens**2 * (F32 + word)
        again = of_block if plan.remat else 0
        at_work = max(at_work, scores + word * (again + 4 * t.tokens * (t.ffn + t.width)))
    pixels = a.image**2 * a.channels * (2 * F32 + word)
    rows = (plan.logits_chunk or plan.batch) // plan.devices
    return Memory(
        state=weights.held * (3 + plan.ema),
        gradients=gradients,
        gathered=gathered,
        activations=pairs * (kept + at_work + pixels),
        logits=F32 * (4 * rows * plan.batch + 4 * plan.batch * a.projection),
    )


class Exchanged(NamedTuple):
    """Bytes that one device sends a step, by rings.

    Attributes:
      weights: gathered within a group: those of the blocks for each pass over a micro-batch, all
        others once.
      gradients: summed over all devices, of each micro-batch.
      embeddings: of the batch, and their gradients.
    """

    weights: float
    gradients: float
    embeddings: float

    @property
    def total(self) -> float:
        """Their sum."""
        return sum(self)


def exchanged_bytes(plan: StepPlan) -> Exchanged:
    """What a step sends from each device.

    A ring of n sends (n-1)/n of an array to gather it or to sum it to parts, and twice as much to
    sum it to all of them (Patarasuk and Yuan, J. Parallel Distrib. Comput. 2009). Gradients are
    counted as summed to all, as XLA's programs for CPUs do; a backend that sums them to where they
    are kept sends as little as half.
    """
    weights, devices = weight_bytes(plan), plan.devices
    passes = 3 * plan.micro_batches if plan.micro_batches > 1 else 2
    blocks = passes * weights.blocks * plan.word_bytes / F32
    embeddings = plan.batch * plan.architecture.projection * F32
    return Exchanged(
        weights=(1 - 1 / plan.fsdp) * (blocks + weights.others),
        gradients=2 * (1 - 1 / devices) * weights.total * plan.micro_batches,
        # Both sides gathered, and the gradient of one summed.
        embeddings=4 * (1 - 1 / devices) * embeddings,
    )
