"""The same training by one process, by two, and on eight devices."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from codesign.runs import read_metrics
from simulators.processes import finished, free_port, started, two

pytestmark = pytest.mark.slow

CONFIG = """
from codesign.architecture import Architecture, Tower
from codesign.train.data import AugmentConfig, SourceConfig
from codesign.train.finetune.config import FinetuneConfig, OptimConfig, ScheduleConfig

config = FinetuneConfig(
    train=SourceConfig(path="digits"),
    validation=SourceConfig(path="digits", split="validation", limit=61),
    untrained=Architecture(
        vision=Tower(layers=2, width=16, heads=2, ffn=32),
        text=Tower(layers=1, width=16, heads=2, ffn=32),
        patch=4, image=8, channels=1, context=12, projection=16, head_dim=8,
    ),
    augment=AugmentConfig(crop_scale=(1.0, 1.0), shift=1),
    optim=OptimConfig(batch_size=16, lr=3e-3, warmup_steps=2),
    schedule=ScheduleConfig(steps=6, evaluate_steps=3, checkpoint_steps=2, log_steps=2),
    threads=1,
)
"""


def start(folder, out, *options, **environment):
    config = folder / "config_of_test.py"
    config.write_text(CONFIG)
    return started("finetune", config, out, *options, **environment)


def both_finished(folder, out, *options):
    return [finished(process) for process in two(start, folder, out, *options)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return finished(start(folder, folder / "run")), read_metrics(folder / "run" / "metrics.jsonl")


def assert_same(rows, others):
    assert [(r["step"], r["phase"]) for r in rows] == [(r["step"], r["phase"]) for r in others]
    for row, other in zip(rows, others, strict=True):
        if "loss" in row:
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
            assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        else:
            top = row["validation"]["zero_shot"]["top_1"]
            assert top == pytest.approx(other["validation"]["zero_shot"]["top_1"], abs=0.02)
            assert row["validation"]["images"] == other["validation"]["images"] == 61


@pytest.mark.parametrize("fsdp", ["1", "2"])
def test_two_processes_train_what_one_does(alone, fsdp, tmp_path):
    results = both_finished(tmp_path, tmp_path / "run", "--fsdp", fsdp)
    assert results[0]["validation"] == results[1]["validation"]
    assert results[0]["devices"]["count"] == 2
    assert_same(read_metrics(tmp_path / "run" / "metrics.jsonl"), alone[1])


def test_two_processes_resume(alone, tmp_path):
    both_finished(tmp_path, tmp_path / "run", "--schedule.steps", "4")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    record["config"]["schedule"]["steps"] = 6  # a run that was cut off after four
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    both_finished(tmp_path, tmp_path / "run", "--resume")
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["phase"] == "finetune"] == list(range(6))


def test_one_process_goes_on_with_a_run_of_two(alone, tmp_path):
    out = tmp_path / "run"
    both_finished(tmp_path, out)
    shutil.rmtree(out / "checkpoints" / "steps" / "6")
    process = start(tmp_path, out, "--resume")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "the run was begun by 2 processes and goes on with 1" in errors
    assert_same(read_metrics(out / "metrics.jsonl"), alone[1])


def test_two_processes_stop_at_the_same_step_on_sigterm(alone, tmp_path):
    out, steps = tmp_path / "run", ["--schedule.steps", "2000", "--schedule.evaluate_steps", "0"]
    processes = two(start, tmp_path, out, *steps)
    while not (out / "metrics.jsonl").exists() and processes[0].poll() is None:
        time.sleep(0.1)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        told, errors = process.communicate(timeout=300)
        assert (process.returncode, told) == (0, ""), errors
        assert "stopped by SIGTERM; the run is kept" in errors and "--distributed" in errors
    saved = max(int(path.name) for path in (out / "checkpoints" / "steps").iterdir())
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(saved)) and saved < 2000


def one_line(errors):
    """The line of the program's own, where it is the only one and there is no traceback."""
    (line,) = [line for line in errors.splitlines() if line.startswith("codesign: ")]
    for noise in ("Traceback", "Gloo all", "coordination", "stack trace", "heartbeat"):
        assert noise not in errors, errors
    return line


def begun(processes, out, when):
    """Waits until the second process compiles, trains or writes a checkpoint."""
    if when == "compiling":
        assert any("training, steps" in line for line in processes[1].stderr)
    while all(process.poll() is None for process in processes):
        if when == "compiling":
            time.sleep(1)
            return
        if when == "training" and (out / "metrics.jsonl").exists():
            return
        if when == "writing" and list((out / "checkpoints").glob("steps/*tmp*")):
            return
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("when", "victim"), [("compiling", 1), ("training", 0), ("training", 1), ("writing", 0)]
)
def test_the_death_of_one_ends_the_other_in_a_line_and_both_resume(when, victim, tmp_path):
    out = tmp_path / "run"
    more = ["--schedule.evaluate_steps", "0", "--no-check"]
    if when == "writing":
        more += ["--schedule.checkpoint_steps", "1"]
    processes = two(start, tmp_path, out, "--schedule.steps", "20000", *more)
    begun(processes, out, when)
    processes[victim].kill()
    killed = time.monotonic()
    _, errors = processes[1 - victim].communicate(timeout=300)
    assert time.monotonic() - killed < 60
    assert processes[1 - victim].returncode == 1, errors
    line = one_line(errors)
    assert "another process of this run has ended" in line and "--distributed" in line
    processes[victim].communicate()
    record = json.loads((out / "config.json").read_text())
    steps = 6
    if (out / "checkpoints" / "steps").exists():
        done = [int(p.name) for p in (out / "checkpoints" / "steps").iterdir() if p.name.isdigit()]
        steps = max([*done, 0]) + 4
    record["config"]["schedule"]["steps"] = steps  # or it would go on for long
    (out / "config.json").write_text(json.dumps(record))
    both_finished(tmp_path, out, "--resume", "--schedule.steps", str(steps), *more)
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(steps))


# The patience of JAX's own, five minutes, is made short.
IMPATIENT = """
import sys, jax
join = jax.distributed.initialize
jax.distributed.initialize = lambda **told: join(initialization_timeout=10, **told)
from codesign.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("index", [0, 1])
def test_one_whose_peers_never_come_ends_in_a_line(index, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, "finetune", "digits_clip", "--distributed"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(index),
        },
    )
    assert done.returncode in (1, 2) and done.stdout == "", done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("codesign: --distributed: the other processes"), line
    assert not (tmp_path / "runs").exists()


def test_what_one_alone_refuses_ends_both_in_a_line(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "metrics.jsonl").write_text('{"step": 0}\n')
    began = time.monotonic()
    processes = two(start, tmp_path, out)
    ends = [process.communicate(timeout=300)[1] for process in processes]
    assert time.monotonic() - began < 150
    assert [process.returncode for process in processes] == [2, 1], ends
    assert "already holds a run; add --resume" in one_line(ends[0])
    assert "another process of this run has ended" in one_line(ends[1])


EIGHT = "--xla_force_host_platform_device_count=8"


def test_eight_devices_train_what_one_does(alone, tmp_path):
    result = finished(start(tmp_path, tmp_path / "run", XLA_FLAGS=EIGHT))
    assert result["devices"]["count"] == 8
    assert_same(read_metrics(tmp_path / "run" / "metrics.jsonl"), alone[1])


def test_what_is_split_and_by_chunks_is_what_one_does_and_goes_on_whole(alone, tmp_path):
    out = tmp_path / "run"
    more = ["--fsdp", "4", "--optim.logits_chunk", "8"]
    split = finished(start(tmp_path, out, *more, XLA_FLAGS=EIGHT))
    assert split["validation"]["images"] == alone[0]["validation"]["images"]
    assert_same(read_metrics(out / "metrics.jsonl"), alone[1])
    shutil.rmtree(out / "checkpoints" / "steps" / "6")
    finished(start(tmp_path, out, *more[2:], "--resume"))  # on one device
    assert_same(read_metrics(out / "metrics.jsonl"), alone[1])
