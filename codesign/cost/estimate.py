"""One discrete design, priced: the functions behind `codesign cost` and `codesign.estimate`."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from codesign.accelerator import Accelerator
from codesign.architecture import Architecture
from codesign.cost.capacity import (
    OverloadWarning,
    dram_shortage,
    overload_message,
    weight_bytes,
)
from codesign.cost.demand import (
    Demand,
    dense_demand,
    family_demand,
    layers_weight_bytes,
    mean_density,
    sparse_demand,
    subnet_shares,
)
from codesign.cost.discrete import Job, priced
from codesign.cost.mapper import gemm_run
from codesign.cost.model import Costs, clip_costs, expected
from codesign.cost.technology import technology
from codesign.dress.masks import checked_sparsities
from codesign.errors import UserError
from codesign.scenario import Scenario
from codesign.workload import Workload
from codesign.workload.clip import CLIP_FAMILY

_price_side_by_side = jax.jit(jax.vmap(clip_costs))  # leaves [N] all
# Designs priced side by side.
_AT_ONCE = 64


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

    Any number of the three may be an array, and costs are arrays then:

        chips = cd.Accelerator(pe_x=np.array([32, 64, 128]))
        cd.estimate(cd.clip_vit_b16(), chips).latency_s  # of three chips
        years = cd.Scenario(lifetime_years=np.arange(1, 11))
        cd.estimate(cd.clip_vit_b16(), cd.Accelerator(), years).carbon_kgco2e

    The design is checked as one from a file is; `cost.model.clip_costs`, which is for tracing
    and takes relaxed designs, checks what it can see. Warns (`OverloadWarning`) where the
    inferences a second that the scenario asks for take the chip more than a second.

    Args:
      architecture: a CLIP of integer dimensions.
      accelerator: one chip.
      scenario: how it is made and used; the default one where None. Arrays [...] of its numbers
        and of the dimensions above are broadcast against each other.
      sparsity: of a family's subnets, increasing: `family_costs` sums it up. Empty: dense.

    Returns:
      Python floats, or NumPy arrays [...] of the shape that the arrays broadcast to.

    Raises:
      ValueError: a field that no design file could hold, a GEMM for which no mapping fits the
        buffers, DRAM smaller than its contents, sparsities that are none, or numbers that are
        traced.
    """
    scenario = Scenario() if scenario is None else scenario
    _check_kinds(architecture, accelerator, scenario)
    design = architecture, accelerator, scenario
    if shape := _shape_of(design):
        return _estimate_each(design, shape, sparsity)
    if not isinstance(sparsity, Sequence) or sparsity:
        return family_costs(estimate_subnets(architecture, accelerator, scenario, sparsity))
    architecture, accelerator, scenario = _checked(architecture, accelerator, scenario)
    demand = dense_demand(architecture, scenario)
    check_dram(architecture, scenario)
    costs: Costs = jax.tree.map(float, _of_each(demand, accelerator)[0])
    if not math.isfinite(costs.latency_s):
        raise _no_mapping(demand.workloads[0], accelerator, scenario)
    _warn_overload(costs.latency_s, scenario)
    return costs


def _shape_of(design: Any) -> tuple[int, ...]:
    """What the numbers of a design broadcast to.

    Raises:
      ValueError: they do not, one is traced, or there is none.
    """
    numbers = jax.tree.leaves(design)
    if any(isinstance(x, jax.core.Tracer) for x in numbers):
        raise ValueError(
            "estimate checks the numbers of a design, which jit, vmap and grad hide; "
            "use clip_costs under them, or give estimate arrays"
        )
    shapes = sorted({np.shape(x) for x in numbers} - {()})
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(
            f"estimate: arrays of the shapes {', '.join(map(str, shapes))} do not broadcast; give "
            "each number an axis of its own, or all the same"
        ) from None
    if 0 in shape:
        raise ValueError("estimate: an array has no element; give at least one design")
    kinds = {np.asarray(x).dtype for x in numbers if np.shape(x)}
    if other := [str(kind) for kind in kinds if kind.kind not in "iuf"]:
        raise ValueError(f"estimate: an array of {other[0]}; give arrays of numbers")
    return shape


def _estimate_each(
    design: tuple[Architecture, Accelerator, Scenario],
    shape: tuple[int, ...],
    sparsity: Sequence[float],
) -> Costs:
    """Costs [shape] of designs whose numbers broadcast to a shape."""
    number = math.prod(shape)
    flat = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), shape).ravel(), design)
    each: list[tuple[Architecture, Accelerator, Scenario]] = [
        jax.tree.map(lambda x, i=i: x[i].item(), flat) for i in range(number)
    ]
    if not isinstance(sparsity, Sequence) or sparsity:
        found = [estimate(*one, sparsity=sparsity) for one in each]
        return jax.tree.map(lambda *x: np.reshape(x, shape), *found)
    for one in each:
        _checked(*one)
        subnet_shares(one[2], 1)
        check_dram(one[0], one[2])
    # Whole batches: one program for any number of designs.
    padding = (0, -number % _AT_ONCE)
    padded = jax.tree.map(lambda x: np.pad(np.float32(x), padding, mode="edge"), flat)
    batches = [
        _price_side_by_side(*jax.tree.map(lambda x, i=i: x[i : i + _AT_ONCE], padded))
        for i in range(0, number, _AT_ONCE)
    ]
    costs = jax.tree.map(lambda *x: np.concatenate(x).astype(float)[:number], *batches)
    if not np.isfinite(costs.latency_s).all():
        of, chip, where = each[int(np.argmin(np.isfinite(costs.latency_s)))]
        raise _no_mapping(dense_demand(of, where).workloads[0], chip, where)
    slowest = np.argmax(costs.latency_s * flat[2].inferences_per_s)
    _warn_overload(float(costs.latency_s[slowest]), each[slowest][2])
    return jax.tree.map(lambda x: x.reshape(shape), costs)


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
    architecture, accelerator, scenario = _checked(architecture, accelerator, scenario)
    levels = checked_sparsities(sparsity)
    demand = sparse_demand(architecture, scenario, levels)
    densities = 1 - np.asarray(levels, np.float32)
    weights = [_weights(architecture, demand.scenario, float(kept)) for kept in densities]
    return _subnets(architecture, accelerator, demand, levels, weights)


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
    architecture, accelerator, scenario = _checked(architecture, accelerator, scenario)
    demand = family_demand(architecture, scenario, densities)
    levels = [1 - mean_density(architecture, subnet) for subnet in densities]
    weights = [layers_weight_bytes(architecture, demand.scenario, subnet) for subnet in densities]
    return _subnets(architecture, accelerator, demand, levels, weights)


def family_costs(subnets: Sequence[Subnet]) -> Costs:
    """Costs of the family as Python floats: see `model.expected`."""
    stacked = jax.tree.map(lambda *x: np.stack(x), *(subnet.costs for subnet in subnets))
    return jax.tree.map(float, expected(stacked, [subnet.share for subnet in subnets]))


def _of_each(demand: Demand, accelerator: Accelerator) -> list[Costs]:
    """Costs of every workload of a demand, as if it ran all inferences."""
    jobs = [Job(work, accelerator, demand.scenario, demand.contents) for work in demand.workloads]
    return [job.costs for job in priced(jobs)]


def _subnets(
    architecture: Architecture,
    accelerator: Accelerator,
    demand: Demand,
    levels: Sequence[float],
    weights: Sequence[float],
) -> list[Subnet]:
    """The subnets of a demand, of so much sparsity and so many bytes of weights."""
    scenario = demand.scenario
    check_dram(architecture, scenario, max(weights))
    each = _of_each(demand, accelerator)
    for work, costs in zip(demand.workloads, each, strict=True):
        if not np.isfinite(costs.latency_s):
            raise _no_mapping(work, accelerator, scenario)
    found = [
        Subnet(float(level), share, jax.tree.map(float, costs), size)
        for level, share, costs, size in zip(levels, demand.shares, each, weights, strict=True)
    ]
    _warn_overload(sum(subnet.share * subnet.costs.latency_s for subnet in found), scenario)
    return found


def _check_kinds(architecture: Any, accelerator: Any, scenario: Any) -> None:
    from codesign.design_file import check_kinds  # as below

    try:
        check_kinds(architecture, accelerator, scenario)
    except UserError as error:
        raise ValueError(str(error)) from error


def _checked(
    architecture: Architecture, accelerator: Accelerator, scenario: Scenario
) -> tuple[Architecture, Accelerator, Scenario]:
    from codesign.design_file import checked_design  # not above: it imports the cost model's tables

    try:
        return checked_design(architecture, accelerator, scenario)
    except UserError as error:
        raise ValueError(str(error)) from error


def _weights(architecture: Architecture, scenario: Scenario, density: float = 1.0) -> float:
    """Bytes of weights of a CLIP all of whose kernels keep one share."""
    return float(weight_bytes(CLIP_FAMILY.memory(architecture, scenario), scenario, density))


def check_dram(
    architecture: Architecture, scenario: Scenario, weights: float | None = None
) -> None:
    """Refuses a scenario whose DRAM does not hold a CLIP.

    Args:
      architecture: of integers.
      scenario: with `dram_gb`, or whatever there is fits.
      weights: bytes of them; None: all, dense.

    Raises:
      ValueError: what is needed, in one line.
    """
    stored = _weights(architecture, scenario) if weights is None else weights
    activations = CLIP_FAMILY.memory(architecture, scenario).activations * scenario.word_bytes
    if shortage := dram_shortage(scenario, stored, activations):
        raise ValueError(shortage)


def _warn_overload(latency_s: float, scenario: Scenario) -> None:
    if message := overload_message(latency_s, scenario):
        warnings.warn(message, OverloadWarning, stacklevel=3)


def _no_mapping(work: Workload, accelerator: Accelerator, scenario: Scenario) -> ValueError:
    """The error of a workload of infinite latency: it names the product that fits no mapping."""
    chip = jax.tree.map(float, accelerator)
    by_gemm = jax.jit(jax.vmap(gemm_run, in_axes=(0, 0, 0, None, None, 0, 0)))
    tech = technology(chip, scenario)
    cycles = by_gemm(work.m, work.k, work.n, chip, tech, work.density, work.live).cycles
    i = int(np.argmin(np.isfinite(cycles)))
    return ValueError(
        f"{work.gemm_names[i]} [{work.m[i]:.0f} x {work.k[i]:.0f} x {work.n[i]:.0f}] fits no "
        f"mapping on {accelerator}: raise l2_kib or glb_mib"
    )
