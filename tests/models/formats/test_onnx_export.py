"""ONNX files run by ONNX Runtime; most of it needs jax2onnx, the extra `onnx`."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from codesign.architecture import Architecture
from codesign.errors import RunError, UserError
from codesign.models.formats import onnx_export
from codesign.models.formats.onnx_export import export_onnx
from codesign.runs import read_json

pytestmark = pytest.mark.usefixtures("quick_compilation")

HAVE = importlib.util.find_spec("jax2onnx") is not None
needs_jax2onnx = pytest.mark.skipif(not HAVE, reason="needs jax2onnx")


def session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


@needs_jax2onnx
@pytest.mark.slow  # jax2onnx takes seconds to import
@pytest.mark.parametrize("name", ["huggingface", "tinyclip"])
def test_onnx_gives_pytorchs_embeddings(
    name: str, tmp_path: Path, files: dict, quiet_load: Callable, golden: Callable
) -> None:
    """Pooled at an id; and pruned, with layers that differ."""
    clip, known, out = quiet_load(files[name]), golden(name), tmp_path / "x"
    export_onnx(clip, out, like=files[name])
    inputs = {
        "image_encoder": known["pixels"].transpose(0, 2, 3, 1).astype(np.float32),
        "text_encoder": known["ids"].astype(np.int32),
    }
    manifest = read_json(out / "manifest.json")
    assert manifest["sha256"].keys() == {f.name for f in out.iterdir()} - {"manifest.json"}
    for program, about in manifest["programs"].items():
        run = session(out / about["file"])
        expected = known[program.replace("encoder", "embedding")]
        (given,), (returned,) = run.get_inputs(), run.get_outputs()
        assert (given.name, given.shape) == (about["input"]["name"], about["input"]["shape"])
        assert (returned.name, returned.shape[1]) == ("embeddings", expected.shape[1])
        for rows in (1, 3):
            (found,) = run.run(None, {given.name: inputs[program][:rows]})
            np.testing.assert_allclose(found, expected[:rows], atol=5e-6, rtol=0)
    (odd,) = run.run(None, {"ids": np.full((1, known["ids"].shape[1]), 10**6, np.int32)})
    assert np.isnan(odd).all()  # an id outside the table is seen


@needs_jax2onnx
@pytest.mark.slow
def test_a_wrong_conversion_is_not_published(
    tmp_path: Path, small: Architecture, random_clip: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = random_clip(small, 1)
    convert, clip = onnx_export._convert, random_clip(small)

    def convert_other(encoder: Any, file: Path) -> None:
        weights = onnx_export.encoders(other, onnx_export.settings_of(other, None))[file.stem]
        convert(dataclasses.replace(encoder, weights=weights.weights), file)

    monkeypatch.setattr(onnx_export, "_convert", convert_other)
    with pytest.raises(RunError, match="gives embeddings that differ by"):
        export_onnx(clip, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path: Path, small: Architecture, random_clip: Callable) -> None:
    with pytest.raises(UserError, match="in bfloat16 cannot be exported to ONNX"):
        export_onnx(random_clip(small, dtype=jnp.bfloat16), tmp_path / "x")
    if not HAVE:
        with pytest.raises(UserError, match=r"pip install codesign\[onnx\]"):
            export_onnx(random_clip(small), tmp_path / "x")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        export_onnx(random_clip(small), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
