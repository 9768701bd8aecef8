"""Run folders: what a kill leaves behind, and what a resume accepts."""

import json
import os

import numpy as np
import pytest

from codesign.errors import RunError, UserError
from codesign.runs import (
    RunFolder,
    jsonable,
    read_metrics,
    read_run,
    versions,
    write_bytes,
    write_json,
)

CONFIG = {"seed": 3, "optim": {"lr": 0.1, "steps": 5}, "layers": [1, 2], "cap_s": None}


def test_config_json_repeats_the_run(tmp_path):
    folder = RunFolder.create(tmp_path / "runs" / "quick", CONFIG)
    record = json.loads((folder.path / "config.json").read_text())
    assert record["config"] == CONFIG and record["seed"] == 3 and record["name"] == "quick"
    assert set(record["versions"]) >= {"python", "codesign", "jax", "flax", "optax", "orbax"}
    assert record["versions"] == versions()
    assert not folder.resumed


def test_a_held_folder_needs_resume(tmp_path):
    folder = RunFolder.create(tmp_path, CONFIG)
    assert not RunFolder.create(tmp_path, {"a": 2}).resumed  # nothing was written yet
    RunFolder.create(tmp_path, CONFIG)
    folder.append_metrics([{"step": 0}])
    with pytest.raises(UserError, match="already holds a run; add --resume to continue it, or --o"):
        RunFolder.create(tmp_path, CONFIG)
    assert RunFolder.create(tmp_path, CONFIG, resume=True).resumed


def test_resume_where_nothing_is_starts(tmp_path):
    folder = RunFolder.create(tmp_path / "new", CONFIG, resume=True)
    assert not folder.resumed and (folder.path / "config.json").exists()


def test_resume_keeps_the_config_and_refuses_another(tmp_path):
    RunFolder.create(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    other = CONFIG | {"optim": {"lr": 0.2, "steps": 5}, "layers": [1]}
    with pytest.raises(UserError) as caught:
        RunFolder.create(tmp_path, other, resume=True)
    assert "optim.lr was 0.1, is 0.2, layers was [1, 2], is [1]" in str(caught.value)
    RunFolder.create(tmp_path, CONFIG, resume=True)
    assert (tmp_path / "config.json").read_bytes() == before


def test_resume_counts_further_differences(tmp_path):
    RunFolder.create(tmp_path, {"a": 1, "b": 1, "c": 1, "d": 1})
    with pytest.raises(UserError, match="c was 1, is 2 and 1 more"):
        RunFolder.create(tmp_path, {"a": 2, "b": 2, "c": 2, "d": 2}, resume=True)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=str(path)):
            RunFolder.create(path, CONFIG)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write to"):
        RunFolder.create(tmp_path / "run", CONFIG)
    tmp_path.chmod(0o700)


def test_a_system_folder_is_not_writable():
    with pytest.raises(UserError, match="cannot write to /proc/run"):
        RunFolder.create("/proc/run", CONFIG)


def test_metrics_of_a_resumed_run_equal_an_uninterrupted_one(tmp_path):
    rows = [{"step": i, "loss": [0.5 / (i + 1)], "phase": "joint"} for i in range(6)]
    whole = RunFolder.create(tmp_path / "whole", CONFIG)
    whole.append_metrics(rows)

    killed = RunFolder.create(tmp_path / "killed", CONFIG)
    killed.append_metrics(rows[:4])
    with open(killed.metrics, "a") as file:
        file.write('{"step": 4, "lo')
    resumed = RunFolder.create(tmp_path / "killed", CONFIG, resume=True)
    resumed.truncate_metrics(2)
    resumed.append_metrics(rows[3:])
    assert resumed.metrics.read_bytes() == whole.metrics.read_bytes()

    resumed.truncate_metrics(-1)
    assert resumed.metrics.read_bytes() == b""


def test_a_torn_line_is_passed_over_and_a_bad_one_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}')
    assert read_metrics(path) == [{"step": 0}]
    path.write_text('{"step": 0}\nrubbish\n{"step": 1}\n')
    with pytest.raises(UserError, match="line 2 is not JSON"):
        read_metrics(path)
    path.write_text('{"stop": 0}\n')
    with pytest.raises(UserError, match="line 1 has no whole number 'step'"):
        read_metrics(path)


def test_nan_is_refused_with_its_place(tmp_path):
    folder = RunFolder.create(tmp_path, CONFIG)
    with pytest.raises(RunError, match=r"step 7.loss\[1\] is nan"):
        folder.append_metrics([{"step": 7, "loss": [1.0, float("nan")]}])
    assert not folder.metrics.exists()


def test_arrays_become_lists():
    made = jsonable({"a": np.float32(0.5), "b": np.arange(2), "c": (1, None), "d": np.bool_(True)})
    assert made == {"a": 0.5, "b": [0, 1], "c": [1, None], "d": True}
    with pytest.raises(RunError, match="x is a set"):
        jsonable({"x": {1}})


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "designs.json"
    write_json(path, [1])

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=r"cannot write .*designs\.json: No space left on device"):
        write_bytes(path, b"[2]")
    assert json.loads(path.read_text()) == [1]
    assert [file.name for file in tmp_path.iterdir()] == ["designs.json"]


def test_read_run(tmp_path):
    with pytest.raises(UserError, match="is not the folder of a run"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        read_run(tmp_path / "absent")
    folder = RunFolder.create(tmp_path, CONFIG, name="quickstart")
    run = read_run(tmp_path)
    assert run.name == "quickstart" and run.metrics == [] and run.designs == []
    folder.write_json("designs.json", [3])
    with pytest.raises(UserError, match="entry 0 is not an object"):
        read_run(tmp_path)
    folder.write_bytes("designs.json", b"{}")
    with pytest.raises(UserError, match="should hold a JSON list"):
        read_run(tmp_path)
