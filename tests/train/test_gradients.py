"""Gradients of every shipped configuration that trains, on the compiler's default build.

The other tests compile as suits them; these run in processes of their own, with no compiler
setting but what the package makes itself. tests/train/gradients.py has what is compared, and
takes every configuration at its full size.
"""

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from codesign.compiler import FLAG

SCRIPT = Path(__file__).with_name("gradients.py")
SEARCH, DRESS = ["warmup", "elastic", "joint", "tune"], ["dense", "joint", "post"]
# Phases of each configuration, and what is less of it here where two cores need minutes: fewer
# designs or layers (each design and layer runs the same program), or a smaller batch.
CASES = {
    "quickstart": (SEARCH, []),
    "digits_family": (SEARCH, ["--targets.designs", "1", "--targets.dense_designs", "1"]),
    "cifar10": (SEARCH, ["--targets.designs", "1", "--optim.batch_size", "16"]),
    "digits_clip": (["dense"], []),
    "cifar10_clip": (["dense"], []),
    "clip": (["dense"], ["--untrained.vision.layers", "2", "--untrained.text.layers", "2"]),
    "digits_dress": (DRESS, []),
    "digits_resnet_dress": (DRESS, []),
    "cifar10_resnet_dress": (DRESS, ["--network.depth", "8", "--optim.batch_size", "16"]),
}
# Of the gradient's norm. One activation of a ReLU network in a million is so near 0 that
# float32 rounds it to the other side, which changes the gradient by the root of that share.
TOLERANCE = {"cifar10_resnet_dress": 5e-3}
# Run where the variable EVERY is set; their programs are those of the others at other sizes.
MINUTES_EACH = {"digits_family", "cifar10", "clip", "cifar10_resnet_dress"}
EVERY = "CODESIGN_EVERY_GRADIENT"


def measured(config, flags=""):
    """Errors of every phase, by a process whose compiler is set by the package alone."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    environment = kept | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), config, *CASES[config][1]],
        env=environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def check(config):
    found = measured(config)
    assert [case["phase"] for case in found] == CASES[config][0]
    for case in found:
        assert case["value_error"] < 1e-5, case
        slopes = {name: error for name, error in case.items() if name.startswith("slope")}
        assert slopes and max(slopes.values()) < TOLERANCE.get(config, 1e-3), case


def test_every_shipped_configuration_that_trains_is_here():
    import codesign.configs

    found = {info.name for info in pkgutil.iter_modules(codesign.configs.__path__)}
    # Searches around a user's checkpoint, in other spaces than that of clip.
    spaces = {name for name in found if name.startswith(("clip_", "_"))}
    assert found - spaces == {*CASES, "ablation", "effects", "hardware", "paper"}


@pytest.mark.slow
@pytest.mark.parametrize("config", CASES)
def test_gradients_of_a_shipped_configuration_are_right_as_it_compiles_them(config):
    if config in MINUTES_EACH and EVERY not in os.environ:
        pytest.skip(f"takes minutes: set {EVERY}=1")
    check(config)


@pytest.mark.slow
def test_the_faulty_fusions_would_be_seen():
    import jaxlib

    if jaxlib.__version__ != "0.10.2":
        pytest.skip("jaxlib 0.10.2 alone computes them wrongly")
    worst = max(
        error
        for case in measured("quickstart", f"{FLAG}=individual_dot,reduce")
        for name, error in case.items()
        if name.startswith("slope")
    )
    assert worst > 1e-2
