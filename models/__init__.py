"""Flax NNX models: an elastic CLIP, its gates, its slices and its importance scores.

The supernet is one `CLIP` of the largest architecture. `Gates` switch its layers, heads,
FFN units and channels softly; `slice_to` cuts out the same network for real.
"""

from codesign.models.calibration import Calibration
from codesign.models.clip import CLIP, ClipOutput, clamp_logit_scale
from codesign.models.gates import Gates, TowerGates, full_gates, gates_for, ramp, tower_gates
from codesign.models.importance import (
    magnitude_importance,
    reorder,
    score_units,
    taylor_importance,
)
from codesign.models.importance_file import load_importance, save_importance
from codesign.models.prune import scaled
from codesign.models.transformer import LayerRank

slice_to = CLIP.slice_to

__all__ = [
    "CLIP",
    "Calibration",
    "ClipOutput",
    "Gates",
    "LayerRank",
    "TowerGates",
    "clamp_logit_scale",
    "full_gates",
    "gates_for",
    "load_importance",
    "magnitude_importance",
    "ramp",
    "reorder",
    "save_importance",
    "scaled",
    "score_units",
    "slice_to",
    "taylor_importance",
    "tower_gates",
]
