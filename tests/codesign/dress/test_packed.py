"""The packed family: exact, small, read without JAX, and clear about files that are not one."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from codesign.dress.packed import PackedFamily, described, load_packed, pack
from codesign.dress.rows import RowSpec, flax_spec, from_rows
from codesign.errors import UserError
from simulators.mutations import damaged

SPECS = {
    "fc.kernel": flax_spec((6, 4)),
    "conv.kernel": flax_spec((3, 3, 2, 5)),
    "blocks.query": RowSpec(stacked=(0,), inputs=(1,), outputs=(2, 3)),
}
SHAPES = {"fc.kernel": (6, 4), "conv.kernel": (3, 3, 2, 5), "blocks.query": (2, 300, 2, 3)}
COUNTS = {  # [K,L]
    "fc.kernel": [[5], [3], [1]],
    "conv.kernel": [[18], [4], [4]],
    "blocks.query": [[300, 60], [200, 7], [1, 2]],
}
SPARSITIES = (0.2, 0.6, 0.9)


def model(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Parameters, and levels drawn at random with the counts above, not by magnitude."""
    rng = np.random.default_rng(seed)
    parameters: dict[str, Any] = {
        "bias": rng.normal(size=4).astype(np.float32),
        "norm.scale": np.ones(3, np.float32),
        "rank": np.arange(3, dtype=np.int32),
        "temperature": np.float32(2.5),
    }
    levels = {}
    for name, spec in SPECS.items():
        parameters[name] = rng.normal(size=SHAPES[name]).astype(np.float32)
        layers, rows, length = spec.sizes(SHAPES[name])
        ranks = rng.permuted(np.broadcast_to(np.arange(length), (layers, rows, length)), axis=2)
        counts = np.array(COUNTS[name])[:, :, None, None]
        levels[name] = from_rows((ranks < counts).sum(axis=0, dtype=np.uint8), spec, SHAPES[name])
    return parameters, levels


def packed(seed: int = 0, **options: Any) -> PackedFamily:
    parameters, levels = model(seed)
    return pack(parameters, levels, SPECS, SPARSITIES, **{"model": "toy", **options})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("family") / "family.safetensors"
    own = [{"norm.scale": np.full(3, 1.5 + k, np.float32)} for k in range(3)]
    packed(own=own, about={"width": 7}).save(path)
    return path


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_every_subnet_is_exactly_mask_times_weights(seed: int) -> None:
    parameters, levels = model(seed)
    family = packed(seed)
    for k in range(3):
        dense = family.to_dense(k)
        assert dense.keys() == parameters.keys()
        for name, values in parameters.items():
            expected = np.where(levels[name] > k, values, 0) if name in levels else values
            np.testing.assert_array_equal(dense[name], expected, strict=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_values(dtype: str, tmp_path: Path) -> None:
    parameters, levels = model()
    packed(dtype=dtype).save(tmp_path / "f.safetensors")
    narrow = np.dtype(getattr(ml_dtypes, dtype, dtype))
    dense = load_packed(tmp_path / "f.safetensors").to_dense(1)
    for name, mask in levels.items():
        weights = parameters[name].astype(narrow)
        expected = np.where(mask > 1, weights, np.zeros_like(weights))
        np.testing.assert_array_equal(dense[name], expected, strict=True)
    assert dense["bias"].dtype == narrow and dense["rank"].dtype == np.int32


def test_the_first_columns_are_the_sparser_subnets() -> None:
    kernel, levels = packed().kernels["blocks.query"], model()[1]["blocks.query"]
    for layer in range(2):
        level_rows = levels[layer].reshape(300, 6).T
        columns = kernel.columns[layer].astype(int)
        assert columns.shape == (6, COUNTS["blocks.query"][0][layer])
        start = 0
        for k in (2, 1, 0):  # one level after the other, by column inside
            end = COUNTS["blocks.query"][k][layer]
            for row, its_levels in enumerate(level_rows):
                np.testing.assert_array_equal(
                    columns[row, start:end], np.flatnonzero(its_levels == k + 1)
                )
            start = end


def test_indices_are_the_smallest_that_fit() -> None:
    def index_of(length: int) -> np.dtype:
        kernel, spec = np.ones((length, 1), np.float32), flax_spec((length, 1))
        family = pack({"k": kernel}, {"k": kernel.astype(np.uint8)}, {"k": spec}, (0.0,), model="m")
        return family.kernels["k"].columns[0].dtype

    assert [index_of(n) for n in (1, 256, 257, 65536, 65537)] == [
        np.uint8,
        np.uint8,
        np.uint16,
        np.uint16,
        np.uint32,
    ]


def test_a_file_holds_the_whole_family(file: Path) -> None:
    family = load_packed(file, "toy")
    assert family.sparsities == SPARSITIES and family.about == {"width": 7}
    parameters, levels = model()
    for k in range(3):
        dense = family.to_dense(k)
        np.testing.assert_array_equal(dense["norm.scale"], np.full(3, 1.5 + k))
        assert dense["temperature"].shape == ()
        for name in levels:
            expected = np.where(levels[name] > k, parameters[name], 0)
            np.testing.assert_array_equal(dense[name], expected)
    for k in (-1, 3):
        with pytest.raises(ValueError, match=f"there is no subnet {k}; the family has 0 to 2"):
            family.to_dense(k)


def test_sizes_by_hand(file: Path) -> None:
    family = load_packed(file)
    # 4 rows of 5, 5 of 18 and 6 of 300 + 60 weights; columns of 1, 1 and 2 bytes.
    counts = 4 * (3 + 3 + 6)
    kernels = 20 * 5 + 90 * 5 + 2160 * 6 + counts
    kept = 4 * 9, 5 * 26, 6 * 570
    pointers = 3 * 4 * (5 + 6 + 2 * 7)
    alone = family.sizes(kernels_only=True)
    assert alone.packed == kernels
    assert alone.csr == sum(kept) * 8 + pointers
    assert alone.csr_small == kept[0] * 5 + kept[1] * 5 + kept[2] * 6 + pointers
    assert alone.dense == 4 * (24 + 90 + 3600)
    other = 4 * (4 + 3 + 1)  # bias, rank and temperature
    norms = 4 * 3
    whole = family.sizes()
    assert whole.packed == alone.packed + other + 3 * norms
    assert whole.csr == alone.csr + 3 * (other + norms)
    assert whole.dense == alone.dense + other + norms
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size == header + whole.packed


def test_it_loads_without_jax(file: Path) -> None:
    program = f"""
import sys
sys.modules.update(jax=None, jaxlib=None, flax=None)  # importing them fails
from codesign.dress.packed import load_packed
family = load_packed({str(file)!r}, "toy")
print(float(abs(family.to_dense(1)["blocks.query"]).sum()))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    expected = np.abs(packed().to_dense(1)["blocks.query"]).sum()
    assert float(run.stdout) == pytest.approx(expected)


def _rewritten(file: Path, to: Path, change: Any, drop: str = "", checksum: bool = True) -> Path:
    """The file with its description changed, or a tensor or its checksum dropped."""
    with safe_open(file, framework="numpy") as old:
        metadata = old.metadata()
        if not checksum:
            metadata.pop("sha256")
        tensors = {name: old.get_tensor(name) for name in old.keys() if name != drop}  # noqa: SIM118
    about = json.loads(metadata["family"])
    change(about, tensors)
    save_file(tensors, to, {**metadata, "family": json.dumps(about)})
    return to


def _set_column(_: Any, tensors: dict[str, np.ndarray]) -> None:
    tensors["kernel/fc.kernel/0/columns"][0, 0] = 6


@pytest.mark.parametrize(
    ("change", "drop", "message"),
    [
        (lambda about, _: about.update(version=2), "", "format version 2, this program reads 1"),
        (lambda about, _: about.update(model="resnet"), "", "of a resnet model, not of a toy"),
        (lambda *_: None, "kernel/fc.kernel/0/values", "lacks 'fc.kernel/0/values'; pack it again"),
        (_set_column, "", "layer 0 of fc.kernel has a column beyond its 6 inputs"),
        (lambda about, _: about["sparsities"].pop(), "", "is a damaged family"),
    ],
)
def test_damaged_files(file: Path, tmp_path: Path, change: Any, drop: str, message: str) -> None:
    path = _rewritten(file, tmp_path / "f.safetensors", change, drop)
    with pytest.raises(UserError, match=message) as caught:
        load_packed(path, "toy")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def _put(name: str, *changes: tuple[Any, Any]) -> Any:
    """A change of a tensor, at indices to values."""

    def change(_: Any, tensors: dict[str, np.ndarray]) -> None:
        for index, value in changes:
            tensors[name][index] = value

    return change


def _recast(name: str, dtype: Any, view: bool = False) -> Any:
    def change(_: Any, tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = tensors[name].view(dtype) if view else tensors[name].astype(dtype)

    return change


def _update(**values: Any) -> Any:
    return lambda about, _: about.update(values)


def _kernel_text(name: str, **values: Any) -> Any:
    return lambda about, _: about["kernels"][name].update(values)


FC, BIAS, NORM = "kernel/fc.kernel", "dense/bias", "subnet/1/norm.scale"
FORGED: dict[str, tuple[Any, str]] = {
    "NaN": (_put(f"{FC}/0/values", ((0, 0), np.nan)), "layer 0 of fc.kernel holds NaN or infinity"),
    "infinity": (_put(BIAS, (1, -np.inf)), "bias holds NaN or infinity"),
    "NaN in a norm": (_put(NORM, (2, np.nan)), "norm.scale holds NaN"),
    "values as int": (_recast(f"{FC}/0/values", np.int32, view=True), "fc.kernel is int32"),
    "values of another type": (
        _recast("kernel/blocks.query/1/values", np.float16),
        "layer 1 of blocks.query is float16",
    ),
    "norm as int": (_recast(NORM, np.int32, view=True), "a subnet's norm.scale is not float32"),
    "float64": (_recast(BIAS, np.float64), "bias is float64"),
    "column twice": (
        _put(f"{FC}/0/columns", ((2, 1), 0), ((2, 4), 0)),
        "layer 0 of fc.kernel has a column twice",
    ),
    "wide columns": (_recast(f"{FC}/0/columns", np.uint16), "fc.kernel has columns of type uint16"),
    "signed columns": (_recast(f"{FC}/0/columns", np.int8, view=True), "columns of type int8"),
    "counts not nested": (_put(f"{FC}/counts", ((1, 0), 6)), "not of 3 nested subnets"),
    "negative counts": (_put(f"{FC}/counts", ((2, 0), -1)), "counts of fc.kernel are not of 3"),
    "float counts": (_recast(f"{FC}/counts", np.float32), "counts of fc.kernel are not of 3"),
    "sparsities beyond": (_update(sparsities=[-3, 0.5, 7]), r"sparsities\[0\] is -3, expected"),
    "all is zero": (_update(sparsities=[0.2, 0.6, 1]), r"sparsities\[2\] is 1, expected"),
    "sparsities reversed": (_update(sparsities=[0.9, 0.6, 0.2]), "0.9, 0.6, 0.2 do not increase"),
    "sparsities equal": (_update(sparsities=[0.2, 0.6, 0.6]), "0.2, 0.6, 0.6 do not increase"),
    "sparsity as text": (_update(sparsities=[0.2, "0.6", 0.9]), r"sparsities\[1\] is '0.6'"),
    "no sparsities": (_update(sparsities=[]), r"sparsities is \[\]"),
    "version as text": (_update(version="1"), "version is '1', expected"),
    "model as list": (_update(model=["toy"]), r"model is \['toy'\], expected text"),
    "unknown key": (_update(colour=1), "unknown key 'colour'"),
    "kernels as list": (_update(kernels=[]), r"kernels is \[\], expected an object"),
    "negative axis": (_kernel_text("fc.kernel", inputs=[-1]), r"kernels.fc.kernel.inputs\[0\] is"),
    "axes twice": (_kernel_text("fc.kernel", inputs=[1]), "its RowSpec names"),
    "an empty axis": (_kernel_text("fc.kernel", shape=[0, 4]), r"fc.kernel.shape\[0\] is 0"),
    "a huge kernel": (_kernel_text("fc.kernel", shape=[2**31 - 1, 4]), "columns of type uint8"),
    "a kernel less": (
        lambda about, _: about["kernels"].pop("fc.kernel"),
        "it has a tensor 'kernel/fc.kernel/0/columns'",
    ),
    "a subnet -1": (
        lambda _, t: t.update({"subnet/-1/norm.scale": t.pop(NORM)}),
        "it has a tensor 'subnet/-1/norm.scale'",
    ),
    "a name without group": (lambda _, t: t.update(bias=t.pop(BIAS)), "it has a tensor 'bias'"),
    "a norm less": (lambda _, t: t.pop(NORM), "do not have the same parameters of their own"),
    "a norm of another shape": (
        lambda _, t: t.update({NORM: np.ones(1, np.float32)}),
        "the subnets have norm.scale in several shapes",
    ),
    "a kernel and dense": (lambda _, t: t.update({"dense/fc.kernel": t[BIAS]}), "more than once"),
}


@pytest.mark.parametrize("case", FORGED)
@pytest.mark.parametrize("old", [False, True])
def test_what_a_family_promises(file: Path, tmp_path: Path, case: str, old: bool) -> None:
    """With and without a checksum, which older versions did not write."""
    change, message = FORGED[case]
    path = _rewritten(file, tmp_path / "f.safetensors", change, checksum=not old)
    with pytest.raises(UserError, match=message) as caught:
        load_packed(path, "toy")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        _put(BIAS, (0, 0.5)),
        _recast(BIAS, np.int32, view=True),
        _put(f"{FC}/0/columns", (0, [4, 3, 2, 1, 0])),
        _update(about={"width": 8}),
        _update(sparsities=[0.2, 0.6, 0.8]),
        lambda _, tensors: tensors.update({"dense/bins": tensors.pop(BIAS)}),
    ],
)
def test_the_checksum_is_of_all_there_is(file: Path, tmp_path: Path, change: Any) -> None:
    old = _rewritten(file, tmp_path / "old.safetensors", change, checksum=False)
    load_packed(old)
    new = _rewritten(file, tmp_path / "new.safetensors", change)
    with pytest.raises(UserError, match="its checksum is that of other contents; pack it again"):
        load_packed(new)


def test_a_file_of_an_older_version(file: Path, tmp_path: Path) -> None:
    old = _rewritten(file, tmp_path / "f.safetensors", lambda *_: None, checksum=False)
    for k in range(3):
        dense, again = load_packed(file).to_dense(k), load_packed(old).to_dense(k)
        for name in dense.keys() | again.keys():
            np.testing.assert_array_equal(dense[name], again[name], strict=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"version": NaN}',
        "[" * 10**5,
        '{"version": 1}',
        '{"a": 1, "a": 1}',
        "9" * 5000,
    ],
    ids=lambda text: text[:10],
)
def test_a_damaged_text(file: Path, tmp_path: Path, text: str) -> None:
    with safe_open(file, framework="numpy") as old:
        metadata = old.metadata() | {"family": text}
        tensors = {name: old.get_tensor(name) for name in old.keys()}  # noqa: SIM118
    save_file(tensors, tmp_path / "f", metadata)
    for read in (load_packed, described):
        with pytest.raises(UserError, match="f is a damaged family") as caught:
            read(tmp_path / "f")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.slow
@pytest.mark.parametrize("where", ["header", "anywhere"])
def test_mutations(file: Path, tmp_path: Path, where: str) -> None:
    """Of a file's bytes: the same family or one line, in little time."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little") if where == "header" else len(data)
    whole, path = load_packed(file), tmp_path / "f.safetensors"
    rng, refused = np.random.default_rng(0), 0
    for _ in range(600):
        path.write_bytes(damaged(data, rng, end))
        start, lines = time.perf_counter(), [""]
        try:
            family = load_packed(path)
        except UserError as error:
            lines = str(error).splitlines()
            refused += 1
        else:
            assert (family.about, family.sparsities) == (whole.about, whole.sparsities)
            for k in range(3):
                dense, expected = family.to_dense(k), whole.to_dense(k)
                assert dense.keys() == expected.keys()
                for name, values in expected.items():
                    np.testing.assert_array_equal(dense[name], values, strict=True)
        assert len(lines) == 1 and time.perf_counter() - start < 5
    assert refused > 500


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_files_cut_off(file: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match="cut off, damaged or no safetensors file") as caught:
        load_packed(path)
    assert "\n" not in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        load_packed(tmp_path / "none.safetensors")
    save_file({"a": np.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="is no packed family; `codesign dress` writes one"):
        load_packed(tmp_path / "other.safetensors")


def test_what_cannot_be_packed() -> None:
    parameters, levels = model()
    with pytest.raises(ValueError, match="dtype is 'int8', expected one of float32, float16"):
        packed(dtype="int8")
    with pytest.raises(ValueError, match=r"same names for each of the 3 subnets"):
        packed(own=[{"bias": parameters["bias"]}, {}, {}])
    with pytest.raises(ValueError, match=r"no parameter is called 'norm.scal'; did you mean"):
        packed(own=[{"norm.scal": np.ones(3)}] * 3)
    with pytest.raises(ValueError, match=r"a subnet's norm.scale has another shape"):
        packed(own=[{"norm.scale": np.ones(4)}] * 3)
    uneven = {**levels, "fc.kernel": levels["fc.kernel"].copy()}
    uneven["fc.kernel"][0, 0] = 3 - uneven["fc.kernel"][0, 0]
    with pytest.raises(ValueError, match=r"rows of fc.kernel do not keep equally many"):
        pack(parameters, uneven, SPECS, SPARSITIES, model="toy")
    for sparsities in ((0.2, 0.9, 0.6), (0.2, 0.6, 1.0), (-0.1, 0.6, 0.9), (0.2, 0.6, math.nan)):
        with pytest.raises(ValueError, match=r"the sparsities .* do not increase within \[0, 1\)"):
            pack(parameters, levels, SPECS, sparsities, model="toy")
    with pytest.raises(ValueError, match=r"norm.scale holds NaN or infinity"):
        packed(own=[{"norm.scale": np.full(3, np.nan)}] * 3)
    with pytest.raises(ValueError, match="levels up to 3, the family 2 subnets"):
        pack(parameters, levels, SPECS, SPARSITIES[:2], model="toy")
    with pytest.raises(ValueError, match="bias overflows in float16"):
        pack(
            {**parameters, "bias": np.float32([1e6])},
            levels,
            SPECS,
            SPARSITIES,
            dtype="float16",
            model="toy",
        )


def test_a_familys_header_tells_what_it_is(file: Path, tmp_path: Path, capsys: Any) -> None:
    from codesign.cli import main

    about = described(file)
    assert about is not None and about["about"] == {"width": 7}
    (tmp_path / "other.safetensors").write_bytes(b"not a file of tensors")
    assert described(tmp_path / "other.safetensors") is None
    assert described(tmp_path / "none") is None
    assert main(["eval", str(file), "--data", "digits"]) == 2
    assert "is a family of subnets: choose one with --subnet, 0 to 2" in capsys.readouterr().err
