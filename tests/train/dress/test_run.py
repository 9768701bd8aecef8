"""A whole DRESS run on the digits: stages, interruption, the family it writes, bad input."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import codesign
from codesign.cli import main
from codesign.errors import UserError
from codesign.models.subnets import load_family
from codesign.runs import read_metrics
from codesign.train.dress.config import DressConfig, SubnetsConfig
from codesign.train.finetune.config import OptimConfig
from codesign.train.shared_config import IntervalsConfig
from simulators.poison import left_out, poisoned
from simulators.tiny_training import DIGITS, HELD_OUT, NETWORK, SHIFTED, run

pytestmark = pytest.mark.usefixtures("quick_compilation", "steps_compiled_once")

CONFIG = DressConfig(
    train=DIGITS,
    validation=HELD_OUT,
    untrained=NETWORK,
    augment=SHIFTED,
    optim=OptimConfig(batch_size=16, lr=3e-3, warmup_steps=2),
    schedule=IntervalsConfig(evaluate_steps=7, checkpoint_steps=2, log_steps=3),
    threads=1,
    subnets=SubnetsConfig(
        sparsities=(0.5, 0.8),
        dense_steps=3,
        joint_steps=5,
        post_steps=3,
        joint_lr=1e-3,
        post_lr=1e-2,
        refresh_steps=2,
    ),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "whole"
    return path, run(CONFIG, path, check=True)


def test_a_run_goes_through_its_stages_and_writes_the_family(finished):
    path, summary = finished
    rows = read_metrics(path / "metrics.jsonl")
    stages = [row["phase"] for row in rows if row["phase"] != "validation"]
    assert stages == ["dense"] * 3 + ["subnets"] * 5 + ["norms"] * 3
    assert len(rows[3]["subnet_loss"]) == 2
    middle = next(row for row in rows if row["phase"] == "validation")
    assert middle["step"] == 6 and len(middle["validation"]["subnets"]) == 2
    assert [subnet["sparsity"] for subnet in summary["subnets"]] == [0.5, 0.8]
    for subnet in summary["subnets"]:
        assert subnet["density"] == pytest.approx(1 - subnet["sparsity"], abs=0.02)
        assert subnet["validation"]["images"] == 60
    assert summary["bytes"]["packed"] < summary["bytes"]["csr"]
    assert (path / "report.html").is_file()


def test_subnets_of_the_file_are_what_was_measured(finished, capsys, tmp_path):
    path, summary = finished
    family = str(path / "family")
    for k, subnet in enumerate(summary["subnets"]):
        arguments = ["eval", family, "--subnet", str(k), "--data", "digits", "--split"]
        assert main([*arguments, "validation", "--limit", "60", "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["zero_shot"] == subnet["validation"]["zero_shot"]
    out = tmp_path / "openclip"
    assert main(["convert", family, str(out), "--subnet", "1", "--to", "openclip"]) == 0
    card = (out / "README.md").read_text()
    assert "Subnet 1 of the family" in card
    assert "## Measured" not in card and "## Measured" in (path / "family/README.md").read_text()
    stored = codesign.load_clip(out)
    kernel = np.asarray(stored.vision.blocks.fc1[...])
    expected = np.asarray(load_family(family).clip(1).vision.blocks.fc1[...])
    np.testing.assert_array_equal(kernel, expected)
    assert main(["eval", family, "--subnet", "2", "--data", "digits"]) == 2
    assert "has subnets 0 to 1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_step_of_any_stage_that_is_not_finite_is_left_out(tmp_path):
    """Among them one that renews the masks, and the first of the last stage."""
    bad = (1, 3, 5, 8)
    with poisoned(bad):
        summary = run(CONFIG, tmp_path / "bad")
    with poisoned(()), left_out(bad):
        run(CONFIG, tmp_path / "without")
    rows, others = (read_metrics(tmp_path / p / "metrics.jsonl") for p in ("bad", "without"))
    assert [row["step"] for row in rows if "rolled_back" in row] == list(bad)
    assert [r for r in rows if r["step"] not in bad] == [r for r in others if r["step"] not in bad]
    for k in range(2):
        ours, theirs = (load_family(tmp_path / p / "family").clip(k) for p in ("bad", "without"))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a, b)
    assert summary["rolled_back_steps"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [2, 6, 10])
def test_a_run_cut_off_in_any_stage_ends_the_same(finished, tmp_path, cut_off, stop_at):
    path, summary = finished
    with cut_off(stop_at):
        run(CONFIG, tmp_path / "cut")
    resumed = run(CONFIG, tmp_path / "cut", resume=True)
    assert resumed["subnets"] == summary["subnets"]
    ours, theirs = (load_family(p / "family").clip(1) for p in (path, tmp_path / "cut"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsities": (0.8, 0.5)}, "strictly increasing"),
        ({"sparsities": (0.5, 1.0)}, "outside"),
        ({"floor": 40}, "fewer than the floor"),
        ({"dense_steps": 0}, "start from a trained network"),
        ({"include": ("*.fc9",)}, "fc9"),
        ({"refresh_steps": 0}, "at least 1"),
        ({"joint_lr": 0.0}, "above 0"),
    ],
)
def test_bad_settings_are_one_line(changes, message, tmp_path):
    config = dataclasses.replace(CONFIG, subnets=dataclasses.replace(CONFIG.subnets, **changes))
    with pytest.raises(UserError, match=message) as caught:
        run(config, tmp_path / "bad")
    assert "\n" not in str(caught.value)
