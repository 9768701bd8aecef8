"""Scenario: where a design is made, where it lives, and the platform it sits on."""

from __future__ import annotations

import dataclasses

from codesign.renamed import accepts_old_names


@accepts_old_names
@dataclasses.dataclass(frozen=True)
class Scenario:
    """Everything about a design's life that a search does not change.

    The defaults are the reference's (CATransformers, arXiv 2505.01386): a 22 nm
    chip of 8 bits with 1 GB of LPDDR, made in Taiwan, used in California. A word is a
    number of precision_bits; capacities and bandwidths stay in bytes.

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
      dram_gb: DRAM on the board, GB; contents are held against 1e9 bytes a GB, 7 % less than
        the 2^30 that are sold, which stays for whatever else runs.
      dram_technology: a row of cost/data/act_dram.csv.
      inferences_per_s: inferences (one image and one text each) while in use.
      hours_per_day: hours of use a day, in (0, 24].
      lifetime_years: years in service.
      clock_mhz: clock of the chip, MHz.
      dram_bytes_per_cycle: DRAM bandwidth, bytes a clock cycle, read and write each.
      glb_bytes_per_cycle: global-buffer bandwidth, bytes a cycle, read and write each.
      index_bits: bits of a kept weight's position in its row, on a chip that skips the
        zeros of sparse weights (rows of up to 2^index_bits weights); its PEs' registers
        are as much wider. 0: a chip that cannot.
      subnet_shares: share of the inferences that each subnet of a family runs, the densest
        first, 1 in all; none: all alike.
      costing: conventions of the cost model, "physical" or "catransformers" (costing.py).
    """

    use_grid: str | float = "california"
    fab_grid: str | float = "taiwan"
    node_nm: int = 22
    precision_bits: int = 8
    gas_abatement_pct: int = 95
    logic_yield: float = 0.875
    defects_per_cm2: float | None = None
    dram_yield: float = 0.875
    dram_gb: float = 1.0
    dram_technology: str = "lpddr3_20nm"
    inferences_per_s: float = 1.0
    hours_per_day: float = 6.0
    lifetime_years: float = 3.0
    clock_mhz: float = 625.0
    dram_bytes_per_cycle: float = 128.0
    glb_bytes_per_cycle: float = 512.0
    index_bits: int = 0
    subnet_shares: tuple[float, ...] | None = None
    costing: str = "physical"

    @property
    def clock_hz(self) -> float:
        """Clock frequency, Hz."""
        return self.clock_mhz * 1e6

    @property
    def word_bytes(self) -> float:
        """Bytes of a word."""
        return self.precision_bits / 8

    @property
    def lifetime_inferences(self) -> float:
        """Inferences over the whole life."""
        return self.inferences_per_s * 3600 * self.hours_per_day * 365 * self.lifetime_years
