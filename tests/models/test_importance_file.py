from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from codesign.architecture import Architecture, Tower
from codesign.errors import UserError
from codesign.models.clip import CLIP
from codesign.models.gates import Gates, full_gates
from codesign.models.importance_file import fingerprint, load_importance, save_importance
from simulators.limits import bounded
from simulators.mutations import damaged


@pytest.fixture
def scores(small: Architecture) -> Gates:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda g: rng.normal(size=g.shape).astype("f"), full_gates(small))


def test_what_was_saved_is_loaded(
    tmp_path: Path, small: Architecture, random_clip: Callable[..., CLIP], scores: Gates
) -> None:
    path = tmp_path / "importance.safetensors"
    save_importance(path, scores, random_clip(small), "taylor")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_importance(path, random_clip(small))
    assert jax.tree.structure(found) == jax.tree.structure(scores)
    jax.tree.map(np.testing.assert_array_equal, found, scores)


def test_scores_of_other_weights_are_loaded_aloud(
    tmp_path: Path, small: Architecture, random_clip: Callable[..., CLIP], scores: Gates
) -> None:
    path = tmp_path / "importance.safetensors"
    model = random_clip(small)
    save_importance(path, scores, model, "loss")
    model.text.ln_final.bias[...] = model.text.ln_final.bias[...].at[3].add(1e-6)
    with pytest.warns(UserWarning, match="other weights of this architecture") as warned:
        found = load_importance(path, model)
    assert len(warned) == 1 and warned[0].filename == __file__
    np.testing.assert_array_equal(found.text.ffn, scores.text.ffn)


def test_a_fingerprint_tells_arrays_apart(
    small: Architecture, random_clip: Callable[..., CLIP]
) -> None:
    model = random_clip(small)
    before = fingerprint(model)
    blocks = model.vision.blocks
    blocks.ln_1_bias[...], blocks.ln_2_bias[...] = blocks.ln_2_bias[...], blocks.ln_1_bias[...]
    assert fingerprint(model) != before
    blocks.ln_1_bias[...], blocks.ln_2_bias[...] = blocks.ln_2_bias[...], blocks.ln_1_bias[...]
    assert fingerprint(model) == before == fingerprint(random_clip(small))


def test_scores_of_another_architecture_are_refused(
    tmp_path: Path, small: Architecture, random_clip: Callable[..., CLIP], scores: Gates
) -> None:
    path = tmp_path / "importance.safetensors"
    save_importance(path, scores, random_clip(small), "taylor")
    other = dataclasses.replace(small, vision=Tower(3, 12, 3, 9), patch=2)
    differing = r"its vision\.ffn is 8, the model's 9; patch is 4, the model's 2$"
    with pytest.raises(UserError, match=differing):
        load_importance(path, random_clip(other))


def test_files_that_are_no_scores_are_refused(
    tmp_path: Path, small: Architecture, random_clip: Callable[..., CLIP], scores: Gates
) -> None:
    model, path = random_clip(small), tmp_path / "importance.safetensors"
    with pytest.raises(UserError, match="no file"):
        load_importance(path, model)
    save_importance(path, scores, model, "taylor")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged"):
        load_importance(path, model)
    path.write_text("not a safetensors file at all")
    with pytest.raises(UserError, match="is damaged"):
        load_importance(path, model)
    save_file({"weight": np.ones(3)}, path)
    with pytest.raises(UserError, match="holds no importance scores"):
        load_importance(path, model)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vision.heads", lambda x: x * np.nan, "'vision.heads' holds NaN or infinity"),
        ("vision.heads", lambda x: x.view(np.int32), "'vision.heads' is int32"),
        ("text.ffn", lambda x: x[:, 1:].copy(), "'text.ffn' is float32"),
        ("text.layers", lambda x: None, "'text.layers' is missing"),
        ("architecture", lambda x: "[1]", "its architecture is no object"),
        ("architecture", lambda x: x.replace("}", ""), "its architecture is not JSON"),
        ("architecture", lambda x: None, "its architecture is not JSON"),
    ],
)
def test_damaged_scores_are_refused(
    tmp_path: Path,
    small: Architecture,
    random_clip: Callable[..., CLIP],
    scores: Gates,
    name: str,
    change: Callable[[Any], Any],
    message: str,
) -> None:
    model, path = random_clip(small), tmp_path / "importance.safetensors"
    save_importance(path, scores, model, "taylor")
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    part = metadata if name in metadata else tensors
    part[name] = change(part[name])
    if part[name] is None:
        del part[name]
    save_file(tensors, path, metadata)
    with pytest.raises(UserError, match=f"is damaged: {message}"):
        load_importance(path, model)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*score again")
def test_of_damaged_files_the_same_scores_are_loaded_or_none(
    tmp_path: Path, small: Architecture, random_clip: Callable[..., CLIP], scores: Gates
) -> None:
    model, path = random_clip(small), tmp_path / "importance.safetensors"
    save_importance(path, scores, model, "taylor")
    data, rng, told = path.read_bytes(), np.random.default_rng(0), list[str]()
    for i in range(400):
        path.write_bytes(damaged(data, rng, None if i % 2 else 1200))
        with bounded(20):
            try:
                found = load_importance(path, model)
            except UserError as error:
                told.append(str(error))
            else:
                jax.tree.map(np.testing.assert_array_equal, found, scores)
    assert len(told) > 200
    assert all(len(line.splitlines()) == 1 and len(line) < 1000 for line in told)
