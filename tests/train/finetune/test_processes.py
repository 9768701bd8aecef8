"""The same training by one process, by two, and on eight devices."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from codesign.runs import read_metrics

pytestmark = pytest.mark.slow

CONFIG = '''
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
'''


def start(folder, out, *options, **environment):
    config = folder / "config_of_test.py"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "codesign", "finetune", str(config), "--out", str(out),
               "--json", *options]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
    )  # fmt: skip


def finished(process):
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return json.loads(out)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def two(folder, out, *options):
    address = f"127.0.0.1:{free_port()}"
    processes = [
        start(folder, out, "--distributed", *options, JAX_COORDINATOR_ADDRESS=address,
              JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(index))
        for index in range(2)
    ]  # fmt: skip
    return [finished(process) for process in processes]


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


def test_two_processes_train_what_one_does(alone, tmp_path):
    results = two(tmp_path, tmp_path / "run")
    assert results[0]["validation"] == results[1]["validation"]
    assert results[0]["devices"]["count"] == 2
    assert_same(read_metrics(tmp_path / "run" / "metrics.jsonl"), alone[1])


def test_two_processes_resume(alone, tmp_path):
    two(tmp_path, tmp_path / "run", "--schedule.steps", "4")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    record["config"]["schedule"]["steps"] = 6  # a run that was cut off after four
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    two(tmp_path, tmp_path / "run", "--resume")
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["phase"] == "finetune"] == list(range(6))


def test_two_processes_stop_at_the_same_step_on_sigterm(alone, tmp_path):
    out, steps = tmp_path / "run", ["--schedule.steps", "2000", "--schedule.evaluate_steps", "0"]
    address = f"127.0.0.1:{free_port()}"
    processes = [
        start(tmp_path, out, "--distributed", *steps, JAX_COORDINATOR_ADDRESS=address,
              JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(index))
        for index in range(2)
    ]  # fmt: skip
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


def test_eight_devices_train_what_one_does(alone, tmp_path):
    flags = "--xla_force_host_platform_device_count=8"
    result = finished(start(tmp_path, tmp_path / "run", XLA_FLAGS=flags))
    assert result["devices"]["count"] == 8
    assert_same(read_metrics(tmp_path / "run" / "metrics.jsonl"), alone[1])
