"""`--dry-run`: what is told, against the arrays themselves; nothing is written; bad input."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from codesign.cli import main
from codesign.train.dry_run import dry_run
from codesign.train.finetune.config import FinetuneConfig, OptimConfig, ScheduleConfig
from codesign.workload.clip import ClipNetwork
from simulators.tiny_runs import RUNS, SEARCH
from simulators.tiny_training import DIGITS, NETWORK, QUIET, SHIFTED

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = FinetuneConfig(
    train=DIGITS,
    untrained=NETWORK,
    augment=SHIFTED,
    optim=OptimConfig(batch_size=16, lr=3e-3, warmup_steps=2),
    schedule=ScheduleConfig(steps=12),
    threads=1,
)


@pytest.fixture(scope="module")
def found():
    return dry_run(CONFIG, QUIET)


def test_shapes_are_those_of_network_and_batch(found):
    assert found["batch"] == {"images": [16, 8, 8, 1], "ids": [16, 12], "labels": [16]}
    assert found["batch_per_device"] * jax.device_count() == 16
    numbers = sum(math.prod(shape) for shape in found["shapes"].values())
    vocabulary = next(s[0] for n, s in found["shapes"].items() if "token" in n)
    network = dataclasses.replace(NETWORK, vocab=vocabulary)
    # And the bias of the sigmoid loss, which is there whatever the loss.
    assert numbers == ClipNetwork(network).parameters() + 1
    (stage,) = found["stages"]
    assert stage["parameters_bytes"] == 4 * numbers
    # Two moments, and counts.
    assert 8 * numbers <= stage["optimizer_bytes"] <= 8 * numbers + 100


def test_a_step_of_the_stage_is_compiled_and_taken(found):
    (stage,) = found["stages"]
    assert (stage["name"], stage["steps"], found["steps"]) == ("finetune", 12, 12)
    # Noise and its captions have nothing in common: the loss is about that of guessing.
    assert stage["loss"] == pytest.approx(np.log(16), rel=0.35)
    memory = stage["memory_bytes"]
    state = stage["parameters_bytes"] + stage["optimizer_bytes"]
    assert memory["arguments"] >= state
    assert memory["activations"] > 0
    parts = memory["arguments"] + memory["results"] - memory["kept"] + memory["activations"]
    assert memory["peak"] == parts


def test_sharding_is_told(found):
    assert found["mesh"] == {"data": jax.device_count(), "fsdp": 1}


def test_a_larger_batch_takes_more_activations_and_no_more_weights(found):
    optim = dataclasses.replace(CONFIG.optim, batch_size=64)
    larger = dry_run(dataclasses.replace(CONFIG, optim=optim), QUIET)["stages"][0]
    (stage,) = found["stages"]
    assert larger["memory_bytes"]["activations"] > 2 * stage["memory_bytes"]["activations"]
    assert larger["parameters_bytes"] == stage["parameters_bytes"]


@pytest.mark.slow  # compiles three programs
def test_search_tells_every_stage_and_writes_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.py").write_text(SEARCH)
    monkeypatch.chdir(tmp_path)
    assert main(["search", "tiny.py", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in found["stages"]] == ["warmup", "elastic", "joint", "tune"]
    assert [s["steps"] for s in found["stages"]] == [5] * 4 and found["steps"] == 20
    warmup, elastic, joint, tune = found["stages"]
    designs = joint["parameters_bytes"] / warmup["parameters_bytes"]
    assert designs == round(designs) > 1, "a copy of the supernet each"
    assert all(math.isfinite(stage["loss"]) for stage in (warmup, elastic, joint, tune))
    assert found["snap_bytes"] == joint["parameters_bytes"] + joint["optimizer_bytes"]
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["tiny.py"]


@pytest.mark.slow
def test_a_table_tells_the_same(tmp_path, monkeypatch, capsys):
    command, text, _ = RUNS["dress"]
    (tmp_path / "tiny.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main([command, "tiny.py", "--optim.batch_size", "32", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    written = [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"]
    assert "subnets" in printed and "norms" in printed and "32 examples" in printed
    assert "nothing was written" in printed and written == ["tiny.py"]
    assert "snapping" not in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "hardware", "--dry-run"], "hardware trains nothing"),
        (["search", "quickstart", "--dry-run", "--resume"], "drop --resume"),
        (["finetune", "digits_clip", "--dry-run", "--distributed"], "drop --distributed"),
        (["finetune", "digits_clip", "--dry-run", "--profile", "3"], "drop --profile"),
        (["finetune", "digits_clip", "--profile", "0"], "0 is not a whole number of steps above 0"),
        (["search", "hardware", "--model", "vit-b-16", "--profile", "3"], "trains nothing"),
        (["finetune", "digits_clip", "--dry-run", "--optim.batch_size", "0"], "batch_size"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
