"""The flag that keeps XLA's CPU compiler right is set in time, and only where it is needed."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from codesign.compiler import FLAG, disable_faulty_fusions, is_faulty


@pytest.mark.parametrize(
    ("version", "faulty"),
    [
        ("0.9.2", False),
        ("0.10.0", True),
        ("0.10.1", True),
        ("0.10.2", True),
        ("0.11.0", True),
        ("0.11.1", False),
        ("0.11.2", False),
        ("0.12.0", False),
        ("0.10.2.dev20260601", True),
    ],
)
def test_releases_whose_fusions_are_faulty(version, faulty):
    assert is_faulty(version) is faulty


def said(program, flags=None):
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment = kept | ({} if flags is None else {"XLA_FLAGS": flags})
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )


needed = pytest.mark.skipif(
    not is_faulty(importlib.metadata.version("jaxlib")), reason="this jaxlib needs no flag"
)
SHOWN = "import os; print(os.environ.get('XLA_FLAGS'))"


@needed
def test_importing_the_package_sets_the_flag_and_keeps_others():
    other = "--xla_force_host_platform_device_count=2"
    assert said(f"import codesign; {SHOWN}").stdout.strip() == f"{FLAG}="
    assert said(f"import codesign; {SHOWN}", other).stdout.strip() == f"{other} {FLAG}="


@needed
def test_it_is_in_time_after_jax_is_imported_and_before_it_starts():
    done = said(f"import jax; import codesign; {SHOWN}")
    assert done.stdout.strip() == f"{FLAG}=" and "RuntimeWarning" not in done.stderr


@needed
def test_too_late_is_said_once():
    done = said(f"import jax; jax.numpy.ones(1); import codesign; {SHOWN}")
    assert done.stdout.strip() == "None"
    assert done.stderr.count("import codesign first") == 1


def test_a_value_the_user_gives_stays(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}=reduce")
    disable_faulty_fusions()
    assert os.environ["XLA_FLAGS"] == f"{FLAG}=reduce"


@needed
def test_a_weighted_sum_over_many_rows_is_right():
    program = """
import codesign, jax, numpy as np
rng = np.random.default_rng(0)
x = rng.normal(size=(1088, 48)).astype(np.float32)
s = rng.uniform(0.5, 1.5, size=48).astype(np.float32)
f = lambda x, s: x - (s * x).sum(-1, keepdims=True)
print(abs(np.asarray(jax.jit(f)(x, s)) - f(x, s)).max())
"""
    assert float(said(program).stdout) < 1e-4


def test_options_that_a_release_lacks_are_left_out():
    from codesign.compiler import _takes

    assert _takes({"xla_backend_optimization_level": 0})
    assert not _takes({"xla_there_is_no_such_option": False})
