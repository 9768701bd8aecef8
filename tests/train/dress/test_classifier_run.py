"""A classifier's DRESS run on the digits: stages, interruption, the family, bad input."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from codesign.cli import main
from codesign.constraints import check_config
from codesign.dress.trees import named_leaves
from codesign.errors import UserError
from codesign.models.resnet import ResNetConfig
from codesign.models.resnet_family import is_resnet_family, load_resnet_family
from codesign.overrides import load_config
from codesign.runs import read_metrics
from codesign.train.dress.classifier_config import (
    ClassifierDressConfig,
    ClassifierLossConfig,
    ClassifierOptimConfig,
    PicturesConfig,
)
from codesign.train.dress.config import SubnetsConfig
from codesign.train.shared_config import IntervalsConfig
from simulators.tiny_training import DIGITS, HELD_OUT, SHIFTED, run

pytestmark = pytest.mark.usefixtures("quick_compilation", "steps_compiled_once")

CONFIG = ClassifierDressConfig(
    train=DIGITS,
    validation=HELD_OUT,
    network=ResNetConfig(depth=8, width=2, channels=1),
    pictures=PicturesConfig(size=8, mean=(0.3,), std=(0.4,)),
    augment=SHIFTED,
    optim=ClassifierOptimConfig(batch_size=16, warmup_steps=2),
    schedule=IntervalsConfig(evaluate_steps=5, checkpoint_steps=2, log_steps=3),
    threads=1,
    subnets=SubnetsConfig(
        sparsities=(0.5, 0.8),
        include=("blocks.2.*",),
        dense_steps=3,
        joint_steps=4,
        post_steps=2,
        refresh_steps=2,
    ),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "whole"
    return path, run(CONFIG, path, check=True)


@pytest.mark.slow
def test_a_run_goes_through_its_stages_and_writes_the_family(finished):
    path, summary = finished
    rows = read_metrics(path / "metrics.jsonl")
    stages = [row["phase"] for row in rows if row["phase"] != "validation"]
    assert stages == ["dense"] * 3 + ["subnets"] * 4 + ["norms"] * 2
    middle = next(row for row in rows if row["phase"] == "validation")
    assert middle["step"] == 4 and len(middle["validation"]["subnets"]) == 2
    for subnet, sparsity in zip(summary["subnets"], (0.5, 0.8), strict=True):
        assert subnet["density"] == pytest.approx(1 - sparsity, abs=0.03)
        assert subnet["validation"]["images"] == 60
        assert subnet["macs"] < summary["macs"]
    assert (path / "report.html").is_file()


@pytest.mark.slow
def test_every_subnet_of_the_file_has_norms_of_its_own_and_its_sparsity(finished):
    path, _ = finished
    family = load_resnet_family(path / "family")
    assert is_resnet_family(path / "family") and len(family) == 2
    first, second = (named_leaves(nnx.state(family.at(k))) for k in (0, 1))
    for name in family.packed.kernels:
        a, b = np.asarray(first[name]), np.asarray(second[name])
        assert np.all(a[b != 0] == b[b != 0]) and np.mean(b == 0) > np.mean(a == 0)
    own = family.packed.own[0].keys()
    assert {name.split(".")[-1] for name in own} == {"scale", "bias", "mean", "var"}
    for kind in ("mean", "var", "bias"):
        assert np.any(first[f"blocks.0.norm1.{kind}"] != second[f"blocks.0.norm1.{kind}"])


@pytest.mark.slow
def test_subnets_of_the_file_are_what_was_measured(finished, capsys, tmp_path):
    path, summary = finished
    arguments = ["eval", str(path / "family"), "--data", "digits", "--split", "validation"]
    for k, subnet in enumerate(summary["subnets"]):
        assert main([*arguments, "--limit", "60", "--subnet", str(k), "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["classification"] == subnet["validation"]["classification"]
    convert = ["convert", str(path / "family"), str(tmp_path), "--subnet", "0", "--to", "hf"]
    assert main(convert) == 2
    assert "of a resnet model" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_reported(finished, capsys):
    path, _ = finished
    assert main(["report", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["steps"] == 9


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [2, 5, 9])
def test_a_run_cut_off_in_any_stage_ends_the_same(finished, tmp_path, cut_off, stop_at):
    path, summary = finished
    with cut_off(stop_at):
        run(CONFIG, tmp_path / "cut")
    resumed = run(CONFIG, tmp_path / "cut", resume=True)
    assert resumed["subnets"] == summary["subnets"]
    ours, theirs = (load_resnet_family(p / "family").at(1) for p in (path, tmp_path / "cut"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def changed(**fields):
    return dataclasses.replace(CONFIG, **fields)


def subnets(**fields):
    return changed(subnets=dataclasses.replace(CONFIG.subnets, **fields))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (subnets(sparsities=(0.8, 0.5)), "strictly increasing"),
        (subnets(dense_steps=0), "start from a trained network"),
        (subnets(post_lr=-1.0), "post_lr is -1.0"),
        (changed(pictures=PicturesConfig(size=8)), "pictures.mean has 3 numbers"),
        (changed(pictures=PicturesConfig(size=4, mean=(0.3,), std=(0.4,))), "size is 4"),
        (changed(pictures=PicturesConfig(size=8, mean=(0.3,), std=(0.0,))), "above 0"),
        (changed(loss=ClassifierLossConfig(label_smoothing=1.0)), "below 1"),
        (changed(optim=ClassifierOptimConfig(lr=0.0)), "lr is 0.0"),
    ],
)
def test_bad_settings_are_one_line(config, message):
    check_config(CONFIG)
    with pytest.raises(UserError, match=message) as caught:
        check_config(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed(network=ResNetConfig(width=2, classes=7, channels=1)), "network.classes to 10"),
        pytest.param(subnets(floor=40), "fewer than the floor", marks=pytest.mark.slow),
        pytest.param(subnets(include=("blocks.9.*",)), "blocks.9", marks=pytest.mark.slow),
    ],
)
def test_settings_that_do_not_suit_the_data_are_one_line(config, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        run(config, tmp_path / "bad")
    assert "\n" not in str(caught.value)


def test_the_configs_that_come_with_the_program_are_sound():
    for name in ("digits_resnet_dress", "cifar10_resnet_dress"):
        check_config(load_config(name, ["--subnets.post_lr", "0"]))
    with pytest.raises(UserError, match="6n"):
        load_config("digits_resnet_dress", ["--network.depth", "9"])


def test_checkpoints_of_the_former_layout_are_read(tmp_path):
    """Their dense stage had K+1 copies of the statistics and masks, their last another order."""
    from codesign.train.checkpoints import Saved
    from codesign.train.run import _current
    from codesign.train.step import TrainState
    from codesign.train.subnets import PostState

    dense = TrainState(params=[1, 2], average=None, stats=[3, 4], opt_state=[5, 6, 7], step=8)
    former = [1, 2, np.asarray([0, 0, 3]), np.asarray([0, 0, 4]), "levels", "counts", 5, 6, 7, 8]
    assert _current(Saved(8, "dense", former, {}), dense) == [1, 2, 3, 4, 5, 6, 7, 8]
    post = PostState(
        params=[1, 2],
        masks=["levels", "counts"],
        norms={"scale": 3},
        stats=[4],
        opt_state=[5],
        step=6,
    )
    former = [1, 2, 3, 4, "levels", "counts", 5, 6]
    found = _current(Saved(6, "norms", former, {}), post)
    assert found == [1, 2, "levels", "counts", 3, 4, 5, 6]
    assert _current(Saved(6, "norms", found, {"layout": 2}), post) is found
    nothing = dense._replace(stats=())
    assert _current(Saved(6, "dense", former, {}), nothing) is former
