"""Runs killed at random moments, again and again, end as one that nobody touched."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple, cast

import jax
import numpy as np
import pytest
from safetensors import safe_open

from codesign import load_clip
from simulators import command
from simulators.mutations import damaged
from simulators.tiny_runs import RUNS

pytestmark = pytest.mark.slow

KILLS = 20  # of each kind of run
DAMAGES = 6  # likewise


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    return command.fork_server()


class Runs:
    """Runs of one kind in folders beside each other, each in a process of its own."""

    def __init__(self, server: ForkServerContext, place: Path, kind: str) -> None:
        self._server, self._place, self._command = server, place, RUNS[kind][0]
        (place / "tiny.py").write_text(RUNS[kind][1])

    def code(self, out: str, moment: Callable[[], bool] = lambda: False) -> int:
        """Runs, or resumes, until a moment and kills; the exit code, -9 of what was killed."""
        argv = [self._command, "./tiny.py", "--out", out, "--no-check", "--resume"]
        errors = self._place / f"{out}.errors"
        process = self._server.Process(
            target=command.run_command, args=(argv, str(self._place), str(errors))
        )
        process.start()
        try:
            while process.is_alive() and not moment():
                process.join(0.001)
        finally:
            process.kill()
            process.join()
        assert "Traceback" not in self.told(out), self.told(out)
        return cast(int, process.exitcode)

    def told(self, out: str) -> str:
        """What a run wrote to stderr."""
        return (self._place / f"{out}.errors").read_text()

    def killed(self, out: str, moment: Callable[[], bool]) -> bool:
        """Whether a run was killed before it came to its end."""
        code = self.code(out, moment)
        assert code in (-9, 0), self.told(out)
        return code == -9

    def whole(self, out: str) -> float:
        """A run that nobody touches; its duration, s."""
        began = time.monotonic()
        assert self.code(out) == 0, self.told(out)
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


class Undamaged(NamedTuple):
    """A run that nobody touched: its folder, what it delivers, and what it takes, s."""

    kind: str
    runs: Runs
    run: Path
    results: dict[str, object]
    duration_s: float


@pytest.fixture(scope="class")
def whole(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    server: ForkServerContext,
) -> Undamaged:
    kind: str = request.cls.kind
    place = tmp_path_factory.mktemp(kind)
    runs = Runs(server, place, kind)
    runs.whole("compiles")
    duration_s = runs.whole("whole")
    found = results(place / "whole")
    assert len(found) > 1 and "metrics.jsonl" in found
    return Undamaged(kind, runs, place / "whole", found, duration_s)


def damage(run: Path, drawn: random.Random) -> set[str]:
    """Cuts, empties, changes or removes some of a run's files or folders; their paths."""
    rng, hit = np.random.default_rng(drawn.getrandbits(32)), set[str]()
    for _ in range(drawn.randint(1, 4)):
        places = sorted(path for path in run.rglob("*") if path.name != "run.lock")
        folders = [path for path in places if path.is_dir()]
        path = drawn.choice(folders if drawn.random() < 0.2 else places)
        hit.add(str(path.relative_to(run)))
        if path.is_dir():
            shutil.rmtree(path)
        elif drawn.random() < 0.2:
            path.unlink()
        else:
            data = path.read_bytes()
            path.write_bytes(damaged(data, rng) if data and drawn.random() < 0.8 else b"")
    return hit


class OfOneKind:
    """A class a kind of run: workers share the work class by class."""

    kind: str

    def test_a_run_killed_at_random_moments_ends_the_same(self, whole: Undamaged) -> None:
        cut = whole.run.with_name("cut")
        # Names inside of checkpoints are random.
        written = sorted(files(whole.run) & files(whole.run.with_name("compiles")))
        drawn = moments(random.Random(f"kills of {whole.kind}"), cut, written, whole.duration_s)
        kills = 0
        while kills < KILLS:
            shutil.rmtree(cut, ignore_errors=True)
            while kills < KILLS and whole.runs.killed("cut", next(drawn)):
                kills += 1
            if kills == KILLS:
                whole.runs.whole("cut")
            assert results(cut) == whole.results, f"after {kills} kills"
            assert not list(cut.rglob("*tmp*"))

    def test_a_damaged_run_ends_the_same_or_is_refused_in_a_line(self, whole: Undamaged) -> None:
        cut, ended = whole.run.with_name("damaged"), 0
        drawn = random.Random(f"damage of {whole.kind}")
        for _ in range(DAMAGES):
            shutil.rmtree(cut, ignore_errors=True)
            shutil.copytree(whole.run, cut)
            hit = damage(cut, drawn)
            code, told = whole.runs.code("damaged"), whole.runs.told("damaged")
            if code == 0:
                found, ended = results(cut), ended + 1
                if found.get("metrics.jsonl") != whole.results["metrics.jsonl"]:
                    assert "metrics.jsonl" in hit and "metrics.jsonl" in told, (hit, told)
                same = {"metrics.jsonl": whole.results["metrics.jsonl"]}
                assert found | same == whole.results, (hit, told)
            else:
                last = told.splitlines()[-1]
                assert code in (1, 2) and last.startswith("codesign: "), (hit, told)
        assert ended >= DAMAGES // 2


class TestSearch(OfOneKind):
    kind = "search"


class TestDress(OfOneKind):
    kind = "dress"


class TestFinetune(OfOneKind):
    kind = "finetune"
