"""The row-sparse product: equal to the dense one everywhere, whatever runs it."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from codesign.dress.kernel import build, native
from codesign.dress.kernel.panels import dense_rows, panels, row_weights
from codesign.dress.kernel.product import row_sparse_matmul
from codesign.dress.linear import packed_conv, packed_linear, patches
from codesign.dress.packed import pack
from codesign.dress.rows import RowSpec, flax_spec

pytestmark = pytest.mark.usefixtures("quick_compilation")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # without a compiler all tests but the native ones stay
    NATIVE = native.available()
needs_native = pytest.mark.skipif(not NATIVE, reason="no C++ compiler")

EPSILON = 2.0**-24  # half a unit in the last place of a float32


def rows_of(
    rows: int, inputs: int, kept: int, seed: int = 0, dtype: Any = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Values and columns [R,n1]; columns in no order."""
    rng = np.random.default_rng(seed)
    columns = np.argsort(rng.random((rows, inputs)), axis=1)[:, :kept]
    return rng.standard_normal((rows, kept)).astype(dtype), columns


def dense_of(values: np.ndarray, columns: np.ndarray, inputs: int, n: int) -> np.ndarray:
    """W_n in float64 [R,N]."""
    dense = np.zeros((len(values), inputs))
    np.put_along_axis(dense, columns[:, :n], values[:, :n].astype(np.float64), axis=1)
    return dense


def activated(x: np.ndarray, activation: str | None) -> np.ndarray:
    if activation == "gelu":
        erf = np.vectorize(math.erf)
        return 0.5 * x * (1 + erf(x / np.sqrt(2)))
    return x / (1 + np.exp(-1.702 * x)) if activation == "quick_gelu" else x


def assert_rounded(
    found: Any, x: np.ndarray, dense: np.ndarray, bias: Any = None, activation: str | None = None
) -> None:
    """Equal to the dense product but for rounding of float32, sum by sum.

    A sum of n products is off by at most (n + 1) eps sum |x w|, an activation's slope is below
    1.2, and it adds a few units of its own.
    """
    shift = 0.0 if bias is None else np.asarray(bias, np.float64)
    exact = x.astype(np.float64) @ dense.T + shift
    summed = np.abs(x.astype(np.float64)) @ np.abs(dense.T) + np.abs(shift)
    n = (dense != 0).sum(axis=1)
    own = 8 * EPSILON * np.abs(exact) if activation else 0.0
    bound = 1.2 * (n + 3) * EPSILON * summed + own
    error = np.abs(np.asarray(found, np.float64) - activated(exact, activation))
    assert (error <= bound).all(), (error - bound).max()


@functools.partial(jax.jit, static_argnames=("rows", "activation", "most"))
def by_native(x: Any, values: Any, columns: Any, n: Any, bias: Any, **options: Any) -> jax.Array:
    return native.product(x, values, columns, n, bias, **options)


@needs_native
@pytest.mark.parametrize("most", [native.BASELINE, native.AVX2, native.AVX512])
@pytest.mark.parametrize(
    ("tokens", "rows", "inputs", "kept"),
    [
        (1, 40, 37, 9),  # one token, by gathering
        (2, 16, 8, 8),
        (16, 5, 3, 1),  # fewer rows than a panel
        (33, 33, 65, 20),  # three blocks; rows, tokens and inputs that fill nothing
        (20, 48, 16, 0),  # empty rows
        (66, 17, 1200, 700),  # several windows of columns
        (97, 200, 64, 30),  # shared among threads
    ],
)
def test_shapes_that_fill_nothing(
    most: int, tokens: int, rows: int, inputs: int, kept: int
) -> None:
    values, columns = rows_of(rows, inputs, kept)
    packed = panels(values, columns, inputs)
    x = np.random.default_rng(1).standard_normal((tokens, inputs)).astype(np.float32)
    bias = np.random.default_rng(2).standard_normal(rows).astype(np.float32)
    for n in {0, kept // 3, kept}:
        y = by_native(
            x, packed.values, packed.columns, n, bias, rows=rows, activation=None, most=most
        )
        assert_rounded(y, x, dense_of(values, columns, inputs, n), bias)


@needs_native
@pytest.mark.parametrize("tokens", [1, 19])
def test_columns_of_four_bytes(tokens: int) -> None:
    inputs = 2**16 + 5
    values, columns = rows_of(3, 40, 30)
    columns = columns * (inputs // 40)
    columns[0, 0] = inputs - 1
    assert panels(values, columns, inputs).columns.dtype == np.uint32
    assert panels(values, columns[:, :30] % 2**16, 2**16).columns.dtype == np.uint16
    x = np.random.default_rng(1).standard_normal((tokens, inputs)).astype(np.float32)
    y = row_sparse_matmul(x, panels(values, columns, inputs), 30)
    assert_rounded(y, x, dense_of(values, columns, inputs, 30))


@pytest.mark.parametrize("make", [panels, dense_rows])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("tokens", [1, 21])
def test_dtypes_of_values(make: Any, dtype: Any, tokens: int) -> None:
    values, columns = rows_of(20, 30, 12, dtype=dtype)
    x = np.random.default_rng(1).standard_normal((tokens, 30)).astype(np.float32)
    y = row_sparse_matmul(x, make(values, columns, 30), 12)
    assert y.dtype == jnp.float32
    assert_rounded(y, x, dense_of(values, columns, 30, 12))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_x_of_sixteen_bits_is_summed_in_float32(dtype: Any) -> None:
    values, columns = rows_of(20, 30, 12)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((9, 30)), dtype)
    y = row_sparse_matmul(x, panels(values, columns, 30), 12)
    exact = np.asarray(x, np.float64) @ dense_of(values, columns, 30, 12).T
    assert y.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(y, np.float64), exact, rtol=float(jnp.finfo(dtype).eps), atol=1e-5
    )


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("tokens", [1, 40])
def test_activations(activation: str, tokens: int) -> None:
    """With one weight of 1 in each row the product is exact: the activation alone is seen."""
    values, columns = np.ones((48, 1), np.float32), np.arange(48)[:, None]
    x = np.linspace(-12, 12, tokens * 48, dtype=np.float32).reshape(tokens, 48)
    x[0, :3] = (0.0, -60.0, 60.0)
    bias = np.full(48, 0.25, np.float32)
    for make in (panels, dense_rows):
        rows = make(values, columns, 48)
        y = row_sparse_matmul(x, rows, 1, bias=bias, activation=activation)
        assert_rounded(y, x, np.eye(48), bias, activation)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    tokens=st.sampled_from([1, 3, 17, 50]),
    rows=st.sampled_from([1, 16, 31]),
    n=st.integers(0, 10),
)
def test_it_is_the_dense_product(seed: int, tokens: int, rows: int, n: int) -> None:
    values, columns = rows_of(rows, 13, 10, seed)
    x = np.random.default_rng(seed).standard_normal((tokens, 13)).astype(np.float32)
    dense = dense_of(values, columns, 13, n)
    for make in (panels, dense_rows):
        assert_rounded(row_sparse_matmul(x, make(values, columns, 13), n), x, dense)


def test_another_n_compiles_nothing() -> None:
    values, columns = rows_of(20, 30, 12)
    x = np.random.default_rng(1).standard_normal((3, 30)).astype(np.float32)
    for make in (panels, dense_rows):
        compiled = jax.jit(lambda *operands: row_sparse_matmul(*operands))
        weights = make(values, columns, 30)
        for n in range(13):
            assert_rounded(compiled(x, weights, n), x, dense_of(values, columns, 30, n))
        assert compiled._cache_size() == 1


def test_gradients() -> None:
    values, columns = rows_of(18, 7, 5)
    x = np.random.default_rng(1).standard_normal((2, 3, 7)).astype(np.float32)
    bias = np.random.default_rng(2).standard_normal(18).astype(np.float32)
    packed = panels(values, columns, 7)

    def product(x: jax.Array, values: jax.Array, bias: jax.Array) -> jax.Array:
        rows = type(packed)(values, packed.columns, 18, 7)
        return row_sparse_matmul(x, rows, 3, bias=bias, activation="gelu")

    check_grads(product, (x, packed.values, bias), order=1, modes=["rev"], rtol=2e-2)
    gradient = jax.grad(lambda v: product(x, v, bias).sum())(packed.values)
    assert not np.asarray(gradient)[:, 3:].any()  # beyond n


@needs_native
def test_vmap_is_a_loop() -> None:
    values, columns = rows_of(18, 7, 5)
    packed = panels(values, columns, 7)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((4, 3, 7)), jnp.float32)
    n = jnp.array([0, 2, 5, 1])
    over_x = jax.vmap(lambda x: row_sparse_matmul(x, packed, 4))
    np.testing.assert_array_equal(over_x(x), row_sparse_matmul(x, packed, 4))
    assert "while" not in jax.jit(over_x).lower(x).as_text()  # one call, not a loop of calls
    found = jax.jit(jax.vmap(lambda x, n: row_sparse_matmul(x, packed, n)))(x, n)
    for i in range(4):
        np.testing.assert_array_equal(found[i], row_sparse_matmul(x[i], packed, int(n[i])))
    slopes = jax.vmap(jax.grad(lambda x: row_sparse_matmul(x, packed, 4).sum()))(x)
    np.testing.assert_allclose(
        slopes[1, 2], dense_of(values, columns, 7, 4).sum(axis=0), rtol=1e-5, atol=1e-6
    )


def test_leading_axes_and_no_tokens() -> None:
    packed = panels(*rows_of(18, 7, 5), 7)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, 7)), jnp.float32)
    y = row_sparse_matmul(x, packed, 5)
    assert y.shape == (2, 3, 18)
    np.testing.assert_allclose(y[1, 2], row_sparse_matmul(x[1, 2], packed, 5), rtol=1e-5, atol=1e-6)
    assert row_sparse_matmul(x[:0], packed, 5).shape == (0, 3, 18)


def test_other_platforms_and_float64_get_a_dense_product() -> None:
    values, columns = rows_of(18, 7, 5)
    packed = panels(values, columns, 7)
    x = jnp.ones((3, 7))
    lowered = jax.jit(lambda x: row_sparse_matmul(x, packed, 4)).trace(x)
    assert "custom_call" not in lowered.lower(lowering_platforms=("cuda",)).as_text()
    if NATIVE:
        assert "custom_call" in lowered.lower(lowering_platforms=("cpu",)).as_text()
    with jax.enable_x64(True):
        wide = np.random.default_rng(1).standard_normal((3, 7))
        y = row_sparse_matmul(wide, packed, 4)
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, wide @ dense_of(values, columns, 7, 4).T, rtol=1e-12)


@needs_native
def test_several_threads_at_once() -> None:
    values, columns = rows_of(300, 200, 60)
    packed = panels(values, columns, 200)
    x = np.random.default_rng(1).standard_normal((90, 200)).astype(np.float32)
    compiled = jax.jit(row_sparse_matmul).lower(x, packed, 0).compile()
    expected = np.asarray(compiled(x, packed, 60))
    wrong = []

    def repeatedly() -> None:
        for _ in range(20):
            wrong.extend(np.flatnonzero(np.asarray(compiled(x, packed, 60)) != expected))

    threads = [threading.Thread(target=repeatedly) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: panels(np.ones((2, 3)), np.ones((2, 2), int), 9), r"shapes \(2, 3\) and \(2, 2\)"),
        (lambda: panels(np.ones((2, 3)), np.full((2, 3), 9), 9), "from 9 to 9, the row has 9"),
        (lambda: panels(np.ones((2, 3)), np.full((2, 3), -1), 9), "from -1 to -1"),
        (lambda: dense_rows(np.ones((2, 3)), np.ones((2, 3)), 9), "columns are float64"),
        (lambda: row_sparse_matmul(jnp.ones((2, 8)), _some(), 1), r"\(2, 8\), the rows need .* 7"),
        (lambda: row_sparse_matmul(jnp.ones((2, 7), int), _some(), 1), "x is int32"),
        (lambda: row_sparse_matmul(jnp.ones(7), _some(), 6), "n is 6, the rows have 0 to 5"),
        (lambda: row_sparse_matmul(jnp.ones(7), _some(), 1, bias=jnp.ones(3)), r"bias .* \(18,\)"),
        (lambda: row_sparse_matmul(jnp.ones(7), _some(), 1, activation="relu"), "is 'relu', exp"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def _some() -> Any:
    return panels(*rows_of(18, 7, 5), 7)


# ---- building --------------------------------------------------------------------------------


@pytest.fixture
def nothing_loaded() -> Iterator[None]:
    native.available.cache_clear()
    yield
    native.available.cache_clear()


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize("compiler", ["none", "fails", "folder"])
def test_without_a_library_it_says_so_once(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path))
    if compiler == "none":
        monkeypatch.setenv("CXX", "no-such-compiler")
        message = r"slower: there is no C\+\+ compiler \(no-such-compiler\)"
    elif compiler == "fails":
        script = tmp_path / "compiler"
        script.write_text("#!/bin/sh\n[ $1 = --version ] || { echo error: broken >&2; exit 1; }\n")
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))
        message = "slower: .*compiler fails: error: broken"
    else:
        monkeypatch.setattr(build, "_compiler", lambda: [sys.executable])
        (tmp_path / "kernel").write_text("in the way")
        message = "slower: .*kernel cannot be written"
    values, columns = rows_of(18, 7, 5)
    x = np.random.default_rng(1).standard_normal((3, 7)).astype(np.float32)
    with pytest.warns(UserWarning, match=message):
        weights = row_weights(values, columns, 7)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".so"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(weights, type(dense_rows(values, columns, 7)))
        for rows in (weights, panels(values, columns, 7)):
            assert_rounded(row_sparse_matmul(x, rows, 3), x, dense_of(values, columns, 7, 3))


@needs_native
@pytest.mark.slow
def test_two_processes_compile_at_once(tmp_path: Path) -> None:
    program = "from codesign.dress.kernel import native; print(native.available())"
    environment = {**os.environ, "CODESIGN_CACHE": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment)
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in both] == [b"True", b"True"]
    assert len(list((tmp_path / "kernel").iterdir())) == 1  # nothing is left aside


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Building without a compiler, in a cache of its own; grows by one with each build."""
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path / "cache"))
    made: list[Path] = []

    def compiled(_: Any, folder: Path) -> Path:
        made.append(folder / "made.so")
        made[-1].write_bytes(f"library {len(made)}".encode())
        return made[-1]

    monkeypatch.setattr(build, "_compiled", compiled)
    monkeypatch.setattr(build, "_compiler", lambda: ["some-compiler"])
    monkeypatch.setattr(build, "_run", lambda command: "1.0")
    return made


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_build_is_kept_and_is_the_users_alone(builds: list[Path], umask: int) -> None:
    before = os.umask(umask)
    try:
        assert build.library() == build.library()
    finally:
        os.umask(before)
    assert build.library().read_bytes() == b"library 1" and len(builds) == 1
    library = build.library()
    assert library.parent.parent.stat().st_mode & 0o077 == 0
    assert [path.stat().st_mode & 0o077 for path in (library.parent, library)] == [0, 0]


def _shorter(library: Path) -> None:
    library.write_bytes(library.read_bytes()[:-1])


def _linked(library: Path) -> None:
    elsewhere = library.rename(library.parent.parent / "elsewhere")
    library.symlink_to(elsewhere)


DAMAGE: dict[str, Any] = {
    "cut": _shorter,
    "empty": lambda library: library.write_bytes(b""),
    "other bytes": lambda library: library.write_bytes(b"library 2"),
    "gone": lambda library: library.unlink(),
    "a folder": lambda library: (library.unlink(), library.mkdir()),
    "a link": _linked,
    "no digest": lambda library: library.with_name("sha256").unlink(),
    "another digest": lambda library: library.with_name("sha256").write_bytes(b"0" * 64),
    "a binary digest": lambda library: library.with_name("sha256").write_bytes(b"\xff\n"),
    "open file": lambda library: library.chmod(0o666),
    "open digest": lambda library: library.with_name("sha256").chmod(0o620),
    "open build": lambda library: library.parent.chmod(0o777),
    "a file for a build": lambda library: (
        shutil.rmtree(library.parent),
        library.parent.write_bytes(b"x"),
    ),
    "a link for a build": lambda library: library.parent.symlink_to(
        library.parent.rename(library.parent.with_name("elsewhere"))
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_build_is_made_anew(builds: list[Path], damage: str) -> None:
    library = build.library()
    DAMAGE[damage](library)
    assert build.library() == library and library.read_bytes() == b"library 2"
    assert build.library() == library and len(builds) == 2
    assert not list(library.parent.parent.glob(".*"))  # nothing is left aside


def test_another_process_is_quicker(builds: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = build._compiled

    def while_another_compiles(compiler: Any, folder: Path) -> Path:
        monkeypatch.setattr(build, "_compiled", ours)
        build.library()
        return ours(compiler, folder)

    monkeypatch.setattr(build, "_compiled", while_another_compiles)
    assert build.library().read_bytes() == b"library 1" and len(builds) == 2


def test_what_a_kill_left_is_removed(builds: list[Path]) -> None:
    old, new = (build.cache_folder() / f".aside-{name}" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    build.cache_folder().chmod(0o700)
    os.utime(old, (0, 0))
    build.library()
    assert new.exists() and not old.exists() and builds


@pytest.mark.parametrize("way", ["others", "group", "parent", "owner"])
def test_a_folder_that_others_can_write_to_is_not_used(
    builds: list[Path], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    library = build.library()
    folder = library.parent.parent
    if way == "owner":
        monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    else:
        opened = folder.parent if way == "parent" else folder
        opened.chmod({"others": 0o703, "group": 0o770, "parent": 0o777}[way])
    message = {
        "owner": "kernel belongs to another user; set CODESIGN_CACHE to a folder of your own",
        "parent": "others can replace .*kernel, as .*cache is open to all; set CODESIGN_CACHE",
    }.get(way, "others can write to .*kernel; chmod go-w it after a look, or set CODESIGN_CACHE")
    with pytest.raises(build.CannotCompile, match=message):
        build.library()
    if way == "parent":
        folder.parent.chmod(0o1777)  # sticky: as safe as /tmp
        assert build.library() == library


@pytest.mark.skipif(os.getuid() != 0, reason="gives a folder to another user")
def test_a_folder_in_that_of_another_user_is_not_used(builds: list[Path]) -> None:
    library = build.library()
    os.chown(library.parent.parent.parent, 1, -1)
    with pytest.raises(build.CannotCompile, match=r"others can replace .*kernel, as .* another's"):
        build.library()


MISTAKEN = {  # what a compiler does
    "fails in another encoding": ("printf 'err \\351\\n' >&2; exit 1", "fails: err"),
    "makes nothing": ("exit 0", "makes no library"),
    "makes garbage": (
        'for last; do :; done; case "$*" in *-shared*) echo x > "$last";; esac',
        "row_sparse.so: ",
    ),
}


@pytest.mark.parametrize("case", MISTAKEN)
def test_a_compiler_that_fails_is_a_line_and_tried_again(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    does, said = MISTAKEN[case]
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\n{does}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match=f"run as dense ones.*{said}") as told:
        assert not native.available.__wrapped__()
    assert len(told) == 1 and "\n" not in str(told[0].message)
    assert not list(tmp_path.rglob("row_sparse*"))


COMMANDS = {  # CXX, and the command that compiles: its program's words and its last options
    "fake": (["fake"], []),
    "fake -O2": (["fake", "-O2"], ["-O2"]),
    "launcher fake": (["launcher", "fake"], []),
    "launcher fake -O2 '-DNAME=a b'": (
        ["launcher", "fake", "-O2", "-DNAME=a b"],
        ["-O2", "-DNAME=a b"],
    ),
    "launcher -n 5 fake": (["launcher", "-n", "5", "fake"], []),
}


@pytest.mark.parametrize("chosen", COMMANDS)
def test_the_compiler_may_have_a_launcher_and_options(
    chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fake", "launcher"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", chosen)
    said: list[list[str]] = []

    def run(command: list[str]) -> str:
        said.append([*command])
        if "-o" in command:
            Path(command[-1]).touch()
        return ""

    monkeypatch.setattr(build, "_run", run)
    words, options = COMMANDS[chosen]
    words = [str(tmp_path / words[0]), *words[1:]]
    compiler = build._compiler()
    build._key(compiler)
    build._compiled(compiler, tmp_path)
    assert said[0] == [*words, "--version"]
    for command in said[1:-1]:
        after_ours = command[: command.index("-c")].index("-w") + 1
        assert command[: len(words)] == words
        assert command[after_ours : after_ours + len(options)] == options
    assert said[-1][: len(words) + 1] == [*words, "-shared"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [("g++ '", 'CXX is "g\\+\\+ \'": No closing quotation'), ("none -O2", r"compiler \(none\)")],
)
def test_commands_that_are_none(chosen: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", chosen)
    with pytest.raises(build.CannotCompile, match=message):
        build._compiler()


@needs_native
@pytest.mark.slow
def test_a_damaged_or_planted_library_is_not_run(tmp_path: Path) -> None:
    """In processes of their own, which a library that is cut off would end by a signal."""
    environment = {**os.environ, "CODESIGN_CACHE": str(tmp_path / "cache"), "CXX": "c++ -O2"}
    program = "from codesign.dress.kernel import native; print(native.available())"

    def run() -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr

    assert run() == ("True", "")
    library = next((tmp_path / "cache").rglob("*.so"))
    whole = library.read_bytes()
    for kept in (0, 100, len(whole) // 2, len(whole) - 1):
        library.write_bytes(whole[:kept])
        assert run() == ("True", "")
        assert len(library.read_bytes()) == len(whole)
    source = tmp_path / "planted.c"
    source.write_text(
        "#include <stdio.h>\n"
        f'__attribute__((constructor)) void run(void) {{ fclose(fopen("{tmp_path}/run", "w")); }}'
    )
    subprocess.run(["c++", "-x", "c", "-shared", "-fPIC", source, "-o", library], check=True)
    assert run() == ("True", "")  # of another hash: compiled anew
    subprocess.run(["c++", "-x", "c", "-shared", "-fPIC", source, "-o", library], check=True)
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    library.with_name("sha256").write_text(digest)
    (tmp_path / "cache" / "kernel").chmod(0o777)
    out, said = run()
    assert out == "False" and "others can write to" in said
    assert not (tmp_path / "run").exists()


# ---- layers ----------------------------------------------------------------------------------

KERNELS = {"fc": (6, 20), "conv": (3, 3, 2, 5), "patch": (4, 4, 3, 6), "query": (2, 30, 2, 3)}
COUNTS = {
    "fc": [[5], [3], [0]],
    "conv": [[18], [4], [4]],
    "patch": [[20], [9], [1]],
    "query": [[30, 12], [20, 7], [1, 2]],
}
SPECS = {
    **{name: flax_spec(KERNELS[name]) for name in ("fc", "conv", "patch")},
    "query": RowSpec(stacked=(0,), inputs=(1,), outputs=(2, 3)),
}


@pytest.fixture(scope="module")
def family() -> Any:
    rng = np.random.default_rng(0)
    parameters, levels = {}, {}
    for name, shape in KERNELS.items():
        layers, rows, length = SPECS[name].sizes(shape)
        parameters[name] = rng.standard_normal(shape).astype(np.float32)
        ranks = rng.permuted(np.broadcast_to(np.arange(length), (layers, rows, length)), axis=2)
        kept = (ranks < np.array(COUNTS[name])[:, :, None, None]).sum(axis=0, dtype=np.uint8)
        order = SPECS[name].order
        axes = [shape[axis] for axis in order]
        levels[name] = kept.reshape(axes).transpose(np.argsort(order))
    return pack(parameters, levels, SPECS, (0.2, 0.6, 0.9), model="toy")


def test_linear_layers_switch_without_a_copy(family: Any) -> None:
    bias = np.random.default_rng(1).standard_normal(20).astype(np.float32)
    linear = packed_linear(family.kernels["fc"], bias)
    x = np.random.default_rng(2).standard_normal((4, 6)).astype(np.float32)
    compiled = jax.jit(lambda linear, x: linear(x))
    chosen = jax.jit(lambda linear, x, k: linear.at(k)(x))
    for k in range(3):
        member = linear.at(k)
        assert member.weights is linear.weights and member.bias is linear.bias
        dense = family.to_dense(k)["fc"]
        for y in (compiled(member, x), chosen(linear, x, k)):
            assert_rounded(y, x, dense.T.astype(np.float64), bias)
    assert compiled._cache_size() == chosen._cache_size() == 1


def test_a_layer_of_a_stack(family: Any) -> None:
    x = np.random.default_rng(2).standard_normal((4, 30)).astype(np.float32)
    for layer in range(2):
        y = packed_linear(family.kernels["query"], layer=layer).at(1)(x)
        dense = family.to_dense(1)["query"][layer].reshape(30, 6)
        assert_rounded(y, x, dense.T.astype(np.float64))


@pytest.mark.parametrize(
    ("name", "strides", "padding"),
    [
        ("conv", (1, 1), "SAME"),
        ("conv", (2, 2), "SAME"),
        ("conv", (2, 1), "VALID"),
        ("conv", (1, 2), ((2, 0), (1, 1))),
        ("patch", (4, 4), "VALID"),
        ("patch", (4, 4), "SAME"),
    ],
)
def test_convolutions(family: Any, name: str, strides: Any, padding: Any) -> None:
    channels = KERNELS[name][2]
    images = np.random.default_rng(3).standard_normal((2, 9, 11, channels)).astype(np.float32)
    conv = packed_conv(family.kernels[name], strides=strides, padding=padding)
    expected = jax.lax.conv_general_dilated(
        images,
        family.to_dense(1)[name],
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    y = conv.at(1)(images)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_patches_are_in_the_order_of_the_rows() -> None:
    images = np.arange(2 * 5 * 6 * 2, dtype=np.float32).reshape(2, 5, 6, 2)
    found = patches(jnp.asarray(images), (2, 3), (2, 2), "VALID")
    np.testing.assert_array_equal(found[1, 1, 1], images[1, 2:4, 2:5].ravel())


def test_bad_layers(family: Any) -> None:
    for k in (3, -1, 0.5, np.int64(3), np.int64(-1), jnp.int32(3)):
        with pytest.raises(ValueError, match=f"there is no subnet {k}; the family has 0 to 2"):
            packed_linear(family.kernels["fc"]).at(k)
    with pytest.raises(ValueError, match=r"the bias has shape \(4,\), the kernel 20 rows"):
        packed_linear(family.kernels["fc"], np.ones(4))
    with pytest.raises(ValueError, match="is no convolution's"):
        packed_conv(family.kernels["fc"])
    with pytest.raises(ValueError, match="padding is 'CIRCULAR'"):
        packed_conv(family.kernels["conv"], padding="CIRCULAR")
