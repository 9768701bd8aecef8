"""Whether a chip keeps up with what a scenario asks of it, and its DRAM holds what it must."""

from __future__ import annotations

import math
from typing import Any

from codesign.scenario import Scenario
from codesign.workload.memory import Memory, largest


class OverloadWarning(UserWarning):
    """A chip too slow for the inferences a second that its scenario asks of it."""


def busy_share(latency_s: Any, scenario: Scenario) -> Any:
    """Share of the time of use that the chip works; above 1 it cannot keep up.

    Args:
      latency_s: one inference; of a family, the mean by its subnets' shares.
      scenario: with inferences a second.
    """
    return latency_s * scenario.inferences_per_s


def overload_message(latency_s: float, scenario: Scenario) -> str | None:
    """What is wrong where the chip cannot keep up, in one line; None where it can."""
    busy = busy_share(latency_s, scenario)
    if busy <= 1:
        return None
    return (
        f"the chip would be busy {100 * busy:.0f} % of the time: {latency_s:.4g} s an inference, "
        f"and scenario.inferences_per_s is {scenario.inferences_per_s:g}; "
        f"at most {1 / latency_s:.4g} are possible"
    )


def left_out_share(scenario: Scenario, density: Any) -> Any:
    """Share of a kernel's words that the DRAM is spared: 0 where its dense form takes less.

    Args:
      scenario: with index_bits where weights are sparse.
      density: share of the kernel's weights that are kept.
    """
    index_words = scenario.index_bits / scenario.precision_bits
    return largest(0.0, 1 - density * (1 + index_words))


def weight_bytes(memory: Memory, scenario: Scenario, density: Any = 1) -> Any:
    """All weights of a network whose kernels keep one share, with their positions.

    Args:
      memory: of the network, its weights dense.
      scenario: with index_bits where weights are sparse.
      density: share of the prunable weights that are kept.
    """
    left_out = left_out_share(scenario, density) * memory.prunable
    return (memory.weights - left_out) * scenario.word_bytes


def contents_bytes(memory: Memory, scenario: Scenario, density: Any = 1) -> Any:
    """What the DRAM holds: weights, of a family its densest subnet's, activations and cache.

    Args:
      memory: of the network, its weights dense; scalars or arrays [...], differentiable.
      scenario: precision, and index_bits where weights are sparse.
      density: share of the prunable weights that are kept, of the densest subnet.
    """
    passing = memory.activations + memory.cache
    return weight_bytes(memory, scenario, density) + passing * scenario.word_bytes


def dram_shortage(
    scenario: Scenario, weights: float, activations: float, cache: float = 0.0
) -> str | None:
    """What is wrong with the scenario's DRAM, in one line, where it cannot hold its contents.

    Args:
      scenario: with dram_gb, GB of 1e9 bytes; without, the DRAM holds whatever there is.
      weights, activations, cache: contents, bytes.

    Returns:
      The message; None where all fits.
    """
    contents = {"weights": weights, "activations": activations, "cache": cache}
    needed = sum(contents.values())
    if scenario.dram_gb is None or needed <= 1e9 * scenario.dram_gb:
        return None
    parts = ", ".join(f"{name} {size / 1e9:.3g}" for name, size in contents.items() if size)
    return (
        f"scenario.dram_gb: {scenario.dram_gb:g} GB cannot hold {needed / 1e9:.3g} GB ({parts}); "
        f"give at least {math.ceil(needed / 1e6) / 1e3:g}"
    )
