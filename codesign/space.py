"""DesignSpace: the choices of each dimension, and their relaxation to a unit cube.

A relaxed design is a point z of [0, 1]^d, one coordinate per dimension, spread
evenly over that dimension's choices: with n choices, z = i / (n - 1) is choice i.
Between choices a dimension's value is interpolated linearly; `weights` gives the
interpolation weights themselves, with which any table over the choices becomes a
continuous function of z that is exact at every discrete design.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.architecture import ELASTIC, TOWERS, Architecture, Tower
from codesign.constraints import CountChoices, PositiveChoices
from codesign.renamed import accepts_old_names

Array = jax.Array
# How near, in units of choices, counts as at a choice: above float32 rounding of z.
AT_CHOICE = 1e-5
ACCELERATOR_FIELDS = tuple(f.name for f in dataclasses.fields(Accelerator))


class Dimension(NamedTuple):
    """One axis of the space: its dotted name and its increasing choices."""

    name: str
    choices: tuple[float, ...]


def _check_choices(name: str, choices: Sequence[float]) -> None:
    """Refuses choices that are none: empty, not positive, not increasing, not a number."""
    try:
        increasing = all(a < b for a, b in itertools.pairwise(choices))
        fine = bool(choices) and choices[0] > 0 and increasing
    except TypeError:  # not a sequence, or not of numbers
        fine = False
    if not fine:
        raise ValueError(f"space.{name}: choices must be positive and increasing, not {choices}")


@dataclasses.dataclass(frozen=True)
class TowerChoices:
    """Choices of a tower's elastic dimensions, each strictly increasing.

    Attributes:
      layers: numbers of transformer blocks.
      width: residual channels.
      heads: attention heads.
      ffn: hidden units of the MLP.
    """

    layers: CountChoices
    width: CountChoices
    heads: CountChoices
    ffn: CountChoices


@accepts_old_names
@dataclasses.dataclass(frozen=True)
class AcceleratorChoices:
    """Choices of the accelerator's parameters; the defaults are CATransformers' grid.

    Attributes:
      cores: cores on the chip.
      pe_x: PE columns a core.
      pe_y: PE rows a core.
      l2_kib: local buffer per core, KiB.
      l2_bytes_per_cycle: local-buffer bandwidth, bytes a cycle.
      glb_mib: global buffer, MiB.

    Raises:
      ValueError: choices empty, not increasing or not positive.
    """

    cores: CountChoices = (1, 2, 4)
    pe_x: CountChoices = (32, 64, 128, 256)
    pe_y: CountChoices = (2, 4, 8, 16, 32, 64)
    l2_kib: CountChoices = (64, 128, 256, 512, 1024)
    l2_bytes_per_cycle: CountChoices = (32, 64, 128)
    glb_mib: PositiveChoices = (2, 4, 8)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_choices(f"accelerator.{field.name}", getattr(self, field.name))


@dataclasses.dataclass(frozen=True)
class DesignSpace:
    """All designs a search may return.

    Attributes:
      base: fixed dimensions (patch, image, context, ...); its towers are ignored.
      vision: choices of the image tower.
      text: choices of the text tower.
      accelerator: choices of the accelerator.
      sparsity: of each DRESS subnet, the densest first, choices of its share of zeros, all
        below those of the next; empty: one dense network.

    Raises:
      ValueError: choices empty, not increasing or not positive; sparsities outside [0, 1),
        or of subnets that overlap.
    """

    base: Architecture
    vision: TowerChoices
    text: TowerChoices
    accelerator: AcceleratorChoices = AcceleratorChoices()
    sparsity: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        for name, choices in self.dimensions:
            if not name.startswith("sparsity."):
                _check_choices(name, choices)
        levels = [level for choices in self.sparsity for level in choices]
        if not all(self.sparsity) or any(a >= b for a, b in itertools.pairwise(levels)):
            raise ValueError(
                "space.sparsity: choices must increase, within a subnet and from one to the next, "
                f"not {self.sparsity}"
            )
        if any(not 0 <= level < 1 for level in levels):
            raise ValueError(f"space.sparsity: choices must lie in [0, 1), not {self.sparsity}")

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Axes of z in order: vision's, text's, the subnets', then the accelerator's."""
        towers = [
            Dimension(f"{tower}.{field}", tuple(getattr(getattr(self, tower), field)))
            for tower in TOWERS
            for field in ELASTIC
        ]
        chip = [
            Dimension(f"accelerator.{field}", tuple(getattr(self.accelerator, field)))
            for field in ACCELERATOR_FIELDS
        ]
        subnets = [Dimension(f"sparsity.{k}", tuple(c)) for k, c in enumerate(self.sparsity)]
        return (*towers, *subnets, *chip)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes of z."""
        return tuple(d.name for d in self.dimensions)

    @property
    def architecture_size(self) -> int:
        """Axes of z that belong to the architecture; they come first."""
        return len(TOWERS) * len(ELASTIC)

    @property
    def network_size(self) -> int:
        """Axes of z that belong to the network, its sparsities included; they come first."""
        return self.architecture_size + len(self.sparsity)

    @property
    def levels(self) -> tuple[float, ...]:
        """All sparsities that some subnet may have, increasing."""
        return tuple(level for choices in self.sparsity for level in choices)

    @property
    def steps(self) -> np.ndarray:
        """Choices less one along each axis, [d]."""
        return np.array([len(d.choices) - 1 for d in self.dimensions])

    @property
    def architectures(self) -> int:
        """Discrete architectures in the space, their sparsities not counted."""
        return math.prod(len(d.choices) for d in self.dimensions[: self.architecture_size])

    @property
    def accelerators(self) -> int:
        """Discrete accelerators in the space."""
        return math.prod(len(d.choices) for d in self.dimensions[self.network_size :])

    def largest(self) -> Architecture:
        """The supernet: every elastic dimension at its last choice."""
        return self.architecture_at(self.steps)

    def architecture_at(self, indices: Sequence[int] | np.ndarray) -> Architecture:
        """Discrete architecture at choice indices [>= 8]; only the first 8 are read."""
        values = [int(d.choices[int(i)]) for d, i in zip(self.dimensions, indices, strict=False)]
        return self._architecture(values[: self.architecture_size])

    def accelerator_at(self, indices: Sequence[int] | np.ndarray) -> Accelerator:
        """Discrete accelerator at choice indices [d]; only the last 6 are read."""
        chip = self.dimensions[self.network_size :]
        values = [d.choices[int(i)] for d, i in zip(chip, indices[-len(chip) :], strict=True)]
        return Accelerator(*values)

    def sparsity_at(self, indices: Sequence[int] | np.ndarray) -> tuple[float, ...]:
        """Sparsities of the subnets at choice indices [>= network_size]."""
        own = indices[self.architecture_size : self.network_size]
        return tuple(c[int(i)] for c, i in zip(self.sparsity, own, strict=True))

    def _architecture(self, values: Sequence[Any]) -> Architecture:
        n = len(ELASTIC)
        return dataclasses.replace(
            self.base, vision=Tower(*values[:n]), text=Tower(*values[n : 2 * n])
        )

    def relax(self, z: Array) -> tuple[Architecture, Accelerator]:
        """Continuous design at z [d]: every dimension interpolated between its choices."""
        values = [
            jnp.dot(w, jnp.asarray(d.choices, jnp.float32))
            for w, d in zip(self.weights(z), self.dimensions, strict=True)
        ]
        return (
            self._architecture(values[: self.architecture_size]),
            Accelerator(*values[self.network_size :]),
        )

    def weights(self, z: Array) -> list[Array]:
        """Interpolation weights of each axis at z [d]: vectors [choices] that sum to one."""
        return [interpolation_weights(z[i], len(d.choices)) for i, d in enumerate(self.dimensions)]

    def level_weights(self, z: Array) -> Array:
        """Interpolation weights of every subnet over `levels`, [K, levels] at z [d]."""
        own = self.weights(z)[self.architecture_size : self.network_size]
        starts = np.cumsum([0, *map(len, self.sparsity)])
        return jnp.stack([
            jnp.zeros(len(self.levels)).at[start : start + len(w)].set(w)
            for start, w in zip(starts, own, strict=False)
        ])  # fmt: skip

    def indices(self, z: Array) -> Array:
        """z [..., d] in units of choices: 0 is the first choice, 1.5 halfway to the third."""
        return z * self.steps

    def round(self, z: Array) -> Array:
        """Indices [..., d] of the nearest choices."""
        return jnp.clip(jnp.round(self.indices(z)), 0, self.steps).astype(jnp.int32)

    def encode(self, indices: Array | np.ndarray) -> np.ndarray:
        """z [..., d] of discrete designs given by choice indices [..., d]."""
        return np.asarray(indices) / np.maximum(self.steps, 1)

    def nearest(self, architecture: Architecture) -> np.ndarray:
        """Choice indices [8] nearest to an architecture's elastic dimensions."""
        values = jax.tree.leaves(architecture)
        return np.array(
            [
                int(np.argmin(np.abs(np.array(d.choices) - v)))
                for d, v in zip(self.dimensions, values, strict=False)
            ]
        )


def interpolation_weights(z: Array, choices: int) -> Array:
    """Weights [choices] of linear interpolation at z in [0, 1] over evenly spaced choices.

    At a choice the weight of that choice is exactly one, and the derivative is the
    mean of the slopes on both sides (the one slope there is, at an end): a gradient
    step from a discrete design sees both its neighbours.
    """
    if choices == 1:
        return jnp.ones((1,), jnp.float32)
    index = z * (choices - 1)
    # i / (n - 1) * (n - 1) may miss i by rounding; a choice must be hit exactly.
    nearest = jnp.round(index)
    at_choice = jnp.abs(index - nearest) < AT_CHOICE
    index = index + jax.lax.stop_gradient(jnp.where(at_choice, nearest - index, 0.0))

    def between(lower: Array) -> Array:
        lower = jax.lax.stop_gradient(jnp.clip(lower, 0, choices - 2)).astype(jnp.int32)
        share = index - lower
        return jax.nn.one_hot(lower, choices) * (1 - share) + (
            jax.nn.one_hot(lower + 1, choices) * share
        )

    return 0.5 * (between(jnp.floor(index)) + between(jnp.ceil(index) - 1))
