"""Weights that stay in the global buffer from one inference to the next.

Where a scenario lets them (`Scenario.resident_weights`), a network is run in two ways: its weights
come from DRAM for every inference, or half of the global buffer (GLB) keeps them, and all else has
the other half. The second way saves the DRAM's words and pays for memory that must not be switched
off. Between a network that fits and one that does not, and between two ways that cost about the
same, a share of the weights stays, so that costs have no jump. docs/cost-model.md derives it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.workload.operators import Live, Workload

# Share of the GLB that is for weights. The rest is a GLB of the usual, halved, sizes.
_RESERVED = 0.5
# Share of the energy x delay that must be saved for all weights to stay.
_WORTHWHILE = 0.1
# Products whose second operand is no weights: keys and values of an attention, a CLIP's texts.
_NO_WEIGHTS = ("scores", "values", "similarity")
# Of weights that are in the GLB at all times nothing crosses the DRAM, and nothing more is taken.
_AT_ONCE_WORDS = 1.0


def with_resident_weights(workload: Workload) -> Workload:
    """The same operators with their weights in the GLB before and after."""
    live = Live() if workload.live is None else workload.live
    second = jnp.broadcast_to(jnp.asarray(live.second, jnp.float32), workload.m.shape)
    are_weights = jnp.array([not name.endswith(_NO_WEIGHTS) for name in workload.gemm_names], bool)
    second = jnp.where(are_weights, _AT_ONCE_WORDS, second)
    others = (jnp.broadcast_to(jnp.asarray(x, jnp.float32), second.shape) for x in live)
    inputs, _, outputs = others
    return dataclasses.replace(workload, live=Live(inputs, second, outputs))


def beside_weights(accelerator: Accelerator) -> Accelerator:
    """The chip that all but the weights finds."""
    return dataclasses.replace(accelerator, glb_mib=(1 - _RESERVED) * accelerator.glb_mib)


def fitting_share(contents_bytes: Any, glb_bytes: Any) -> Any:
    """Share of a network's weights that can stay: all where half of the GLB holds the network.

    None where the whole GLB does not, and linear between; what then stays never takes more than
    half: x (2 - 2 x) of the GLB, of a network of x GLBs.

    Args:
      contents_bytes: weights, live activations and cache; [...].
      glb_bytes: capacity of the GLB; [...].
    """
    return jnp.clip((1 - contents_bytes / glb_bytes) / (1 - _RESERVED), 0, 1)


def worthwhile_share(streamed_edp: Any, resident_edp: Any) -> Any:
    """Share of the weights that had better stay, by the energy x delay of the two ways, [...].

    All where that saves a tenth, none where it saves nothing or cannot be run.
    """
    saved = 1 - resident_edp / jnp.where(streamed_edp < math.inf, streamed_edp, 1.0)
    share = jnp.clip(saved / _WORTHWHILE, 0, 1)
    return jnp.where((streamed_edp < math.inf) & (resident_edp < math.inf), share, 0.0)
