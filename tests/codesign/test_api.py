"""The Python surface: its names, runs without a command line, and what it shares with it."""

from __future__ import annotations

import gc
import inspect
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import matplotlib.figure
import pytest

import codesign as cd
from codesign.cli import main
from codesign.configs.hardware import config as hardware_config
from codesign.configs.quickstart import config as quickstart
from codesign.space import AcceleratorChoices

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests" / "models" / "formats" / "data" / "huggingface"
COSTS = {"latency_s": 1e-3, "energy_j": 1e-6, "carbon_kgco2e": 1e-3}


def design(name, carbon, accuracy=0.5, **more):
    costs = COSTS | {"carbon_kgco2e": carbon}
    return {"name": name, "costs": costs, "accuracy": accuracy, "pareto": True} | more


@pytest.fixture
def runner(monkeypatch):
    """Stands in for the search; tells of three steps and finds one design."""

    def run_search(config, folder, console, *, check=None, on_progress=None, profile=0, **_):
        for step in (1, 2, 3):
            folder.append_metrics([{"step": step - 1, "phase": "joint", "loss": [1.0 / step]}])
            if on_progress is not None:
                on_progress(cd.Progress("joint", step, 3, {"loss": [1.0 / step]}))
        console.print("not to be seen")
        folder.write_json("designs.json", [design("a", 1e-3, seed=config.seed)])
        folder.write_json("summary.json", {"checked": check, "profile": profile})

    made = types.ModuleType("codesign.train.search.run")
    made.run_search = run_search
    monkeypatch.setitem(sys.modules, made.__name__, made)


def test_steps_are_traced_as_by_the_command_line(runner, tmp_path):
    run = cd.search("quickstart", out=tmp_path / "run", profile=3)
    assert run.summary["profile"] == 3
    for wrong in (-1, 1.5, True, "3"):
        with pytest.raises(cd.UserError, match=r"search: profile is .*a whole number of steps"):
            cd.search("quickstart", out=tmp_path / "no", profile=wrong)
    assert not (tmp_path / "no").exists()


def test_dir_shows_what_there_is():
    assert dir(cd) == cd.__all__ == sorted(cd.__all__)
    assert {"search", "finetune", "dress", "estimate", "read_run", "Limits"} <= set(dir(cd))
    for name in dir(cd):
        assert callable(getattr(cd, name)), name
        assert getattr(cd, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        _ = cd.serch


def test_the_reference_has_every_name():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = {line.rpartition(".")[2] for line in text.splitlines() if line.startswith(".. auto")}
    assert set(dir(cd)) <= listed


@pytest.mark.parametrize(("package", "module"), [("search", "pareto"), ("dress", "rows")])
def test_packages_of_the_same_name_stay_packages(package, module):
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            f"""
import inspect
import codesign as cd
function = cd.{package}
import codesign.{package}.{module} as by_path
from codesign.{package} import {module}
assert by_path is {module} is cd.{package}.{module}
assert inspect.ismodule(cd.{package}) and callable(cd.{package})
assert inspect.signature(cd.{package}) == inspect.signature(function)
try:
    cd.{package}("no-such-config")
except cd.UserError as error:
    print(error)
""",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "there is no config 'no-such-config'" in said.stdout


def test_a_run_without_a_folder_goes_with_the_process(runner, capsys, monkeypatch):
    told, at_exit = [], []
    monkeypatch.setattr("atexit.register", lambda f, *args, **named: at_exit.append((f, args)))
    run = cd.search("quickstart", {"seed": 7, "optim.lr": 1e-3}, progress=told.append)
    path = run.path
    del run
    gc.collect()
    run = cd.read_run(path)
    assert [(p.phase, p.step, p.end) for p in told] == [("joint", n, 3) for n in (1, 2, 3)]
    assert str(told[1]) == "joint: 2 of 3, loss 0.500..0.500"
    assert run.designs[0]["seed"] == 7 and run.name == "quickstart"
    assert run.record["config"]["optim"]["lr"] == 1e-3 and len(run.metrics) == 3
    assert path.is_dir() and capsys.readouterr() == ("", "")
    ((remove, (folder, *_)),) = at_exit
    assert folder == path
    remove(folder)
    assert not path.exists()


def test_a_run_in_a_folder_stays_and_is_resumed(runner, tmp_path):
    out = tmp_path / "run"
    cd.search(quickstart, out=out, check=True)
    assert cd.read_run(out).summary["checked"] is True
    with pytest.raises(cd.UserError, match="already holds a run"):
        cd.search(quickstart, out=out)
    assert cd.search(quickstart, out=out, resume=True).path == out
    with pytest.raises(cd.UserError, match="give out"):
        cd.search(quickstart, resume=True)


def test_what_progress_raises_ends_the_run_and_its_folder(runner, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def stop(progress):
        if progress.step == 2:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        cd.search("quickstart", progress=stop)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="enough"):
        cd.search("quickstart", progress=stop, out=tmp_path / "kept")
    assert len(cd.read_run(tmp_path / "kept").metrics) == 2


@pytest.mark.parametrize(
    ("config", "fields", "says"),
    [
        ("quikstart", None, "did you mean 'quickstart'"),
        ("quickstart", {"sead": 1}, "did you mean '--seed'"),
        ("quickstart", {"seed": "one"}, "--seed one: expected"),
        ("quickstart", {"limits.latency_s": -1.0}, "limits.latency_s"),
        ("digits_dress", None, "digits_dress is no search; try codesign dress digits_dress"),
        ("hardware", None, "hardware trains nothing; see search_hardware"),
        (hardware_config, None, "HardwareConfig trains nothing; see search_hardware"),
        (cd.Limits(), None, "a Limits is no search, where codesign search runs a"),
    ],
)
def test_what_cannot_be_run_is_one_line(config, fields, says):
    with pytest.raises(cd.UserError) as caught:
        cd.search(config, fields)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_fields_take_python_values(runner):
    fields = {
        "limits.latency_s": None,
        "space.vision.layers": (1, 2),
        "model.bfloat16": True,
        "data.path": Path("x"),
    }
    config = cd.search("quickstart", fields).record["config"]
    assert config["limits"]["latency_s"] is None and config["space"]["vision"]["layers"] == [1, 2]
    assert config["model"]["bfloat16"] is True and config["data"]["path"] == "x"


def test_hardware_is_what_the_command_finds(capsys):
    choices = {
        "cores": (1,),
        "pe_x": (32, 64),
        "pe_y": (4, 8),
        "l2_kib": (64,),
        "l2_bytes_per_cycle": (32,),
        "glb_mib": (2,),
        "channels": (1, 2),
    }
    found = cd.search_hardware(
        "tinyclip-39m-16",
        cd.Limits(tops=20),
        cd.Scenario(use_grid="sweden"),
        space=AcceleratorChoices(**choices),
    )
    fields = [f"--space.{name}={list(values)}" for name, values in choices.items()]
    command = ["search", "hardware", "--model=tinyclip-39m-16", "--scenario.use_grid=sweden"]
    assert main([*command, *fields, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["designs"] == found.designs
    front = found.front()
    assert [d["name"] for d in front] == [f"front-{i + 1}" for i in range(len(front))]
    latencies = [d["costs"]["latency_s"] for d in front]
    assert latencies == sorted(latencies)
    assert found.plot().get_xlabel().startswith("latency")
    with pytest.raises(cd.UserError, match="no accelerator of the grid meets latency_s"):
        cd.search_hardware(
            "tinyclip-39m-16", cd.Limits(latency_s=1e-9), space=AcceleratorChoices(**choices)
        )
    with pytest.raises(cd.UserError, match="tinyclip-39m-16"):
        cd.search_hardware("tinyclip-39m")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": None}, "model is None: it must be a published model's name"),
        ({"model": cd.clip_vit_b16()}, "it must be a published model's name"),
        ({"limits": 0.02}, "limits is 0.02: it must be codesign Limits"),
        ({"limits": {"latency_s": 1}}, "it must be codesign Limits"),
        ({"scenario": "poland"}, "--scenario is 'poland': it must be Scenario"),
        ({"scenario": cd.Scenario(lifetime_years=-3)}, "expected more than 0, got -3"),
        ({"scenario": cd.Scenario(dram_gb=0.001)}, "dram_gb: 0.001 GB cannot hold"),
        ({"space": {}}, "--space is {}: it must be AcceleratorChoices"),
        ({"objectives": "carbon"}, "--objectives is 'carbon': it must be a list"),
        ({"objectives": 3}, "--objectives is 3: it must be a list"),
        ({"uncertainty": 1}, "--uncertainty is 1: it must be a whole number, at least 2"),
    ],
)
def test_a_hardware_search_refuses_in_one_line(wrong, message):
    with pytest.raises(cd.UserError, match=re.escape(message)) as caught:
        cd.search_hardware(**({"model": "tinyclip-8m-16"} | wrong))
    assert "\n" not in str(caught.value)


def run_of(designs):
    return cd.Run(Path("."), {}, [], designs, {})


def test_front_plot_and_data_frame_of_a_search():
    run = run_of(
        [
            design("dear", 3e-3, 0.9),
            design("beaten", 2e-3, 0.4, pareto=False),
            design("cheap", 1e-3, 0.5),
        ]
    )
    assert [d["name"] for d in run.front()] == ["cheap", "dear"]
    axes = run.plot()
    assert axes.get_ylabel() == "zero-shot accuracy, %"
    figure = matplotlib.figure.Figure()
    left, right = figure.subplots(1, 2)
    canvas = figure.canvas
    assert run.plot(right) is right and right.has_data() and not left.has_data()
    assert figure.canvas is canvas


def test_designs_as_a_data_frame(monkeypatch):
    run = run_of([design("a", 1e-3), design("b", 2e-3)])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(cd.UserError, match="pip install pandas"):
        run.to_pandas()
    monkeypatch.undo()
    pytest.importorskip("pandas")
    frame = run.to_pandas()
    assert frame["costs.carbon_kgco2e"].tolist() == [1e-3, 2e-3]
    assert frame["name"].tolist() == ["a", "b"]


def test_nothing_to_plot_is_one_line():
    with pytest.raises(cd.UserError, match="nothing to plot"):
        run_of([]).plot()


def test_pruning_is_the_commands(tmp_path, capsys):
    small = cd.prune(CHECKPOINT, {"ffn": 0.5, "text.layers": 0.67}, method="magnitude")
    out = str(tmp_path / "small")
    keep = ["--keep", "ffn=0.5", "text.layers=0.67", "--method", "magnitude"]
    assert main(["prune", str(CHECKPOINT), out, *keep]) == 0
    by_command = cd.load_clip(out)
    assert small.architecture == by_command.architecture
    assert small.architecture.text.layers == 2
    again = cd.prune(cd.load_clip(CHECKPOINT), small.architecture, method="magnitude")
    assert again.architecture == small.architecture
    with pytest.raises(cd.UserError, match="give data, or method magnitude"):
        cd.prune(CHECKPOINT, 0.5)
    with pytest.raises(cd.UserError, match="needs its processor"):
        cd.prune(small, 0.5, "digits")
    with pytest.raises(cd.UserError, match=r"prune: .*1\.5"):
        cd.prune(CHECKPOINT, 1.5, method="magnitude")


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 1e9},
        {"samples": "64"},
        {"batch_size": 0},
        {"groups": 2.5},
        {"seed": 1.5},
        {"seed": -1},
        {"threads": -1},
        {"keep": None},
        {"keep": True},
        {"keep": "half"},
    ],
)
def test_numbers_of_pruning_are_checked(wrong):
    (name,) = wrong
    with pytest.raises(cd.UserError, match=rf"^prune: {name} is .*: it must be ") as caught:
        cd.prune(CHECKPOINT, **({"keep": 0.5, "data": "digits"} | wrong))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"threads": 1.5}, {"threads": 0}, {"batch_size": "4"}])
def test_numbers_of_evaluating_are_checked(wrong):
    (name,) = wrong
    with pytest.raises(cd.UserError, match=rf"^evaluate: {name} is .*: it must be "):
        cd.evaluate(CHECKPOINT, "digits", **wrong)


def test_evaluating_needs_a_processor():
    with pytest.raises(cd.UserError, match="needs its processor"):
        cd.evaluate(cd.load_clip(CHECKPOINT), "digits")


def test_functions_have_readable_signatures():
    for name in ("search", "finetune", "dress"):
        names = list(inspect.signature(getattr(cd, name)).parameters)
        given = ["config", "fields", "out", "resume", "check", "loggers", "profile", "progress"]
        assert names == given
