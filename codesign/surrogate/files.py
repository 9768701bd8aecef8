"""Fitted surrogates on disk: one .npz with the weights and the samples they were fitted on.

Arrays are stored as they are, exactly; `about` is a JSON text with what they mean: kind,
layers, version of the features, oracle, bounds of the samples, how it was fitted, versions.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.errors import UserError
from codesign.oracle.interface import Constants
from codesign.runs import jsonable, versions, write_bytes
from codesign.space import ACCELERATOR_FIELDS, AcceleratorChoices
from codesign.surrogate import features
from codesign.surrogate.config import FitConfig
from codesign.surrogate.models import KINDS, Ensemble, Prediction, init_params
from codesign.surrogate.points import FACTORS, Points, Samples, technology_of

_FORMAT = "codesign-surrogate-1"
_CONSTANTS = tuple(f.name for f in dataclasses.fields(Constants))


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fitted surrogate and where it comes from.

    Attributes:
      surrogate: the ensemble.
      samples: what it was fitted on, [N].
      oracle, fingerprint: whose samples they are.
      config: how it was fitted.
    """

    surrogate: Ensemble
    samples: Samples
    oracle: str
    fingerprint: str
    config: FitConfig

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Least and largest value of each factor among the samples."""
        values = self.samples.points.factors
        low, high = values.min(axis=0), values.max(axis=0)
        return {name: (float(low[i]), float(high[i])) for i, name in enumerate(FACTORS)}


def save(path: str | os.PathLike[str], fitted: Fitted) -> None:
    """Writes a fitted surrogate, aside first and then renamed.

    Raises:
      RunError: where the disk refuses.
    """
    net = fitted.surrogate
    about = {
        "format": _FORMAT,
        "kind": net.kind,
        "hidden": net.hidden,
        "features": features.VERSION,
        "oracle": fitted.oracle,
        "fingerprint": fitted.fingerprint,
        "bounds": fitted.bounds,
        "fit": fitted.config,
        "versions": versions(),
    }
    points, truth = fitted.samples
    arrays = {
        "about": np.array(json.dumps(jsonable(about))),
        "mean": net.mean,
        "scale": net.scale,
        "unit": net.unit,
        "samples/factors": points.factors,
        "samples/constants": np.stack([getattr(points.tech, c) for c in _CONSTANTS], axis=-1),
        "samples/truth": np.stack(truth, axis=-1),
        **{f"params{name}": leaf for name, leaf in _named(net.params)},
    }
    buffer = io.BytesIO()
    plain: dict[str, Any] = {name: np.asarray(a) for name, a in arrays.items()}
    np.savez(buffer, **plain)
    write_bytes(path, buffer.getvalue())


def load(path: str | os.PathLike[str], space: AcceleratorChoices | None = None) -> Fitted:
    """Reads a fitted surrogate.

    Args:
      path: as written by `save`.
      space: accelerators it is wanted for; None: any.

    Raises:
      UserError: no such file, another one, one of other features, or one whose samples do
        not span the space.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        about = json.loads(str(arrays["about"]))
        if about["format"] != _FORMAT:
            raise ValueError
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no fitted surrogate, or a damaged one") from error
    if about["features"] != features.VERSION or about["kind"] not in KINDS:
        raise UserError(
            f"{path} was fitted on version {about['features']} of the features, this is "
            f"version {features.VERSION}: fit it anew with codesign ablate"
        )
    try:
        fitted = _fitted(about, arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is a damaged surrogate: fit it anew") from error
    if space is not None:
        _check_spans(path, fitted, space)
    return fitted


def _fitted(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> Fitted:
    factors, constants = arrays["samples/factors"], arrays["samples/constants"]
    m, k, n, *chip = factors.T
    tech = technology_of(dict(zip(_CONSTANTS, constants.T, strict=True)))
    points = Points(m, k, n, Accelerator(*chip), tech)
    hidden = tuple(about["hidden"])
    like = jax.eval_shape(lambda: init_params(jax.random.key(0), len(arrays["mean"]), hidden))
    leaves = [jnp.asarray(arrays[f"params{name}"]) for name, _ in _named(like)]
    net = Ensemble(
        params=jax.tree.unflatten(jax.tree.structure(like), leaves),
        mean=jnp.asarray(arrays["mean"]),
        scale=jnp.asarray(arrays["scale"]),
        unit=jnp.asarray(arrays["unit"]),
        kind=about["kind"],
        hidden=hidden,
    )
    fit: dict[str, Any] = about["fit"] | {"hidden": tuple(about["fit"]["hidden"])}
    return Fitted(
        surrogate=net,
        samples=Samples(points, Prediction(*arrays["samples/truth"].T)),
        oracle=about["oracle"],
        fingerprint=about["fingerprint"],
        config=FitConfig(**fit),
    )


def _named(tree: Any) -> list[tuple[str, Any]]:
    """Leaves with their paths, as in "['last']['kernel'].value"."""
    return [(jax.tree_util.keystr(p), x) for p, x in jax.tree_util.tree_leaves_with_path(tree)]


def _check_spans(path: Path, fitted: Fitted, space: AcceleratorChoices) -> None:
    for name in ACCELERATOR_FIELDS:
        choices, (low, high) = getattr(space, name), fitted.bounds[name]
        if min(choices) < low or max(choices) > high:
            raise UserError(
                f"{path} is from another space: it knows {name} from {low:g} to {high:g}, not "
                f"{min(choices):g} to {max(choices):g}; fit one for this space"
            )
