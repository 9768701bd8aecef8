"""The joint search end to end: a tiny run, wrong inputs, a kill, and eight devices."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from codesign import load_clip
from codesign.cli import main
from codesign.report.correct import read_correct
from codesign.runs import RunFolder
from codesign.search.proxy_file import read_proxy
from codesign.search.snap_file import Snaps
from codesign.search.statistics import standard_error
from codesign.train.checkpoints import Checkpoints
from codesign.train.data import load_tokenizer
from simulators.tiny_runs import SEARCH

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = (
    SEARCH
    + """
config = dataclasses.replace(
    config,
    schedule=dataclasses.replace(
        config.schedule, warmup_steps=20, elastic_steps=10, joint_steps=20, tune_steps=20,
        chunk_steps=10, checkpoint_steps=10, proxy_images=64,
    ),
    optim=dataclasses.replace(quickstart.optim, batch_size=16),
)
"""
)
STEPS = 70
NAMES = ["carbon-00", "carbon-01", "supernet", "half"]
TOTALS = (
    "latency_s",
    "energy_j",
    "area_mm2",
    "tops",
    "operational_kgco2e",
    "embodied_kgco2e",
    "carbon_kgco2e",
)
PHASES = ["warmup"] * 20 + ["elastic"] * 10 + ["joint"] * 20 + ["tune"] * 20


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """Folder of one finished run."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["search", config, "--out", str(out), "--no-check", "--json"]) == 0
    return out


@pytest.fixture(scope="module")
def designs(run):
    return json.loads((run / "designs.json").read_text())


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def one_line(capsys):
    """The last line on stderr, where the progress is too; no traceback."""
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("codesign: ")]
    assert out == "" and len(errors) == 1 and "Traceback" not in err
    assert err.splitlines()[-1] == errors[0]
    return errors[0]


def test_designs_follow_the_schema(designs):
    assert [d["name"] for d in designs] == NAMES
    assert [d["role"] for d in designs] == ["found"] * 2 + ["reference"] * 2
    for design in designs:
        architecture = design["architecture"]
        for tower in ("vision", "text"):
            assert set(architecture[tower]) == {"layers", "width", "heads", "ffn"}
            assert all(type(n) is int for n in architecture[tower].values())
        fixed = {"patch": 2, "image": 8, "context": 10, "projection": 32, "head_dim": 8}
        assert fixed.items() <= architecture.items()
        assert architecture["activation"] == "gelu" and type(architecture["vocab"]) is int
        assert set(design["accelerator"]) == {
            "cores",
            "pe_x",
            "pe_y",
            "l2_kib",
            "l2_bytes_per_cycle",
            "glb_mib",
            "channels",
        }
        assert design["scenario"]["clock_mhz"] == 100.0
        assert all(type(design["costs"][name]) is float for name in TOTALS)
        assert 0 <= design["accuracy"] <= 1 and design["accuracy_standard_error"] >= 0
        assert type(design["feasible"]) is bool and type(design["pareto"]) is bool
    assert any(d["pareto"] for d in designs)


def test_found_designs_meet_their_targets_and_limits(designs):
    supernet = designs[2]["costs"]["carbon_kgco2e"]
    for design, share in zip(designs[:2], (0.75, 0.9), strict=True):
        target, costs = design["target_carbon_kgco2e"], design["costs"]
        assert target == pytest.approx(share * supernet, rel=1e-5)
        assert design["feasible"] and costs["carbon_kgco2e"] <= target * (1 + 1e-6)
        assert set(design["limits"]) == {"latency_s", "area_mm2", "tops"}
        assert all(costs[name] <= limit for name, limit in design["limits"].items())
    assert all(d["target_carbon_kgco2e"] is None for d in designs[2:])


@pytest.mark.parametrize("name", [NAMES[0], "supernet"])
def test_a_design_can_be_priced_again(name, run, designs, capsys):
    assert main(["cost", str(run / "designs.json"), "--name", name, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["costs"]
    costs = next(d["costs"] for d in designs if d["name"] == name)
    assert {t: again[t] for t in TOTALS} == pytest.approx({t: costs[t] for t in TOTALS}, rel=1e-6)


def test_metrics_have_one_line_a_step(run):
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert [row["phase"] for row in rows] == PHASES
    assert [len(row["loss"]) for row in rows] == [1] * 30 + [4] * 40
    assert {len(row["loss_of_parts"]) for row in rows[20:30]} == {3}
    assert len(rows[30]["relaxed"]["vision.width"]) == 2
    settled = {tuple(row["carbon_kgco2e"]) for row in rows[50:]}
    assert len(settled) == 1, "designs rest while they are tuned"


def test_a_search_tells_how_its_designs_were_rounded(run, designs):
    snaps = Snaps.read(run / "snap.json").designs
    assert [each.candidate for each in snaps] == [2, 3]
    assert all(each.compared >= 1 and each.trained <= min(each.compared, 3) for each in snaps)
    assert all(d["costs"]["carbon_kgco2e"] <= d["target_carbon_kgco2e"] for d in designs[:2])


def test_a_search_starts_from_the_best_of_its_ranking(run, designs, capsys):
    """No network of the run's front is within a target and better than the joint phase's first."""
    assert main(["front", str(run), "--out", str(run / "front.json"), "--json"]) == 0
    named = json.loads((run / "front.json").read_text())
    front = json.loads(capsys.readouterr().out)["front"]
    proxy = read_proxy(run).proxy
    first = metrics(run)[30]
    dimensions = [
        first["relaxed"][f"{tower}.{field}"]
        for tower in ("vision", "text")
        for field in ("layers", "width", "heads", "ffn")
    ]
    for i, (cost, design) in enumerate(zip(first["carbon_kgco2e"][2:], designs[:2], strict=True)):
        larger = [
            int(values[i] > least)
            for values, least in zip(dimensions, (1, 8, 1, 16) * 2, strict=True)
        ]
        loss = proxy.loss.reshape(-1)[np.ravel_multi_index(larger, (2,) * 8)]
        target = design["target_carbon_kgco2e"]
        within = [
            own
            for own, c in zip(front["proxy_loss"], front["carbon_kgco2e"], strict=True)
            if c <= target
        ]
        assert cost <= target * (1 + 1e-6)
        assert loss == pytest.approx(min(within)) or i == 1  # the second gets what is left
    for design in named:
        assert design["costs"]["carbon_kgco2e"] <= design["target_carbon_kgco2e"] * (1 + 1e-5)
    for design in designs[:2]:
        assert 0 <= design["proxy_accuracy"] <= 1 and design["proxy_loss"] > 0
    assert "proxy_loss" not in designs[2]


def test_a_front_under_other_limits_and_scenarios(run, designs, capsys):
    def front(*argv):
        assert main(["front", str(run), "--json", *argv]) == 0
        return json.loads(capsys.readouterr().out)

    limit_s = 1.01 * min(design["costs"]["latency_s"] for design in designs)
    found = front(
        "--scenario.use_grid",
        "sweden",
        "--limits.latency_s",
        f"{limit_s:.6g}",
        "--targets.designs",
        "3",
    )
    assert 0 < found["feasible"] < found["networks"] == 256
    for design in found["designs"]:
        assert design["costs"]["latency_s"] <= limit_s
        assert design["scenario"]["use_grid"] == "sweden"
        assert design["costs"]["carbon_kgco2e"] <= design["target_carbon_kgco2e"] * (1 + 1e-6)
    losses, costs = found["front"]["proxy_loss"], found["front"]["carbon_kgco2e"]
    assert losses == sorted(losses, reverse=True) and costs == sorted(costs)
    small = front("--targets.mode", "latency", "--accelerator.pe_x", "[8]")
    assert all(d["accelerator"]["pe_x"] == 8 for d in small["designs"])
    assert all("target_latency_s" in d for d in small["designs"])


def test_wrong_inputs_of_a_front_are_one_line(run, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"config": {"space": {"sparsity": [[0.5]]}}}')
    for argv, message in (
        ([str(run), "--limits.latency", "1"], "did you mean '--limits.latency_s'?"),
        ([str(run), "--limits.latency_s", "1e-9"], "at least, not 1e-09; latency_s 0.000108 and "),
        ([str(run), "--scenario.inferences_per_s", "1e6"], "); lower scenario.inferences_per_s"),
        ([str(run), "--limits.area_mm2", "1e-4"], "); raise them"),
        ([str(run), "--scenario.dram_gb", "2e-6"], "scenario.dram_gb: 2e-06 GB cannot hold"),
        # The supernet does not fit, though smaller networks would.
        ([str(run), "--scenario.dram_gb", "1e-5"], "scenario.dram_gb: 1e-05 GB cannot hold"),
        ([str(run), "--scenario.costing", "catransformers"], "unknown technology 'hyperram'"),
        ([str(run), "--targets.designs", "0"], "--targets.designs"),
        ([str(tmp_path)], "searched subnet families"),
        ([str(tmp_path / "absent")], "is not a folder"),
    ):
        assert main(["front", *argv]) == 2
        assert message in one_line(capsys)


def test_the_snapped_costs_are_those_of_the_designs(run, designs):
    by_name = {d["name"]: d["costs"]["carbon_kgco2e"] for d in designs}
    last = metrics(run)[-1]["carbon_kgco2e"]
    expected = [by_name[n] for n in ("supernet", "half", "carbon-00", "carbon-01")]
    np.testing.assert_allclose(last, expected, rtol=1e-5)


def test_the_folder_is_complete(run, designs):
    figures = list(run.glob("*.png"))
    assert figures and all(f.read_bytes().startswith(b"\x89PNG") for f in figures)
    html = (run / "report.html").read_text()
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", html)
    assert all(d["name"] in html for d in designs)
    assert re.search(r"carbon [0-9.]+ m?gCO2e, accuracy 70\.0 %", html), "the reference point"
    record = json.loads((run / "config.json").read_text())
    assert record["seed"] == 0 and {"python", "jax", "flax", "codesign"} <= set(record["versions"])
    summary = json.loads((run / "summary.json").read_text())
    assert 0 <= summary["hypervolume"] <= 1 and summary["wall_time_s"] > 0
    low, high = summary["hypervolume_interval"]
    assert 0 <= low <= high <= 1
    assert [at["share"] for at in summary["accuracy_at_cost"]] == [0.25, 0.5, 0.75, 1.0]
    right = read_correct(run, designs)
    assert right.shape == (len(designs), summary["test_images"])
    for design, own in zip(designs, right, strict=True):
        assert design["accuracy"] == pytest.approx(own.mean(), abs=1e-12)
        assert design["accuracy_standard_error"] == pytest.approx(float(standard_error(own)))
    for design in designs:
        network = run / "checkpoints" / "designs" / design["name"]
        card = (network / "README.md").read_text()
        assert f"{design['costs']['carbon_kgco2e']:.4g} kgCO2e" in card
        stored = dataclasses.asdict(load_clip(network).architecture)
        assert stored["vision"] == design["architecture"]["vision"]
    assert not list(run.rglob("*.tmp"))
    assert list((run / "tensorboard").iterdir())


def test_the_tokenizer_loads(run, designs):
    tokenizer = load_tokenizer(run / "tokenizer.json")
    assert tokenizer.vocab_size == designs[0]["architecture"]["vocab"]


def test_wrong_inputs_are_one_line(config, run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    cifar = ["--data.name", "cifar10", "--data.path"]
    for i, (argv, message) in enumerate(
        (
            (["--optim.batchsize", "8"], "did you mean '--optim.batch_size'?"),
            (["--data.context", "1"], "context is 1"),
            (["--model.patch", "3"], "model.patch 3 does not divide the image's 8"),
            ([*cifar, str(tmp_path / "absent")], "does not exist"),
            ([*cifar, str(tmp_path / "empty")], "holds no parquet files"),
            (["--targets.low", "0.1"], "targets.low 0.1 asks for less than the smallest design"),
            (["--limits.area_mm2", "1e-4"], "not even the smallest design"),
            (["--scenario.dram_gb", "1e-5"], "scenario.dram_gb: 1e-05 GB cannot hold"),
            (["--limits.area_mm2", "1e-4"], "(area_mm2 is 0.493 at least, not 0.0001; area_"),
        )
    ):
        assert main(["search", config, "--out", str(tmp_path / str(i)), *argv]) == 2
        assert message in one_line(capsys)
    assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer)], "trackers"
    before = (run / "designs.json").read_bytes()
    assert main(["search", config, "--out", str(run), "--resume", "--seed", "1"]) == 2
    assert "seed was 0, is 1" in one_line(capsys)
    assert (run / "designs.json").read_bytes() == before


def program(config, out, *argv, **env):
    """The search as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "codesign", "search", config, "--out", str(out), "--json", *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | env,
    )


def finish(process):
    _, err = process.communicate()
    assert process.returncode == 0, err


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """Folder of a run of one process, with the compiler's optimisations, which users' have."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(program(config, out))
    return out


def stopped_in_the_joint_phase(config, out, how):
    """Exit code and messages of a run that is sent a signal."""
    with program(config, out) as process:
        while process.poll() is None:
            if (out / "metrics.jsonl").exists() and "joint" in (out / "metrics.jsonl").read_text():
                break
            time.sleep(0.05)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    assert 30 < len(metrics(out)) < STEPS and not (out / "designs.json").exists()
    return process.returncode, err


def check_that_it_resumes(config, out, whole):
    finish(program(config, out, "--resume"))
    for name in ("metrics.jsonl", "designs.json", "correct.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow  # a search again, from its last checkpoint
def test_a_resumed_run_tells_of_files_that_were_lost(config, run, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    for name in ("designs.json", "summary.json", "proxy.npz", "snap.json"):
        (out / name).unlink()
    assert main(["search", config, "--out", str(out), "--no-check", "--resume"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "proxy.npz is no longer in" in told and "snap.json is no longer in" in told
    assert main(["front", str(out)]) == 2
    assert "the file was lost: repeat the search" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_result(config, whole, tmp_path):
    out = tmp_path / "killed"
    code, _ = stopped_in_the_joint_phase(config, out, signal.SIGKILL)
    assert code == -signal.SIGKILL
    check_that_it_resumes(config, out, whole)


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_is_saved_and_resumes_to_the_same_result(config, whole, tmp_path):
    out = tmp_path / "stopped"
    code, err = stopped_in_the_joint_phase(config, out, signal.SIGTERM)
    assert code == 0 and "--resume continues it" in err and "Traceback" not in err
    saved = max(int(path.name) for path in (out / "checkpoints" / "steps").iterdir())
    assert saved == len(metrics(out))
    check_that_it_resumes(config, out, whole)


def as_it_was(folder):
    """Makes a run that was cut off in its warm-up one of the versions before checkpoints of data.

    The supernet was a population of one then: every leaf but the step had an axis more, and there
    were a design, its optimizer's state and multipliers. The fields of a search's own data were
    not there, nor was the kind of a run.
    """
    with Checkpoints(folder / "checkpoints") as checkpoints:
        saved = checkpoints.latest(set(PHASES), print)
    *own, step, vision_rank, text_rank = saved.leaves
    z, count = np.zeros((1, 14), np.float32), np.zeros(1, np.int32)
    multipliers = np.zeros((1, 4), np.float32)
    leaves = [*(np.asarray(x)[None] for x in own), z, count, z, z, multipliers, step]
    shutil.rmtree(folder / "checkpoints" / "steps")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(
            saved.step, saved.phase, [*leaves, vision_rank, text_rank], saved.notes["tracker"]
        )
    record = json.loads((folder / "config.json").read_text())
    del record["kind"]
    for name in (
        "train",
        "validation",
        "test",
        "checkpoint",
        "tokenizer",
        "image",
        "augment",
        "threads",
    ):
        del record["config"][name]
    (folder / "config.json").write_text(json.dumps(record))
    return saved.step


@pytest.mark.slow
def test_a_run_of_a_former_version_is_continued(config, run, tmp_path, monkeypatch, capsys):
    out = str(tmp_path / "old")
    append = RunFolder.append_metrics

    def cut(folder, rows):
        if rows[0]["step"] == 10:
            raise KeyboardInterrupt
        append(folder, rows)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "append_metrics", cut)
        assert main(["search", config, "--out", out]) == 130
    assert as_it_was(tmp_path / "old") == 10
    assert main(["search", config, "--out", out, "--resume"]) == 0
    for name in ("metrics.jsonl", "designs.json"):
        assert (tmp_path / "old" / name).read_bytes() == (run / name).read_bytes(), name


@pytest.mark.slow
def test_eight_devices_train_like_one(config, run, tmp_path):
    out = tmp_path / "eight"
    env = {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # as in `run`
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    finish(program(config, out, **env))
    assert json.loads((out / "summary.json").read_text())["devices"]["count"] == 8
    for one, eight in zip(metrics(run)[:40], metrics(out)[:40], strict=True):
        np.testing.assert_allclose(
            eight["loss"], one["loss"], rtol=1e-5, atol=1e-5, err_msg=f"step {one['step']}"
        )
