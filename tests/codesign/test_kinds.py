"""Kinds of runs: one table, by the class of a config, and by what a folder of before holds."""

import dataclasses
import importlib
import inspect
import json

import pytest

from codesign.errors import UserError
from codesign.kinds import ABLATION, EFFECTS, HARDWARE, KINDS, STUDY, kind_of, kind_of_run
from codesign.overrides import config_names, config_to_json, load_config
from codesign.runs import RunFolder

CONFIGS = {
    "quickstart": "search",
    "hardware": "hardware",
    "ablation": "ablation",
    "digits_clip": "finetune",
    "digits_dress": "dress",
    "digits_resnet_dress": "classifier-dress",
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_name_in_the_table_is_there(kind):
    assert kind_of(_class(kind.config)) is kind
    assert callable(kind.reporter())
    by_their_command = (HARDWARE, ABLATION, EFFECTS, STUDY)
    assert bool(kind.run) is (kind not in by_their_command), "these are run by their command"
    if kind.run:
        taken = inspect.signature(kind.runner()).parameters
        assert list(taken)[:3] == ["config", "folder", "console"] and "check" in taken


def _class(name):
    module, _, cls = name.rpartition(".")
    return getattr(importlib.import_module(module), cls)


def test_every_shipped_config_has_a_kind():
    assert all(kind_of(type(load_config(name))) for name in config_names())
    assert kind_of(dict) is None


@pytest.mark.parametrize(("config", "name"), CONFIGS.items())
def test_runs_are_told_by_their_word_and_those_of_before_by_what_they_hold(config, name, tmp_path):
    fields = config_to_json(load_config(config))
    now = RunFolder.create(tmp_path / "now", fields, kind=name)
    assert json.loads((now.path / "config.json").read_text())["kind"] == name
    assert kind_of_run(now.path).name == name
    before = RunFolder.create(tmp_path / "before", fields)
    assert "kind" not in json.loads((before.path / "config.json").read_text())
    if name == "ablation":
        (before.path / "ablation.json").write_text("{}")
    assert kind_of_run(before.path).name == name


def test_a_search_of_before_lacks_fields_and_resumes(tmp_path):
    config = load_config("quickstart")
    fields = config_to_json(config)
    old = {name: value for name, value in fields.items() if name not in ("train", "checkpoint")}
    RunFolder.create(tmp_path, old)
    assert RunFolder.create(tmp_path, fields, resume=True).resumed
    other = config_to_json(dataclasses.replace(config, seed=1))
    with pytest.raises(UserError, match="seed was 0, is 1"):
        RunFolder.create(tmp_path, other, resume=True)
