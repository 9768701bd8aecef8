"""The native part as a call of XLA on CPU."""

from __future__ import annotations

import ctypes
import functools
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from codesign.dress.kernel.build import CannotCompile, library

# The numbers of tile.h.
ACTIVATION_NUMBERS = {None: 0, "gelu": 1, "quick_gelu": 2}
ROWS = TOKENS = 16
BASELINE, AVX2, AVX512 = range(3)  # instruction sets, of which the best one present is taken

_TARGET = "codesign_row_sparse_product"


@functools.cache
def available() -> bool:
    """Whether the native part is there; compiles and loads it the first time.

    Where it is not, says so and why, once.
    """
    built = None
    try:
        built = library()
        loaded = ctypes.CDLL(str(built))
        jax.ffi.register_ffi_target(
            _TARGET, jax.ffi.pycapsule(loaded.RowSparseProduct), platform="cpu"
        )
    except (CannotCompile, OSError, AttributeError) as error:
        if built is not None:  # what a compiler that fails silently has made: again next time
            shutil.rmtree(built.parent, ignore_errors=True)
        warnings.warn(f"sparse products run as dense ones, which is slower: {error}", stacklevel=2)
        return False
    return True


def product(
    x: jax.Array,
    values: jax.Array,
    columns: jax.Array,
    n: jax.Array,
    bias: jax.Array,
    *,
    rows: int,
    activation: str | None,
    most: int = AVX512,
) -> jax.Array:
    """The product by the native part, which must be `available`.

    Args:
      x: float32 [T,N].
      values: float32 or bfloat16 [P,n1,16], see `Panels`.
      columns: uint16 or uint32, likewise, all below N.
      n: int32 [], columns of the panels that count; clipped to 0 ... n1.
      bias: float32 [R], or [0] for none.
      rows: R, of which the last panel may hold fewer than 16.
      activation: a key of `ACTIVATION_NUMBERS`.
      most: the best instruction set to take.

    Returns:
      float32 [T,R].
    """
    tokens, inputs = x.shape
    scratch = -(-tokens // TOKENS) if tokens > 1 else 0
    call = jax.ffi.ffi_call(
        _TARGET,
        (
            jax.ShapeDtypeStruct((tokens, rows), jnp.float32),
            jax.ShapeDtypeStruct((scratch, inputs, TOKENS), jnp.float32),
        ),
    )
    result, _ = call(
        x,
        values,
        columns,
        n,
        bias,
        activation=np.int32(ACTIVATION_NUMBERS[activation]),
        most=np.int32(most),
    )
    return result
