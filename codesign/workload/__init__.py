"""Workloads: what a network asks of an accelerator, operator by operator."""

from codesign.workload.clip import clip_workload, outside_workload, tower_layer_workload
from codesign.workload.load import Model, load_model
from codesign.workload.operators import Gemm, VectorOp, Workload, concatenate, gather
from codesign.workload.presets import PRESETS

__all__ = [
    "PRESETS",
    "Gemm",
    "Model",
    "VectorOp",
    "Workload",
    "clip_workload",
    "concatenate",
    "gather",
    "load_model",
    "outside_workload",
    "tower_layer_workload",
]
