"""Gradients of the shipped configurations on embedded data, on the compiler's default build.

The other tests compile as suits them; these run in processes of their own, with no compiler
setting but what the package makes itself. tests/train/gradients.py has what is compared, and
takes the other configurations too; at their sizes two cores need many minutes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codesign.compiler import FLAG

SCRIPT = Path(__file__).with_name("gradients.py")
PHASES = {
    "quickstart": ["warmup", "joint", "tune"],
    "digits_clip": ["dense"],
    "digits_dress": ["dense", "joint", "post"],
    "digits_resnet_dress": ["dense", "joint", "post"],
}


def measured(config, flags=""):
    """Errors of every phase, by a process whose compiler is set by the package alone."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    environment = kept | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), config], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def check(config):
    found = measured(config)
    assert [case["phase"] for case in found] == PHASES[config]
    for case in found:
        assert case["value_error"] < 1e-5, case
        slopes = {name: error for name, error in case.items() if name.startswith("slope")}
        assert slopes and max(slopes.values()) < 1e-3, case


def test_gradients_of_a_fine_tuning_are_right_as_it_compiles_them():
    check("digits_clip")


@pytest.mark.slow
@pytest.mark.parametrize("config", [name for name in PHASES if name != "digits_clip"])
def test_gradients_of_a_shipped_configuration_are_right_as_it_compiles_them(config):
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
