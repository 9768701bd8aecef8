"""The same numbers as PyTorch: stored ones, and live where torch is installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("quick_compilation")

NAMES = ("huggingface", "openclip", "carbonclip", "tinyclip")
SEEDS = {"huggingface": 11, "openclip": 12, "carbonclip": 13, "tinyclip": 14}
# (format, dtype, whether of the gradient too); differentiating compiles for seconds.
CASES = [
    *((name, "float64", True) for name in NAMES),
    ("huggingface", "float32", True),
    *((name, "float32", False) for name in NAMES[1:]),
    *(pytest.param(name, "float32", True, marks=pytest.mark.slow) for name in NAMES[1:]),
]
# In float32; in float64 all are within 1e-9.
FLOAT32 = {
    "image_embedding": 5e-6,
    "text_embedding": 5e-6,
    "image_features": 3e-5,
    "text_features": 3e-5,
    "logits": 3e-4,
    "loss": 3e-5,
}


def gradient_tolerance(dtype: str, scale: float) -> float:
    """The features' tolerance, on a gradient of length `scale`."""
    return (3e-5 if dtype == "float32" else 1e-9) * max(scale, 0.1)


@pytest.mark.parametrize(("name", "dtype", "gradient"), CASES)
def test_stored_answers(
    name: str, dtype: str, gradient: bool, golden: Callable, ours: Callable
) -> None:
    expected, found = golden(name), ours(name, dtype, gradient)
    for key, tolerance in FLOAT32.items():
        error = np.abs(found[key] - expected[key]).max()
        print(f"{name} {dtype} {key}: {error:.1e}")
        assert error < (tolerance if dtype == "float32" else 1e-9), key
    gradients = {key for key in found if key.startswith("gradient ")}
    everything = {key for key in expected if key.startswith("gradient ")}
    assert gradients == (everything if gradient else set())
    for key in gradients:
        flat = found[key].astype(np.float64).ravel()
        probe = [np.linalg.norm(flat), flat @ np.cos(np.arange(flat.size))]
        error = np.abs(np.array(probe) - expected[key]).max()
        # A projection adds up the errors of all elements.
        assert error < gradient_tolerance(dtype, expected[key][0]) * flat.size**0.5 + 1e-12, key


@pytest.fixture(scope="module")
def torch_side() -> ModuleType:
    """make_data.py, whose PyTorch models the stored answers come from."""
    pytest.importorskip("torch")
    path = Path(__file__).parent / "make_data.py"
    spec = importlib.util.spec_from_file_location("make_data", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.mark.parametrize(("name", "dtype", "gradient"), CASES)
def test_live(
    name: str, dtype: str, gradient: bool, torch_side: ModuleType, files: dict, ours: Callable
) -> None:
    """Whole gradients, tensor by tensor, against torch on the file as torch reads it."""
    if name == "huggingface":
        out, gradients = torch_side.huggingface_reference(files[name], SEEDS[name])
    else:
        out, gradients = torch_side.stored_reference(name, SEEDS[name])
    found = ours(name, dtype, gradient)
    for key, tolerance in FLOAT32.items():
        error = np.abs(found[key] - out[key].detach().numpy()).max()
        assert error < (tolerance if dtype == "float32" else 1e-9), key
    for key in gradients if gradient else ():
        expected = gradients[key].numpy()
        error = np.abs(found[f"gradient {key}"] - expected).max(initial=0.0)
        assert error < gradient_tolerance(dtype, np.linalg.norm(expected)), key
