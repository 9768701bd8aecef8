"""One discrete design, priced: the functions behind `codesign cost` and `codesign.estimate`."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.architecture import TOWERS, Architecture
from codesign.cost.capacity import OverloadWarning, dram_shortage, overload_message
from codesign.cost.costing import costing_of
from codesign.cost.mapper import gemm_run
from codesign.cost.model import Costs, clip_costs, expected, workload_costs
from codesign.cost.technology import technology
from codesign.dress.masks import checked_sparsities
from codesign.errors import UserError
from codesign.scenario import Scenario
from codesign.workload import Workload, clip_workload
from codesign.workload.clip import Clip, subnet_operators
from codesign.workload.kernels import BlockKernel, clip_kernels

_price = jax.jit(clip_costs, static_argnames="scenario")
_price_workload = jax.jit(workload_costs, static_argnames="scenario")


@functools.partial(jax.jit, static_argnames="scenario")
def _price_each(
    architecture: Architecture, accelerator: Accelerator, scenario: Scenario, densities: Any
) -> Costs:
    return jax.vmap(lambda d: clip_costs(architecture, accelerator, scenario, d))(densities)


@dataclasses.dataclass(frozen=True)
class Subnet:
    """One subnet of a family on its chip.

    Attributes:
      sparsity: share of zeros in the blocks' weights.
      share: of the inferences.
      costs: as if it ran all of them.
      weight_bytes: what all its weights take, positions included: the densest subnet's is
        what the device stores.
    """

    sparsity: float
    share: float
    costs: Costs
    weight_bytes: float


def estimate(
    architecture: Architecture,
    accelerator: Accelerator,
    scenario: Scenario | None = None,
    sparsity: Sequence[float] = (),
) -> Costs:
    """Costs of a discrete design as Python floats, with their breakdown by part.

    The design is checked as one from a file is; `cost.model.clip_costs`, which is for tracing
    and takes relaxed designs, checks nothing. Warns (`OverloadWarning`) where the inferences a
    second that the scenario asks for take the chip more than a second.

    Args:
      architecture: a CLIP of integer dimensions.
      accelerator: one chip.
      scenario: how it is made and used; the default one where None.
      sparsity: of a family's subnets, increasing: `family_costs` sums it up. Empty: dense.

    Raises:
      ValueError: a field that no design file could hold, a GEMM for which no mapping fits the
        buffers, DRAM smaller than its contents, or sparsities that are none.
    """
    scenario = scenario or Scenario()
    if sparsity:
        return family_costs(estimate_subnets(architecture, accelerator, scenario, sparsity))
    _check(architecture, accelerator, scenario)
    subnet_shares(scenario, 1)
    _check_dram(architecture, scenario, Clip(architecture).parameters() * scenario.word_bytes)
    costs = _price(architecture, accelerator, scenario)
    _check_fits(costs, clip_workload(architecture, costing_of(scenario)), accelerator, scenario)
    costs = jax.tree.map(float, costs)
    _warn_overload(costs.latency_s, scenario)
    return costs


def estimate_subnets(
    architecture: Architecture,
    accelerator: Accelerator,
    scenario: Scenario,
    sparsity: Sequence[float],
) -> list[Subnet]:
    """The subnets of a family, all block kernels of the same sparsity, on a chip that skips zeros.

    Args:
      architecture: a CLIP of integer dimensions.
      accelerator: one chip.
      scenario: without `index_bits` it gets as many as its rows need.
      sparsity: of the subnets, increasing, in [0, 1).

    Raises:
      ValueError: as `estimate`; shares of another number of subnets.
    """
    _check(architecture, accelerator, scenario)
    levels = checked_sparsities(sparsity)
    shares = subnet_shares(scenario, len(levels))
    scenario = with_index_bits(scenario, longest_row(architecture))
    densities = 1 - np.asarray(levels, np.float32)
    costs = _price_each(architecture, accelerator, scenario, densities)
    work = clip_workload(architecture, costing_of(scenario))
    _check_fits(costs, work, accelerator, scenario)
    return _subnets(architecture, scenario, levels, shares, costs, densities)


def estimate_family(
    architecture: Architecture,
    accelerator: Accelerator,
    scenario: Scenario,
    densities: Sequence[Mapping[str, Sequence[float]]],
) -> list[Subnet]:
    """The subnets of a trained family, every layer of the density that its masks gave it.

    Args:
      architecture: of the family.
      accelerator: one chip.
      scenario: as in `estimate_subnets`.
      densities: of each subnet, by kernel, one a layer; `PackedFamily.densities`.

    Raises:
      ValueError: as `estimate_subnets`; kernels the cost model does not know.
    """
    _check(architecture, accelerator, scenario)
    shares = subnet_shares(scenario, len(densities))
    scenario = with_index_bits(scenario, longest_row(architecture))
    works = [subnet_operators(architecture, d).under(costing_of(scenario)) for d in densities]
    priced = []
    for work in works:
        priced.append(_price_workload(work, accelerator, scenario))
        _check_fits(priced[-1], work, accelerator, scenario)
    costs = jax.tree.map(lambda *x: jnp.stack(x), *priced)
    total = [_mean_density(architecture, d) for d in densities]
    levels = tuple(1 - kept for kept in total)
    return _subnets(architecture, scenario, levels, shares, costs, total)


def family_costs(subnets: Sequence[Subnet]) -> Costs:
    """Costs of the family as Python floats: see `model.expected`."""
    stacked = jax.tree.map(lambda *x: np.stack(x), *(subnet.costs for subnet in subnets))
    return jax.tree.map(float, expected(stacked, [subnet.share for subnet in subnets]))


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
            f"scenario.subnet_shares has {len(shares)} shares for {subnets} subnets; "
            "give one each"
        )
    return shares


def longest_row(architecture: Architecture) -> int:
    """Weights of the longest row of any block kernel of a CLIP."""
    a = architecture
    towers = (getattr(a, name) for name in TOWERS)
    return max(max(t.width, t.ffn, t.heads * a.head_dim) for t in towers)


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


def _subnets(
    architecture: Architecture,
    scenario: Scenario,
    levels: Sequence[float],
    shares: Sequence[float],
    costs: Costs,
    densities: Any,
) -> list[Subnet]:
    found = []
    for k, (sparsity, share) in enumerate(zip(levels, shares, strict=True)):
        weights = weight_bytes(architecture, scenario, float(densities[k]))
        own = jax.tree.map(lambda x, k=k: float(x[k]), costs)
        found.append(Subnet(float(sparsity), share, own, weights))
    _check_dram(architecture, scenario, max(subnet.weight_bytes for subnet in found))
    _warn_overload(sum(subnet.share * subnet.costs.latency_s for subnet in found), scenario)
    return found


def weight_bytes(architecture: Architecture, scenario: Scenario, density: float) -> float:
    """All weights of a subnet that keeps a share of its blocks' weights, with their positions."""
    parameters, prunable = Clip(architecture).parameters(), _block_weights(architecture)
    index_words = scenario.index_bits / scenario.precision_bits
    words = min(1.0, density * (1 + index_words)) * prunable + parameters - prunable
    return words * scenario.word_bytes


def _block_weights(architecture: Architecture) -> int:
    a = architecture
    return sum(k.tower_of(a).layers * k.weights_per_layer(a) for k in clip_kernels())


def _mean_density(
    architecture: Architecture, densities: Mapping[str, Sequence[float]]
) -> float:
    """Share of all block weights that are kept."""
    a, lost = architecture, 0.0
    for name, shares in densities.items():
        weights = BlockKernel.named(name).weights_per_layer(a)
        lost += weights * sum(1 - share for share in shares)
    return 1 - lost / _block_weights(architecture)


def _check(architecture: Architecture, accelerator: Accelerator, scenario: Scenario) -> None:
    from codesign.design_file import check_design  # not above: it imports the cost model's tables

    try:
        check_design(architecture, accelerator, scenario)
    except UserError as error:
        raise ValueError(str(error)) from error


def _check_dram(architecture: Architecture, scenario: Scenario, weights: float) -> None:
    alive = Clip(architecture).memory().activations * scenario.word_bytes
    if shortage := dram_shortage(scenario, weights, alive):
        raise ValueError(shortage)


def _warn_overload(latency_s: float, scenario: Scenario) -> None:
    if message := overload_message(latency_s, scenario):
        warnings.warn(message, OverloadWarning, stacklevel=3)


def _check_fits(
    costs: Costs, work: Workload, accelerator: Accelerator, scenario: Scenario
) -> None:
    """Raises ValueError where a product fits no mapping, with its name and dimensions."""
    if np.isfinite(costs.latency_s).all():
        return
    chip = jax.tree.map(float, accelerator)
    by_gemm = jax.jit(jax.vmap(gemm_run, in_axes=(0, 0, 0, None, None, 0)))
    tech = technology(chip, scenario)
    cycles = by_gemm(work.m, work.k, work.n, chip, tech, work.density).cycles
    i = int(np.argmin(np.isfinite(cycles)))
    raise ValueError(
        f"{work.gemm_names[i]} [{work.m[i]:.0f} x {work.k[i]:.0f} x {work.n[i]:.0f}] fits no "
        f"mapping on {accelerator}: raise l2_kib or glb_mib"
    )
