"""Workloads: operators and multiply-accumulates of a CLIP, counted here independently."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign.architecture import Tower, clip_vit_b16
from codesign.workload import (
    Gemm,
    VectorOp,
    clip_workload,
    concatenate,
    gather,
    outside_workload,
    tower_layer_workload,
)

VIT = clip_vit_b16()


def block_macs(tokens: int, width: int, heads: int, ffn: int) -> int:
    """q, k, v and output projections, two attention products, two feed-forward products."""
    qkv = 64 * heads
    return 4 * tokens * width * qkv + 2 * heads * tokens * tokens * 64 + 2 * tokens * width * ffn


def test_macs_of_vit_b16():
    """20.5 G: 17.6 G in the image tower of 197 tokens, 3.0 G in the text tower of 77."""
    vision = 196 * 3 * 16 * 16 * 768 + 12 * block_macs(197, 768, 12, 3072) + 768 * 512
    text = 12 * block_macs(77, 512, 8, 2048) + 512 * 512 + 512
    assert float(clip_workload(VIT).macs) == pytest.approx(vision + text, rel=1e-6)
    assert vision == pytest.approx(17.56e9, rel=2e-3)
    assert text == pytest.approx(2.98e9, rel=5e-3)


def test_macs_where_heads_and_width_part():
    pruned = dataclasses.replace(VIT, vision=Tower(7, 672, 5, 1920), text=Tower(6, 384, 3, 1024))
    vision = 196 * 768 * 672 + 7 * block_macs(197, 672, 5, 1920) + 672 * 512
    text = 6 * block_macs(77, 384, 3, 1024) + 384 * 512 + 512
    assert float(clip_workload(pruned).macs) == pytest.approx(vision + text, rel=1e-6)


def named(workload, name):
    i = workload.gemm_names.index(name)
    return tuple(float(x[i]) for x in (workload.m, workload.k, workload.n, workload.count))


def vector_named(workload, name):
    i = workload.vector_names.index(name)
    fields = (
        workload.elements,
        workload.vector_count,
        workload.vector_cycles,
        workload.vector_operands,
    )
    return tuple(float(x[i]) for x in fields)


def test_gemms_of_vit_b16():
    workload = clip_workload(VIT)
    assert len(workload.gemm_names) == len(set(workload.gemm_names)) == 6 + 2 + 6 + 2
    assert named(workload, "vision.qkv") == (197, 768, 768, 36)
    assert named(workload, "vision.scores") == (197, 64, 197, 144)
    assert named(workload, "vision.values") == (197, 197, 64, 144)
    assert named(workload, "vision.out") == (197, 768, 768, 12)
    assert named(workload, "vision.ffn_up") == (197, 768, 3072, 12)
    assert named(workload, "vision.ffn_down") == (197, 3072, 768, 12)
    assert named(workload, "vision.patches") == (196, 768, 768, 1)
    assert named(workload, "text.scores") == (77, 64, 77, 96)
    assert named(workload, "text.similarity") == (1, 512, 1, 1)


def test_vector_operators_of_vit_b16():
    workload = clip_workload(VIT)
    assert len(workload.vector_names) == len(set(workload.vector_names)) == 4 + 4 + 5 + 4
    # elements, times, cycles an element, tensors read
    assert vector_named(workload, "vision.softmax") == (12 * 197 * 197, 12, 10, 1)
    assert vector_named(workload, "vision.layernorm") == (197 * 768, 24, 3, 1)
    assert vector_named(workload, "vision.residual") == (197 * 768, 12, 1, 2)
    assert vector_named(workload, "vision.positions") == (197 * 768, 1, 1, 2)
    assert vector_named(workload, "text.activation") == (77 * 2048, 12, 14, 1)
    assert vector_named(workload, "text.mask") == (8 * 77 * 77, 12, 1, 1)
    assert "vision.mask" not in workload.vector_names


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_layers_only_multiply(tower):
    def at(layers):
        return clip_workload(
            dataclasses.replace(
                VIT, **{tower: dataclasses.replace(getattr(VIT, tower), layers=layers)}
            )
        )

    few, many = at(3), at(9)
    inside = [
        n.startswith(tower)
        and "projection" not in n
        and "patches" not in n
        and "similarity" not in n
        for n in few.gemm_names
    ]
    np.testing.assert_array_equal(many.count, np.where(inside, 3 * few.count, few.count))
    np.testing.assert_array_equal(many.m * many.k * many.n, few.m * few.k * few.n)
    assert float(at(4).macs - few.macs) == pytest.approx(float(many.macs - at(8).macs), rel=1e-4)


def test_whole_is_layers_and_outside():
    parts = []
    for name, tokens in (("vision", 197), ("text", 77)):
        tower = getattr(VIT, name)
        block = tower_layer_workload(
            tower, name=name, tokens=tokens, head_dim=64, activation="gelu", causal=name == "text"
        )
        repeated = dataclasses.replace(
            block,
            count=12 * block.count,
            starts=12 * block.starts,
            vector_count=12 * block.vector_count,
        )
        parts += [repeated, outside_workload(VIT, name)]
    whole, expected = clip_workload(VIT), concatenate(*parts)
    assert whole.gemm_names == expected.gemm_names
    assert whole.vector_names == expected.vector_names
    jax.tree.map(np.testing.assert_array_equal, whole, expected)


def test_differentiable_in_the_architecture():
    def macs(width):
        vision = dataclasses.replace(VIT.vision, width=width)
        return clip_workload(dataclasses.replace(VIT, vision=vision)).macs

    slope = float(jax.grad(macs)(768.0))
    by_hand = 196 * 768 + 12 * (4 * 197 * 768 + 2 * 197 * 3072) + 512
    assert slope == pytest.approx(by_hand, rel=1e-5)


def test_gather_and_batches():
    workload = gather([Gemm("a", 2, 3, 5, 7)], [VectorOp("v", "add", 11, 2, operands=2)])
    assert float(workload.macs) == 2 * 3 * 5 * 7
    batch = gather([Gemm("a", 2, jnp.array([3, 4]), 5)], [VectorOp("v", "softmax", 11)])
    np.testing.assert_array_equal(batch.macs, [30, 40])
    with pytest.raises(ValueError, match="unknown op 'relu6'; did you mean 'relu'"):
        gather([], [VectorOp("v", "relu6", 1)])


@pytest.mark.parametrize("module", ["codesign.workload", "codesign.cost", "codesign.space"])
def test_imports_alone(module):
    """Costs import workloads and workloads the tables of costs, whichever comes first."""
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
