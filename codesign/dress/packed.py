"""The packed family: all subnets of one model in one safetensors file, read without JAX.

Each row keeps the weights of its densest subnet with their columns, in falling order of the
level, by column within a level. So subnet k is the first n_k entries of every row: to switch is
to slice. What no subnet prunes is stored once, each subnet's own parameters (normalisation,
after its post-training) once per subnet.

    family = load_packed("family.safetensors")
    parameters = family.to_dense(1)  # {name: array}, zeros in place

Tensors of the file, with the layers of a stacked kernel apart, as each has its own n:

    kernel/NAME/LAYER/values    [R, n_1]
    kernel/NAME/LAYER/columns   [R, n_1], the smallest unsigned integer that holds N - 1
    kernel/NAME/counts          int32 [K, L]: n_k of each layer
    subnet/K/NAME               a parameter of subnet K's own, float32
    dense/NAME                  every other parameter

The metadata's "family" is a JSON object: the kind of model and what rebuilds it, the
sparsities, and each kernel's shape and axes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from codesign.dress.rows import RowSpec, from_rows, to_rows
from codesign.errors import UserError, did_you_mean
from codesign.runs import jsonable, write_bytes

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_KIND = "codesign dress family"
_VERSION = 1
_CSR_INDEX_BYTES = 4  # of SciPy's CSR, and the least that PyTorch's takes


@dataclasses.dataclass(frozen=True)
class PackedKernel:
    """One kernel's rows, the most important weights first.

    Attributes:
      shape: of the dense kernel.
      spec: its rows.
      counts: int32 [K,L], weights per row, not increasing with k.
      values: of each layer [R,n_1].
      columns: of each layer unsigned [R,n_1], positions of the values within their row.
    """

    shape: tuple[int, ...]
    spec: RowSpec
    counts: np.ndarray
    values: tuple[np.ndarray, ...]
    columns: tuple[np.ndarray, ...]

    def to_dense(self, k: int) -> np.ndarray:
        """The kernel of subnet k, zeros in place."""
        rows = np.zeros(self.spec.sizes(self.shape), self.values[0].dtype)
        for layer, n in enumerate(self.counts[k]):
            columns = self.columns[layer][:, :n].astype(np.int64)
            np.put_along_axis(rows[layer], columns, self.values[layer][:, :n], axis=1)
        return np.ascontiguousarray(from_rows(rows, self.spec, self.shape))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes of a family and of what it replaces.

    Attributes:
      packed: the family.
      csr: K separate models with CSR kernels, columns and row pointers of 32 bits.
      csr_small: the same with columns as small as the family's.
      dense: one dense model.
    """

    packed: int
    csr: int
    csr_small: int
    dense: int


@dataclasses.dataclass(frozen=True)
class PackedFamily:
    """K nested subnets of one model, in NumPy.

    Attributes:
      model: the kind of model, such as "clip".
      about: what rebuilds it, plain JSON values.
      sparsities: of the subnets, increasing.
      kernels: the pruned kernels by name.
      own: each subnet's own parameters by name, the same names in every subnet.
      dense: every other parameter by name.
    """

    model: str
    about: dict[str, Any]
    sparsities: tuple[float, ...]
    kernels: dict[str, PackedKernel]
    own: tuple[dict[str, np.ndarray], ...]
    dense: dict[str, np.ndarray]

    def to_dense(self, k: int) -> dict[str, np.ndarray]:
        """All parameters of subnet k by name, exactly mask * weights; 0 is the densest.

        Raises:
          ValueError: there is no such subnet.
        """
        if not 0 <= k < len(self.sparsities):
            raise ValueError(f"there is no subnet {k}; the family has 0 to {len(self.own) - 1}")
        kernels = {name: kernel.to_dense(k) for name, kernel in self.kernels.items()}
        return self.dense | self.own[k] | kernels

    def densities(self) -> list[dict[str, list[float]]]:
        """Of each subnet, the share of its weights that each layer of each kernel keeps."""
        lengths = {name: k.spec.sizes(k.shape)[2] for name, k in self.kernels.items()}
        return [
            {name: (kernel.counts[k] / lengths[name]).tolist()
             for name, kernel in self.kernels.items()}
            for k in range(len(self.sparsities))
        ]  # fmt: skip

    def sizes(self, kernels_only: bool = False) -> Sizes:
        """What the arrays take on disk and in memory.

        Args:
          kernels_only: leave out what is not pruned; else each of K models has it all.
        """
        packed = csr = csr_small = dense = 0
        for kernel in self.kernels.values():
            layers, rows, length = kernel.spec.sizes(kernel.shape)
            value, column = kernel.values[0].itemsize, kernel.columns[0].itemsize
            pointers = len(self.sparsities) * layers * (rows + 1) * _CSR_INDEX_BYTES
            kept = rows * int(kernel.counts.sum())
            packed += rows * int(kernel.counts[0].sum()) * (value + column) + kernel.counts.nbytes
            csr += kept * (value + _CSR_INDEX_BYTES) + pointers
            csr_small += kept * (value + column) + pointers
            dense += layers * rows * length * value
        if kernels_only:
            return Sizes(packed, csr, csr_small, dense)
        shared = _bytes(self.dense)
        own = sum(map(_bytes, self.own))
        separate = len(self.sparsities) * shared + own
        return Sizes(
            packed + shared + own, csr + separate, csr_small + separate,
            dense + shared + _bytes(self.own[0]),
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the family as a whole: after a kill the old file or the new one is there.

        Raises:
          RunError: where the disk refuses.
        """
        tensors = {f"dense/{name}": values for name, values in self.dense.items()}
        for k, own in enumerate(self.own):
            tensors |= {f"subnet/{k}/{name}": values for name, values in own.items()}
        for name, kernel in self.kernels.items():
            tensors[f"kernel/{name}/counts"] = kernel.counts
            for layer, values in enumerate(kernel.values):
                tensors[f"kernel/{name}/{layer}/values"] = values
                tensors[f"kernel/{name}/{layer}/columns"] = kernel.columns[layer]
        described = {
            "version": _VERSION,
            "model": self.model,
            "about": self.about,
            "sparsities": self.sparsities,
            "kernels": {
                name: {"shape": kernel.shape, **dataclasses.asdict(kernel.spec)}
                for name, kernel in self.kernels.items()
            },
        }
        metadata = {"kind": _KIND, "family": json.dumps(jsonable(described))}
        contiguous = {name: np.asarray(values, order="C") for name, values in tensors.items()}
        write_bytes(path, save(contiguous, metadata))


def pack(
    parameters: Mapping[str, Any],
    levels: Mapping[str, Any],
    specs: Mapping[str, RowSpec],
    sparsities: Sequence[float],
    *,
    own: Sequence[Mapping[str, Any]] | None = None,
    dtype: str = "float32",
    model: str,
    about: Mapping[str, Any] | None = None,
) -> PackedFamily:
    """Packs a model and its masks.

    Args:
      parameters: every parameter by name, NumPy or JAX arrays.
      levels: of the pruned kernels by name, `Masks.levels`.
      specs: of the same kernels.
      sparsities: of the K subnets, as reported; the masks decide what is kept.
      own: K times the parameters a subnet has for itself, in place of the model's.
      dtype: of the values and of the dense floating-point parameters, a key of `DTYPES`.
      model: the kind of model.
      about: what rebuilds it.

    Raises:
      ValueError: arguments that do not fit each other, rows of different counts, values that
        the dtype cannot hold.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    if levels.keys() != specs.keys() or not levels:
        raise ValueError("levels and specs must name the same kernels, at least one")
    subnets = len(sparsities)
    own = [{}] * subnets if own is None else own
    if len(own) != subnets or any(each.keys() != own[0].keys() for each in own):
        raise ValueError(f"own needs the same names for each of the {subnets} subnets")
    _check_known([*levels, *own[0]], parameters)
    for name in own[0]:
        if any(np.shape(each[name]) != np.shape(parameters[name]) for each in own):
            raise ValueError(f"a subnet's {name} has another shape than the model's")
    if set(own[0]) & set(levels):
        raise ValueError(f"{min(set(own[0]) & set(levels))} cannot be pruned and a subnet's own")

    def dense(name: str) -> np.ndarray:
        values = np.asarray(parameters[name])
        return _converted(name, values, dtype) if _is_float(values) else values

    return PackedFamily(
        model=model,
        about=dict(about or {}),
        sparsities=tuple(float(s) for s in sparsities),
        kernels={
            name: _pack_kernel(name, dense(name), np.asarray(levels[name]), spec, subnets)
            for name, spec in specs.items()
        },
        own=tuple(
            {name: np.asarray(values, np.float32) for name, values in each.items()} for each in own
        ),
        dense={name: dense(name) for name in parameters if name not in {*levels, *own[0]}},
    )


def load_packed(path: str | os.PathLike[str], model: str | None = None) -> PackedFamily:
    """Reads a family.

    Args:
      path: of a file by `PackedFamily.save`.
      model: the kind of model it must be of.

    Raises:
      UserError: no such file, one cut off or damaged, of another format or another model.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != _KIND:
                raise UserError(f"{path} is no packed family; `codesign dress` writes one")
            about = json.loads(metadata["family"])
            if about["version"] != _VERSION:
                raise UserError(
                    f"{path} has format version {about['version']}, this program reads "
                    f"{_VERSION}; take the program that wrote it, or pack again"
                )
            if model is not None and about["model"] != model:
                raise UserError(f"{path} is a family of a {about['model']} model, not of a {model}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _family(about, tensors)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is cut off, damaged or no safetensors file: {error}") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path} is a damaged family: {reason}; pack it again") from None


def described(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a family's file says of itself ("model", "sparsities", ...), from its header alone.

    None for anything else.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            found: dict[str, Any] = json.loads(metadata["family"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return found if metadata.get("kind") == _KIND else None


def _family(about: Mapping[str, Any], tensors: dict[str, np.ndarray]) -> PackedFamily:
    """The family of a file's contents; KeyError, ValueError where they are not one."""
    subnets = len(about["sparsities"])
    grouped: dict[str, dict[str, np.ndarray]] = {"dense": {}, "subnet": {}, "kernel": {}}
    for name, values in tensors.items():
        kind, rest = name.split("/", 1)
        grouped[kind][rest] = values
    own: list[dict[str, np.ndarray]] = [{} for _ in range(subnets)]
    for name, values in grouped["subnet"].items():
        number, rest = name.split("/", 1)
        own[int(number)][rest] = values
    return PackedFamily(
        model=about["model"],
        about=about["about"],
        sparsities=tuple(about["sparsities"]),
        kernels={
            name: _kernel(name, described, grouped["kernel"], subnets)
            for name, described in about["kernels"].items()
        },
        own=tuple(own),
        dense=grouped["dense"],
    )


def _kernel(
    name: str, described: Mapping[str, Any], tensors: Mapping[str, np.ndarray], subnets: int
) -> PackedKernel:
    shape = tuple(described["shape"])
    spec = RowSpec(*(tuple(described[axes]) for axes in ("stacked", "inputs", "outputs")))
    layers, rows, length = spec.sizes(shape)
    counts = tensors[f"{name}/counts"]
    values = tuple(tensors[f"{name}/{layer}/values"] for layer in range(layers))
    columns = tuple(tensors[f"{name}/{layer}/columns"] for layer in range(layers))
    if counts.shape != (subnets, layers) or (np.diff(counts, axis=0) > 0).any():
        raise ValueError(f"the counts of {name} are not of {subnets} nested subnets")
    for layer in range(layers):
        expected = (rows, counts[0, layer])
        if not values[layer].shape == columns[layer].shape == expected:
            raise ValueError(f"layer {layer} of {name} does not have {expected} weights")
        if columns[layer].size and columns[layer].max() >= length:
            raise ValueError(f"layer {layer} of {name} has a column beyond its {length} inputs")
    return PackedKernel(shape, spec, counts, values, columns)


def _pack_kernel(
    name: str, kernel: np.ndarray, levels: np.ndarray, spec: RowSpec, subnets: int
) -> PackedKernel:
    if kernel.shape != levels.shape:
        raise ValueError(f"{name} has shape {kernel.shape}, its levels {levels.shape}")
    weights, kept = to_rows(kernel, spec), to_rows(levels, spec)
    if kept.max() > subnets:
        raise ValueError(f"{name} has levels up to {kept.max()}, the family {subnets} subnets")
    per_row = np.stack([(kept > k).sum(axis=2) for k in range(subnets)])  # [K,L,R]
    if (per_row != per_row[:, :, :1]).any():
        raise ValueError(f"the rows of {name} do not keep equally many weights")
    counts = per_row[:, :, 0].astype(np.int32)
    index = _smallest_index(kept.shape[2])
    values, columns = [], []
    for layer, n in enumerate(counts[0]):
        order = np.argsort(np.uint8(subnets) - kept[layer], axis=1, kind="stable")[:, :n]
        values.append(np.take_along_axis(weights[layer], order, axis=1))
        columns.append(order.astype(index))
    return PackedKernel(kernel.shape, spec, counts, tuple(values), tuple(columns))


def _smallest_index(length: int) -> np.dtype:
    return np.dtype(np.min_scalar_type(length - 1))


def _is_float(values: np.ndarray) -> bool:
    return values.dtype in DTYPES.values() or values.dtype == np.float64


def _converted(name: str, values: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        converted = values.astype(DTYPES[dtype])
    if not np.isfinite(converted).all():
        problem = "overflows in" if np.isfinite(values).all() else "holds NaN or infinity, in"
        raise ValueError(f"{name} {problem} {dtype}")
    return converted


def _bytes(arrays: Mapping[str, np.ndarray]) -> int:
    return sum(values.nbytes for values in arrays.values())


def _check_known(names: Sequence[str], parameters: Mapping[str, Any]) -> None:
    for name in names:
        if name not in parameters:
            raise ValueError(f"no parameter is called '{name}'; {did_you_mean(name, parameters)}")
