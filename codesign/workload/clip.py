"""Operators and parameters of a CLIP: one image and one text through both towers, batch 1.

What is fused and in which order operators run is described in blocks.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from codesign.architecture import TOWERS, Architecture, Tower
from codesign.errors import did_you_mean
from codesign.renamed import former_names
from codesign.scenario import Scenario, runs_never
from codesign.workload.blocks import (
    Block,
    Operators,
    block_operators,
    block_parameters,
    join,
    norm_parameters,
    prefixed,
    repeated,
)
from codesign.workload.counting import AS_RUN, Counting
from codesign.workload.families import ModelFamily
from codesign.workload.kernels import BlockKernel, clip_kernels, kernels_of
from codesign.workload.memory import Memory, activation_words, largest
from codesign.workload.operators import Gemm, VectorOp, Workload


@dataclasses.dataclass(frozen=True)
class ClipNetwork:
    """A CLIP of integer dimensions, the heads of whose towers may differ in width.

    Attributes:
      architecture: its dimensions; `head_dim` is the image tower's.
      text_head_dim: channels a head of the text tower; None: the image tower's.
    """

    architecture: Architecture
    text_head_dim: int | None = None

    @property
    def uniform(self) -> bool:
        """Whether the architecture alone says it all."""
        return self.text_head_dim in (None, self.architecture.head_dim)

    def operators(self, texts_per_image: float = 1) -> Operators:
        """Operators of one image and of its texts."""
        return _clip_operators(self.architecture, self.text_head_dim, texts=texts_per_image)

    def memory(self, texts_per_image: float = 1) -> Memory:
        """Contents of the DRAM while an image and then its texts run.

        A text tower that never runs is not on the device.
        """
        a = self.architecture
        held = ("vision",) if runs_never(texts_per_image) else TOWERS
        before = a.channels * a.image**2 + a.patches * a.vision.width
        blocks = [
            activation_words(_tower_block(a, name, self.text_head_dim), tokens=_tokens(a, name))
            for name in held
        ]
        kernels = (k for k in clip_kernels() if k.tower in held)
        prunable = sum(k.tower_of(a).layers * k.weights_per_layer(a) for k in kernels)
        weights = sum(self._tower_parameters(name) for name in held) + 1
        return Memory(weights, activations=largest(before, *blocks), prunable=prunable)

    def parameters(self) -> Any:
        """Every trained number, the logit scale included."""
        return sum(self._tower_parameters(name) for name in TOWERS) + 1

    def _tower_parameters(self, name: str) -> Any:
        """Every trained number of one tower and its projection."""
        a = self.architecture
        block, t = _tower_block(a, name, self.text_head_dim), getattr(a, name)
        blocks = t.layers * block_parameters(block)
        if name == "vision":
            embedded = a.channels * a.patch**2 + 1 + a.vision_tokens + a.projection
            return t.width * embedded + blocks + 2 * norm_parameters("layernorm", t.width)
        embedded = a.vocab + a.context + a.projection
        return t.width * embedded + blocks + norm_parameters("layernorm", t.width)


@dataclasses.dataclass(frozen=True)
class ClipModelFamily(ModelFamily):
    """CLIPs of elastic towers; see `ModelFamily`."""

    towers: tuple[str, ...] = TOWERS

    def block(self, base: Architecture, name: str, tower: Tower, density: Any = 1) -> Operators:
        """Operators of one block of a tower."""
        block = _block(base, name, tower, None, density)
        operators = block_operators(block, tokens=_tokens(base, name), masked=name == "text")
        return prefixed(name, operators)

    def outside(self, base: Architecture, name: str, width: Any) -> Operators:
        """Operators of a tower outside its blocks; `outside_workload` says where cosines are."""
        return _outside_operators(self.architecture(base, {name: Tower(1, width, 1, 1)}), name)

    def memory(self, architecture: Architecture, scenario: Scenario) -> Memory:
        """Contents of the DRAM while an image and then its texts run."""
        return ClipNetwork(architecture).memory(scenario.texts_per_image)

    def runs(self, name: str, scenario: Scenario) -> float:
        """How often a tower runs an inference."""
        return scenario.texts_per_image if name == "text" else 1


CLIP_FAMILY = ClipModelFamily()


def tower_layer_workload(
    tower: Tower,
    *,
    name: str,
    tokens: int,
    head_dim: int,
    activation: str,
    causal: bool,
    layers: Any = 1,
    costing: Counting = AS_RUN,
    density: Any = 1,
) -> Workload:
    """Operators of `layers` identical transformer blocks.

    Args:
      tower: width, heads and ffn of a block; its own `layers` is not used.
      name: prefix of the operators' names.
      tokens: sequence length.
      head_dim: channels a head.
      activation: "gelu" or "quick_gelu".
      causal: whether a mask is added to the scores.
      layers: how often the block runs.
      costing: whose conventions count the operators.
      density: share of the block's weights that are kept.
    """
    block = Block(
        tower.width, tower.heads, head_dim, tower.ffn, activation=activation, density=density
    )
    operators = block_operators(block, tokens=tokens, masked=causal, layers=layers)
    return prefixed(name, operators).under(costing)


def outside_workload(architecture: Architecture, name: str, costing: Counting = AS_RUN) -> Workload:
    """Operators of the "vision" or "text" tower outside its transformer blocks.

    The cosine similarity of the two embeddings is counted with the text tower.
    """
    return _outside_operators(architecture, name).under(costing)


def clip_workload(
    architecture: Architecture,
    costing: Counting = AS_RUN,
    density: Any = 1,
    texts_per_image: float = 1,
) -> Workload:
    """All operators of both towers; differentiable in the elastic dimensions and the density.

    Args:
      architecture: scalars, integers or relaxed.
      costing: whose conventions count the operators.
      density: share of the blocks' weights that are kept, in (0, 1].
      texts_per_image: how often the text tower runs.
    """
    operators = _clip_operators(architecture, density=density, texts=texts_per_image)
    return operators.under(costing)


def subnet_operators(
    architecture: Architecture,
    densities: Mapping[str, Sequence[float]],
    texts_per_image: float = 1,
) -> Operators:
    """Operators of a CLIP whose layers keep different shares of their weights.

    Args:
      architecture: of integers.
      densities: by kernel, such as "vision.blocks.fc1", one share a layer; kernels not named
        keep all their weights.
      texts_per_image: how often the text tower runs.

    Raises:
      ValueError: a kernel that is none of a block's, or another number of layers.
    """
    known = {kernel.name for kernel in clip_kernels()}
    for name, shares in densities.items():
        if name not in known:
            raise ValueError(f"the cost model has no sparse '{name}'; {did_you_mean(name, known)}")
        layers = BlockKernel.named(name).tower_of(architecture).layers
        if len(shares) != layers:
            raise ValueError(f"{name} has {len(shares)} densities for {layers} layers")
    operators = _clip_operators(architecture, texts=texts_per_image)
    gemms: list[Gemm] = []
    for gemm in operators.gemms:
        kernels = kernels_of(gemm.name)
        if not any(kernel.name in densities for kernel in kernels):
            gemms.append(gemm)
            continue
        gemms += [
            gemm._replace(
                count=texts_per_image if kernel.tower == "text" else 1, density=float(share)
            )
            for kernel in kernels
            for share in densities.get(kernel.name, [1.0] * kernel.tower_of(architecture).layers)
        ]
    return Operators(tuple(gemms), operators.vector_ops)


def _clip_operators(
    architecture: Architecture,
    text_head_dim: int | None = None,
    density: Any = 1,
    texts: float = 1,
) -> Operators:
    a = architecture
    parts = []
    for name in TOWERS:
        block, layers = _tower_block(a, name, text_head_dim, density), getattr(a, name).layers
        layer = block_operators(
            block, tokens=_tokens(a, name), masked=name == "text", layers=layers
        )
        whole = join(prefixed(name, layer), _outside_operators(a, name))
        parts.append(repeated(whole, texts if name == "text" else 1))
    return join(*parts)


def _tower_block(a: Architecture, name: str, text_head_dim: int | None, density: Any = 1) -> Block:
    return _block(a, name, getattr(a, name), text_head_dim, density)


def _tokens(a: Architecture, name: str) -> int:
    return a.vision_tokens if name == "vision" else a.context


def _block(
    a: Architecture, name: str, tower: Tower, text_head_dim: int | None, density: Any
) -> Block:
    head_dim = (text_head_dim or a.head_dim) if name == "text" else a.head_dim
    return Block(
        tower.width, tower.heads, head_dim, tower.ffn, activation=a.activation, density=density
    )


def _outside_operators(architecture: Architecture, name: str) -> Operators:
    a, tower = architecture, getattr(architecture, name)
    d = tower.width
    if name == "vision":
        tokens = a.vision_tokens
        gemms = [
            Gemm("patches", a.patches, a.channels * a.patch**2, d),
            Gemm("projection", 1, d, a.projection),
        ]
        vector_ops = [
            VectorOp("positions", "add", tokens * d, operands=2),
            VectorOp("ln_pre", "layernorm", tokens * d),
            VectorOp("ln_post", "layernorm", d),
            VectorOp("normalise", "normalise", a.projection),
        ]
    else:
        gemms = [
            Gemm("projection", 1, d, a.projection),
            Gemm("similarity", 1, a.projection, 1),
        ]
        vector_ops = [
            VectorOp("embedding", "embedding", a.context * d),
            VectorOp("positions", "add", a.context * d, operands=2),
            VectorOp("ln_final", "layernorm", a.context * d),
            VectorOp("normalise", "normalise", a.projection),
        ]
    return prefixed(name, Operators(tuple(gemms), tuple(vector_ops)))


__getattr__ = former_names(__name__, __name__, {"Clip": "ClipNetwork"})
