"""Embeddings with the programs of this folder.

    pip install jax flatbuffers numpy safetensors pillow
    python example.py PICTURE.jpg ... IDS.npy ...

prints one JSON line for each picture, and for each row of the token ids int [rows, context].
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from PIL import Image
from safetensors.numpy import load

FOLDER = Path(__file__).parent


def read(name: str, sha256: str | None = None) -> bytes:
    """A file of the folder, if it is the one that was written."""
    try:
        data = (FOLDER / name).read_bytes()
    except OSError as error:
        sys.exit(f"cannot read {FOLDER / name}: {error.strerror}; copy the whole folder")
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        sys.exit(f"{FOLDER / name} is damaged or of another export; copy the whole folder again")
    return data


MANIFEST: dict[str, Any] = json.loads(read("manifest.json"))


def program(name: str, weights: dict[str, np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Input [rows, ...] -> embeddings [rows, E]; compiled once for each number of rows."""
    about = MANIFEST["programs"][name]
    data = read(about["file"], MANIFEST["sha256"][about["file"]])
    run = jax.jit(export.deserialize(bytearray(data)).call)
    own = jax.device_put({key: weights[key] for key in about["weights"]})

    def encode(x: np.ndarray) -> np.ndarray:
        batch = about["input"]["shape"][0]
        batch = len(x) if batch == "batch" else batch  # a number where the export fixed it
        padded = np.pad(x, [(0, -len(x) % batch)] + [(0, 0)] * (x.ndim - 1))
        parts = [run(own, part) for part in np.split(padded, len(padded) // batch)]
        return np.concatenate(parts)[: len(x)]

    return encode


def in_colours(picture: Image.Image, mode: str) -> Image.Image:
    """8 bits a colour: transparency lies on white, and 16-bit greys keep their range."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.uint32)
        picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    return picture.convert(mode)


def pixels(path: str) -> np.ndarray:
    """A picture as uint8 [size, size, colours], resized and cut as the model was trained with."""
    how = MANIFEST["images"]
    size, colours = how["size"], len(how["mean"])
    picture = in_colours(Image.open(path), "L" if colours == 1 else "RGB")
    if how["resize"] == "shortest":  # the shorter side becomes `size`, the longer is cut
        sides = [int(size * side / min(picture.size)) for side in picture.size]
    elif how["resize"] == "longest":  # the longer side becomes `size`, the shorter is filled up
        sides = [round(side * (size / max(picture.size))) for side in picture.size]
    else:
        sides = [size, size]
    picture = picture.resize((sides[0], sides[1]), Image.Resampling[how["interpolation"].upper()])
    square = Image.new(picture.mode, (size, size), (how["fill"],) * colours)
    whole = round if (how["resize"], how["half_pixel"]) == ("shortest", "even") else int
    square.paste(picture, (whole((size - sides[0]) / 2), whole((size - sides[1]) / 2)))
    return np.asarray(square).reshape(size, size, colours)


if __name__ == "__main__":
    tensors = load(read("weights.safetensors", MANIFEST["sha256"]["weights.safetensors"]))
    pictures = [path for path in sys.argv[1:] if not path.endswith(".npy")]
    texts = [path for path in sys.argv[1:] if path.endswith(".npy")]
    found: list[tuple[str, np.ndarray]] = []
    if pictures:
        rows = program("pixel_encoder", tensors)(np.stack([pixels(path) for path in pictures]))
        found += zip(pictures, rows, strict=True)
    for path in texts:
        rows = program("text_encoder", tensors)(np.load(path).astype(np.int32))
        found += [(path, row) for row in rows]
    for path, row in found:
        print(json.dumps({"file": path, "embedding": row.tolist()}))
