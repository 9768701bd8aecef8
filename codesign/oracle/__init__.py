"""Oracles: the discrete truth that the differentiable cost model is held against."""

from codesign.scenario import Scenario

# Of the machines whose ZigZag samples are shipped: DRAM of 128 bytes a cycle at 625 MHz, as two
# channels of 128 pins.
SAMPLED_SCENARIO = Scenario(dram_channel_bits=128, dram_data_rate_mts=2500.0, dram_usable_share=1.0)
