"""The stored checkpoints, and what our CLIP computes with them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from codesign.models.clip import CLIP
from codesign.models.formats import checkpoint_tensors, load_clip
from codesign.models.formats.layout import HUGGINGFACE, OPENCLIP

DATA = Path(__file__).parent / "data"
FILES = {
    "huggingface": DATA / "huggingface",
    "openclip": DATA / "openclip",
    "carbonclip": DATA / "carbonclip.pt",
    "tinyclip": DATA / "tinyclip.pt",
}
ANSWERS = (
    "image_features", "text_features", "image_embedding", "text_embedding", "logits", "loss",
)  # fmt: skip


@pytest.fixture(scope="session")
def files() -> dict[str, Path]:
    """The stored checkpoint of each format."""
    return FILES


@pytest.fixture(scope="session")
def quiet_load() -> Callable[..., CLIP]:
    """load_clip without its warnings."""

    def load(path: Any, **options: Any) -> CLIP:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load_clip(path, **options)

    return load


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Inputs and PyTorch's float64 answers, see make_data.py."""
    return functools.lru_cache(lambda name: dict(np.load(DATA / f"{name}.npz")))


def _loss(
    params: nnx.State, graphdef: Any, rest: nnx.State, images: jax.Array, ids: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    output, stages = nnx.merge(graphdef, params, rest)(images, ids)
    logits = output.logit_scale * output.image_embedding @ output.text_embedding.T
    of_images = jnp.diag(jax.nn.log_softmax(logits, axis=1))
    of_texts = jnp.diag(jax.nn.log_softmax(logits, axis=0))
    loss = -jnp.mean(of_images + of_texts) / 2
    answers = {
        "image_features": stages["vision"]["features"],
        "text_features": stages["text"]["features"],
        "image_embedding": output.image_embedding,
        "text_embedding": output.text_embedding,
        "logits": logits,
        "loss": loss,
    }
    return loss, answers


# Compiles in a third of the time, and runs as fast at this size.
_differentiate = jax.jit(
    jax.grad(_loss, has_aux=True),
    static_argnums=1,
    compiler_options={"xla_cpu_use_fusion_emitters": False},
)


@pytest.fixture(scope="session")
def compute(golden: Callable) -> Callable[..., dict[str, np.ndarray]]:
    """(model, name of the inputs) -> ANSWERS, and the loss's gradient as "gradient NAME".

    The gradient's names and shapes are those of the format.
    """

    def answer(model: CLIP, name: str) -> dict[str, np.ndarray]:
        inputs = golden(name)
        images = jnp.asarray(inputs["pixels"].transpose(0, 2, 3, 1), model.dtype)
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        gradient, answers = _differentiate(
            params, graphdef, rest, images, jnp.asarray(inputs["ids"], jnp.int32)
        )
        layout = HUGGINGFACE if name == "huggingface" else OPENCLIP
        named = checkpoint_tensors(nnx.merge(graphdef, gradient, rest), layout)
        answers |= {f"gradient {key}": value for key, value in named.items()}
        return {key: np.asarray(value) for key, value in answers.items()}

    return answer


@pytest.fixture(scope="session")
def ours(compute: Callable, quiet_load: Callable) -> Callable[[str, str], dict[str, np.ndarray]]:
    """(format, dtype) -> what our CLIP computes with the stored checkpoint, once a session."""

    @functools.cache
    def answer(name: str, dtype: str) -> dict[str, np.ndarray]:
        with jax.enable_x64(dtype == "float64"):
            return compute(quiet_load(FILES[name], dtype=jnp.dtype(dtype)), name)

    return answer
