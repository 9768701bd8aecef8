"""XLA's YNN fusions on CPUs: a program computed wrongly by a release, and one that crashes it.

Needs jax and NumPy alone, so that it can be sent upstream as it is:

    python benchmarks/ynn_fusion.py

Each program runs in a process of its own, with the default build and with the fusions off
(XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=), for at most a minute.

"values": a weighted sum over rows, subtracted from them. A vector s [D] is broadcast over the
rows of x [N,D], multiplied and summed in one fusion. In jaxlib 0.10.2 every row past the
32,768th element is wrong, where D divides 32,768 not and N x D is below some 110,000: a
LayerNorm whose channels have weights, as in a gated transformer. "crash": the program of
jax-ml/jax issue 39257.

Found with this script on Linux x86-64 (AMD EPYC, 2 cores), 2026-11-27: 0.9.2, 0.10.0, 0.10.1,
0.11.1 and 0.11.2 are right and end; 0.10.2 is wrong and crashes; 0.11.0 is right and crashes.
"""

import os
import subprocess
import sys

FLAG = "--xla_cpu_experimental_ynn_fusion_type="
SECONDS = 60


def values() -> str:
    """Rows that differ between XLA and NumPy, over several shapes."""
    import jax
    import numpy as np

    def centred(x, s):
        return x - (s * x).sum(-1, keepdims=True)

    rng, wrong = np.random.default_rng(0), []
    for rows, columns in ((683, 48), (1088, 48), (1088, 64), (1088, 100), (4096, 20), (9000, 48)):
        x = rng.normal(size=(rows, columns)).astype(np.float32)
        s = rng.uniform(0.5, 1.5, size=columns).astype(np.float32)
        bad = np.abs(np.asarray(jax.jit(centred)(x, s)) - centred(x, s)).max(-1) > 1e-3
        if bad.any():
            wrong.append(f"[{rows},{columns}]: {bad.sum()} rows from {bad.argmax()} on")
    return "; ".join(wrong) or "right"


def crash() -> str:
    """Whether a sum over a broadcast of rank 8 comes to an end."""
    import jax
    import jax.numpy as jnp

    def likelihood(seen, table):
        return jnp.log(jnp.maximum((seen[..., *[None] * 5] * table).sum(2), 1e-9))

    jax.jit(likelihood)(jnp.ones((10, 4, 6)), jnp.ones((10, 4, 6, *[9] * 5))).block_until_ready()
    return "ends"


def outcome(name: str, flags: str) -> str:
    """What a process of its own says, or how it ended."""
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, name]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no end after {SECONDS} s"
    return done.stdout.strip() if done.returncode == 0 else f"exit code {done.returncode}"


def main() -> None:
    import jaxlib

    print(f"jaxlib {jaxlib.__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} CPUs")
    for name in ("values", "crash"):
        for label, flags in (("default", ""), ("fusions off", FLAG)):
            print(f"{name:>7}, {label:<11}: {outcome(name, flags)}", flush=True)


if __name__ == "__main__":
    programs = {"values": values, "crash": crash}
    if len(sys.argv) > 1:
        print(programs[sys.argv[1]]())
    else:
        main()
