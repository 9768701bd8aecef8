"""Run folders: what a kill leaves behind, and what a resume accepts."""

import copy
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from codesign.errors import RunError, UserError
from codesign.overrides import config_to_json, load_config
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


@pytest.mark.parametrize("left", ["report.html", "designs.json", "seed-0/random/metrics.jsonl"])
def test_results_of_any_kind_of_run_hold_their_folder(left, tmp_path):
    """An ablation's or a study's have a report alone, a comparison's are runs within it."""
    RunFolder.create(tmp_path, CONFIG)
    file = tmp_path / left
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError, match="already holds a run; add --resume"):
        RunFolder.create(tmp_path, {"a": 2})
    assert (tmp_path / "config.json").read_bytes() == before
    assert RunFolder.create(tmp_path, CONFIG, resume=True).resumed


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


def test_resume_of_a_run_of_another_kind_names_it(tmp_path):
    RunFolder.create(tmp_path, CONFIG, kind="finetune")
    message = "holds a fine-tuning: go on with codesign finetune, or use --out FOLDER$"
    with pytest.raises(UserError, match=message):
        RunFolder.create(tmp_path, {"space": {}}, kind="search", resume=True)


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
    config = (folder.path / "config.json").read_text()
    for change, message in (
        ({"versions": [1]}, r"config.json: versions is \[1\], expected an object"),
        ({"versions": {"jax": 1}}, "versions.jax is 1, expected text"),
        ({"seed": 1.5}, "seed is 1.5, expected a whole number"),
    ):
        (folder.path / "config.json").write_text(json.dumps(json.loads(config) | change))
        with pytest.raises(UserError, match=message):
            read_run(folder.path)
    (folder.path / "config.json").write_text(config)
    with pytest.raises(UserError, match="should hold a JSON list"):
        read_run(tmp_path)


HOLDER = """
import sys, time
from codesign.runs import RunFolder
folder = RunFolder.create(sys.argv[1], {"seed": 3})
folder.append_metrics([{"step": 0}])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that writes to tmp_path/"run"."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_process_is_refused_while_the_first_lives(tmp_path, holder, resume):
    with pytest.raises(UserError, match="written to by another run") as caught:
        RunFolder.create(tmp_path / "run", {"seed": 3}, resume=resume)
    text = str(caught.value)
    assert f"process {holder.pid} on " in text and "\n" not in text
    assert read_run(tmp_path / "run").metrics == [{"step": 0}]  # a report may read


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_owner_keeps_nobody_out(tmp_path, holder, number):
    holder.send_signal(number)
    holder.wait()
    assert RunFolder.create(tmp_path / "run", {"seed": 3}, resume=True).resumed


def test_what_killed_processes_left_half_written_is_removed(tmp_path):
    RunFolder.create(tmp_path, CONFIG)
    (tmp_path / "clip").mkdir()
    left = [
        tmp_path / ".designs.json.123.tmp",
        tmp_path / "clip" / ".config.json.9.tmp",
        tmp_path / ".clip.123.tmp",
        tmp_path / "clip" / ".tokenizer.x7_a",
    ]
    for path in left[:2]:
        path.write_text("half")
    for path in left[2:]:
        (path / "new").mkdir(parents=True)
    others = [tmp_path / ".notes", tmp_path / "a.tmp", tmp_path / ".mine.tmp"]
    for path in others:
        path.write_text("a user's own")
    RunFolder.create(tmp_path / "another", CONFIG)
    others.append(tmp_path / "another" / ".designs.json.123.tmp")  # which lives, perhaps
    others[-1].write_text("being written")
    RunFolder.create(tmp_path, CONFIG)
    assert not any(path.exists() for path in left) and all(path.exists() for path in others)


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (lambda path: None, 0),
        (lambda path: path.unlink(), 4),
        (lambda path: path.write_bytes(b""), 4),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), 0),  # the torn line is past step 3
        (lambda path: path.write_bytes(path.read_bytes()[:30]), 3),
        (lambda path: path.write_bytes(path.read_bytes().replace(b'"step": 1', b"rubbish")), 1),
        (lambda path: path.write_bytes(b"\xff" * 9 + path.read_bytes()), 1),
    ],
)
def test_lost_metrics_are_counted_and_the_rest_stays(tmp_path, damage, lost):
    folder = RunFolder.create(tmp_path, CONFIG)
    folder.append_metrics([{"step": i, "loss": 0.5} for i in range(6)])
    damage(folder.metrics)
    assert folder.truncate_metrics(3) == lost
    if folder.metrics.exists():
        assert len(read_metrics(folder.metrics)) == 4 - lost


def test_a_run_resumes_with_other_threads(tmp_path):
    config = {"threads": 1, "optim": {"lr": 0.1, "threads": 1}}
    RunFolder.create(tmp_path, config)
    assert RunFolder.create(tmp_path, config | {"threads": 8}, resume=True).resumed
    other = config | {"optim": {"lr": 0.1, "threads": 2}}
    with pytest.raises(UserError, match=r"optim\.threads was 1, is 2"):
        RunFolder.create(tmp_path, other, resume=True)


def test_fields_that_a_config_has_gained_had_their_defaults(tmp_path):
    """A run from before a field was there resumes under its default, and under no other value."""
    config = config_to_json(load_config("quickstart"))
    before = copy.deepcopy(config)
    del before["schedule"]["elastic_steps"], before["checkpoint"]
    before["limits"]["functions"] = ["one of a config file"]  # which no reader can call
    limits = {"limits": before["limits"]}
    RunFolder.create(tmp_path, before, kind="search")
    assert RunFolder.create(tmp_path, config | limits, resume=True).resumed
    schedule = config["schedule"] | {"elastic_steps": 5}
    with pytest.raises(UserError, match=r"schedule\.elastic_steps was 0, is 5"):
        RunFolder.create(tmp_path, config | limits | {"schedule": schedule}, resume=True)
    with pytest.raises(UserError, match='checkpoint was null, is "here"'):
        RunFolder.create(tmp_path, config | limits | {"checkpoint": "here"}, resume=True)
