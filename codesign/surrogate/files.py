"""Fitted surrogates on disk: one .npz with the weights and the samples they were fitted on.

Arrays are stored as they are, exactly; `about` is a JSON text with what they mean: kind,
layers, version of the features, oracle, bounds of the samples, how it was fitted, versions.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import ON_CHIP, Accelerator
from codesign.bounds import Ge, Le, MaxLen, MinLen
from codesign.decode import decode
from codesign.errors import UserError
from codesign.json_text import parse_json
from codesign.npz import read_npz
from codesign.oracle.interface import Constants
from codesign.oracle.units import constants_of, technology_of
from codesign.renamed import current_nest
from codesign.runs import jsonable, versions, write_bytes
from codesign.space import AcceleratorChoices
from codesign.surrogate import features
from codesign.surrogate.config import FitConfig
from codesign.surrogate.models import Ensemble, Kind, Prediction, init_params
from codesign.surrogate.points import FACTORS, Points, Samples

_FORMAT = "codesign-surrogate-1"
_CONSTANTS = tuple(f.name for f in dataclasses.fields(Constants))
# Files that do not name their columns are of the first ones, whose words all had 8 bits.
_FIRST_CONSTANTS = _CONSTANTS[: _CONSTANTS.index("precision_bits")]


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
        "constants": _CONSTANTS,
        "fit": fitted.config,
        "versions": versions(),
    }
    points, truth = fitted.samples
    constants = constants_of(points.tech)
    arrays = {
        "about": np.array(json.dumps(jsonable(about))),
        "mean": net.mean,
        "scale": net.scale,
        "unit": net.unit,
        "samples/factors": points.factors,
        "samples/constants": np.stack([constants[c] for c in _CONSTANTS], axis=-1),
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
    arrays = _arrays(path)
    about = _about(path, arrays)
    try:
        fitted = _fitted(about, arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is a damaged surrogate ({error}): fit it anew") from error
    if space is not None:
        _check_spans(path, fitted, space)
    return fitted


@dataclasses.dataclass(frozen=True)
class _About:
    """What is looked at in the JSON of a file."""

    kind: Kind
    hidden: Annotated[tuple[Annotated[int, Ge(1), Le(10**6)], ...], MinLen(1), MaxLen(100)]
    oracle: str
    fingerprint: str
    fit: FitConfig
    constants: tuple[str, ...] = _FIRST_CONSTANTS


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is no fitted surrogate, or a damaged one") from error


def _about(path: Path, arrays: Mapping[str, np.ndarray]) -> _About:
    text = arrays.get("about")
    where = f"{path} is no fitted surrogate, or a damaged one"
    if text is None or text.dtype.kind != "U" or text.shape:
        raise UserError(where)
    found = current_nest(parse_json(str(text), where))
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise UserError(where)
    if (version := found.get("features")) != features.VERSION:
        raise UserError(
            f"{path} was fitted on version {version!r:.20} of the features, this is "
            f"version {features.VERSION}: fit it anew with codesign ablate"
        )
    return decode(_About, found, where)


def _fitted(about: _About, arrays: Mapping[str, np.ndarray]) -> Fitted:
    """The surrogate of a file's contents; KeyError, ValueError where they do not fit."""
    factors = _finite(arrays, "samples/factors", None, len(FACTORS))
    points = len(factors)
    values = _finite(arrays, "samples/constants", points, len(about.constants))
    truth = arrays["samples/truth"]
    if truth.shape != (points, len(Prediction._fields)) or truth.dtype.kind != "f":
        raise ValueError(f"samples/truth is {truth.dtype} {truth.shape}")
    m, k, n, *chip = factors.T
    constants = {"precision_bits": np.full_like(m, Constants.precision_bits)}
    constants |= dict(zip(about.constants, values.T, strict=True))
    mean = _finite(arrays, "mean", None)
    like = jax.eval_shape(lambda: init_params(jax.random.key(0), len(mean), about.hidden))
    members = len(arrays[f"params{_named(like)[0][0]}"])
    leaves = [
        jnp.asarray(_finite(arrays, f"params{name}", members, *leaf.shape))
        for name, leaf in _named(like)
    ]
    net = Ensemble(
        params=jax.tree.unflatten(jax.tree.structure(like), leaves),
        mean=jnp.asarray(mean),
        scale=jnp.asarray(_finite(arrays, "scale", *mean.shape)),
        unit=jnp.asarray(_finite(arrays, "unit", 2)),
        kind=about.kind,
        hidden=about.hidden,
    )
    return Fitted(
        surrogate=net,
        samples=Samples(
            Points(m, k, n, Accelerator(*chip), technology_of(constants)), Prediction(*truth.T)
        ),
        oracle=about.oracle,
        fingerprint=about.fingerprint,
        config=about.fit,
    )


def _finite(arrays: Mapping[str, np.ndarray], name: str, *shape: int | None) -> np.ndarray:
    """An array of finite floats; ValueError for another, or another shape (None: any length)."""
    values = arrays[name]
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise ValueError(f"{name} is no array of finite numbers")
    if len(shape) != values.ndim or any(
        wanted not in (None, found) for wanted, found in zip(shape, values.shape, strict=True)
    ):
        raise ValueError(f"{name} has shape {values.shape}")
    return values


def _named(tree: Any) -> list[tuple[str, Any]]:
    """Leaves with their paths, as in "['last']['kernel'].value"."""
    return [(jax.tree_util.keystr(p), x) for p, x in jax.tree_util.tree_leaves_with_path(tree)]


def _check_spans(path: Path, fitted: Fitted, space: AcceleratorChoices) -> None:
    for name in ON_CHIP:
        choices, (low, high) = getattr(space, name), fitted.bounds[name]
        if min(choices) < low or max(choices) > high:
            raise UserError(
                f"{path} is from another space: it knows {name} from {low:g} to {high:g}, not "
                f"{min(choices):g} to {max(choices):g}; fit one for this space"
            )
