"""Deployment as ONNX, by jax2onnx (extra `onnx`), for runtimes that do not read StableHLO.

    image_encoder.onnx   images float32 [batch,S,S,C], normalised -> embeddings float32 [batch,E]
    text_encoder.onnx    ids int32 [batch,T] -> embeddings float32 [batch,E]
    manifest.json        preprocessing, logit scale, versions, checksums

The weights are within; of a large encoder in NAME.onnx.data beside it. The blocks stay one loop
(an ONNX Scan), and the batch is dynamic.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.errors import RunError, UserError
from codesign.models.clip import CLIP
from codesign.models.formats.deploy import (
    Encoder,
    describe,
    described,
    encoders,
    settings_of,
    write_manifest,
    write_side_files,
)
from codesign.models.formats.files import locate_side_files
from codesign.models.formats.save import check_free, publish

OPSET = 23
# Between two programs in float32; a wrongly converted operator is off by far more.
_TOLERANCE = 1e-4


def export_onnx(
    clip: CLIP,
    folder: str | os.PathLike[str],
    *,
    like: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a folder with both encoders as ONNX; see the module's docstring.

    Each is run by ONNX Runtime and compared with the CLIP before it is put in place.

    Args:
      clip: pruned or not, of dtype float32.
      folder: a new folder.
      like: the checkpoint it came from, whose preprocessing of images is described and whose
        tokenizer is written too; default: OpenAI's preprocessing, and no tokenizer.
      overwrite: replace files of the same names in a folder that is there already.

    Raises:
      UserError: something is there already, jax2onnx is missing, or a CLIP that cannot be
        exported; nothing has been written then.
      RunError: where the conversion fails or gives other embeddings, or the disk refuses.
    """
    path = Path(os.path.expanduser(folder))
    check_free(path, single=False, overwrite=overwrite)
    if clip.dtype != jnp.float32:
        raise UserError(f"a CLIP in {clip.dtype} cannot be exported to ONNX; load it in float32")
    _require_jax2onnx()
    origin = None if like is None else locate_side_files(like)
    settings = settings_of(clip, origin, like)
    programs = encoders(clip, settings)
    del programs["pixel_encoder"]  # would hold the image tower's weights again
    manifest = {
        "programs": {name: described(e, f"{name}.onnx", None) for name, e in programs.items()},
        **describe(clip, settings),
        "opset": OPSET,
        "jax2onnx": importlib.metadata.version("jax2onnx"),
        "jax": jax.__version__,
    }

    def write(aside: Path) -> None:
        for name, encoder in programs.items():
            _convert(encoder, aside / f"{name}.onnx")
            _check(encoder, aside / f"{name}.onnx", clip.architecture.vocab)
        write_side_files(origin, settings, aside)
        write_manifest(manifest, aside)

    publish(path, write)


def _require_jax2onnx() -> None:
    try:
        import jax2onnx  # noqa: F401
    except ImportError:
        raise UserError("ONNX needs jax2onnx: pip install codesign[onnx]") from None


def _convert(encoder: Encoder, file: Path) -> None:
    from jax2onnx import to_onnx

    weights = jax.tree.map(jnp.asarray, encoder.weights)
    shape = ("batch", *encoder.shape)
    with _quiet("onnx_ir"):  # warns of every value whose type it has to infer
        to_onnx(
            functools.partial(encoder.call, weights),
            [jax.ShapeDtypeStruct(shape, encoder.dtype)],
            model_name=file.stem,
            opset=OPSET,
            input_names=[encoder.input_name],
            output_names=["embeddings"],
            return_mode="file",
            output_path=file,
        )
    data = file.with_name(f"{file.name}.data")
    if data.exists():  # is made readable by nobody else
        data.chmod(file.stat().st_mode)


def _check(encoder: Encoder, file: Path, vocab: int) -> None:
    """Compares with the CLIP on two random inputs.

    Raises:
      RunError: other embeddings.
    """
    import onnxruntime

    rng, shape = np.random.default_rng(0), (2, *encoder.shape)
    ids = rng.integers(0, vocab, shape).astype(np.int32)
    inputs = ids if encoder.dtype == jnp.int32 else rng.normal(size=shape).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warns of initializers that it removes
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {encoder.input_name: inputs})
    difference = float(np.abs(found - jax.jit(encoder.call)(encoder.weights, inputs)).max())
    if not difference < _TOLERANCE:
        raise RunError(
            f"{file.stem}, converted by jax2onnx {importlib.metadata.version('jax2onnx')}, gives "
            f"embeddings that differ by {difference:.1g}; nothing was written"
        )


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger: Any = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
