"""Runs killed at random moments, again and again, end as one that nobody touched."""

import contextlib
import multiprocessing
import random
import shutil
import time

import jax
import numpy as np
import pytest
from safetensors import safe_open

from codesign import load_clip
from simulators import command
from simulators.tiny_runs import RUNS

pytestmark = pytest.mark.slow

KILLS = 8  # of each kind of run


# Imported once, in the process that every run is forked from.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["simulators.command"])


@contextlib.contextmanager
def started(folder, kind, out, *more):
    """A run in a process of its own, which is over at the end."""
    argv = [RUNS[kind][0], "./tiny.py", "--out", out, "--no-check", *more]
    process = SERVER.Process(target=command.run, args=(argv, str(folder), f"{out}.errors"))
    process.start()
    try:
        yield process
        process.join()
    finally:
        process.kill()


def finished(folder, kind, out, *more):
    with started(folder, kind, out, *more) as process:
        pass
    errors = (folder / f"{out}.errors").read_text()
    assert process.exitcode == 0 and "Traceback" not in errors, errors


def results(run):
    """Metrics, designs, families and the weights of every network, byte by byte."""
    found = {
        str(path.relative_to(run)): path.read_bytes()
        for path in (run / "metrics.jsonl", run / "designs.json")
        if path.exists()
    }
    # The order of keys in a header is the library's, and random.
    for family in run.rglob("*.safetensors"):
        with safe_open(family, "numpy") as file:
            name = str(family.relative_to(run))
            found[name] = sorted(file.metadata().items())
            found |= {f"{name} {key}": file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118 -- no dict
    # A native checkpoint's own files have random names inside.
    for weights in sorted(run.rglob("weights")):
        for i, leaf in enumerate(jax.tree.leaves(load_clip(weights.parent))):
            found[f"{weights.parent.relative_to(run)} {i}"] = np.asarray(leaf).tobytes()
    return found


@pytest.mark.parametrize("kind", ["finetune", "dress", "search"])
def test_a_run_killed_at_random_moments_ends_the_same(kind, tmp_path):
    (tmp_path / "tiny.py").write_text(RUNS[kind][1])
    finished(tmp_path, kind, "compiles")
    began = time.monotonic()
    finished(tmp_path, kind, "whole")
    duration_s = time.monotonic() - began
    whole = results(tmp_path / "whole")
    assert len(whole) > 1 and "metrics.jsonl" in whole
    moments = random.Random(f"kills of {kind}")
    for kill in range(KILLS):
        shutil.rmtree(tmp_path / "cut", ignore_errors=True)
        with started(tmp_path, kind, "cut") as process:
            time.sleep(moments.uniform(0.1, 1.0) * duration_s)
            process.kill()
        finished(tmp_path, kind, "cut", "--resume")
        assert results(tmp_path / "cut") == whole, f"kill {kill}"
        assert not list((tmp_path / "cut").rglob("*tmp*"))
