"""The configs of DRESS: what they share with fine-tuning, and those of earlier versions."""

import dataclasses
import json

import pytest

from codesign.decode import decode
from codesign.errors import UserError
from codesign.kinds import kind_of
from codesign.overrides import config_fields, config_to_json, load_config
from codesign.renamed import RetiredWarning
from codesign.runs import RunFolder
from codesign.train.finetune.config import ScheduleConfig
from codesign.train.shared_config import IntervalsConfig

NAMES = ("digits_dress", "digits_resnet_dress")


@pytest.mark.parametrize("name", NAMES)
def test_no_field_is_left_unread(name):
    """The stages have their own steps: schedule.steps was a field that changed nothing."""
    config = load_config(name)
    assert "schedule.steps" not in {field.path for field in config_fields(config)}
    steps = ScheduleConfig(steps=7, evaluate_steps=3, checkpoint_steps=5, log_steps=2)
    taken = dataclasses.replace(config, schedule=steps).schedule
    assert taken == IntervalsConfig(evaluate_steps=3, checkpoint_steps=5, log_steps=2)
    assert type(taken) is IntervalsConfig


@pytest.mark.parametrize("name", NAMES)
def test_the_steps_of_before_are_passed_over(name):
    config = load_config(name)
    with pytest.warns(RetiredWarning, match="--schedule.steps is passed over: the stages"):
        assert load_config(name, ["--schedule.steps", "5"]) == config
    with pytest.warns(RetiredWarning, match="IntervalsConfig: steps is passed over"):
        assert IntervalsConfig(steps=5) == IntervalsConfig()
    assert load_config("digits_clip", ["--schedule.steps", "5"]).schedule.steps == 5


@pytest.mark.parametrize("name", NAMES)
def test_run_folders_of_before_load_and_resume(name, tmp_path):
    """Their config.json has schedule.steps, and subnets.dense_member in place of train_dense."""
    config = load_config(name)
    kind = kind_of(type(config))
    written = config_to_json(config)
    with RunFolder.create(tmp_path, written, kind=kind.name).lock:
        pass
    record = json.loads((tmp_path / "config.json").read_text())
    record["config"]["schedule"]["steps"] = 1000
    record["config"]["subnets"]["dense_member"] = record["config"]["subnets"].pop("train_dense")
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert load_config(str(tmp_path / "config.json")) == config
    assert decode(kind.config_class(), written, "it", exact=True) == config
    RunFolder.create(tmp_path, written, resume=True, kind=kind.name).lock.release()
    record["config"]["subnets"]["dense_member"] = True
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"subnets\.train_dense was true, is false"):
        RunFolder.create(tmp_path, written, resume=True, kind=kind.name)
