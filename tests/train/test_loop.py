"""The loop of every stage, around a step of a sum: what is traced, and data that stop."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from codesign.errors import Stalled
from codesign.runs import RunFolder, read_metrics
from codesign.train.checkpoints import Checkpoints
from codesign.train.data.watch import WatchedStream
from codesign.train.loggers import Loggers
from codesign.train.loop import Intervals, Loop
from codesign.train.profile import Profile
from codesign.train.progress import Display
from codesign.train.step import Chunk
from codesign.train.tracking import RunTracker

STAGE, STEPS = "finetune", 12


@jax.jit
def step(state, batch):
    """The state after a batch, one number, and its metrics."""
    return state + batch, {"loss": state, "rolled_back": jnp.array(False)}


@jax.jit
def chunk_step(state, chunk):
    """Likewise of a chunk."""
    size = chunk.data.shape[0]
    metrics = {"loss": jnp.full(size, 1.0), "rolled_back": jnp.zeros(size, bool)}
    return state + chunk.data.sum(), metrics


class Feed:
    """Numbers, one a step; `stalls` raises before that step, a batch further on."""

    skipped = None

    def __init__(self, chunked=False, stalls=None):
        self.chunked, self._stalls, self._read = chunked, stalls, 0

    @contextlib.contextmanager
    def open(self):
        yield self

    def read(self, step, steps, size):
        self._read += 1
        if step == self._stalls:
            raise Stalled("no picture came")
        numbers = np.arange(step, step + size, dtype=np.float32)
        return Chunk(numbers, np.int32(steps)) if self.chunked else numbers[0]

    def place(self):
        return {"read": self._read}

    def restore(self, place):
        pass


def run(path, feed, profile=0, chunk=1, evaluate_steps=0, begin=0, end=STEPS):
    """Runs the loop; the state, what was said, and the steps that have a checkpoint."""
    told = io.StringIO()
    folder = RunFolder.create(path, {"seed": 0}, resume=True)
    function = chunk_step if feed.chunked else step
    try:
        with (
            Checkpoints(folder.checkpoints) as checkpoints,
            Display(Console(file=told, width=1000)) as display,
            RunTracker() as tracker,
        ):
            loop = Loop(
                Intervals(100, evaluate_steps, 3, chunk),
                folder,
                checkpoints,
                Loggers({}, display.says),
                tracker,
                display,
                feed,
                profile=Profile(folder.path / "profile", profile),
            )
            state, _ = loop.run(
                STAGE, jnp.zeros(()), None, begin, end, function, lambda _: ({}, "evaluated")
            )
    except Stalled:
        state = None
    kept = [int(p.name) for p in (path / "checkpoints" / "steps").iterdir() if p.name.isdecimal()]
    return state, told.getvalue(), kept


def traced(path):
    """The numbers of the steps in the trace, and the names of all programs that were compiled."""
    (file,) = (path / "profile" / STAGE).rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    steps = [int(e["args"]["step_num"]) for e in events if e.get("name") == STAGE]
    return steps, [e["name"] for e in events if "compile" in e.get("name", "").lower()]


def test_steps_after_the_first_are_traced(tmp_path):
    state, told, _ = run(tmp_path / "run", Feed(), profile=4)
    steps, compiled = traced(tmp_path / "run")
    assert steps == [1, 2, 3, 4] and not compiled
    assert told.count(f"steps 1 to 4 are traced in {tmp_path}/run/profile/{STAGE}: tensorb") == 1
    assert float(state) == sum(range(STEPS))


def test_whole_chunks_are_traced(tmp_path):
    _, told, _ = run(tmp_path / "run", Feed(chunked=True), profile=4, chunk=3)
    assert traced(tmp_path / "run")[0] == [3, 6] and "steps 3 to 8 are traced" in told


def test_a_trace_ends_before_an_evaluation_and_with_the_stage(tmp_path):
    _, told, _ = run(tmp_path / "a", Feed(), profile=40, evaluate_steps=4)
    assert traced(tmp_path / "a")[0] == [1, 2, 3] and "steps 1 to 3 are traced" in told
    run(tmp_path / "b", Feed(), profile=40)
    assert traced(tmp_path / "b")[0] == list(range(1, STEPS))


def test_nothing_is_traced_unless_asked_for_or_of_one_step(tmp_path):
    _, told, _ = run(tmp_path / "run", Feed())
    assert not (tmp_path / "run" / "profile").exists()
    _, told, _ = run(tmp_path / "one", Feed(), profile=3, end=1)
    assert "traced" not in told


def test_data_that_stall_leave_the_steps_taken_in_a_checkpoint(tmp_path):
    state, _, kept = run(tmp_path / "run", Feed(stalls=7))
    assert state is None and kept == [7]
    assert [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [*range(7)]
    with Checkpoints((tmp_path / "run" / "checkpoints").resolve()) as checkpoints:
        saved = checkpoints.latest([STAGE], print)
    assert saved.notes["places"] == [{"read": 7}], "not where the batch was sought"
    assert run(tmp_path / "none", Feed(stalls=0))[2] == []


class Stream:
    """A stream of numbers that waits for a picture of the third until it is let go."""

    name = "pictures"

    def __init__(self):
        self.go_on = threading.Event()
        self.skipped, self.given, self.read_at = None, 0, 0.0

    def reading(self):
        return ["shard-3.tar:a.jpg", "shard-4.tar:b.jpg"]

    def __next__(self):
        if self.given == 2:
            assert self.go_on.wait(60)
        self.given += 1
        return self.given


def test_a_stream_that_stalls_is_named_and_then_an_error():
    stream, said = Stream(), []
    watched = WatchedStream(stream, 0.3, said.append)
    assert [next(watched), next(watched)] == [1, 2]
    quiet = r"no picture of pictures came for 0\.[6-9].*, while shard-3.*raise --stall_s"
    with pytest.raises(Stalled, match=quiet):
        next(watched)
    assert len(said) == 1 and "while shard-3.tar:a.jpg and 1 more is read" in said[0]
    stream.go_on.set()
    watched.close()


def test_a_slow_stream_is_no_stalled_one():
    """As long as pictures come, a batch may take its time."""
    stream, said = Stream(), []
    stream.given = 2
    watched = WatchedStream(stream, 1.0, said.append)

    def pictures():
        for _ in range(12):
            time.sleep(0.2)
            stream.read_at = time.monotonic()
        stream.go_on.set()

    threading.Thread(target=pictures, daemon=True).start()
    assert next(watched) == 3 and not said
    watched.close()


def test_what_a_stream_raises_is_raised_where_it_is_asked():
    stream = Stream()
    stream.given = "x"
    watched = WatchedStream(stream, 60, print)
    with pytest.raises(TypeError):
        next(watched)
    watched.close()
