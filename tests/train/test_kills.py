"""Runs killed at random moments, again and again, end as one that nobody touched."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

from codesign import load_clip
from simulators import command
from simulators.tiny_runs import RUNS

pytestmark = pytest.mark.slow

KILLS = 20  # of each kind of run


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    return command.fork_server()


class Runs:
    """Runs of one kind in folders beside each other, each in a process of its own."""

    def __init__(self, server: ForkServerContext, place: Path, kind: str) -> None:
        self._server, self._place, self._command = server, place, RUNS[kind][0]
        (place / "tiny.py").write_text(RUNS[kind][1])

    def until(self, out: str, moment: Callable[[], bool]) -> bool:
        """Runs, or resumes, until a moment and kills; False: it came to its end before."""
        argv = [self._command, "./tiny.py", "--out", out, "--no-check", "--resume"]
        errors = self._place / f"{out}.errors"
        process = self._server.Process(
            target=command.run_command, args=(argv, str(self._place), str(errors))
        )
        process.start()
        try:
            while process.is_alive() and not moment():
                time.sleep(0.001)
        finally:
            process.kill()
            process.join()
        if process.exitcode == -9:
            return True
        assert process.exitcode == 0 and "Traceback" not in errors.read_text(), errors.read_text()
        return False

    def whole(self, out: str) -> float:
        """A run that nobody touches; its duration, s."""
        began = time.monotonic()
        assert not self.until(out, lambda: False)
        return time.monotonic() - began


def moments(
    drawn: random.Random, run: Path, written: list[str], duration_s: float
) -> Iterator[Callable[[], bool]]:
    """By turns any time of a run, and just after something is written into its folder."""
    while True:
        yield past(time.monotonic() + drawn.uniform(0.05, 1.0) * duration_s)
        if missing := [name for name in written if not (run / name).exists()]:
            yield after(run / drawn.choice(missing), drawn.uniform(0.0, 0.05))


def past(end_s: float) -> Callable[[], bool]:
    return lambda: time.monotonic() > end_s


def after(path: Path, wait_s: float) -> Callable[[], bool]:
    def moment() -> bool:
        if there := path.exists():
            time.sleep(wait_s)
        return there

    return moment


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


def results(run: Path) -> dict[str, object]:
    """Metrics, designs, families and the weights of every network, byte by byte."""
    found: dict[str, object] = {
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
def test_a_run_killed_at_random_moments_ends_the_same(
    kind: str, tmp_path: Path, server: ForkServerContext
) -> None:
    runs, cut = Runs(server, tmp_path, kind), tmp_path / "cut"
    runs.whole("compiles")
    duration_s = runs.whole("whole")
    whole = results(tmp_path / "whole")
    assert len(whole) > 1 and "metrics.jsonl" in whole
    # Those inside of checkpoints have random names.
    written = sorted(files(tmp_path / "whole") & files(tmp_path / "compiles"))
    drawn = moments(random.Random(f"kills of {kind}"), cut, written, duration_s)
    kills = 0
    while kills < KILLS:
        shutil.rmtree(cut, ignore_errors=True)
        while kills < KILLS and runs.until("cut", next(drawn)):
            kills += 1
        if kills == KILLS:
            runs.whole("cut")
        assert results(cut) == whole, f"after {kills} kills"
        assert not list(cut.rglob("*tmp*"))
