"""Losses by chunks of logits: the plain ones, their derivatives, and what they take of memory."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from codesign.models.chunked_contrastive import (
    Chunks,
    chunked_contrastive_loss,
    chunked_distillation_loss,
    chunked_sigmoid_loss,
)
from codesign.models.contrastive import contrastive_loss, similarity_logits
from codesign.train.losses import distillation_loss, sigmoid_loss

pytestmark = pytest.mark.usefixtures("quick_compilation")

B, E, F = 24, 10, 6
SCALES = (1.0, 14.3, 100.0)


@pytest.fixture
def in_float64():
    with jax.enable_x64(True):
        yield


def embeddings(seed, width=E, batch=B):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(batch, width))
    # Captions are like their images, as of a trained network.
    return jnp.asarray(images), jnp.asarray(images + 0.5 * rng.normal(size=(batch, width)))


def labels(kind):
    if kind == "none":
        return None
    if kind == "one":
        return jnp.zeros(B, jnp.int32)
    return jnp.asarray(np.random.default_rng(3).integers(-9, 4, B), jnp.int32)


def reference(images, texts, scale, labels=None):
    """The formula of `contrastive_loss`, all of it in the type of the embeddings."""
    labels = jnp.arange(B) if labels is None else labels
    unit = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)]
    logits = scale * unit[0] @ unit[1].T
    same = labels[:, None] == labels[None]
    targets = same / jnp.sum(same, axis=1, keepdims=True)
    both = jax.nn.log_softmax(logits, axis=1) + jax.nn.log_softmax(logits, axis=0)
    return -jnp.sum(targets * both) / (2 * B)


def reference_distillation(student, teacher):
    def logits(images, texts, scale):
        unit = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)]
        return scale * unit[0] @ unit[1].T

    return sum(
        jnp.sum(jnp.exp(p) * (p - q)) / (2 * B)
        for p, q in (
            [jax.nn.log_softmax(logits(*net), axis=axis) for net in (teacher, student)]
            for axis in (0, 1)
        )
    )


def plain_distillation(student, teacher):
    return distillation_loss(similarity_logits(*student), similarity_logits(*teacher))


@functools.cache
def gradient(loss, kind, by=(0, 1, 2), **options):
    """One program for all scales."""
    of = functools.partial(loss, labels=labels(kind), **options)
    return jax.jit(jax.value_and_grad(of, by))


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("rows", [1, 8, 24])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", ["none", "some", "one"])
def test_value_and_gradient_are_those_of_the_plain_loss(kind, scale, rows):
    arguments = (*embeddings(0), jnp.asarray(scale, jnp.float32))
    found = gradient(chunked_contrastive_loss, kind, chunks=Chunks(rows))(*arguments)
    exact, plain = (gradient(f, kind)(*arguments) for f in (reference, contrastive_loss))
    assert found[0].dtype == jnp.float64
    np.testing.assert_allclose(found[0], exact[0], rtol=1e-12)
    for a, b in zip(found[1], exact[1], strict=True):
        # The scale is float32, and so is its derivative.
        tolerance = 1e-11 if a.dtype == jnp.float64 else 3e-6
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    # The plain one has its targets in float32.
    np.testing.assert_allclose(found[0], plain[0], rtol=1e-7)
    for a, b in zip(found[1], plain[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def sigmoid_reference(images, texts, scale, bias, labels):
    """Algorithm 1 of SigLIP, its log sigmoid written out."""
    unit = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)]
    of = jnp.arange(len(images)) if labels is None else labels
    sign = jnp.where(of[:, None] == of[None], 1.0, -1.0)
    return jnp.sum(jnp.logaddexp(0.0, -sign * (scale * unit[0] @ unit[1].T + bias))) / len(images)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("rows", [1, 8, 24])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", ["none", "some", "one"])
def test_value_and_gradient_of_the_sigmoid_loss_are_those_of_the_plain_one(kind, scale, rows):
    arguments = (*embeddings(0), jnp.asarray(scale, jnp.float32), jnp.asarray(-3.0))
    by = 0, 1, 2, 3
    found = gradient(chunked_sigmoid_loss, kind, by, chunks=Chunks(rows))(*arguments)
    exact, plain = (gradient(f, kind, by)(*arguments) for f in (sigmoid_reference, sigmoid_loss))
    for other in (exact, plain):
        np.testing.assert_allclose(found[0], other[0], rtol=1e-12)
        for a, b in zip(found[1], other[1], strict=True):
            # The scale is float32, and so is its derivative.
            tolerance = 1e-11 if a.dtype == jnp.float64 else 3e-6
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@functools.cache
def distillation_gradient(loss, **options):
    """One program for all scales."""
    return jax.jit(
        jax.value_and_grad(lambda i, t, s, teacher: loss((i, t, s), teacher, **options), (0, 1, 2))
    )


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("scale", SCALES)
def test_the_distillation_loss_is_the_plain_one(scale):
    teacher = (*embeddings(1, F), jnp.asarray(20.0, jnp.float32))
    arguments = (*embeddings(0), jnp.asarray(scale, jnp.float32), teacher)
    found = distillation_gradient(chunked_distillation_loss, chunks=Chunks(8))(*arguments)
    exact, plain = (
        distillation_gradient(f)(*arguments) for f in (reference_distillation, plain_distillation)
    )
    np.testing.assert_allclose(found[0], exact[0], rtol=1e-11)
    for a, b in zip(found[1], exact[1], strict=True):
        tolerance = 1e-11 if a.dtype == jnp.float64 else 3e-6
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    # The plain one takes its softmax in float32.
    np.testing.assert_allclose(found[0], plain[0], rtol=1e-5)
    for a, b in zip(found[1], plain[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    same = chunked_distillation_loss(teacher, teacher, chunks=Chunks(8))
    np.testing.assert_allclose(same, 0, atol=1e-12)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_derivatives_are_those_of_finite_differences(mode):
    teacher = (*embeddings(1, F), 20.0)

    def contrastive(images, texts):
        return chunked_contrastive_loss(images, texts, 9.0, labels("some"), chunks=Chunks(6))

    def distillation(images, texts):
        return chunked_distillation_loss((images, texts, 9.0), teacher, chunks=Chunks(6))

    for loss in (contrastive, distillation):
        check_grads(jax.jit(loss), embeddings(0), order=1, modes=[mode], rtol=1e-6, atol=1e-8)


def test_under_vmap_each_is_its_own():
    images, texts = (jnp.stack(x) for x in zip(embeddings(0), embeddings(1), strict=True))
    loss = functools.partial(chunked_contrastive_loss, logit_scale=10.0, chunks=Chunks(6))
    found = jax.jit(jax.vmap(jax.value_and_grad(lambda i, t: loss(i, t))))(images, texts)
    plain = jax.jit(jax.value_and_grad(lambda i, t: contrastive_loss(i, t, 10.0)))
    for n in range(2):
        expected = plain(images[n], texts[n])
        np.testing.assert_allclose(found[0][n], expected[0], rtol=1e-6)
        np.testing.assert_allclose(found[1][n], expected[1], rtol=1e-4, atol=1e-6)


def test_rows_that_do_not_divide_the_batch_are_an_error():
    with pytest.raises(ValueError, match="7 rows of logits do not divide a batch of 24"):
        chunked_contrastive_loss(*embeddings(0), 1.0, chunks=Chunks(7))


def temporary_bytes(loss, batch, width=64):
    shape = jax.ShapeDtypeStruct((batch, width), jnp.float32)
    program = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(shape, shape).compile()
    return program.memory_analysis().temp_size_in_bytes


def test_memory_is_of_a_chunk_of_logits():
    batch, rows = 2048, 64
    plain = temporary_bytes(lambda i, t: contrastive_loss(i, t, 10.0), batch)
    chunked = temporary_bytes(
        lambda i, t: chunked_contrastive_loss(i, t, 10.0, chunks=Chunks(rows)), batch
    )
    plain_sigmoid = temporary_bytes(lambda i, t: sigmoid_loss(i, t, 10.0, -3.0), batch)
    chunked_sigmoid = temporary_bytes(
        lambda i, t: chunked_sigmoid_loss(i, t, 10.0, -3.0, chunks=Chunks(rows)), batch
    )
    whole = 4 * batch**2
    assert plain > whole and plain_sigmoid > whole
    # A few chunks, and a few arrays of the embeddings' size.
    few = 6 * 4 * rows * batch + 16 * 4 * batch * 64
    assert chunked < few < whole and chunked_sigmoid < few
    assert chunked < plain / 4


PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, re
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from codesign.models.chunked_contrastive import (
    Chunks, chunked_contrastive_loss, chunked_distillation_loss, chunked_sigmoid_loss,
)
from codesign.models.contrastive import contrastive_loss, similarity_logits
from codesign.train.losses import distillation_loss, sigmoid_loss

mesh = Mesh(np.asarray(jax.devices()).reshape(2, 4), ("data", "fsdp"))
split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
rng = np.random.default_rng(0)
B, R = 512, 64
x = rng.normal(size=(4, B, 16)).astype(np.float32)
labels = jnp.asarray(rng.integers(0, 99, B), jnp.int32)

def plain(i, t, u, v):
    return contrastive_loss(i, t, 10.0, labels) + distillation_loss(
        similarity_logits(i, t, 10.0), similarity_logits(u, v, 20.0)
    )

def chunked(i, t, u, v):
    cut = Chunks(R, mesh)
    return chunked_contrastive_loss(i, t, 10.0, labels, chunks=cut) + chunked_distillation_loss(
        (i, t, 10.0), (u, v, 20.0), chunks=cut
    )

def gradient(loss):
    return jax.jit(jax.value_and_grad(loss, (0, 1)), in_shardings=split)

expected = jax.jit(jax.value_and_grad(plain, (0, 1)))(*x)
found = gradient(chunked)(*x)
np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
for a, b in zip(found[1], expected[1]):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    assert a.sharding.is_equivalent_to(split, 2), a.sharding
text = gradient(chunked).lower(*x).compile().as_text()
shapes = [tuple(map(int, s.split(","))) for s in re.findall(r"f32\\[([0-9,]+)\\]", text)]
products = {s for s in shapes if len(s) == 2 and B in s and 16 not in s}
assert (R // 8, B) in products and all(min(s) <= R // 8 for s in products), products
# Nothing is exchanged within the loops.
bodies = text[: text.index("ENTRY")]
assert not re.findall("(all-reduce|all-gather|all-to-all|collective-permute)\\(", bodies)
assert "all-gather(" in text

def plain_sigmoid(i, t, u, v):
    return sigmoid_loss(i, t, 10.0, -3.0, labels)

def chunked_sigmoid(i, t, u, v):
    return chunked_sigmoid_loss(i, t, 10.0, -3.0, labels, chunks=Chunks(R, mesh))

expected = jax.jit(jax.value_and_grad(plain_sigmoid, (0, 1)))(*x)
found = gradient(chunked_sigmoid)(*x)
np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
for a, b in zip(found[1], expected[1]):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
text = gradient(chunked_sigmoid).lower(*x).compile().as_text()
shapes = [tuple(map(int, s.split(","))) for s in re.findall(r"f32\\[([0-9,]+)\\]", text)]
products = {s for s in shapes if len(s) == 2 and B in s and 16 not in s}
assert (R // 8, B) in products and all(min(s) <= R // 8 for s in products), products
print("OK")
"""


@pytest.mark.slow
def test_on_eight_devices_each_has_its_rows():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        text=True,
        capture_output=True,
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
    )
    assert done.stdout.endswith("OK\n"), done.stderr[-3000:]
