"""Keeps XLA's CPU compiler from what is known to compute wrongly.

XLA fuses reductions with what stands before and after them into YNN kernels on CPUs. In some
releases these fusions are faulty (`benchmarks/ynn_fusion.py` shows each):

  0.10.0, 0.10.1  abort while a gradient of an attention model is compiled (jax issue 39264)
  0.10.2          wrong values without a word (jax issue 39103, and the gated CLIP of this
                  package); hangs or crashes (jax issue 39257)
  0.11.0          hangs or crashes (jax issue 39257)

An empty list of fusion kinds turns them off, for about a seventh more CPU time of a step
(docs/compiler.md). The flag is read when the CPU backend starts, so it has to be in the
environment before.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import warnings
from typing import Any

FLAG = "--xla_cpu_experimental_ynn_fusion_type"


def is_faulty(version: str) -> bool:
    """Whether a release of jaxlib has faulty fusions."""
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    return numbers[:2] == (0, 10) or numbers == (0, 11, 0)


def disable_faulty_fusions() -> None:
    """Sets the flag where the installed jaxlib needs it; a value set by the user stays.

    Warns, once a process, where the CPU backend has started without it.
    """
    try:
        version = importlib.metadata.version("jaxlib")
    except importlib.metadata.PackageNotFoundError:
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if not is_faulty(version) or FLAG in flags:
        return
    if _started_on_cpu():
        warnings.warn(
            f"JAX was started before codesign was imported, and jaxlib {version} computes some "
            f"programs wrongly on CPUs; import codesign first, or set XLA_FLAGS={FLAG}=",
            RuntimeWarning,
            stacklevel=3,
        )
        return
    os.environ["XLA_FLAGS"] = f"{flags} {FLAG}=".strip()


# Of a program that runs once, which costs its compilation: drawing a network's first weights takes
# 5 s in place of 21 to compile so on a CPU, for the same bits.
ONCE: dict[str, Any] = {"xla_backend_optimization_level": 1}


def plain_options() -> dict[str, Any]:
    """Options of one program for as little fusion and optimisation as XLA offers.

    On CPUs without fusion emitters too: that halves the time of the compilation, and the code
    comes from other parts of the compiler than the one that it is held against.
    """
    import jax

    options: dict[str, Any] = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    }
    if jax.default_backend() == "cpu":
        options[FLAG.lstrip("-")] = ""
        emitters = {"xla_cpu_use_fusion_emitters": False}
        options |= emitters if _takes(emitters) else {}
    return options


def _takes(options: dict[str, Any]) -> bool:
    """Whether this release of XLA has the options."""
    import jax

    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def described() -> str:
    """What computes here, for a message: "jaxlib 0.10.2 on cpu, XLA_FLAGS=..."."""
    import jax

    flags = os.environ.get("XLA_FLAGS", "")
    version = importlib.metadata.version("jaxlib")
    return f"jaxlib {version} on {jax.default_backend()}, XLA_FLAGS={flags!r}"


def _started_on_cpu() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is None or not getattr(bridge, "_backends", None):
        return False
    import jax

    return jax.default_backend() == "cpu"
