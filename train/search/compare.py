"""The product's searches and their rivals on one problem, from the same warm-up, by one evaluator.

Of every seed the supernet is warmed up once. A rival's trials are appended to a file of its own as
they are done; a resumed comparison asks each rival again from its start, gives it what the file
holds and so comes to where it was. The product's searches are runs in folders of their own, which
begin at the warm-up's checkpoint.

    seed-0/warmup/               a run of the warm-up alone
           gp/metrics.jsonl      one line a trial
           joint/, elastic/      searches; what the latter's ranking says of the rivals' networks
                                 is held against what they reach
    compare.json                 what came of it
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from codesign.baselines.methods import make, method_class, rival
from codesign.baselines.problem import key_of
from codesign.constraints import check_config
from codesign.errors import RunError, UserError
from codesign.kinds import SEARCH
from codesign.overrides import config_to_json
from codesign.progress import OnProgress
from codesign.report.compare import RESULT, START, write_report
from codesign.report.fidelity import Fidelity
from codesign.runs import (
    CHECKPOINTS,
    DESIGNS,
    METRICS,
    SUMMARY,
    RunFolder,
    jsonable,
    read_metrics,
    read_run,
)
from codesign.search.front import network_shape, tower_shape
from codesign.search.objectives import objective
from codesign.search.proxy_file import PROXY, read_proxy
from codesign.search.snap_file import SNAP, Snaps
from codesign.search.work import mac_equivalents
from codesign.space import DesignSpace
from codesign.train.checkpoints import Checkpoints
from codesign.train.loggers import Loggers
from codesign.train.search.compare_config import ELASTIC, ELASTIC_STEPS, JOINT, CompareConfig
from codesign.train.search.problem import chip_of, problem_of
from codesign.train.search.run import PHASES, leaves_of, loop_of, order_units, phases, run_search
from codesign.train.search.setup import Setup
from codesign.train.search.setup import prepare as prepared
from codesign.train.search.trials import Result, Trials
from codesign.train.search.work import macs_at, search_work, share_of, shared_work
from codesign.train.stages import run_stages, session

OWN = {JOINT: "joint search", ELASTIC: "elastic supernet, exact proxy front"}
# Rounds of proposals without a new design until a rival counts as out of ideas.
_PATIENCE = 200
_WARMUP = "warmup"
_FIRST_DRAWS = 0x51A7  # tells the seed of the first designs from those of methods


class Start(NamedTuple):
    """What all contestants of a seed share.

    Attributes:
      setup: of a search without joint phase.
      trials: the evaluator.
      wall_s: of the warm-up.
      teacher_wall_s: of the supernet's further training.
    """

    setup: Setup
    trials: Trials
    wall_s: float
    teacher_wall_s: float


def run_compare(
    config: CompareConfig,
    folder: RunFolder,
    console: Console,
    *,
    check: bool | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Runs a comparison, or the rest of one, and writes everything into the folder.

    Args:
      config: what to compare.
      folder: where to write.
      console: where to show progress.
      check: see `run_search`.
      on_progress: called whenever steps of a search are done.

    Returns:
      What compare.json holds.

    Raises:
      UserError: a library that is not installed; data, space or limits that cannot be used.
      RunError: a loss that is not finite, trials that this program would not have made.
    """
    check_config(config)
    if jax.process_count() > 1:
        raise UserError("codesign compare runs in one process; use search for several")
    rivals = [name for name in config.methods if name not in OWN]
    for name in rivals:
        method_class(name)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in config.methods}
    shared: dict[str, Any] = {}
    fidelity: list[dict[str, Any]] = []
    for seed in config.seeds:
        place = folder.path / f"seed-{seed}"
        start = _started(config, seed, place / _WARMUP, console, check, on_progress)
        shared = shared or _problem_json(start.setup)
        known: dict[bytes, Result] = {}
        for name in rivals:
            console.print(f"seed {seed}: {rival(name).title}", highlight=False)
            runs[name].append(_rival_run(config, name, seed, start, place / name, known, console))
        for name in (name for name in config.methods if name in OWN):
            console.print(f"seed {seed}: {OWN[name]}", highlight=False)
            runs[name].append(_own_run(config, name, seed, start, place, console, check))
        if found := _fidelity(start.setup.space, place, rivals):
            fidelity.append({"seed": seed} | found.json())
    result = shared | {
        "trials": config.trials,
        "hardware": config.hardware,
        "rank_fidelity": fidelity,
        "contestants": [
            {
                "name": name,
                "title": OWN.get(name) or rival(name).title,
                "own": name in OWN,
                "runs": runs[name],
            }
            for name in config.methods
        ],
    }
    folder.write_json(RESULT, result)
    write_report(folder.path)
    return result


def _started(
    config: CompareConfig,
    seed: int,
    place: Path,
    console: Console,
    check: bool | None,
    on_progress: OnProgress | None,
) -> Start:
    """The warm-up of a seed, or what is left of it, and the evaluator of trials."""
    search = config.search(seed, elastic_steps=0, joint_steps=0)
    folder = RunFolder.create(place, config_to_json(search), resume=True, kind=SEARCH.name)
    with session(folder, console, PHASES, on_progress) as opened:
        setup = prepared(search, opened.display)
        loop = loop_of(setup, folder, opened, Loggers({}, opened.display.says), check)
        stages = phases(setup, opened.display, folder)[:1]
        state = run_stages(loop, stages, opened.saved, setup.trainer.mesh, leaves_of=leaves_of)
        params, fixed = order_units(setup, state)
        wall_s = opened.tracker.so_far()["wall_time_s"]
    with Checkpoints(folder.checkpoints) as checkpoints:  # its own are on the disk by now
        saved = checkpoints.latest(PHASES, lambda line: console.print(line, highlight=False))
    data_place = saved.notes["places"][0] if saved else None
    if saved is not None:  # the time until then: of a resumed comparison too
        wall_s = saved.notes["tracker"]["wall_time_s"]
    began = time.monotonic()
    trials = Trials.start(setup, params, fixed, data_place)
    return Start(setup, trials, wall_s, time.monotonic() - began)


def _problem_json(setup: Setup) -> dict[str, Any]:
    """The box of the hypervolume, and the size of the problem."""
    config, space = setup.config, setup.space
    return {
        "metric": objective(config.targets.mode).key,
        "worst_cost": float(setup.goals.targets[0]),
        "best_cost": setup.least,
        "worst_accuracy": config.targets.worst_accuracy,
        "architectures": space.architectures,
        "accelerators": space.accelerators,
        "whole_macs": macs_at(space, space.steps[None])[0],
        "validation_images": len(setup.held_out.validation),
        "test_images": len(setup.held_out.test),
        "tune_steps": config.schedule.tune_steps,
    }


def _rival_run(
    config: CompareConfig,
    name: str,
    seed: int,
    start: Start,
    place: Path,
    known: dict[bytes, Result],
    console: Console,
) -> dict[str, Any]:
    """All trials of one rival from one seed.

    Args:
      config: of the comparison.
      name: of the rival.
      seed: of the warm-up.
      start: what all share.
      place: the folder of its trials.
      known: results of this seed by architecture, added to.
      console: for a line a trial.
    """
    setup = start.setup
    problem, schedule = problem_of(setup, config.hardware), setup.config.schedule
    rng = np.random.default_rng([_FIRST_DRAWS, seed])
    first = problem.draw(rng, config.startup, set())
    method = make(name, problem, first, seed)
    place.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(place)
    rows = _kept(folder)
    whole = macs_at(setup.space, setup.space.steps[None])[0]
    tried: dict[bytes, Result] = {}
    total, silent = 0.0, 0
    while len(tried) < config.trials and silent < _PATIENCE:
        began = time.monotonic()
        asked = method.ask()
        ask_s = time.monotonic() - began
        if not len(asked):
            break
        cost = problem.cost(asked)
        new = _new(asked, cost, tried, config.trials - len(tried))
        done, results = len(tried), [_result_of(row) for row in rows[len(tried) :][: len(new)]]
        for design, row in zip(new, rows[done:], strict=False):
            if row["design"] != design.tolist():
                raise RunError(
                    f"{folder.metrics} holds trials that '{name}' does not make now: its library "
                    "is another version; start anew with another --out FOLDER"
                )
        sizes = setup.space.architecture_size
        known |= {key_of(d[:sizes]): r for d, r in zip(new, results, strict=False)}
        for several in _lots(new[len(results) :], sizes, known, config.side_by_side):
            known |= zip((key_of(d) for d in several), start.trials.results(several), strict=True)
        results = [known[key_of(design[:sizes])] for design in new]
        silent = 0 if len(new) else silent + 1
        lines = []
        for design, result in zip(new, results, strict=True):
            share = macs_at(setup.space, design[None])[0] / whole
            total += mac_equivalents(schedule.tune_steps, share, 1.0)
            tried[key_of(design)] = result
            own = float(cost[[key_of(d) for d in asked].index(key_of(design))])
            lines.append(
                {
                    "step": len(tried) - 1,
                    "design": design.tolist(),
                    "architecture": jsonable(setup.space.architecture_at(design)),
                    "accelerator": jsonable(chip_of(setup, design)),
                    "cost": own,
                    "validation_accuracy": result.validation,
                    "accuracy": result.test,
                    "mac_eq": total,
                    "wall_s": result.wall_s + ask_s / len(new),
                }
            )
        folder.append_metrics(lines[max(len(rows) - done, 0) :])
        for line in lines[max(len(rows) - done, 0) :]:
            console.print(
                f"  {name} trial {line['step'] + 1} of {config.trials}: cost {line['cost']:.4g}, "
                f"validation {line['validation_accuracy']:.3f}, {line['wall_s']:.1f} s",
                highlight=False,
            )
        told = [tried.get(key_of(design)) for design in asked]
        if any(t is None and math.isfinite(c) for t, c in zip(told, cost, strict=True)):
            break  # the last lot was cut to what was left
        method.tell(asked, cost, np.array([math.nan if t is None else t.validation for t in told]))
    kept = read_metrics(folder.metrics)
    return {
        "seed": seed,
        "work": shared_work(schedule) | {"teacher": float(schedule.tune_steps)},
        "start_wall_s": start.wall_s + start.teacher_wall_s,
        "trials": [
            {key: row[key] for key in _OF_TRIAL}
            | {"architecture": row["architecture"], "accelerator": row["accelerator"]}
            for row in kept
        ],
    }


_OF_TRIAL = ("cost", "validation_accuracy", "accuracy", "mac_eq", "wall_s")


def _kept(folder: RunFolder) -> list[dict[str, Any]]:
    """The trials that were recorded, whole and in order; what is not is dropped from the file."""
    if not folder.metrics.exists():
        return []
    folder.truncate_metrics(np.iinfo(np.int32).max)  # drops a line torn by a kill
    rows = read_metrics(folder.metrics)
    whole = next((i for i, row in enumerate(rows) if row["step"] != i), len(rows))
    folder.truncate_metrics(whole - 1)
    return rows[:whole]


def _result_of(row: dict[str, Any]) -> Result:
    return Result(row["validation_accuracy"], row["accuracy"], row["wall_s"])


def _new(
    asked: np.ndarray, cost: np.ndarray, tried: dict[bytes, Result], most: int
) -> list[np.ndarray]:
    """Those that meet the limits and were not tried, each once."""
    found: dict[bytes, np.ndarray] = {}
    for design, c in zip(asked, cost, strict=True):
        if math.isfinite(c) and key_of(design) not in tried and len(found) < most:
            found.setdefault(key_of(design), design)
    return list(found.values())


def _lots(
    designs: list[np.ndarray], size: int, known: dict[bytes, Result], together: int
) -> Iterator[np.ndarray]:
    """Architectures that no trial is known of, so many at once, what is left one by one."""
    fresh = {key_of(d[:size]): d[:size] for d in designs if key_of(d[:size]) not in known}
    left = list(fresh.values())
    while left:
        number = together if len(left) >= together else 1
        yield np.array(left[:number])
        left = left[number:]


def _own_run(
    config: CompareConfig,
    name: str,
    seed: int,
    start: Start,
    place: Path,
    console: Console,
    check: bool | None,
) -> dict[str, Any]:
    """One of the product's own searches from one seed, as `codesign search` runs it."""
    elastic = config.schedule.elastic_steps or ELASTIC_STEPS
    search = (
        config.search(seed, elastic_steps=0)
        if name == JOINT
        else config.search(seed, elastic_steps=elastic, joint_steps=0)
    )
    folder = RunFolder.create(place / name, config_to_json(search), resume=True, kind=SEARCH.name)
    if not all((folder.path / file).is_file() for file in (DESIGNS, SUMMARY)):
        _after_warmup(folder, place / _WARMUP)
        run_search(search, dataclasses.replace(folder, resumed=True), console, check=check)
    run = read_run(folder.path)
    found = [d for d in run.designs if d["role"] == "found" and d["feasible"]]
    cost = objective(config.targets.mode).key
    shares = [share_of(start.setup, entry) for entry in found]
    snap = folder.path / SNAP
    snapped = Snaps.read(snap).designs if snap.is_file() else ()
    tried = [each.trained_share for each in snapped if each.trained]
    work = search_work(search, start.setup, shares, tried)
    total = sum(value for part, value in work.items() if part not in START)
    wall_s = run.summary["wall_time_s"]
    return {
        "seed": seed,
        "work": work,
        "start_wall_s": start.wall_s,
        "trials": [
            {
                "cost": entry["costs"][cost],
                "validation_accuracy": entry["validation_accuracy"],
                "accuracy": entry["accuracy"],
                # All are there at the end, and none before.
                "mac_eq": total,
                "wall_s": 0.0 if i else max(wall_s - start.wall_s, 0.0),
                "architecture": entry["architecture"],
                "accelerator": entry["accelerator"],
            }
            for i, entry in enumerate(found)
        ],
    }


def _fidelity(space: DesignSpace, place: Path, rivals: Sequence[str]) -> Fidelity | None:
    """How the elastic supernet ranks what rivals of a seed tuned, each network once.

    None where there is no such supernet, or fewer than three networks.
    """
    if not (place / ELASTIC / PROXY).exists():
        return None
    loss = read_proxy(place / ELASTIC).check(tower_shape(space)).proxy.loss
    loss = loss.reshape(network_shape(space))
    tuned = {
        tuple(row["design"][: space.architecture_size]): (row["accuracy"], row["cost"])
        for name in rivals
        for row in read_metrics(RunFolder(place / name).metrics)
    }
    return Fidelity.of_rows([(float(loss[at]), *found) for at, found in tuned.items()])


def _after_warmup(folder: RunFolder, warmup: Path) -> None:
    """The warm-up's checkpoint in the folder of a search that has none; the last step counts."""
    if folder.checkpoints.exists() or not (warmup / CHECKPOINTS).exists():
        return
    shutil.copyfile(warmup / METRICS, folder.metrics)
    aside = folder.path / f".{CHECKPOINTS}.0.tmp"
    shutil.copytree(warmup / CHECKPOINTS, aside)
    aside.rename(folder.checkpoints)
