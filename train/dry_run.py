"""What a run would take, before it is started: shapes, memory, sharding, and a step of each stage.

Data and checkpoint are opened, as they tell the shapes, but no picture of a stream is read: steps
see pictures of noise with made-up captions. Nothing is written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun
from rich.console import Console

from codesign.constraints import check_config
from codesign.dress.trees import named_leaves
from codesign.errors import RunError
from codesign.train import placement
from codesign.train.config import SearchConfig
from codesign.train.data import ImageTextBatch
from codesign.train.feed import ResidentFeed, StreamFeed
from codesign.train.progress import Display
from codesign.train.run import subject_of, training_of
from codesign.train.search.run import phases
from codesign.train.search.setup import prepare
from codesign.train.stages import Stage
from codesign.train.step import Chunk


class Plan(NamedTuple):
    """A run that has not started.

    Attributes:
      stages: in order.
      feed: what their steps read.
      chunk: steps of one compiled call.
    """

    stages: Sequence[Stage]
    feed: ResidentFeed | StreamFeed
    chunk: int


def dry_run(config: Any, console: Console) -> dict[str, Any]:
    """Plans a run, compiles the step of each of its stages and takes one.

    Args:
      config: of a search, a fine-tuning or DRESS.
      console: where to show progress.

    Returns:
      Plain values: "devices"; "mesh", devices along each of its axes; "batch", shapes by name,
      over all devices, and "batch_per_device"; "shapes" of the parameters by name; "stages", each
      with "name", "steps", "parameters_bytes", "optimizer_bytes" and, where the backend tells,
      "memory_bytes" of the compiled step by kind, all of them of one device; and of those that
      take steps with a program of their own "loss" and "compile_s", "step_s"; "snap_bytes", what
      a search may hold on top of its candidates while it snaps them, 0 of other runs.

    Raises:
      UserError: data, checkpoints or settings that cannot be used.
      RunError: a loss that is not finite.
    """
    check_config(config)
    with Display(console) as display:
        plan = _plan(config, display)
        mesh = plan.feed.mesh
        batch = _batch(plan)
        data = batch.data if isinstance(batch, Chunk) else batch
        stages: list[dict[str, Any]] = []
        shapes: dict[str, list[int]] = {}
        state, begin = None, 0
        for stage in plan.stages:
            state = placement.put_split((stage.blank or stage.begin)(state), mesh)
            stage = stage.settled(state)
            row, params = _sizes(stage, state, stage.end - begin)
            shapes = shapes or {name: list(x.shape) for name, x in named_leaves(params).items()}
            if stage.end > begin and stage.objective is not None:
                display.says(f"compiling a step of {stage.name}", chapter=stage.name)
                state, taken = _step(stage, state, batch)
                row |= taken
            stages.append(row)
            begin = stage.end
    return {
        "devices": placement.described(mesh),
        "mesh": dict(mesh.shape),
        "batch": {name: list(x.shape) for name, x in data._asdict().items() if x is not None},
        "batch_per_device": config.optim.batch_size // mesh.size,
        "chunk_steps": plan.chunk,
        "shapes": shapes,
        "steps": begin,
        "stages": stages,
        "snap_bytes": _snap_bytes(config, stages),
    }


def _snap_bytes(config: Any, stages: Sequence[Mapping[str, Any]]) -> int:
    """A population of candidates: what a snap that trains them holds once more."""
    if not isinstance(config, SearchConfig) or not config.schedule.snap_steps:
        return 0
    last = stages[-1]
    return int(last["parameters_bytes"] + last["optimizer_bytes"])


def _plan(config: Any, display: Display) -> Plan:
    if isinstance(config, SearchConfig):
        setup = prepare(config, display)
        # Its folder is for what ranking finds, and nothing is ranked.
        stages = phases(setup, display, cast(Any, None))
        return Plan(stages, setup.feed, config.schedule.chunk_steps)
    subject = subject_of(config, display)
    feed = StreamFeed(subject.source, subject.processor, config, subject.mesh)
    # Its loop would train, which nothing here does.
    return Plan(training_of(config, subject, cast(Any, None)).stages, feed, 1)


def _batch(plan: Plan) -> Any:
    """What a step reads: of pictures that lie on the devices a draw, else noise."""
    feed = plan.feed
    if isinstance(feed, ResidentFeed):
        return feed.read(0, 1, plan.chunk)
    size, settings = feed.config.optim.batch_size, feed.processor.settings
    rng = np.random.default_rng(feed.config.seed)
    pixels = (size, settings.size, settings.size, settings.channels)
    texts = getattr(feed.processor, "texts", None)
    classes = len(feed.source.class_names)
    batch = ImageTextBatch(
        rng.integers(0, 256, pixels, np.uint8),
        None if texts is None else texts([f"a picture of number {i}" for i in range(size)]),
        np.asarray(np.arange(size) % classes if classes else np.full(size, -1), np.int32),
    )
    if not feed.chunked:
        return placement.put(batch, placement.batched(feed.mesh))
    chunk = jax.tree.map(lambda x: np.stack([x] * plan.chunk), batch)
    one = placement.put(np.int32(1), placement.replicated(feed.mesh))
    return Chunk(placement.put(chunk, placement.batched(feed.mesh, axis=1)), one)


def _sizes(stage: Stage, state: Any, steps: int) -> tuple[dict[str, Any], Any]:
    """What a stage's state holds, in bytes of one device, and its parameters."""
    trained = getattr(state, "trained", state)
    held = {"parameters_bytes": trained.params, "optimizer_bytes": trained.opt_state}
    sizes = {
        name: sum(_bytes_of_one(x) for x in jax.tree.leaves(tree)) for name, tree in held.items()
    }
    return {"name": stage.name, "steps": steps} | sizes, trained.params


def _bytes_of_one(x: jax.Array) -> int:
    """What one device holds of an array."""
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def _step(stage: Stage, state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    """The state after a compiled call, and what it took."""
    leaves, structure = jax.tree.flatten((state, batch))
    own = len(jax.tree.leaves(state))

    def flat(*leaves: Any) -> Any:
        return stage.step(*jax.tree.unflatten(structure, leaves))

    # Whatever a step has besides its arguments, such as tables of costs, becomes one too.
    traced, shape = jax.make_jaxpr(flat, return_shape=True)(*leaves)

    def program(constants: Any, state: Any, batch: Any) -> Any:
        return jaxpr_as_fun(traced.replace(consts=constants))(*state, *batch)

    start = time.perf_counter()
    compiled = (
        jax.jit(program, donate_argnums=1)
        .lower(list(traced.consts), leaves[:own], leaves[own:])
        .compile()
    )
    compile_s = time.perf_counter() - start
    memory = _memory_bytes(compiled)
    start = time.perf_counter()
    found = jax.block_until_ready(compiled(list(traced.consts), leaves[:own], leaves[own:]))
    step_s = time.perf_counter() - start
    state, metrics = jax.tree.unflatten(jax.tree.structure(shape), found)
    loss = float(np.max(np.asarray(metrics["loss"])))
    if not math.isfinite(loss):
        raise RunError(f"the loss of a step of {stage.name} is {loss} on noise")
    taken: dict[str, Any] = {"loss": loss, "compile_s": compile_s, "step_s": step_s}
    return state, taken | ({} if memory is None else {"memory_bytes": memory})


def _memory_bytes(compiled: Any) -> dict[str, int] | None:
    """Memory of a program on one device, by kind; None where the backend does not tell."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    arguments, results = stats.argument_size_in_bytes, stats.output_size_in_bytes
    kept = stats.alias_size_in_bytes
    temporary = stats.temp_size_in_bytes
    return {
        "arguments": arguments,
        "results": results,
        "kept": kept,
        "activations": temporary,
        "peak": arguments + results - kept + temporary,
    }
