"""Flax NNX models: an elastic CLIP, its gates, its slices and its importance scores.

The supernet is one `CLIP` of the largest architecture. `Gates` switch its layers, heads,
FFN units and channels softly; `slice_to` cuts out the same network for real.
"""

from codesign.models.clip import CLIP, ClipOutput, clamp_logit_scale
from codesign.models.gates import Gates, TowerGates, full_gates, gates_for, ramp, tower_gates
from codesign.models.importance import magnitude_importance, reorder, taylor_importance
from codesign.models.slicing import slice_to
from codesign.models.transformer import LayerRank

__all__ = [
    "CLIP",
    "ClipOutput",
    "Gates",
    "LayerRank",
    "TowerGates",
    "clamp_logit_scale",
    "full_gates",
    "gates_for",
    "magnitude_importance",
    "ramp",
    "reorder",
    "slice_to",
    "taylor_importance",
    "tower_gates",
]
