"""Workloads: what a network asks of an accelerator, operator by operator."""

from codesign.workload.clip import clip_workload, outside_workload, tower_layer_workload
from codesign.workload.operators import Gemm, VectorOp, Workload, concatenate, gather

__all__ = [
    "Gemm",
    "VectorOp",
    "Workload",
    "clip_workload",
    "concatenate",
    "gather",
    "outside_workload",
    "tower_layer_workload",
]
