"""Scenario: where a design is made, where it lives, and the platform it sits on; a pytree."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import jax

from codesign.renamed import RETIRED_OF_SCENARIO, accepts_old_names, passes_over

if TYPE_CHECKING:
    Number = Any  # in programs an array or a traced number too
else:
    Number = float  # in files and on command lines

# What chooses tables and formulas; everything else is a number, and a leaf.
_STRUCTURE = frozenset(
    {
        "node_nm",
        "precision_bits",
        "gas_abatement_pct",
        "dram_capacity",
        "dram_technology",
        "dram_between",
        "hand_over",
        "resident_weights",
        "index_bits",
        "subnet_shares",
        "costing",
    }
)


@accepts_old_names
@passes_over(RETIRED_OF_SCENARIO)
@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Scenario:
    """Everything about a design's life that a search does not change.

    Numbers are leaves, which may be traced or arrays: one program serves all grids, lifetimes and
    rates, and costs can be mapped over them and derived by them. Names, node, precision, bits of
    positions and shares of subnets choose tables and formulas, and are structure, as are fields
    that are None. A grid's name becomes its number as the scenario is flattened.

    The defaults are the reference's (CATransformers, arXiv 2505.01386): a 22 nm
    chip of 8 bits with LPDDR, made in Taiwan, used in California. A word is a number of
    precision_bits; capacities and bandwidths stay in bytes. The DRAM is a part that can be
    bought, a row of cost/data/dram.csv, from which bandwidth, energies and carbon follow;
    fields of it that are None are the row's.

    Attributes:
      use_grid: grid that powers the device: a name in cost/data/use_grid.csv or a
        number, gCO2e/kWh.
      fab_grid: grid that powers the fab: a name in cost/data/act_grid_location.csv
        ("taiwan" is ACT's 2023 edition, "taiwan_2022" that of 2022) or a number, gCO2e/kWh.
      node_nm: technology node of the chip, nm; a row of cost/data/logic_scaling.csv.
      precision_bits: bits of weights and activations, 4, 8 or 16; sums have 32.
      gas_abatement_pct: share of fluorinated process gas destroyed, 95, 97 or 99 %.
      logic_yield: good dies over all dies, in (0, 1].
      defects_per_cm2: fatal defects of the process; where given, Murphy's yield of the
        chip's area takes logic_yield's place.
      dram_yield: good DRAM dies over all dies, in (0, 1].
      dram_gb: DRAM on the board, GB, whatever it holds; contents are then held against 1e9
        bytes a GB, 7 % less than the 2^30 that are sold, which stays for whatever else runs.
        None: as much as weights, activations, cache and dram_system_gb take.
      dram_capacity: what follows the contents is rounded up to "devices" that exist, or is
        "continuous", for studies.
      dram_system_gb: what else the DRAM holds, GB: an embedded Linux and frames of a camera.
      dram_technology: a row of cost/data/dram.csv; for the catransformers costing, of act_dram.csv.
      dram_data_rate_mts: transfers a second of a data pin, 1e6; None: the fastest common grade.
      dram_channel_bits: data pins of a channel.
      dram_usable_share: share of channels x pins x rate that reads and writes together get.
      dram_package_g: carbon of a package, g; 0 of dies that are stacked in the chip's.
      dram_between: what the DRAM does between two inferences, in hours of use: "self_refresh",
        "standby" (powered down, but awake) or "off". Without use it is in self-refresh or off.
      inferences_per_s: inferences (one image each, with its texts) while in use.
      texts_per_image: how often a CLIP's text tower runs with an image: 1: pairs of both, as
        in retrieval and in the reference; 0: a classifier, whose class texts were computed
        once and for all elsewhere, so that the device holds no text tower either; as an array
        or traced it leaves the tower on the device whatever its value.
      hours_per_day: hours of use a day, in (0, 24].
      lifetime_years: years in service.
      clock_mhz: clock of the chip, MHz.
      glb_bytes_per_cycle: global-buffer bandwidth, bytes a cycle, read and write each.
      hand_over: whether activations that the GLB has room for wait there from one operator to the
        next; false: all cross the DRAM, as in the reference.
      resident_weights: whether weights may stay in the GLB from one inference to the next where
        half of it holds the network: what keeps them is then not switched off in between, and
        they stay where that lowers energy x delay; false: they come from DRAM each time. Without
        hand_over they never stay.
      operator_start_cycles: cycles from one operator's end to the next one's start, when the
        chip is told what to do and waits for the first data; heads of an attention start
        together.
      gated_leakage: share of the chip's leakage that is left while it is switched off between
        the inferences of its hours of use; 1: it cannot be switched off.
      index_bits: bits of a kept weight's position in its row, on a chip that skips the
        zeros of sparse weights (rows of up to 2^index_bits weights); its PEs' registers
        are as much wider. 0: a chip that cannot.
      subnet_shares: share of the inferences that each subnet of a family runs, the densest
        first, 1 in all; none: all alike.
      costing: conventions of the cost model, "physical" or "catransformers" (costing.py), or
        "FILE.py:NAME" of a `Costing` of your own.
    """

    use_grid: str | Number = "california"
    fab_grid: str | Number = "taiwan"
    node_nm: int = 22
    precision_bits: int = 8
    gas_abatement_pct: int = 95
    logic_yield: Number = 0.875
    defects_per_cm2: Number | None = None
    dram_yield: Number = 0.875
    dram_gb: Number | None = None
    dram_capacity: Literal["devices", "continuous"] = "devices"
    dram_system_gb: Number = 0.0625
    dram_technology: str = "lpddr4"
    dram_data_rate_mts: Number | None = None
    dram_channel_bits: int | None = None
    dram_usable_share: Number | None = None
    dram_package_g: Number | None = None
    dram_between: Literal["self_refresh", "standby", "off"] = "self_refresh"
    inferences_per_s: Number = 1.0
    texts_per_image: Number = 1.0
    hours_per_day: Number = 6.0
    lifetime_years: Number = 3.0
    clock_mhz: Number = 625.0
    glb_bytes_per_cycle: Number = 512.0
    hand_over: bool = True
    resident_weights: bool = False
    operator_start_cycles: Number = 2000.0
    gated_leakage: Number = 0.05
    index_bits: int = 0
    subnet_shares: tuple[float, ...] | None = None
    costing: str = "physical"

    @property
    def clock_hz(self) -> Number:
        """Clock frequency, Hz."""
        return self.clock_mhz * 1e6

    @property
    def word_bytes(self) -> float:
        """Bytes of a word."""
        return self.precision_bits / 8

    @property
    def seconds_between(self) -> tuple[Number, Number]:
        """Seconds from one inference to the next: of use, and without use on top of them."""
        of_use = 1 / self.inferences_per_s
        return of_use, of_use * (24 - self.hours_per_day) / self.hours_per_day

    @property
    def lifetime_inferences(self) -> Number:
        """Inferences over the whole life."""
        return self.inferences_per_s * 3600 * self.hours_per_day * 365 * self.lifetime_years

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """The numbers with their names, and what a program is compiled for."""
        numbers, structure = [], []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("use_grid", "fab_grid"):
                value = _intensity(field.name, value)
            if field.name not in _STRUCTURE and isinstance(value, int):
                value = float(value)  # 3 years are the program of 3.0
            absent = field.name == "texts_per_image" and runs_never(value)
            if field.name in _STRUCTURE or absent:
                structure.append((field.name, value))
            else:
                numbers.append((jax.tree_util.GetAttrKey(field.name), value))
        return numbers, tuple(structure)

    @classmethod
    def tree_unflatten(cls, structure: Any, numbers: Iterable[Any]) -> Scenario:
        """The scenario of structure and numbers."""
        given = dict(structure)
        names = [f.name for f in dataclasses.fields(cls) if f.name not in given]
        return cls(**given, **dict(zip(names, numbers, strict=True)))


def runs_never(times: Any) -> bool:
    """Whether a number of runs is known to be none: not that of a traced number."""
    return isinstance(times, (int, float)) and times == 0


def _intensity(field: str, grid: Any) -> Any:
    from codesign.cost import carbon  # not above: its functions are of scenarios

    return carbon.g_per_kwh(field, grid)
