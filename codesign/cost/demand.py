"""What runs on a device, and how it is used: all that pricing asks of a network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from codesign.architecture import Architecture
from codesign.cost.capacity import contents_bytes, left_out_share
from codesign.cost.costing import costing_of
from codesign.dress.masks import checked_sparsities
from codesign.scenario import Scenario, runs_never
from codesign.workload import Workload, clip_workload
from codesign.workload.clip import CLIP_FAMILY, ClipNetwork, subnet_operators
from codesign.workload.families import ModelFamily
from codesign.workload.kernels import BlockKernel, kernels_of


class Demand(NamedTuple):
    """A workload, or those of a family's subnets, and how they are used.

    Attributes:
      workloads: concrete operators, [G] and [V] each.
      shares: of the inferences.
      contents: of the DRAM, bytes.
      scenario: how a device lives; of a chip that skips zeros, with its index bits.
    """

    workloads: Sequence[Workload]
    shares: Sequence[float]
    contents: float
    scenario: Scenario


def dense_demand(architecture: Architecture, scenario: Scenario) -> Demand:
    """One dense CLIP.

    Raises:
      ValueError: the scenario has shares of several subnets.
    """
    return _uniform(architecture, scenario, [1])


def sparse_demand(
    architecture: Architecture, scenario: Scenario, sparsity: Sequence[float]
) -> Demand:
    """The subnets of a family, all block kernels of the same sparsity.

    Args:
      architecture: a CLIP of integer dimensions.
      scenario: without `index_bits` it gets as many as its rows need.
      sparsity: of the subnets, increasing, in [0, 1).

    Raises:
      ValueError: sparsities that are none, shares of another number of subnets, too few
        `index_bits`.
    """
    levels = checked_sparsities(sparsity)
    scenario = with_index_bits(scenario, longest_row(architecture))
    return _uniform(architecture, scenario, [1 - level for level in levels])


def _uniform(architecture: Architecture, scenario: Scenario, densities: Sequence[float]) -> Demand:
    """A CLIP all of whose blocks keep a share of their weights, once for each share."""
    shares = subnet_shares(scenario, len(densities))
    costing, texts = costing_of(scenario), scenario.texts_per_image
    works = [clip_workload(architecture, costing, density, texts) for density in densities]
    return Demand(works, shares, _contents(architecture, scenario, densities[0]), scenario)


def family_demand(
    architecture: Architecture,
    scenario: Scenario,
    densities: Sequence[Mapping[str, Sequence[float]]],
) -> Demand:
    """The subnets of a trained family, every layer of the density that its masks gave it.

    Args:
      architecture: of the family.
      scenario: as in `sparse_demand`.
      densities: of each subnet, by kernel, one a layer; `PackedFamily.densities`.

    Raises:
      ValueError: as `sparse_demand`; kernels the cost model does not know.
    """
    shares = subnet_shares(scenario, len(densities))
    scenario = with_index_bits(scenario, longest_row(architecture))
    costing, texts = costing_of(scenario), scenario.texts_per_image
    works = [subnet_operators(architecture, each, texts).under(costing) for each in densities]
    memory = CLIP_FAMILY.memory(architecture, scenario)
    stored = max(layers_weight_bytes(architecture, scenario, each) for each in densities)
    contents = stored + memory.activations * scenario.word_bytes
    return Demand(works, shares, float(contents), scenario)


def subnet_shares(scenario: Scenario, subnets: int) -> tuple[float, ...]:
    """The scenario's shares of so many subnets; equal ones where it has none.

    Raises:
      ValueError: the scenario has shares of another number of subnets.
    """
    shares = scenario.subnet_shares
    if shares is None:
        return (1 / subnets,) * subnets
    if len(shares) != subnets:
        raise ValueError(
            f"scenario.subnet_shares has {len(shares)} shares for {subnets} subnets; give one each"
        )
    return shares


def longest_row(architecture: Any, family: ModelFamily = CLIP_FAMILY) -> int:
    """Weights of the longest row of any block kernel of a network of integer dimensions."""
    blocks = (
        family.block(architecture, name, family.tower(architecture, name)) for name in family.towers
    )
    products = (gemm for block in blocks for gemm in block.gemms)
    return max(gemm.k for gemm in products if kernels_of(gemm.name))


def with_index_bits(scenario: Scenario, row: int) -> Scenario:
    """The scenario of a chip that skips zeros in rows of so many weights.

    Raises:
      ValueError: the scenario's own index_bits do not suffice.
    """
    needed = max(1, math.ceil(math.log2(row)))
    if scenario.index_bits == 0:
        return dataclasses.replace(scenario, index_bits=needed)
    if scenario.index_bits < needed:
        raise ValueError(
            f"scenario.index_bits: {scenario.index_bits} bits tell {2**scenario.index_bits} "
            f"weights apart, a row has {row}; use {needed}, or 0 for as many as it takes"
        )
    return scenario


def layers_weight_bytes(
    architecture: Architecture, scenario: Scenario, densities: Mapping[str, Sequence[float]]
) -> float:
    """All weights of a subnet, with their positions; every layer's kernel is packed or dense.

    Args:
      architecture: of integers.
      scenario: with index_bits; of towers that never run nothing is on the device.
      densities: by kernel, one share a layer; kernels not named keep all their weights.
    """
    memory, left_out = CLIP_FAMILY.memory(architecture, scenario), 0.0
    for name, shares in densities.items():
        kernel = BlockKernel.named(name)
        if runs_never(CLIP_FAMILY.runs(kernel.tower, scenario)):
            continue
        words = kernel.weights_per_layer(architecture)
        left_out += words * sum(left_out_share(scenario, share) for share in shares)
    return float((memory.weights - left_out) * scenario.word_bytes)


def mean_density(architecture: Architecture, densities: Mapping[str, Sequence[float]]) -> float:
    """Share of all block weights that are kept."""
    a, lost = architecture, 0.0
    for name, shares in densities.items():
        weights = BlockKernel.named(name).weights_per_layer(a)
        lost += weights * sum(1 - share for share in shares)
    return 1 - lost / ClipNetwork(a).memory().prunable


def _contents(architecture: Architecture, scenario: Scenario, density: float) -> float:
    return float(contents_bytes(CLIP_FAMILY.memory(architecture, scenario), scenario, density))
