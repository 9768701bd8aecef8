"""Oracles: the discrete truth that the differentiable cost model is held against."""

from codesign.scenario import Scenario

# Of the machines whose ZigZag samples are shipped: DRAM of 128 bytes a cycle at 625 MHz.
SAMPLED_SCENARIO = Scenario(dram_data_rate_mts=20_000.0, dram_usable_share=1.0)
