"""Costings: the conventions under which a design is priced, one object each.

`physical` is right as far as we know and what every decision uses. `catransformers`
repeats the conventions of the published reference (CATransformers, arXiv 2505.01386,
and its open release), quirks included, so that its published numbers come out and ours
can be put beside them. Both run through the same formulas; where they differ the formulas call a
rule of the costing or read one of its constants. The rules are in cost/physical.py and
cost/catransformers.py. docs/cost-model.md tells what each does to the numbers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from codesign.cost import catransformers, dram, physical
from codesign.errors import UserError, did_you_mean
from codesign.scenario import Scenario
from codesign.userfile import is_member, load_member
from codesign.workload.counting import AS_RUN, Counting


@dataclasses.dataclass(frozen=True)
class Costing(Counting):
    """One set of conventions: how operators are counted, and what they cost.

    Attributes:
      name: "physical", "catransformers" or another's.
      vector_steps, products, sparse_weights: see Counting.
      components: component table of cost/data, without its "_22nm.csv", or the path of a file
        NAME.csv with the same columns.
      wiring: what the two axes of the PE array may carry: "fixed": n along the columns
        and k along the rows; "free": any factors of m, k and n along either.
      sizes: "padded": a dimension that does not fill its PEs is padded; "divisors":
        only exact divisors of it are unrolled or tiled.
      buffer_copies: tiles kept of each operand in a buffer: 2 where one is filled while
        the other is used.
      wide_sums: partial sums take their 32 bits; otherwise one word.
      weights_bypass: weights pass through L2 to the registers without staying there.
      array_passes: how often a tile's sums return to L2.
      fill_and_drain: time that the first tile's loading and the last one's storing take.
      l2_cycles: the least time that the local buffers' bandwidth allows.
      dram_cycles: the least time that the DRAM's bandwidth allows.
      dram_port: what a chip sees of its DRAM.
      dram_capacity_gb, dram_packages, dram_devices: how much DRAM there is, in how many packages,
        and what it takes to make and to keep.
      check_process: refuses nodes and precisions that the components do not cover.
      sram: what an on-chip memory costs.
      l2_kib: capacities of a core's local buffers, that of the array first.
      vector_costs: what element-wise operators cost.
      hands_over: whether operands may wait in the GLB from one operator to the next.
      operators_start: whether starting an operator takes the scenario's cycles.
      scenario: fields of Scenario that belong to the convention.
    """

    components: str
    wiring: Literal["fixed", "free"]
    sizes: Literal["padded", "divisors"]
    buffer_copies: int
    wide_sums: bool
    weights_bypass: bool
    array_passes: Callable[..., Any]
    fill_and_drain: Callable[..., Any]
    l2_cycles: Callable[..., Any]
    dram_cycles: Callable[..., Any]
    dram_port: Callable[..., Any]
    dram_capacity_gb: Callable[..., Any]
    dram_packages: Callable[..., Any]
    dram_devices: Callable[..., Any]
    check_process: Callable[[Scenario], None]
    sram: Callable[..., Any]
    l2_kib: Callable[..., tuple[Any, ...]]
    vector_costs: Callable[..., Any]
    hands_over: bool
    operators_start: bool
    scenario: Mapping[str, Any] = dataclasses.field(hash=False)


PHYSICAL = Costing(
    **{field.name: getattr(AS_RUN, field.name) for field in dataclasses.fields(AS_RUN)},
    components="components",
    wiring="fixed",
    sizes="padded",
    buffer_copies=2,
    wide_sums=True,
    weights_bypass=True,
    array_passes=physical.array_passes,
    fill_and_drain=physical.fill_and_drain,
    l2_cycles=physical.l2_cycles,
    dram_cycles=physical.dram_cycles,
    dram_port=dram.port,
    dram_capacity_gb=dram.capacity_gb,
    dram_packages=dram.packages,
    dram_devices=dram.devices,
    check_process=physical.check_process,
    sram=physical.sram_costs,
    l2_kib=physical.l2_kib,
    vector_costs=physical.vector_costs,
    hands_over=True,
    operators_start=True,
    scenario=MappingProxyType({}),
)

CATRANSFORMERS = Costing(
    name="catransformers",
    vector_steps="vector_ops_catransformers",
    products=(catransformers.swap_attention, catransformers.fold_batch),
    sparse_weights=False,
    components="components_catransformers",
    wiring="free",
    sizes="divisors",
    buffer_copies=1,
    wide_sums=False,
    weights_bypass=False,
    array_passes=catransformers.array_passes,
    fill_and_drain=catransformers.fill_and_drain,
    l2_cycles=catransformers.l2_cycles,
    dram_cycles=catransformers.dram_cycles,
    dram_port=catransformers.dram_port,
    dram_capacity_gb=catransformers.dram_capacity_gb,
    dram_packages=catransformers.dram_packages,
    dram_devices=catransformers.dram_devices,
    check_process=catransformers.check_process,
    sram=catransformers.sram_costs,
    l2_kib=catransformers.l2_kib,
    vector_costs=catransformers.vector_costs,
    hands_over=False,
    operators_start=False,
    # 30,000,000 inferences: the release's figure, as so many seconds of use.
    scenario=MappingProxyType(
        {
            "use_grid": "california_2023",
            "fab_grid": "taiwan_2022",
            "dram_gb": 1.0,
            "dram_technology": "lpddr3_20nm",
            "inferences_per_s": 30e6 / (3600 * 6 * 365 * 3),
        }
    ),
)

_COSTINGS = {c.name: c for c in (PHYSICAL, CATRANSFORMERS)}
NAMES = tuple(_COSTINGS)


def costing_of(scenario: Scenario) -> Costing:
    """The costing a scenario names: one of `NAMES`, or "FILE.py:NAME" of another.

    Raises:
      ValueError: there is none of that name.
    """
    name = scenario.costing
    if is_member(name):
        return _of_file(name)
    if name not in _COSTINGS:
        raise ValueError(f"scenario.costing: there is no '{name}'; {did_you_mean(name, NAMES)}")
    return _COSTINGS[name]


@functools.cache
def _of_file(name: str) -> Costing:
    try:
        found = load_member(name, "costing")
    except UserError as error:
        raise ValueError(f"scenario.costing: {error}") from error
    if not isinstance(found, Costing):
        raise ValueError(
            f"scenario.costing: {name} is a {type(found).__name__}; it must be a "
            "codesign.costing.Costing, such as dataclasses.replace(PHYSICAL, ...)"
        )
    return found


def default_scenario(name: str) -> Scenario:
    """The scenario whose numbers a costing stands for.

    Raises:
      ValueError: there is no costing of that name.
    """
    bare = Scenario(costing=name)
    return dataclasses.replace(bare, **costing_of(bare).scenario)
