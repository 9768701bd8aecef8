"""The joint search, from data to report.

Chapters, in the order things happen: data and supernet; the table of exact costs; references and
targets; warm-up of the supernet; one ordering of its units by importance; training of the supernet
for all sizes at once, and its ranking of every network; relaxed designs and weights trained
together; the snap to discrete designs; training of the chosen networks; slicing and measuring;
report.

Ordering, ranking and snap are functions of the seed and the state alone, so that a resumed run ends
as an uninterrupted one does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from codesign.constraints import check_config
from codesign.model_card import write_run_cards
from codesign.models import full_gates, reorder, taylor_importance
from codesign.overrides import config_to_json
from codesign.progress import OnProgress
from codesign.report.correct import CORRECT, correct_json
from codesign.report.html import write_report
from codesign.runs import DESIGNS, SUMMARY, RunFolder
from codesign.search.proxy_file import PROXY
from codesign.search.snap_file import SNAP
from codesign.space import DesignSpace
from codesign.train import placement
from codesign.train.ahead import Ahead, shapes
from codesign.train.check import due
from codesign.train.checkpoints import Saved
from codesign.train.clip import Fixed
from codesign.train.config import SearchConfig
from codesign.train.loggers import Loggers, open_loggers
from codesign.train.loop import Intervals, Loop, Metrics, Row
from codesign.train.profile import PROFILE, Profile
from codesign.train.progress import Display
from codesign.train.rollback import summary_of
from codesign.train.search import measure
from codesign.train.search.elastic import elastic_chunk, elastic_objective, make_pool
from codesign.train.search.population import (
    Constants,
    Population,
    gated_loss,
    population_chunk,
    population_objective,
    warmup_chunk,
    warmup_objective,
)
from codesign.train.search.ranking import ranked_start
from codesign.train.search.setup import (
    REFERENCES,
    Setup,
    prepare,
    start_elastic,
    start_population,
    start_warmup,
)
from codesign.train.search.snap import snap
from codesign.train.search.tune import frames_of, tune_objective, tune_population, tune_programs
from codesign.train.sharding import shardings
from codesign.train.stages import Session, Stage, run_stages, session
from codesign.train.step import Chunk

PHASES = WARMUP, ELASTIC, JOINT, TUNE = "warmup", "elastic", "joint", "tune"
# Of the layout of states; checkpoints of before have none, see `leaves_of`.
_LAYOUT = 2


class Searched(NamedTuple):
    """A state of the run.

    Attributes:
      trained: the supernet's `TrainState`, or once there are designs the `Population`.
      fixed: what no step of a phase changes.
    """

    trained: Any
    fixed: Fixed


def run_search(
    config: SearchConfig,
    folder: RunFolder,
    console: Console,
    *,
    check: bool | None = None,
    on_progress: OnProgress | None = None,
    loggers: Sequence[str] | None = None,
    profile: int = 0,
) -> dict[str, Any]:
    """Runs a search, or the rest of one, and writes everything into the folder.

    Args:
      config: what to search.
      folder: where to write.
      console: where to show progress.
      check: whether the first step of each phase is checked against its plainly compiled loss
        (`codesign.train.check`); None: on CPUs.
      on_progress: called whenever steps are done.
      loggers: where metrics go beside the folder, see `codesign.train.loggers`; None: those that
        the run was started with, for a new one TensorBoard.
      profile: steps of each phase to trace, see `codesign.train.profile`; 0: none.

    Returns:
      {"designs": entries of designs.json, "summary": of summary.json}; nothing, where another of
      several processes has written them.

    Raises:
      UserError: data, space or limits that cannot be used.
      RunError: a loss that is not finite, a checkpoint that does not fit.
    """
    check_config(config)
    with session(folder, console, PHASES, on_progress) as run:
        _, display, tracker, saved = run
        setup = prepare(config, display)
        first = jax.process_index() == 0
        if first:
            setup.processor.tokenizer.backend_tokenizer.save(str(folder.path / "tokenizer.json"))
        begun = saved.step if saved else 0
        with open_loggers(loggers, folder, begun, display.says) as opened:
            loop = loop_of(setup, folder, run, opened, check, profile)
            mesh = setup.trainer.mesh
            with contextlib.closing(Ahead()) as ahead:
                stages = phases(setup, display, folder, ahead)
                state: Searched = run_stages(loop, stages, saved, mesh, leaves_of=leaves_of)
            for line in lost_files(folder, config):
                display.says(line)
            display.says("slicing and measuring the networks", chapter="measuring")
            designs, right = measure.designs(setup, state.trained, state.fixed, folder)
            took = tracker.stop()
            summary = measure.summary(setup, designs, right, took) | summary_of(folder)
            opened.write(stages[-1].end, {"summary": summary})
    if not first:
        return {}
    folder.write_json(CORRECT, correct_json(right))
    folder.write_json(DESIGNS, designs)
    folder.write_json(SUMMARY, summary)
    write_run_cards(folder.path, config_to_json(config))
    write_report(folder.path)
    return {"designs": designs, "summary": summary}


def lost_files(folder: RunFolder, config: SearchConfig) -> list[str]:
    """A line on each file that earlier phases wrote and a resumed run does not find any more."""
    without = {SNAP: "how designs were rounded is not told"}
    if config.schedule.elastic_steps:
        without[PROXY] = "designs have no proxy accuracy, and codesign front has nothing to rank by"
    return [
        f"{name} is no longer in {folder.path}: {what}"
        for name, what in without.items()
        if not (folder.path / name).is_file()
    ]


def loop_of(
    setup: Setup,
    folder: RunFolder,
    opened: Session,
    loggers: Loggers,
    check: bool | None,
    profile: int = 0,
) -> Loop:
    """What the stages of a search share; the arguments are those of `run_search`."""
    schedule = setup.config.schedule
    return Loop(
        intervals=Intervals(checkpoint=schedule.checkpoint_steps, chunk=schedule.chunk_steps),
        folder=folder,
        checkpoints=opened.checkpoints,
        loggers=loggers,
        tracker=opened.tracker,
        display=opened.display,
        feed=setup.feed,
        checks=due(check),
        dtype=setup.dtype,
        notes={"layout": _LAYOUT},
        profile=Profile(folder.path / PROFILE, profile),
    )


def phases(
    setup: Setup, display: Display, folder: RunFolder, ahead: Ahead | None = None
) -> Sequence[Stage]:
    """Warm-up, the elastic supernet where one is asked for, joint search and tuning.

    Args:
      setup: of the search.
      display: of its progress.
      folder: of the run.
      ahead: compiles the joint step while the supernet is trained; None: each when it is called.
    """
    schedule, space = setup.config.schedule, setup.space
    warmed = schedule.warmup_steps
    ranked = warmed + schedule.elastic_steps
    joined = ranked + schedule.joint_steps
    key, trainer = jax.random.key(setup.config.seed), setup.trainer

    def constants(state: Searched) -> Constants:
        return setup.constants._replace(fixed=state.fixed)

    def joint_program(state: Searched, chunk: Chunk) -> list[tuple[Any, ...]]:
        params = state.trained.params
        first = jax.eval_shape(lambda params: start_population(setup, params, ranked), params)
        population = shapes(first, shardings(first, trainer.mesh))
        return [(population_chunk, population, setup.goals, chunk, key, constants(state), trainer)]

    def warmup(state: Searched, chunk: Chunk) -> tuple[Searched, Metrics]:
        if ahead is not None and schedule.joint_steps:
            ahead.begin(JOINT, functools.partial(joint_program, state, chunk))
        trained, metrics = warmup_chunk(state.trained, chunk, key, constants(state), trainer)
        return state._replace(trained=trained), metrics

    def joint(state: Searched, chunk: Chunk) -> tuple[Searched, Metrics]:
        if ahead is not None:
            ahead.end()
        trained, metrics = population_chunk(
            state.trained, setup.goals, chunk, key, constants(state), trainer
        )
        return state._replace(trained=trained), metrics

    def checked(objective: Any, *goals: Any, by: Any = trainer) -> Any:
        def of_first(constants: Constants, goals: Any, state: Searched, drawn: Any) -> Any:
            own = constants._replace(fixed=state.fixed)
            return objective(state.trained, *goals, drawn, key, own, by)

        return jax.tree_util.Partial(of_first, setup.constants, goals)

    def ordered(state: Searched) -> tuple[Any, Fixed]:
        display.says("ordering units by importance", chapter="ordering")
        return order_units(setup, state)

    def elastic(state: Searched) -> Searched:
        params, fixed = ordered(state)
        return Searched(start_elastic(setup, params, warmed), fixed)

    def blank_elastic(state: Searched) -> Searched:
        return Searched(start_elastic(setup, state.trained.params, warmed), state.fixed)

    def candidates(state: Searched) -> Searched:
        if not schedule.elastic_steps:
            params, fixed = ordered(state)
            return Searched(start_population(setup, params, ranked), fixed)
        display.says(
            f"ranking {space.architectures:,} architectures by the supernet", chapter="ranking"
        )
        start = ranked_start(setup, state.trained.params, state.fixed, folder)
        return Searched(start_population(setup, state.trained.params, ranked, start), state.fixed)

    def blank(state: Searched) -> Searched:
        if isinstance(state.trained, Population):
            return state
        return Searched(start_population(setup, state.trained.params, ranked), state.fixed)

    def snapped(state: Searched) -> Searched:
        display.says("snapping to discrete designs", chapter="snapping")
        trained, chosen = snap(setup, state.trained, state.fixed)
        if jax.process_index() == 0:
            folder.write_json(SNAP, dataclasses.asdict(chosen))
        return state._replace(trained=trained)

    def settled(state: Searched) -> Stage:
        frames = tuple(frames_of(setup, state.trained.z))

        def tune(state: Searched, chunk: Chunk) -> tuple[Searched, Metrics]:
            given = state.trained, setup.goals, chunk, key, constants(state), frames
            if ahead is not None:
                ahead.begin(TUNE, functools.partial(tune_programs, *given))
                ahead.end()
            trained, metrics = tune_population(*given)
            return state._replace(trained=trained), metrics

        check = checked(tune_objective, setup.goals, by=frames)
        return tuning._replace(step=tune, objective=check)

    replicated = placement.replicated(trainer.mesh)
    stages = [
        Stage(
            WARMUP,
            warmed,
            lambda _: Searched(start_warmup(setup), setup.constants.fixed),
            warmup,
            _of_supernet,
            objective=checked(warmup_objective),
        )
    ]
    if schedule.elastic_steps:
        pool = placement.put(
            make_pool(setup.tables.dense, setup.config.targets.mode, setup.config.seed), replicated
        )

        def sandwich(state: Searched, chunk: Chunk) -> tuple[Searched, Metrics]:
            trained, metrics = elastic_chunk(
                state.trained, pool, chunk, key, constants(state), trainer
            )
            return state._replace(trained=trained), metrics

        stages.append(
            Stage(
                ELASTIC,
                ranked,
                elastic,
                sandwich,
                _of_supernet,
                blank_elastic,
                checked(elastic_objective, pool),
            )
        )
    stages.append(
        Stage(
            JOINT,
            joined,
            candidates,
            joint,
            functools.partial(_of_population, space),
            blank,
            checked(population_objective, setup.goals),
        )
    )
    tuning = Stage(TUNE, joined + schedule.tune_steps, snapped, joint, blank=blank, settle=settled)
    return [*stages, tuning]


def _of_supernet(metrics: Row) -> Row:
    """The metrics as those of a population of one; in the elastic phase with its partial losses."""
    row: Row = {name: [metrics[name]] for name in ("loss", "grad_norm", "grad_dot_params")}
    return row | {name: metrics[name] for name in ("loss_of_parts",) if name in metrics}


def _of_population(space: DesignSpace, metrics: Row) -> Row:
    """One line of metrics.jsonl, with the dimensions of the designs and what they exceed."""
    excess, indices = metrics.pop("excess"), np.asarray(metrics.pop("indices"))
    over = np.maximum(np.asarray(excess)[:, 1:], 0).max(axis=-1, initial=0.0)
    relaxed = {
        d.name: np.interp(at[len(REFERENCES) :], np.arange(len(d.choices)), d.choices).tolist()
        for d, at in zip(space.dimensions, indices.T, strict=True)
    }
    return metrics | {"limit_violation": over.tolist(), "relaxed": relaxed}


def order_units(setup: Setup, state: Searched) -> tuple[Any, Fixed]:
    """The supernet's weights with their units in order of importance, by one first-order pass."""
    schedule, optim, trainer = setup.config.schedule, setup.config.optim, setup.trainer
    batches = setup.feed.others(schedule.order_batches, optim.batch_size)
    params, fixed = state.trained.params, state.fixed
    loss = jax.tree_util.Partial(functools.partial(gated_loss, trainer.task), params, fixed)
    scores = taylor_importance(loss, full_gates(setup.space.largest()), batches)
    ordered = reorder(setup.model(params, fixed), scores)
    split: Any = nnx.split(ordered, nnx.Param, ...)
    _, network, rest = split
    return trainer.task.with_network(params, network), fixed._replace(rest=rest)


def leaves_of(saved: Saved, state: Searched) -> list[Any]:
    """The leaves of a checkpoint in the present order.

    The supernet was once a population of one in its warm-up.
    """
    leaves = saved.leaves
    if "layout" in saved.notes or saved.phase != WARMUP:
        return leaves
    own = len(jax.tree.leaves(state.trained)) - 1
    after = len(leaves) - len(jax.tree.leaves(state.fixed)) - 1
    return [*(x[0] for x in leaves[:own]), *leaves[after:]]
