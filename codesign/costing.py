"""Costings: the conventions under which a design is priced, as data.

`physical` is right as far as we know and what every decision uses. `catransformers`
repeats the conventions of the published reference (CATransformers, arXiv 2505.01386,
and its open release), quirks included, so that its published numbers come out and ours
can be put beside them. Both run through the same formulas: a costing is the names of
its component tables, a few switches, and the scenario its numbers belong to.
docs/cost-model.md tells what each switch does to the numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from codesign.errors import did_you_mean
from codesign.scenario import Scenario


@dataclasses.dataclass(frozen=True)
class Costing:
    """One set of conventions.

    Attributes:
      name: "physical" or "catransformers".
      components, buffers: component tables of cost/data, without their "_22nm.csv".
      vector_steps: table of the vector units' operators.
      wiring: what the two axes of the PE array may carry: "fixed": n along the columns
        and k along the rows; "free": any factors of m, k and n along either.
      sizes: "padded": a dimension that does not fill its PEs is padded; "divisors":
        only exact divisors of it are unrolled or tiled.
      buffer_copies: tiles kept of each operand in a buffer: 2 where one is filled while
        the other is used.
      column_sums: PEs of a column sum a register block (32 weights deep) before a
        partial sum goes to L2; otherwise every step's sum does.
      wide_sums: partial sums take their 32 bits; otherwise one word.
      weights_bypass: weights pass through L2 to the registers without staying there.
      fill_and_drain: the first tile's loading and the last one's storing take time.
      l2_bandwidth: the local buffers' bandwidth is felt.
      swap_attention: the summed dimension of scores and of values is exchanged
        (scores: tokens, values: head width).
      fold_batch: a batch of products (attention heads) is one product of as many rows.
      l2_minimum: wide arrays get a larger local buffer than asked for.
      every_lane: each vector cycle is charged on all lanes, busy or not.
      row_sums: softmax takes rows x ceil(row / lanes) + 10 cycles more.
      vector_streams: operands of vector operators pass GLB and L2, at the buffers'
        bandwidths; otherwise one DRAM access an element and tensor, fewer where the
        tensor exceeds the local buffers, no time for it, and a quarter L2 access.
      vector_l2: the vector unit has a local buffer of its own.
      sparse_weights: zeros of row-sparse weights can be skipped.
      scenario: fields of Scenario that belong to the convention.
    """

    name: str
    components: str
    buffers: str
    vector_steps: str
    wiring: Literal["fixed", "free"]
    sizes: Literal["padded", "divisors"]
    buffer_copies: int
    column_sums: bool
    wide_sums: bool
    weights_bypass: bool
    fill_and_drain: bool
    l2_bandwidth: bool
    swap_attention: bool
    fold_batch: bool
    l2_minimum: bool
    every_lane: bool
    row_sums: bool
    vector_streams: bool
    vector_l2: bool
    sparse_weights: bool
    scenario: Mapping[str, Any] = dataclasses.field(hash=False)


PHYSICAL = Costing(
    name="physical",
    components="components",
    buffers="sram_law",
    vector_steps="vector_ops",
    wiring="fixed",
    sizes="padded",
    buffer_copies=2,
    column_sums=True,
    wide_sums=True,
    weights_bypass=True,
    fill_and_drain=True,
    l2_bandwidth=True,
    swap_attention=False,
    fold_batch=False,
    l2_minimum=False,
    every_lane=False,
    row_sums=False,
    vector_streams=True,
    vector_l2=False,
    sparse_weights=True,
    scenario=MappingProxyType({}),
)

CATRANSFORMERS = Costing(
    name="catransformers",
    components="components_catransformers",
    buffers="buffer_catransformers",
    vector_steps="vector_ops_catransformers",
    wiring="free",
    sizes="divisors",
    buffer_copies=1,
    column_sums=False,
    wide_sums=False,
    weights_bypass=False,
    fill_and_drain=False,
    l2_bandwidth=False,
    swap_attention=True,
    fold_batch=True,
    l2_minimum=True,
    every_lane=True,
    row_sums=True,
    vector_streams=False,
    vector_l2=True,
    sparse_weights=False,
    # 30,000,000 inferences: the release's figure, as so many seconds of use.
    scenario=MappingProxyType(
        {
            "use_grid": "california_2023",
            "fab_grid": "taiwan_2022",
            "inferences_per_s": 30e6 / (3600 * 6 * 365 * 3),
        }
    ),
)

_COSTINGS = {c.name: c for c in (PHYSICAL, CATRANSFORMERS)}
NAMES = tuple(_COSTINGS)


def costing_of(scenario: Scenario) -> Costing:
    """The costing a scenario names.

    Raises:
      ValueError: there is none of that name.
    """
    name = scenario.costing
    if name not in _COSTINGS:
        raise ValueError(f"scenario.costing: there is no '{name}'; {did_you_mean(name, NAMES)}")
    return _COSTINGS[name]


def conventional(name: str) -> Scenario:
    """The scenario whose numbers a costing stands for.

    Raises:
      ValueError: there is no costing of that name.
    """
    bare = Scenario(costing=name)
    return dataclasses.replace(bare, **costing_of(bare).scenario)
