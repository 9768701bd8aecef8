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
sparsities, and each kernel's shape and axes. "sha256" is of that text and of all tensors; files of
older versions lack it.

A file is taken only where every subnet is what was packed: finite values, nested counts, columns
that occur once in a row. Else a dense kernel and the packed one might be two networks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import ml_dtypes
import numpy as np

from codesign.bounds import Ge, Le, MinLen
from codesign.constraints import ShareBelowOne
from codesign.decode import decode
from codesign.dress.rows import RowSpec, from_rows, to_rows
from codesign.errors import UserError, did_you_mean
from codesign.json_text import parse_json
from codesign.runs import jsonable, write_bytes

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_KIND = "codesign dress family"
_VERSION = 1
_CSR_INDEX_BYTES = 4  # of SciPy's CSR, and the least that PyTorch's takes

_Axes = tuple[Annotated[int, Ge(0), Le(31)], ...]


@dataclasses.dataclass(frozen=True)
class _KernelText:
    """What a family's text says of a kernel."""

    shape: tuple[Annotated[int, Ge(1), Le(2**31 - 1)], ...]
    stacked: _Axes
    inputs: _Axes
    outputs: _Axes


@dataclasses.dataclass(frozen=True)
class _FamilyText:
    """A family's text, the JSON in its metadata."""

    version: Annotated[int, Ge(_VERSION), Le(_VERSION)]
    model: str
    about: dict[str, Any]
    sparsities: Annotated[tuple[ShareBelowOne, ...], MinLen(1)]
    kernels: dict[str, _KernelText]


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
            {
                name: (kernel.counts[k] / lengths[name]).tolist()
                for name, kernel in self.kernels.items()
            }
            for k in range(len(self.sparsities))
        ]

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
            packed + shared + own,
            csr + separate,
            csr_small + separate,
            dense + shared + _bytes(self.own[0]),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the family as a whole: after a kill the old file or the new one is there.

        Raises:
          RunError: where the disk refuses.
        """
        from safetensors.numpy import save

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
        text = json.dumps(jsonable(described))
        contiguous = {name: np.asarray(values, order="C") for name, values in tensors.items()}
        metadata = {"kind": _KIND, "family": text, "sha256": _digest(text, contiguous)}
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
      sparsities: of the K subnets, as reported, increasing; the masks decide what is kept.
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
    _check_sparsities(sparsities)
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
            {name: _converted(name, np.asarray(values), "float32") for name, values in each.items()}
            for each in own
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
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != _KIND:
                raise UserError(f"{path} is no packed family; `codesign dress` writes one")
            text = _text(metadata, path)
            if model is not None and text.model != model:
                raise UserError(f"{path} is a family of a {text.model} model, not of a {model}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        family = _family(text, tensors)
        if metadata.get("sha256", "") not in ("", _digest(metadata["family"], tensors)):
            raise ValueError("its checksum is that of other contents")
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is cut off, damaged or no safetensors file: {reason}") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # the last: of its dtypes
        raise UserError(f"{path} is a damaged family: {error}; pack it again") from None
    return family


def described(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a family's file says of itself ("model", "sparsities", ...), from its header alone.

    None for anything else.

    Raises:
      UserError: a family whose text is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():  # a pipe would keep the library waiting
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError, TypeError, ValueError):
        return None
    if metadata.get("kind") != _KIND:
        return None
    return dataclasses.asdict(_text(metadata, Path(path)))


def _text(metadata: Mapping[str, str], path: Path) -> _FamilyText:
    where = f"{path} is a damaged family"
    found = parse_json(metadata.get("family", ""), where)
    version = found.get("version") if isinstance(found, dict) else None
    if type(version) is int and version != _VERSION:
        raise UserError(
            f"{path} has format version {version}, this program reads {_VERSION}; take the program "
            "that wrote it, or pack again"
        )
    return decode(_FamilyText, found, where, exact=True)


def _digest(text: str, tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a family: its text, and names, types, shapes and bytes of its tensors."""
    digest = hashlib.sha256(text.encode())
    for name, values in sorted(tensors.items()):
        digest.update(f"\0{name}\0{values.dtype}\0{values.shape}\0".encode())
        # As bytes, since not every dtype has a buffer.
        digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _check_sparsities(sparsities: Sequence[float]) -> None:
    """Raises ValueError unless they increase within [0, 1)."""
    ordered = all(a < b for a, b in itertools.pairwise(sparsities))
    if not ordered or not all(0 <= sparsity < 1 for sparsity in sparsities):
        shown = ", ".join(f"{sparsity:g}" for sparsity in sparsities)
        raise ValueError(f"the sparsities {shown} do not increase within [0, 1)")


def _family(text: _FamilyText, tensors: Mapping[str, np.ndarray]) -> PackedFamily:
    """The family of a file's contents; ValueError where they are not one."""
    subnets = len(text.sparsities)
    _check_sparsities(text.sparsities)
    left = dict(tensors)
    kernels = {
        name: _kernel(name, kernel, left, subnets) for name, kernel in sorted(text.kernels.items())
    }
    own = tuple(_below(f"subnet/{k}/", left) for k in range(subnets))
    dense = _below("dense/", left)
    if left:
        raise ValueError(f"it has a tensor '{min(left)}', which no family of its text has")
    if any(each.keys() != own[0].keys() for each in own):
        raise ValueError("its subnets do not have the same parameters of their own")
    if several := (kernels.keys() & own[0].keys()) | (dense.keys() & (kernels.keys() | own[0])):
        raise ValueError(f"it has {min(several)} more than once")
    for name, values in itertools.chain(dense.items(), *(each.items() for each in own)):
        _check_values(name, values)
    for name in own[0]:
        if any(each[name].dtype != np.float32 for each in own):
            raise ValueError(f"a subnet's {name} is not float32")
        if any(each[name].shape != own[0][name].shape for each in own):
            raise ValueError(f"the subnets have {name} in several shapes")
    return PackedFamily(text.model, text.about, text.sparsities, kernels, own, dense)


def _below(prefix: str, left: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors under a prefix, taken out of those that are left."""
    names = [name for name in left if name.startswith(prefix)]
    return {name.removeprefix(prefix): left.pop(name) for name in names}


def _check_values(name: str, values: np.ndarray) -> None:
    """Raises ValueError for what `pack` does not make: other types, NaN and infinities."""
    if values.dtype in DTYPES.values():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds NaN or infinity")
    elif values.dtype.kind not in "biu":
        raise ValueError(f"{name} is {values.dtype}")


def _kernel(
    name: str, text: _KernelText, left: dict[str, np.ndarray], subnets: int
) -> PackedKernel:
    """A kernel, its tensors taken out of those that are left."""

    def taken(rest: str) -> np.ndarray:
        if f"kernel/{name}/{rest}" not in left:
            raise ValueError(f"it lacks '{name}/{rest}'")
        return left.pop(f"kernel/{name}/{rest}")

    spec = RowSpec(text.stacked, text.inputs, text.outputs)
    layers, rows, length = spec.sizes(text.shape)
    counts = taken("counts")
    nested = counts.dtype == np.int32 and counts.shape == (subnets, layers)
    nested = nested and bool((np.diff(counts, axis=0) <= 0).all())
    if not nested or counts.min() < 0 or counts.max() > length:
        raise ValueError(f"the counts of {name} are not of {subnets} nested subnets")
    values, columns = [], []
    for layer in range(layers):
        values.append(taken(f"{layer}/values"))
        columns.append(taken(f"{layer}/columns"))
        expected = (rows, int(counts[0, layer]))
        if not values[layer].shape == columns[layer].shape == expected:
            raise ValueError(f"layer {layer} of {name} does not have {expected} weights")
        if values[layer].dtype != values[0].dtype or values[0].dtype not in DTYPES.values():
            raise ValueError(f"layer {layer} of {name} is {values[layer].dtype}")
        _check_values(f"layer {layer} of {name}", values[layer])
        _check_columns(f"layer {layer} of {name}", columns[layer], length)
    return PackedKernel(text.shape, spec, counts, tuple(values), tuple(columns))


def _check_columns(layer: str, columns: np.ndarray, length: int) -> None:
    if columns.dtype != _smallest_index(length):
        raise ValueError(f"{layer} has columns of type {columns.dtype}")
    if columns.size and columns.max() >= length:
        raise ValueError(f"{layer} has a column beyond its {length} inputs")
    ordered = np.sort(columns, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError(f"{layer} has a column twice in a row")


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
