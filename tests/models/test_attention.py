"""Attention in every form: the same numbers, and the form that the platform is due."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo

from codesign.architecture import Architecture, Tower
from codesign.models import CLIP, attention, full_gates, transformer
from codesign.models.attention import attend, chosen, implementation, suitable_tokens

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = Architecture(
    vision=Tower(layers=2, width=32, heads=2, ffn=48),
    text=Tower(layers=2, width=24, heads=3, ffn=40),
    image=16,
    patch=8,
    channels=3,
    head_dim=16,
    projection=20,
    vocab=50,
    context=7,
    activation="gelu",
)


@pytest.fixture
def as_if_cuda(monkeypatch):
    """JAX asks the machine for its cuDNN while it traces."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)


def use(monkeypatch, by):
    """Every attention traced from here on is computed so."""
    monkeypatch.setattr(attention, "chosen", lambda dtype, channels, tokens: by)


def inputs(dtype, tokens=7, channels=16):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(3, tokens, 2, channels)), dtype) for _ in range(3)]


def by_hand(query, key, value, causal, length=None):
    """In float64, one query at a time."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.empty_like(query)
    for b, t, h in np.ndindex(*query.shape[:3]):
        seen = slice(min(t + 1, length or t + 1) if causal else length)
        logits = key[b, seen, h] @ query[b, t, h] / np.sqrt(query.shape[-1])
        weights = np.exp(logits - logits.max())
        out[b, t, h] = weights @ value[b, seen, h] / weights.sum()
    return out


@pytest.mark.parametrize("by", ["einsum", "xla"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [None, 5])
@pytest.mark.parametrize(("dtype", "close"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
def test_every_form_is_attention(by, causal, length, dtype, close):
    x = inputs(dtype)
    out = attend(*x, causal=causal, length=length, by=by)
    assert out.dtype == dtype
    told = np.asarray(out, np.float64)[:, :length]  # what is beyond asks, and nobody listens
    np.testing.assert_allclose(told, by_hand(*x, causal, length)[:, :length], atol=close)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_agree_between_forms(causal):
    x = inputs(jnp.float32)

    def gradients(by):
        return jax.grad(lambda x: jnp.sum(jnp.sin(attend(*x, causal=causal, by=by))))(x)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
        gradients("einsum"),
        gradients("xla"),
    )


def loss_of(model, gates):
    """Value and gradient of something of both towers, by parameters."""
    rng = np.random.default_rng(1)
    images = jnp.asarray(rng.normal(size=(4, 16, 16, 3)), jnp.float32)
    ids = jnp.asarray(rng.integers(0, 50, (4, 7)))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        out, _ = nnx.merge(graphdef, params, rest)(images, ids, gates)
        return jnp.sum(jnp.sin(3 * out.image_embedding @ out.text_embedding.T))

    return jax.value_and_grad(loss), params


@pytest.mark.slow
@pytest.mark.parametrize("gated", [False, True])
def test_the_model_and_its_gradient_agree_between_forms(monkeypatch, gated):
    model = CLIP(SMALL, rngs=nnx.Rngs(0))
    gates = None
    if gated:  # a head half open, a head and a layer closed, some channels missing
        gates = full_gates(SMALL)
        vision = gates.vision
        vision = type(vision)(
            layers=vision.layers.at[1].set(0.0),
            heads=vision.heads.at[0].set([0.5, 0.0]),
            ffn=vision.ffn,
            channels=vision.channels.at[20:].set(0.0),
        )
        gates = type(gates)(vision=vision, text=gates.text)
    found = {}
    for by in ("einsum", "xla"):
        use(monkeypatch, by)
        function, params = loss_of(model, gates)
        # As on a GPU: 5 and 7 tokens run as 6 and 8.
        even = (lambda dtype, channels, tokens: tokens + tokens % 2) if by == "xla" else None
        if even:
            monkeypatch.setattr(transformer, "suitable_tokens", even)
        found[by] = jax.jit(function)(params)
    for a, b in zip(*(jax.tree.leaves(f) for f in found.values()), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5)


@pytest.mark.parametrize(
    ("dtype", "channels", "capability", "by"),
    [
        (jnp.bfloat16, 64, None, "einsum"),  # CPU, TPU, ROCm
        (jnp.bfloat16, 64, (7, 5), "einsum"),  # T4
        (jnp.bfloat16, 64, (8, 0), "cudnn"),  # A100
        (jnp.float16, 80, (8, 9), "cudnn"),
        (jnp.bfloat16, 192, (8, 0), "einsum"),
        (jnp.bfloat16, 192, (9, 0), "cudnn"),  # H100
        (jnp.bfloat16, 264, (9, 0), "einsum"),
        (jnp.bfloat16, 12, (9, 0), "einsum"),
        (jnp.float32, 64, (9, 0), "einsum"),
    ],
)
def test_the_choice_follows_dtype_channels_and_chip(dtype, channels, capability, by):
    assert implementation(dtype, channels, 198, capability) == by
    assert implementation(dtype, channels, 197, capability) == "einsum"


@pytest.mark.parametrize(("tokens", "run"), [(197, 198), (198, 198)])
def test_an_odd_number_of_tokens_gets_one_more_on_a_gpu(monkeypatch, tokens, run):
    assert suitable_tokens(jnp.bfloat16, 64, tokens) == tokens
    monkeypatch.setattr(attention, "compute_capability", lambda device: (9, 0))
    assert suitable_tokens(jnp.bfloat16, 64, tokens) == run
    assert suitable_tokens(jnp.float32, 64, tokens) == tokens


def test_here_it_is_the_order_of_the_cpu():
    assert chosen(jnp.bfloat16, 64, 198) == "einsum"
    with jax.default_device(jax.devices("cpu")[0]):
        assert attention.device().platform == "cpu"
    with jax.default_device("cpu"):
        assert attention.device().platform == "cpu"


@pytest.mark.parametrize("remat", [False, True])
def test_the_model_lowers_to_fused_attention_on_cuda(monkeypatch, as_if_cuda, remat, random_clip):
    use(monkeypatch, "cudnn")
    function, params = loss_of(random_clip(SMALL, dtype=jnp.bfloat16, remat=remat), None)
    text = jax.jit(function).trace(params).lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r"__cudnn\$\w+", text)
    # A forward and a backward kernel a tower, in a scan over its layers; what `remat` computes
    # again is the forward kernel. Kept, it runs once.
    assert calls.count("__cudnn$fmhaSoftmaxBackward") == 2
    assert calls.count("__cudnn$fmhaSoftmax") == (4 if remat else 2)
    # No logits in memory: nothing has two axes of tokens.
    assert not re.search(r"tensor<(?:\d+x)*(?:6x6|8x8|5x5|7x7)x(?:f32|bf16)>", text)


def test_vmapped_models_lower_too(as_if_cuda):
    many = [jnp.stack([x, x]) for x in inputs(jnp.bfloat16, tokens=8)]
    fused = jax.jit(jax.vmap(functools.partial(attend, causal=True, by="cudnn")))
    text = fused.trace(*many).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax" in text
