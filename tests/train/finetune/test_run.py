"""A whole fine-tuning on the digits: what it writes, interruption, evaluation, bad input."""

import dataclasses
import io
import json
import os
import shutil
import signal
import threading

import jax
import numpy as np
import pytest
from rich.console import Console

import codesign
from codesign.cli import main
from codesign.errors import RunError, Stalled, UserError
from codesign.models.formats import save_clip
from codesign.runs import read_metrics
from codesign.termination import Terminated, raised
from codesign.train import clip_subject
from codesign.train.data import SourceConfig
from codesign.train.finetune.config import (
    FinetuneConfig,
    LossConfig,
    OptimConfig,
    ScheduleConfig,
)
from codesign.train.run import Training
from codesign.train.step import train_step
from simulators.networks import random_clip
from simulators.poison import left_out, poisoned
from simulators.tiny_training import DIGITS, HELD_OUT, NETWORK, SHIFTED, run

pytestmark = pytest.mark.usefixtures("quick_compilation", "steps_compiled_once")

CONFIG = FinetuneConfig(
    train=DIGITS,
    validation=HELD_OUT,
    untrained=NETWORK,
    augment=SHIFTED,
    optim=OptimConfig(batch_size=16, lr=3e-3, warmup_steps=2, ema=0.9),
    schedule=ScheduleConfig(steps=12, evaluate_steps=6, checkpoint_steps=4, log_steps=3),
    threads=1,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "whole"
    return path, run(CONFIG, path, check=True)


def test_a_run_writes_metrics_network_and_report(finished):
    path, summary = finished
    rows = read_metrics(path / "metrics.jsonl")
    steps = [row["step"] for row in rows if row["phase"] == "finetune"]
    assert steps == list(range(12))
    assert rows[0]["learning_rate"] == 0 < rows[2]["learning_rate"] == pytest.approx(3e-3)
    assert [row["step"] for row in rows if row["phase"] == "validation"] == [5]
    assert summary["steps"] == 12 and summary["validation"]["images"] == 60
    assert json.loads((path / "summary.json").read_text())["steps"] == 12
    assert (path / "report.html").is_file() and (path / "loss.png").is_file()
    assert list((path / "tensorboard").iterdir())
    top_1 = summary["validation"]["zero_shot"]["top_1"]
    assert f"| zero-shot accuracy | {100 * top_1:.1f} % |" in (path / "clip/README.md").read_text()


def test_the_delivered_network_evaluates_to_what_the_run_said(finished, capsys):
    path, summary = finished
    arguments = ["eval", str(path / "clip"), "--data", "digits", "--split", "validation"]
    assert main([*arguments, "--limit", "60", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["zero_shot"] == summary["validation"]["zero_shot"]
    assert result["zero_shot"]["classes"] == 10 and result["zero_shot"]["templates"] == 6


def test_an_interrupted_run_goes_on_to_the_same_end(finished, tmp_path, cut_off):
    path, summary = finished
    with cut_off(7):
        run(CONFIG, tmp_path / "cut")
    resumed = run(CONFIG, tmp_path / "cut", resume=True)
    assert resumed["validation"] == summary["validation"]

    def losses(folder):
        rows = read_metrics(folder / "metrics.jsonl")
        return [(row["step"], row.get("loss"), row.get("validation")) for row in rows]

    assert losses(tmp_path / "cut") == losses(path)
    ours, theirs = (codesign.load_clip(p / "clip") for p in (path, tmp_path / "cut"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_fresh_run_compiles_its_step_once(tmp_path, cut_off):
    train_step.clear_cache()
    with cut_off(5):
        run(CONFIG, tmp_path / "cut")
    assert train_step._cache_size() == 1


def lines(folder):
    """Every line of metrics, but for what is measured of a run's own time."""
    return (folder / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("damage", ["state", "meta"])
def test_a_damaged_newest_checkpoint_costs_its_steps_and_nothing_else(
    finished, tmp_path, cut_off, damage
):
    path, _ = finished
    cut = tmp_path / "cut"
    with cut_off(11):
        run(CONFIG, cut)
    shutil.rmtree(cut / "checkpoints" / "steps" / "8" / damage)
    told = io.StringIO()
    run(CONFIG, cut, resume=True, console=Console(file=told, width=200))
    assert "the checkpoint of step 8 is damaged" in told.getvalue()
    assert lines(cut) == lines(path)
    assert not (cut / "checkpoints" / "damaged").exists(), "once the run is over"


def test_lost_metrics_are_told_of_on_resume(tmp_path, cut_off):
    cut = tmp_path / "cut"
    with cut_off(7):
        run(CONFIG, cut)
    (cut / "metrics.jsonl").unlink()
    told = io.StringIO()
    run(CONFIG, cut, resume=True, console=Console(file=told, width=200))
    assert "no line for 4 of the 4 steps up to the checkpoint" in told.getvalue()
    assert read_metrics(cut / "metrics.jsonl")[0]["step"] == 4


@pytest.mark.parametrize("at", [2, 6, 7])
def test_sigterm_saves_between_two_steps_and_the_run_goes_on_to_the_same_end(
    finished, tmp_path, monkeypatch, at
):
    """At 6 it comes while the network is evaluated, which is then done on resume."""
    path, _ = finished
    cut = tmp_path / "cut"
    trained, measured = train_step, Training.measured

    def step(state, *rest):
        if int(state.step) + 1 == at != 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return trained(state, *rest)

    def measure(*arguments):
        if at == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return measured(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("codesign.train.run.train_step", step)
        patch.setattr(Training, "measured", measure)
        with pytest.raises(Terminated), raised():
            run(CONFIG, cut)
    newest = max(int(p.name) for p in (cut / "checkpoints" / "steps").iterdir())
    assert newest == at and len(read_metrics(cut / "metrics.jsonl")) == at + (at > 6)
    run(CONFIG, cut, resume=True)
    assert lines(cut) == lines(path)
    ours, theirs = (codesign.load_clip(p / "clip") for p in (path, cut))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_training_goes_on_from_a_checkpoint_under_its_teacher(finished, tmp_path, capsys):
    path, _ = finished
    config = dataclasses.replace(
        CONFIG,
        checkpoint=str(path / "clip"),
        loss=LossConfig(teacher=str(path / "clip"), features=1.0),
        optim=OptimConfig(batch_size=16, lr=1e-6, warmup_steps=0, micro_batches=2),
        schedule=ScheduleConfig(steps=2, evaluate_steps=0, checkpoint_steps=2),
        lock="text",
    )
    run(config, tmp_path / "on")
    first = read_metrics(tmp_path / "on" / "metrics.jsonl")[0]
    # Its own teacher: it has nothing to learn from it yet.
    assert abs(first["distillation_loss"]) < 1e-5 and first["feature_loss"] < 1e-5
    assert first["loss"] == pytest.approx(first["contrastive_loss"], abs=2e-5)
    assert main(["report", str(tmp_path / "on"), str(path)]) == 0
    assert "zero-shot top-1" in capsys.readouterr().out


@pytest.fixture(scope="module")
def poisoned_run(tmp_path_factory):
    """A run with two batches that make its loss NaN, and what it told."""
    path, told = tmp_path_factory.mktemp("run") / "poisoned", io.StringIO()
    with poisoned(BAD):
        summary = run(CONFIG, path, check=None, console=Console(file=told, width=200))
    return path, summary, told.getvalue()


BAD = (0, 3, 5)


def test_a_source_that_blocks_is_named_and_the_run_goes_on_to_the_same_end(
    finished, tmp_path, monkeypatch
):
    """A picture of the seventh batch never comes, while another thread still waits for it."""
    path, _ = finished
    let_go, opened = threading.Event(), clip_subject.open_source
    config = dataclasses.replace(CONFIG, stall_s=1.5)
    read: list[int] = []

    def blocking(source_config, *rest):
        source = opened(source_config, *rest)
        if source_config != CONFIG.train:
            return source

        def image(i):
            read.append(i)
            if len(read) == 6 * 16 + 5:
                assert let_go.wait(120)
            return source.image(i)

        return dataclasses.replace(source, image=image)

    told = io.StringIO()
    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(clip_subject, "open_source", blocking)
        with pytest.raises(Stalled, match=r"no picture of digits came for 3.*--stall_s") as caught:
            run(config, cut, console=Console(file=told, width=300))
    assert f", while digits image {read[-1]} is read" in str(caught.value)
    assert told.getvalue().count("In 1.5 s the run ends") == 1
    let_go.set()
    assert "6" in {p.name for p in (cut / "checkpoints" / "steps").iterdir()}
    run(CONFIG, cut, resume=True)  # also with another stall_s
    assert lines(cut) == lines(path)


def test_a_step_that_is_not_finite_is_left_out_and_told_of(poisoned_run, tmp_path):
    path, summary, told = poisoned_run
    with poisoned(()), left_out(BAD):
        run(CONFIG, tmp_path / "without")
    for network in ("clip",):
        ours, theirs = (codesign.load_clip(p / network) for p in (path, tmp_path / "without"))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a, b)
    rows, others = (read_metrics(p / "metrics.jsonl") for p in (path, tmp_path / "without"))
    assert [r for r in rows if r["step"] not in BAD] == [r for r in others if r["step"] not in BAD]
    bad = [row for row in rows if "rolled_back" in row]
    assert [row["step"] for row in bad] == list(BAD) and all(row["rolled_back"] for row in bad)
    assert bad[0]["loss"] is None and bad[0]["learning_rate"] == 0
    assert summary["rolled_back_steps"] == 3
    assert told.count("loss or gradient are not finite at step 0") == 1
    assert "3 of 12 steps were not finite: left out" in told
    assert "steps rolled back" in (path / "report.html").read_text()


def test_a_run_resumed_between_steps_that_were_left_out_ends_the_same(
    poisoned_run, tmp_path, cut_off
):
    path, *_ = poisoned_run
    with poisoned(BAD):
        with cut_off(8):
            run(CONFIG, tmp_path / "cut")
        run(CONFIG, tmp_path / "cut", resume=True)
    assert lines(tmp_path / "cut") == lines(path)
    ours, theirs = (codesign.load_clip(p / "clip") for p in (path, tmp_path / "cut"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_too_many_steps_that_are_not_finite_end_the_run_in_one_line(tmp_path, cut_off):
    """Those before a resume count as well."""
    hot = tmp_path / "hot"
    with poisoned(range(1, 12)):
        with cut_off(10):
            run(CONFIG, hot)
        with pytest.raises(RunError, match=r"not finite at step 10, .* the 9 steps") as caught:
            run(CONFIG, hot, resume=True)
    assert "\n" not in str(caught.value) and "the checkpoint of step 8, from" in str(caught.value)
    rows = read_metrics(hot / "metrics.jsonl")
    assert [row["step"] for row in rows if row["phase"] == "finetune"] == list(range(12))
    assert [p.name for p in (hot / "checkpoints" / "steps").iterdir() if p.name == "8"] == ["8"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": SourceConfig(path="")}, "--train.path is empty"),
        ({"train": SourceConfig(path="nowhere/at/all")}, "does not exist"),
        ({"optim": OptimConfig(batch_size=10, micro_batches=4)}, "does not divide"),
        ({"optim": OptimConfig(lr=0.0)}, "above 0"),
        ({"optim": OptimConfig(ema=1.0)}, "below 1"),
        ({"schedule": ScheduleConfig(steps=0)}, "schedule.steps is 0"),
        ({"loss": LossConfig(contrastive=0)}, "nothing to learn"),
        ({"checkpoint": "no_such_file.pt"}, "no_such_file.pt"),
        ({"untrained": dataclasses.replace(CONFIG.untrained, patch=3)}, "multiple of patch"),
    ],
)
def test_bad_settings_are_one_line(changes, message, tmp_path):
    config = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(UserError, match=message) as caught:
        run(config, tmp_path / "bad")
    assert "\n" not in str(caught.value)


def test_a_teacher_of_another_vocabulary_is_refused(finished, tmp_path):
    path, _ = finished
    clip = codesign.load_clip(path / "clip")
    other = dataclasses.replace(clip.architecture, vocab=clip.architecture.vocab + 5)
    save_clip(random_clip(other), tmp_path / "other", "native")
    config = dataclasses.replace(CONFIG, loss=LossConfig(teacher=str(tmp_path / "other")))
    with pytest.raises(UserError, match="its vocab is"):
        run(config, tmp_path / "bad")


def test_a_teacher_that_reads_other_texts_is_refused(finished, tmp_path):
    """Of as many words, two of them in each other's place."""
    path, _ = finished
    teacher = shutil.copytree(path / "clip", tmp_path / "teacher")
    words = json.loads((teacher / "tokenizer.json").read_text())
    vocab = words["model"]["vocab"]
    vocab["two"], vocab["three"] = vocab["three"], vocab["two"]
    (teacher / "tokenizer.json").write_text(json.dumps(words))
    config = dataclasses.replace(CONFIG, loss=LossConfig(teacher=str(teacher)))
    with pytest.raises(UserError, match=r"reads '.*(two|three).*' otherwise than the student's"):
        run(config, tmp_path / "bad")


@pytest.mark.slow
def test_prune_keeps_scores_and_writes_a_network_that_evaluates(finished, tmp_path, capsys):
    path, _ = finished
    arguments = ["prune", str(path / "clip"), "--importance", str(tmp_path / "scores.safetensors")]
    sizes = [
        "--keep",
        "ffn=0.5",
        "vision.layers=0.5",
        "--data",
        "digits",
        "--samples",
        "64",
        "--batch-size",
        "32",
    ]
    assert main([*arguments[:2], str(tmp_path / "a"), *arguments[2:], *sizes, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["architecture"]["vision"] == {"layers": 1, "width": 16, "heads": 2, "ffn": 16}
    assert told["parameters"] < told["parameters_before"]
    # The second time the scores are read, so no data are needed.
    again = [*arguments[:2], str(tmp_path / "b"), *arguments[2:], *sizes[:3]]
    assert main(again) == 0
    ours, theirs = (codesign.load_clip(tmp_path / name) for name in "ab")
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
    assert main(["eval", str(tmp_path / "a"), "--data", "digits", "--limit", "30"]) == 0


def test_scores_of_a_file_are_those_of_its_method(finished, tmp_path, capsys):
    clip, scores = str(finished[0] / "clip"), str(tmp_path / "scores.safetensors")
    rest = ["--keep", "ffn=0.5", "--importance", scores]
    first = ["prune", clip, str(tmp_path / "a"), *rest, "--method", "magnitude"]
    assert main(first) == 0
    assert main(["prune", clip, str(tmp_path / "b"), *rest, "--json"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("{") :])["method"] == "magnitude"
    assert "by magnitude importance" in (tmp_path / "b" / "README.md").read_text()
    assert main(["prune", clip, str(tmp_path / "c"), *rest, "--method", "taylor"]) == 2
    error = capsys.readouterr().err
    assert f"{scores} holds scores by magnitude" in error and error.count("\n") == 1
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", "half"], "expected one share"),
        (["--keep", "1.5"], "--keep"),
        (["--keep", "depth=0.5"], "depth"),
        (["--keep", "ffn=0.5", "ffn=1"], "ffn is there twice; give it once"),
        (["--keep", "0.5"], "give --data"),
        (["--keep", "0.5", "--method", "magnitude", "--design", "x.json"], "not allowed with"),
        ([], "one of the arguments"),
    ],
)
def test_bad_pruning_is_one_line(finished, tmp_path, capsys, arguments, message):
    path, _ = finished
    assert main(["prune", str(path / "clip"), str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
