"""correct.json: which test images each design of a run got right.

    {"images": 360, "right": {"carbon-00": ["ff7f..."], "carbon-01": ["...", "..."]}}

One string of hexadecimal digits a network, two for a family of two subnets; a bit an image, in
the order of the test split, the first one highest, padded with zeros. From it come the intervals
of a report, and the tests of designs against each other on the same images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codesign.errors import UserError
from codesign.json_text import read_json
from codesign.printable import printable
from codesign.report.text import is_number

CORRECT = "correct.json"
# Of accuracies that were written in float32.
_ROUNDING = 1e-6


def correct_json(right: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What correct.json holds.

    Args:
      right: bool [K, N] by the design's name, of its K networks on N images.
    """
    (images,) = {networks.shape[1] for networks in right.values()}
    packed = {
        name: [row.tobytes().hex() for row in np.packbits(networks, axis=1)]
        for name, networks in right.items()
    }
    return {"images": images, "right": packed}


def scores(designs: Sequence[Mapping[str, Any]], right: Mapping[str, np.ndarray]) -> np.ndarray:
    """How far each design is right on each image: float64 [D, N] in [0, 1].

    Args:
      designs: entries of designs.json; of a family, with the subnets' shares of use.
      right: bool [K, N] by the design's name.

    Raises:
      KeyError: a design that `right` does not have, or a subnet without a share.
      ValueError: another number of networks than the design's.
    """
    return np.stack([_shares(design) @ right[design["name"]] for design in designs])


def _shares(design: Mapping[str, Any]) -> np.ndarray:
    return np.asarray([float(s["share"]) for s in design.get("subnets") or [{"share": 1.0}]])


def read_correct(folder: Path, designs: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """`scores` of a run folder's designs, from its correct.json.

    Returns:
      float64 [D, N]; None where the run kept no such file, as older ones did not.

    Raises:
      UserError: a damaged file, or one whose accuracies are not those of the designs.
    """
    path = folder / CORRECT
    if not path.exists() or not designs:
        return None
    try:
        held = read_json(path)
        right = {name: _unpacked(rows, held["images"]) for name, rows in held["right"].items()}
        found = scores(designs, right)
    except (UserError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged, or of another designs.json; without it a report has no intervals"
        ) from error
    for design, accuracy in zip(designs, found.mean(axis=1), strict=True):
        written = design.get("accuracy")
        if not is_number(written) or abs(written - accuracy) > _ROUNDING:
            raise UserError(
                f"{path} has '{printable(design['name'])}' right on {accuracy:.4f} of the images, "
                "which is not its accuracy in designs.json; without the file a report has no "
                "intervals"
            )
    return found


def _unpacked(rows: Any, images: int) -> np.ndarray:
    """bool [K, N] from hexadecimal digits."""
    bits = np.stack([np.frombuffer(bytes.fromhex(row), np.uint8) for row in rows])
    if bits.shape[1] != -(-images // 8) or images < 1:
        raise ValueError(f"{bits.shape[1]} bytes for {images} images")
    return np.unpackbits(bits, axis=1, count=images).astype(bool)
