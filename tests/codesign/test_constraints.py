"""Every numeric field of every config: what it may not hold is one line, before anything runs."""

import dataclasses
import math

import pytest

from codesign.cli import main
from codesign.constraints import Count, Dimension, Positive, check_config, describe
from codesign.errors import UserError
from codesign.overrides import config_fields, config_names, load_config

COMMANDS = {
    "ablation": "ablate",
    "effects": "ablate",
    "hardware": "search",
    "quickstart": "search",
    "digits_family": "search",
    "digits_clip": "finetune",
    "digits_dress": "dress",
    "digits_resnet_dress": "dress",
}
# Numbers that have no bound: a mean may be anything finite.
UNBOUNDED = {"pictures.mean"}


def with_value(config, path, value):
    """The config with one field replaced, as a config file may have it."""
    name, _, rest = path.partition(".")
    if rest:
        value = with_value(getattr(config, name), rest, value)
    return dataclasses.replace(config, **{name: value})


def numeric_fields(name):
    for field in config_fields(load_config(name)):
        kinds = str(field.kind)
        numeric = "int" in kinds or "float" in kinds or isinstance(field.value, int)
        if numeric and not isinstance(field.value, (bool, str)):
            yield field


FIELDS = [(name, field) for name in COMMANDS for field in numeric_fields(name)]


def refused(config, path):
    """The line about a config, which names the field, or None where it is let through."""
    try:
        check_config(config())
    except (UserError, ValueError) as error:  # ValueError: where a dataclass refuses to be made
        text = str(error)
        assert "\n" not in text and path.rpartition(".")[2].partition("_fraction")[0] in text, text
        return text
    return None


@pytest.mark.parametrize(
    ("name", "field"), FIELDS, ids=[f"{name}-{field.path}" for name, field in FIELDS]
)
def test_no_number_but_a_sensible_one_is_let_through(name, field):
    config, path = load_config(name), field.path
    check_config(config)
    bad = [math.nan, math.inf, -math.inf, "many", object(), [1.5, "x"]]
    if path not in UNBOUNDED:
        bad += [-1, -1.0, -1e300]
    is_list = "tuple" in str(field.kind)
    if is_list:
        bad += [(math.nan,), ("x",), (None,)]
        if path not in UNBOUNDED:
            bad += [(-1,), (-1e300,)]
    if "int" in str(field.kind) and "float" not in str(field.kind) and not is_list:
        bad += [1.5, True]
    for value in bad:
        assert refused(lambda v=value: with_value(config, path, v), path), (path, value)


@pytest.mark.parametrize("name", COMMANDS)
def test_numbers_that_nothing_can_hold_are_refused_in_a_line_of_readable_length(name):
    config = load_config(name)
    for field in numeric_fields(name):
        if field.path in UNBOUNDED:
            continue
        for value in (10**30, 10**5000, "x" * 5000, (10**30,), 1e300, (1e300,)):
            line = refused(lambda f=field, v=value: with_value(config, f.path, v), field.path)
            assert line is not None and len(line) < 500, (field.path, line)


ZERO_IS_WRONG = (
    [
        ("quickstart", path)
        for path in (
            "schedule.chunk_steps",
            "schedule.checkpoint_steps",
            "schedule.order_batches",
            "schedule.snap_candidates",
            "schedule.snap_images",
            "targets.designs",
            "targets.low",
            "targets.high",
            "optim.batch_size",
            "optim.lr",
            "optim.clip_norm",
            "model.patch",
            "model.projection",
            "model.head_dim",
            "limits.area_mm2",
            "data.train_limit",
        )
    ]
    + [
        ("digits_clip", path)
        for path in (
            "optim.micro_batches",
            "schedule.steps",
            "schedule.log_steps",
            "threads",
            "train.limit",
            "untrained.vision.layers",
            "untrained.patch",
            "image",
            "optim.epsilon",
        )
    ]
    + [("digits_dress", path) for path in ("subnets.floor", "subnets.joint_lr", "subnets.post_lr")]
    + [("ablation", path) for path in ("fit.members", "fit.lr", "rounds", "top_share")]
    + [
        ("hardware", "tops"),
        ("hardware", "tokens"),
        ("digits_resnet_dress", "network.depth"),
    ]
)


@pytest.mark.parametrize(("name", "path"), ZERO_IS_WRONG)
def test_zero_is_refused_on_the_command_line(name, path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([COMMANDS[name], name, f"--{path}", "0"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"--{path}" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "argv", "message"),
    [
        ("quickstart", ["--threads", "100000000"], "at least 1 and at most 1024"),
        ("quickstart", ["--targets.designs", "1000000000"], "at least 1 and at most 1024"),
        ("quickstart", ["--seed", "-1"], "--seed is -1: it must be a whole number, at least 0"),
        ("quickstart", ["--optim.batch_size", "1" * 20], "at least 2, and far smaller"),
        ("quickstart", ["--seed", str(2**32)], "below 4294967296\n"),
        ("quickstart", ["--optim.lr", "1e30"], "a finite number, above 0, and far smaller"),
        ("quickstart", ["--targets.low", "0.9", "--targets.high", "0.5"], "is above --targets"),
        ("quickstart", ["--space.vision.width", "[16, 8]"], "positive and increasing"),
        ("quickstart", ["--space.vision.width", "[]"], "--space.vision.width is ()"),
        ("quickstart", ["--model.activation", "relu"], "'gelu' or 'quick_gelu'"),
        ("digits_family", ["--scenario.subnet_shares", "[1]"], "1 shares for the 2 subnets"),
        ("digits_clip", ["--optim.micro_batches", "5"], "does not divide the batch"),
        ("digits_clip", ["--optim.logits_chunk", "5"], "logits_chunk 5 does not divide the batch"),
        ("digits_clip", ["--untrained.patch", "3"], "multiple of patch"),
        ("digits_clip", ["--augment.crop_scale", "[1, 0.5]"], "crop_scale"),
        ("digits_dress", ["--subnets.sparsities", "[0.5, 1]"], "--subnets.sparsities"),
        ("ablation", ["--fit.steps", "61"], "multiple of checks"),
    ],
)
def test_values_that_do_not_go_together(name, argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([COMMANDS[name], name, *argv]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_values_that_only_go_together_are_put_in_place_together():
    config = load_config("ablation", ["--fit.steps", "61", "--fit.checks", "61"])
    assert (config.fit.steps, config.fit.checks) == (61, 61)


def test_every_config_of_the_package_passes_its_checks():
    for name in config_names():
        check_config(load_config(name, ["--train.path", "x"] if name == "clip" else []))


def test_what_is_allowed_reads_well():
    assert describe(Count) == "a whole number, at least 1"
    assert describe(Dimension) == "a whole number, at least 1"
    assert describe(Positive | None) == "a finite number, above 0, or null"
    assert describe(tuple[Count, ...]) == "a list, each element a whole number, at least 1"
