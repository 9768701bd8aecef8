"""Deployment: a CLIP's encoders as StableHLO programs that run without this package.

    image_encoder.stablehlo  (weights, float32 [batch,S,S,C] normalised) -> float32 [batch,E]
    pixel_encoder.stablehlo  (weights, uint8 [batch,S,S,C], normalised inside) -> the same
    text_encoder.stablehlo   (weights, int32 [batch,T]) -> float32 [batch,E]
    weights.safetensors      float32, of both towers, by the names of the native format
    manifest.json            arguments, preprocessing, logit scale, versions, checksums
    example.py               how to run them

The embeddings are L2-normalised. The programs are what `jax.export` serialises: StableHLO with
JAX's calling convention around it. `weights` is a dict of one tower's tensors: programs stay
small, and a device holds the tower it runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export

from codesign.errors import UserError, did_you_mean
from codesign.models.clip import CLIP
from codesign.models.formats.files import HF_PREPROCESSOR, TOKENIZER_FILES, locate_side_files
from codesign.models.formats.image_settings import ImageSettings, image_settings
from codesign.models.formats.safetensors_file import write_safetensors
from codesign.models.formats.save import check_free, publish
from codesign.runs import write_json

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

_EXAMPLE = Path(__file__).with_name("deploy_example.py")
_WEIGHTS = "weights.safetensors"

Weights = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """One program: what it computes and what it needs.

    Attributes:
      call: (weights, inputs) -> embeddings f32 [batch,E].
      weights: the tower's parameters by name.
      input_name: such as "images".
      shape: of the inputs without the batch.
      dtype: of the inputs.
      width: E, of the embeddings.
    """

    call: Callable[[Weights, jax.Array], jax.Array]
    weights: dict[str, np.ndarray]
    input_name: str
    shape: tuple[int, ...]
    dtype: Any
    width: int


def export_stablehlo(
    clip: CLIP,
    folder: str | os.PathLike[str],
    *,
    like: str | os.PathLike[str] | None = None,
    batch: int | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    overwrite: bool = False,
) -> None:
    """Writes a folder of StableHLO programs with their weights; see the module's docstring.

    The programs compute in the CLIP's own dtype, their matrix products in the precision that
    `jax.default_matmul_precision` has when this is called, as the CLIP itself would.

    Args:
      clip: pruned or not, of dtype float32 or bfloat16.
      folder: a new folder.
      like: the checkpoint it came from, whose preprocessing of images is built in and whose
        tokenizer is written too; default: OpenAI's preprocessing, and no tokenizer.
      batch: rows of an input; None: whichever number. A compiler that knows no dynamic shapes
        needs a number, and a single platform.
      platforms: that the programs run on, of "cpu", "cuda", "rocm" and "tpu"; none of them
        needs to be here.
      overwrite: replace files of the same names in a folder that is there already.

    Raises:
      UserError: something is there already, a platform or batch that cannot be, or a CLIP that
        cannot be exported; nothing has been written then.
      RunError: where the disk refuses.
    """
    path = Path(os.path.expanduser(folder))
    check_free(path, single=False, overwrite=overwrite)
    _check_options(batch, platforms)
    origin = None if like is None else locate_side_files(like)
    settings = settings_of(clip, origin, like)
    programs = encoders(clip, settings)
    exported = {
        name: export_program(encoder, batch, platforms) for name, encoder in programs.items()
    }
    manifest = {
        "programs": {
            name: {
                **described(encoder, f"{name}.stablehlo", batch),
                "weights": list(encoder.weights),
                "calling_convention_version": exported[name].calling_convention_version,
            }
            for name, encoder in programs.items()
        },
        **describe(clip, settings),
        "platforms": list(platforms),
        "jax": jax.__version__,
    }

    def write(aside: Path) -> None:
        tensors = {n: w for encoder in programs.values() for n, w in encoder.weights.items()}
        write_safetensors(aside / _WEIGHTS, tensors)
        for name, program in exported.items():
            (aside / f"{name}.stablehlo").write_bytes(program.serialize())
        shutil.copyfile(_EXAMPLE, aside / "example.py")
        write_side_files(origin, settings, aside)
        write_manifest(manifest, aside)

    publish(path, write)


def encoders(clip: CLIP, settings: ImageSettings) -> dict[str, Encoder]:
    """The programs of a CLIP by name.

    Raises:
      UserError: a CLIP that computes in float64, which programs in float32 cannot keep.
    """
    if clip.dtype == jnp.float64:
        raise UserError("a CLIP in float64 cannot be exported; load it in float32")
    a = clip.architecture
    mean, std = (np.asarray(colour, np.float32) for colour in (settings.mean, settings.std))
    see, image_weights = _tower(clip, "vision")
    read, text_weights = _tower(clip, "text")

    def see_pixels(weights: Weights, pixels: jax.Array) -> jax.Array:
        return see(weights, (pixels.astype(jnp.float32) / 255 - mean) / std)

    picture, width = (a.image, a.image, a.channels), a.projection
    return {
        "image_encoder": Encoder(see, image_weights, "images", picture, jnp.float32, width),
        "pixel_encoder": Encoder(see_pixels, image_weights, "pixels", picture, jnp.uint8, width),
        "text_encoder": Encoder(read, text_weights, "ids", (a.context,), jnp.int32, width),
    }


def export_program(
    encoder: Encoder, batch: int | None, platforms: Sequence[str]
) -> export.Exported:
    """The program of an encoder for so many rows, or for whichever number."""
    weights = {n: jax.ShapeDtypeStruct(w.shape, w.dtype) for n, w in encoder.weights.items()}
    rows: Sequence[Any] = export.symbolic_shape("batch") if batch is None else (batch,)
    inputs = jax.ShapeDtypeStruct((*rows, *encoder.shape), encoder.dtype)
    return export.export(jax.jit(encoder.call), platforms=platforms)(weights, inputs)


def settings_of(
    clip: CLIP, origin: Path | None, checkpoint: str | os.PathLike[str] | None = None
) -> ImageSettings:
    """How pictures are prepared for a CLIP whose checkpoint's configs are in `origin`.

    Raises:
      UserError: settings that are not supported, or for another number of colours.
    """
    settings = ImageSettings() if origin is None else image_settings(origin, checkpoint)
    colours = clip.architecture.channels
    if settings.channels != colours:
        raise UserError(
            f"the CLIP's pictures have {colours} channels, the preprocessing is for "
            f"{settings.channels}; put a {HF_PREPROCESSOR} beside the checkpoint whose image_mean "
            f"and image_std have length {colours}"
        )
    return dataclasses.replace(settings, size=clip.architecture.image)


def described(encoder: Encoder, file: str, batch: int | None) -> dict[str, Any]:
    """What a manifest says of one program."""
    rows = "batch" if batch is None else batch
    dtype = jnp.dtype(encoder.dtype).name
    return {
        "file": file,
        "input": {"name": encoder.input_name, "shape": [rows, *encoder.shape], "dtype": dtype},
        "output": {"name": "embeddings", "shape": [rows, encoder.width], "dtype": "float32"},
    }


def describe(clip: CLIP, settings: ImageSettings) -> dict[str, Any]:
    """What a program that uses the encoders must know of the CLIP, for its manifest."""
    a, end = clip.architecture, clip.dialect.end_of_text
    pooled = "largest id" if end is None else f"id {end}, or at position 0 where it is missing"
    return {
        "images": dataclasses.asdict(settings),
        "text": {
            "context": a.context,
            "vocab": a.vocab,
            "end_of_text": end,
            "pooled": f"at the first {pooled}",
        },
        "logit_scale": float(jnp.exp(clip.logit_scale[...])),
        "architecture": dataclasses.asdict(a),
    }


def write_side_files(origin: Path | None, settings: ImageSettings, folder: Path) -> None:
    """The tokenizer of the checkpoint in `origin`, and the settings for transformers."""
    write_json(folder / HF_PREPROCESSOR, settings.huggingface())
    for file in TOKENIZER_FILES:
        if origin is not None and (origin / file).is_file():
            shutil.copyfile(origin / file, folder / file)


def _tower(
    clip: CLIP, tower: str
) -> tuple[Callable[[Weights, jax.Array], jax.Array], dict[str, np.ndarray]]:
    """One tower as a pure function of its parameters, and these by name.

    Its other variables, a few booleans for layers that differ, become constants.
    """
    graphdef, parameters, *rest = nnx.split(getattr(clip, tower), nnx.Param, ...)
    named = {".".join((tower, *map(str, p))): (p, v) for p, v in nnx.to_flat_state(parameters)}

    def encode(weights: Weights, inputs: jax.Array) -> jax.Array:
        filled = [(path, v.replace(weights[name])) for name, (path, v) in named.items()]
        embedding, _ = nnx.merge(graphdef, nnx.from_flat_state(filled), *rest)(inputs)
        return embedding

    return encode, {name: np.asarray(v[...]) for name, (_, v) in named.items()}


def write_manifest(manifest: Mapping[str, Any], folder: Path) -> None:
    """Writes manifest.json, the checksums of the folder's other files in it."""
    sums = {}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as data:
            sums[file.name] = hashlib.file_digest(data, "sha256").hexdigest()
    write_json(folder / "manifest.json", {**manifest, "sha256": sums})


def _check_options(batch: int | None, platforms: Sequence[str]) -> None:
    if batch is not None and batch < 1:
        raise UserError(f"the batch is {batch}; give 1 or more, or none for whichever number")
    for platform in platforms:
        if platform not in PLATFORMS:
            raise UserError(f"no platform '{platform}'; {did_you_mean(platform, PLATFORMS)}")
    if not platforms:
        raise UserError(f"no platform to export for; choose from {', '.join(PLATFORMS)}")
