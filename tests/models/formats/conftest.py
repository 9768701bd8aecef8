"""The stored checkpoints, and what our CLIP computes with them."""

from __future__ import annotations

import functools
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from codesign.models.clip import CLIP
from codesign.models.formats import checkpoint_tensors, load_clip
from codesign.models.formats.files import read_tensors
from codesign.models.formats.layout import HUGGINGFACE, OPENCLIP

DATA = Path(__file__).parent / "data"
FILES = {
    "huggingface": DATA / "huggingface",
    "openclip": DATA / "openclip",
    "carbonclip": DATA / "carbonclip.pt",
    "tinyclip": DATA / "tinyclip.pt",
    "training": DATA / "training" / "epoch_3.pt",
}
ANSWERS = (
    "image_features",
    "text_features",
    "image_embedding",
    "text_embedding",
    "logits",
    "loss",
)


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
_QUICK: dict[str, Any] = {
    "static_argnums": 1,
    "compiler_options": {"xla_cpu_use_fusion_emitters": False},
}
_differentiate = jax.jit(jax.grad(_loss, has_aux=True), **_QUICK)
_evaluate = jax.jit(_loss, **_QUICK)


def _arguments(model: CLIP, inputs: dict[str, np.ndarray]) -> tuple[Any, ...]:
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    images = jnp.asarray(inputs["pixels"].transpose(0, 2, 3, 1), model.dtype)
    return params, graphdef, rest, images, jnp.asarray(inputs["ids"], jnp.int32)


@pytest.fixture(scope="session")
def differentiate(golden: Callable) -> Callable[..., tuple[CLIP, dict[str, jax.Array]]]:
    """(model, name of the inputs) -> (the loss's gradient, as a CLIP; ANSWERS)."""

    def gradient(model: CLIP, name: str) -> tuple[CLIP, dict[str, jax.Array]]:
        params, graphdef, rest, *batch = _arguments(model, golden(name))
        gradient, answers = _differentiate(params, graphdef, rest, *batch)
        return nnx.merge(graphdef, gradient, rest), answers

    return gradient


@pytest.fixture(scope="session")
def compute(golden: Callable) -> Callable[[CLIP, str], dict[str, np.ndarray]]:
    """(model, name of the inputs) -> ANSWERS."""

    def answer(model: CLIP, name: str) -> dict[str, np.ndarray]:
        _, answers = _evaluate(*_arguments(model, golden(name)))
        return {key: np.asarray(value) for key, value in answers.items()}

    return answer


@pytest.fixture(scope="session")
def ours(
    differentiate: Callable, compute: Callable, quiet_load: Callable
) -> Callable[[str, str, bool], dict[str, np.ndarray]]:
    """(format, dtype, gradient) -> what our CLIP computes with the stored checkpoint, once.

    With `gradient` also the loss's, as "gradient NAME" in the format's names and shapes.
    """

    @functools.cache
    def answer(name: str, dtype: str, gradient: bool) -> dict[str, np.ndarray]:
        with jax.enable_x64(dtype == "float64"):
            model = quiet_load(FILES[name], dtype=jnp.dtype(dtype))
            if not gradient:
                return compute(model, name)
            slope, answers = differentiate(model, name)
            layout = HUGGINGFACE if name == "huggingface" else OPENCLIP
            for key, value in checkpoint_tensors(slope, layout).items():
                answers[f"gradient {key}"] = value
            return {key: np.asarray(value) for key, value in answers.items()}

    return answer


@pytest.fixture(scope="module")
def plain(files: dict[str, Path]) -> dict[str, np.ndarray]:
    """The stored OpenCLIP checkpoint, in OpenCLIP's own names."""
    stored = read_tensors(files["openclip"] / "epoch_3.pt").tensors
    return {name.removeprefix("module."): tensor.read() for name, tensor in stored.items()}


@pytest.fixture
def write(tmp_path: Path, files: dict[str, Path]) -> Callable[..., Path]:
    """(tensors, config=True) -> a folder with them, and OpenCLIP's config beside."""

    def to_folder(tensors: dict[str, np.ndarray], config: bool = True) -> Path:
        save_file(
            {k: np.ascontiguousarray(v) if v.ndim else v for k, v in tensors.items()},
            tmp_path / "x.safetensors",
        )
        if config:
            shutil.copy(files["openclip"] / "open_clip_config.json", tmp_path)
        return tmp_path

    return to_folder
