"""The proxy of a finished search in its folder, proxy.npz, from which new fronts are made.

Axes: I, T choices of the image and of the text tower, in the order of the space.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codesign.architecture import Architecture
from codesign.decode import decode
from codesign.errors import UserError
from codesign.json_text import parse_json
from codesign.npz import read_npz
from codesign.runs import jsonable

PROXY = "proxy.npz"


class Proxy(NamedTuple):
    """What every network of a space makes of held-out images, as cut from an elastic supernet.

    Attributes:
      loss: mean negative log likelihood of the right text, [I, T].
      accuracy: share of the images whose likeliest text is the right one, [I, T].
    """

    loss: np.ndarray
    accuracy: np.ndarray


class Ranked(NamedTuple):
    """A proxy and the network it is of.

    Attributes:
      proxy: of every network.
      largest: the supernet.
      images: how many the proxy was taken on.
    """

    proxy: Proxy
    largest: Architecture
    images: int

    def check(self, shape: tuple[int, ...]) -> Ranked:
        """Itself.

        Raises:
          UserError: it is not of a space of this shape.
        """
        if self.proxy.loss.shape != shape:
            raise UserError(
                f"{PROXY} holds {self.proxy.loss.shape} networks, the run's space has {shape}"
            )
        return self


def proxy_bytes(ranked: Ranked) -> bytes:
    """The content of proxy.npz."""
    about = {"architecture": jsonable(ranked.largest), "images": ranked.images}
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    stream = io.BytesIO()
    np.savez_compressed(stream, about=text, **ranked.proxy._asdict())
    return stream.getvalue()


def read_proxy(folder: str | os.PathLike[str]) -> Ranked:
    """The proxy of a run.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = Path(folder) / PROXY
    if not path.is_file():
        raise UserError(
            f"{path} is missing: only searches with --schedule.elastic_steps rank all networks; "
            "where this one did, the file was lost: repeat the search"
        )
    try:
        arrays = read_npz(path)
        stored = [arrays[name] for name in Proxy._fields]
        about: Any = parse_json(arrays["about"].tobytes().decode(), str(path))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): repeat the search") from error
    if any(each.dtype.kind != "f" for each in stored):
        kinds = " and ".join(str(each.dtype) for each in stored)
        raise UserError(f"{path} is damaged (arrays of {kinds}): repeat the search")
    loss, accuracy = (np.asarray(each, np.float32) for each in stored)
    if loss.ndim != 2 or accuracy.shape != loss.shape or not np.isfinite(accuracy).all():
        raise UserError(f"{path} is damaged ({loss.shape} networks): repeat the search")
    if not isinstance(about, dict) or not {"architecture", "images"} <= about.keys():
        raise UserError(f"{path} does not tell which network it is of: repeat the search")
    largest = decode(Architecture, about["architecture"], str(path), at="architecture")
    return Ranked(Proxy(loss, accuracy), largest, decode(int, about["images"], str(path)))
