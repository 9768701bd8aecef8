"""Costs of a design: latency, energy, area and carbon, from its operators up."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.architecture import Architecture
from codesign.cost import carbon
from codesign.cost.capacity import contents_bytes
from codesign.cost.components import Components
from codesign.cost.costing import Costing
from codesign.cost.execution import Execution, total
from codesign.cost.mapper import gemm_costs
from codesign.cost.memories import glb_words
from codesign.cost.residence import (
    beside_weights,
    fitting_share,
    with_resident_weights,
    worthwhile_share,
)
from codesign.cost.technology import (
    Technology,
    area_in,
    glb_leakage_w,
    leakage_w,
    technology_in,
    tops,
)
from codesign.cost.vector_unit import vector_costs
from codesign.cost.world import World
from codesign.errors import UserError
from codesign.scenario import Scenario
from codesign.weighted import weighted_sum
from codesign.workload import Workload, clip_workload
from codesign.workload.clip import CLIP_FAMILY


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Costs:
    """What a design costs; scalars or arrays [...].

    Attributes:
      latency_s: one inference, both towers one after the other, s.
      energy_j: one inference, J, and its share of what the DRAM takes until the next.
      area_mm2: chip area, mm2.
      tops: peak 1e12 operations/s, a multiply-add of two words counted as two.
      operational_kgco2e: energy of the whole life, kgCO2e.
      embodied_kgco2e: making chip and DRAM, kgCO2e.
      breakdown: {"latency_s", "energy_j", "area_mm2", "embodied_kgco2e"} by part;
        each adds up to its total.
      dram_gb: capacity of the DRAM, binary GB.
    """

    latency_s: Any
    energy_j: Any
    area_mm2: Any
    tops: Any
    operational_kgco2e: Any
    embodied_kgco2e: Any
    breakdown: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    dram_gb: Any = 0.0

    @property
    def carbon_kgco2e(self) -> Any:
        """Operational and embodied carbon together, kgCO2e."""
        return self.operational_kgco2e + self.embodied_kgco2e

    def totals(self) -> Costs:
        """The same without its breakdown."""
        return dataclasses.replace(self, breakdown={})


class Stored(NamedTuple):
    """What a device stores of its networks; shapes broadcast.

    Attributes:
      contents_bytes: weights, live activations and cache.
      dram_gb: capacity of the DRAM that holds them, binary GB.
    """

    contents_bytes: Any
    dram_gb: Any


class Retention(NamedTuple):
    """The global buffer of a chip that may keep weights between inferences.

    Attributes:
      glb_bytes: its capacity.
      awake_w: what it leaks beyond `Chip.gated_w` if all of it stays switched on, W.
    """

    glb_bytes: Any
    awake_w: Any

    @classmethod
    def of(cls, accelerator: Accelerator, world: World) -> Retention | None:
        """An accelerator's; None where the world has weights come from DRAM."""
        if not world.resident_weights:
            return None
        awake_w = (1 - world.scenario.gated_leakage) * glb_leakage_w(accelerator, world)
        return cls(glb_words(accelerator, 1.0), awake_w)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chip:
    """What making an accelerator decides; shapes as its leaves.

    Attributes:
      area_mm2: area by part, mm2.
      tops: peak 1e12 operations/s.
      channels: of DRAM.
      packages: that the DRAM's channels come in.
      gated_w: what leaks between inferences, W.
      costing: the conventions these numbers belong to.
      retention: of weights; None: they come from DRAM for every inference.
    """

    area_mm2: dict[str, Any]
    tops: Any
    channels: Any
    packages: Any
    gated_w: Any
    costing: Costing = dataclasses.field(metadata={"static": True})
    retention: Retention | None = None

    @classmethod
    def of(cls, accelerator: Accelerator, world: World) -> Chip:
        """The chip of an accelerator."""
        scenario, channels = world.scenario, accelerator.channels
        return cls(
            area_mm2=area_in(world, accelerator),
            tops=tops(accelerator, scenario),
            channels=channels,
            packages=world.costing.dram_packages(channels, scenario),
            gated_w=scenario.gated_leakage * leakage_w(accelerator, world),
            costing=world.costing,
            retention=Retention.of(accelerator, world),
        )

    def merged(self) -> Chip:
        """The same with its area as one part."""
        return dataclasses.replace(self, area_mm2={"all": total(self.area_mm2)})

    def stored(self, contents: Any, scenario: Scenario) -> Stored:
        """So many bytes and the DRAM that holds them; shapes broadcast."""
        return Stored(contents, self.costing.dram_capacity_gb(contents, self.channels, scenario))


def run_workload(
    workload: Workload, accelerator: Accelerator, tech: Technology, crowded: bool | None = None
) -> Execution:
    """Runs one workload on one accelerator (scalar leaves); vmap for batches.

    `crowded` is what `mapping.is_crowded` says of the accelerator where that is known.
    """
    run = _run(workload, accelerator, tech, crowded)
    if not tech.resident_weights:
        return run
    beside = _run(with_resident_weights(workload), beside_weights(accelerator), tech, None)
    return dataclasses.replace(run, resident=beside)


def _run(
    workload: Workload, accelerator: Accelerator, tech: Technology, crowded: bool | None
) -> Execution:
    by_gemm = functools.partial(gemm_costs, crowded=crowded)
    by_gemm = jax.vmap(by_gemm, in_axes=(0, 0, 0, None, None, 0, 0))
    dims = workload.m, workload.k, workload.n
    gemms = by_gemm(*dims, accelerator, tech, workload.density, workload.live)
    return summed(gemms, vector_costs(workload, accelerator, tech), workload, tech)


def summed(gemms: Execution, vector: Execution, workload: Workload, tech: Technology) -> Execution:
    """Executions of single operators, [..., G] and [..., V], over the workload, counts included.

    With what starting them takes, as "start".
    """
    in_arrays = gemms.map(lambda x: jnp.sum(x * workload.count, axis=-1))
    in_lanes = vector.map(lambda x: jnp.sum(x * workload.vector_count, axis=-1))
    starts = jnp.sum(workload.starts, axis=-1) + jnp.sum(workload.vector_count, axis=-1)
    return in_arrays.then(in_lanes).then(Execution({"start": starts * tech.start_cycles}, {}))


def costs_of(run: Execution, chip: Chip, scenario: Scenario, stored: Stored) -> Costs:
    """Costs of an execution, static energy included, on a chip; shapes broadcast.

    Args:
      run: one inference.
      chip: that it runs on.
      scenario: how both live.
      stored: what the device stores, such as `Chip.stored`.
    """
    return costs_and_share(run, chip, scenario, stored)[0]


def costs_and_share(
    run: Execution, chip: Chip, scenario: Scenario, stored: Stored
) -> tuple[Costs, Any]:
    """`costs_of`, and the share of the weights that stay in the GLB, of [0, 1]."""
    streamed = costs_of_way(run, chip, scenario, stored)
    if run.resident is None:
        return streamed, 0.0
    assert chip.retention is not None
    resident = costs_of_way(run.resident, chip, scenario, stored, resident=True)
    share = fitting_share(stored.contents_bytes, chip.retention.glb_bytes) * worthwhile_share(
        streamed.energy_j * streamed.latency_s, resident.energy_j * resident.latency_s
    )

    def between(streamed: Any, resident: Any) -> Any:
        # What cannot be run is infinite, and no part of it is wanted.
        some = share > 0
        step = jnp.where(some, resident, 0.0) - jnp.where(some, streamed, 0.0)
        return streamed + share * step

    return jax.tree.map(between, streamed, resident), share


def costs_of_way(
    run: Execution, chip: Chip, scenario: Scenario, stored: Stored, resident: bool = False
) -> Costs:
    """Costs of one way to run a network, as `costs_of`.

    Args:
      run: one inference, of which `resident` is the other way.
      chip, scenario, stored: as of `costs_of`.
      resident: whether the weights stay in the GLB between inferences, which takes energy.
    """
    latency_s = run.cycles / scenario.clock_hz
    dram = chip.costing.dram_devices(
        stored.dram_gb, chip.channels, chip.packages, latency_s, scenario
    )
    idle_s = jnp.maximum(1 / scenario.inferences_per_s - latency_s, 0.0)
    energy_j = {part: 1e-12 * pj for part, pj in run.energy_pj.items()}
    energy_j |= {
        "idle": chip.gated_w * idle_s,
        "dram_refresh": dram.refresh_w * latency_s,
        "dram_between": dram.between_j,
    }
    if chip.retention is not None:
        # The banks that hold the network stay on.
        held = stored.contents_bytes / chip.retention.glb_bytes
        energy_j["retention"] = float(resident) * held * chip.retention.awake_w * idle_s
    total_energy_j, total_area_mm2 = total(energy_j), total(chip.area_mm2)
    embodied = {"chip": carbon.chip_kgco2e(total_area_mm2, scenario)} | {
        part: kg + jnp.zeros_like(total_area_mm2) for part, kg in dram.kgco2e.items()
    }
    return Costs(
        latency_s=latency_s,
        energy_j=total_energy_j,
        area_mm2=total_area_mm2,
        tops=chip.tops,
        operational_kgco2e=carbon.operational_kgco2e(total_energy_j, scenario),
        embodied_kgco2e=total(embodied),
        breakdown={
            "latency_s": {unit: x / scenario.clock_hz for unit, x in run.unit_cycles.items()},
            "energy_j": energy_j,
            "area_mm2": chip.area_mm2,
            "embodied_kgco2e": embodied,
        },
        dram_gb=dram.capacity_gb,
    )


def clip_costs(
    architecture: Architecture,
    accelerator: Accelerator,
    scenario: Scenario,
    density: Any = 1,
    contents: Any = None,
) -> Costs:
    """Costs of one CLIP on one accelerator: scalar leaves, relaxed or not; jit and vmap it.

    Differentiable in all numbers of the first three and in density; infinite latency where a GEMM
    fits no mapping.

    Args:
      architecture: the CLIP.
      accelerator: the chip.
      scenario: with `index_bits` where weights are sparse.
      density: share of the blocks' weights that are kept, equally many in every row.
      contents: of the DRAM, bytes, as `contents_bytes`, where it holds another network than
        this one: a family its densest subnet.

    Raises:
      ValueError: a scenario that no design file could hold, or dimensions that are known
        (neither traced nor batched by vmap) and out of their bounds.
    """
    from codesign.design_file import check_relaxed  # not above: it imports the cost model's tables

    try:
        check_relaxed(architecture, accelerator, scenario)
    except UserError as error:
        raise ValueError(str(error)) from error
    world = World.of(scenario)
    work = clip_workload(architecture, world.costing, density, scenario.texts_per_image)
    if contents is None:
        contents = contents_bytes(CLIP_FAMILY.memory(architecture, scenario), scenario, density)
    return costs_in(world, work, accelerator, contents)


def workload_costs(
    workload: Workload,
    accelerator: Accelerator,
    scenario: Scenario,
    contents: Any,
    components: Components | None = None,
    crowded: bool | None = None,
) -> Costs:
    """Costs of any workload on one accelerator, as `clip_costs`.

    Args:
      workload: its operators.
      accelerator: the chip.
      scenario: how it lives.
      contents: weights, live activations and cache, bytes.
      components: what the chip is made of, such as one set of `components.sampled`; the
        costing's nominal ones where None.
      crowded: as of `run_workload`.
    """
    return costs_in(World.of(scenario, components), workload, accelerator, contents, crowded)


def costs_in(
    world: World,
    workload: Workload,
    accelerator: Accelerator,
    contents: Any,
    crowded: bool | None = None,
) -> Costs:
    """`workload_costs` in a world."""
    accelerator = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), accelerator)
    tech = technology_in(world, accelerator)
    run = run_workload(workload, accelerator, tech, crowded).with_static(tech)
    chip = Chip.of(accelerator, world)
    return costs_of(run, chip, world.scenario, chip.stored(contents, world.scenario))


def expected(subnets: Costs, shares: Sequence[float] | jax.Array) -> Costs:
    """Costs of a family on one chip, from those of its subnets, leaves [K, ...].

    Energy, operational carbon and their parts are means by share of the inferences; latency
    is the slowest subnet's; the chip, its carbon and its DRAM are there once.
    """
    weights = jnp.asarray(shares, jnp.float32)

    def mean(x: Any) -> Any:
        return weighted_sum(weights, x)

    slowest = jnp.argmax(subnets.latency_s, axis=0)
    breakdown = {
        "latency_s": _at(subnets.breakdown.get("latency_s", {}), slowest),
        "energy_j": {n: mean(x) for n, x in subnets.breakdown.get("energy_j", {}).items()},
        **{
            name: {n: x[0] for n, x in subnets.breakdown.get(name, {}).items()}
            for name in ("area_mm2", "embodied_kgco2e")
        },
    }
    return Costs(
        latency_s=jnp.max(subnets.latency_s, axis=0),
        energy_j=mean(subnets.energy_j),
        area_mm2=subnets.area_mm2[0],
        tops=subnets.tops[0],
        operational_kgco2e=mean(subnets.operational_kgco2e),
        embodied_kgco2e=subnets.embodied_kgco2e[0],
        breakdown=breakdown if subnets.breakdown else {},
        dram_gb=subnets.dram_gb[0],
    )


def _at(parts: dict[str, Any], subnet: Any) -> dict[str, Any]:
    """The parts [K, ...] of one subnet, which may differ along [...]."""
    return {n: jnp.take_along_axis(x, subnet[None], axis=0)[0] for n, x in parts.items()}
