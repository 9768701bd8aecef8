"""Searches and rivals in one harness: trials are a search's own tuning; a kill changes nothing."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign.architecture import Architecture, Tower
from codesign.cli import main
from codesign.configs.quickstart import config as quickstart
from codesign.runs import RunFolder
from codesign.search.grid import best_accelerators
from codesign.search.proxy_file import PROXY, Proxy, Ranked, proxy_bytes
from codesign.space import DesignSpace
from codesign.train.config import ScheduleConfig, TargetConfig
from codesign.train.search.compare import _fidelity
from codesign.train.search.population import params_of, population_chunk
from codesign.train.search.problem import problem_of
from codesign.train.search.setup import start_population
from codesign.train.search.trials import Trials
from codesign.train.search.work import macs_at, search_work
from codesign.train.zero_shot import evaluate_images
from codesign.workload.clip import clip_workload
from simulators.tiny_runs import SEARCH
from simulators.tiny_search import CHIP, SPACE, TOWER

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = dataclasses.replace(
    quickstart,
    space=SPACE,
    targets=TargetConfig(designs=2, low=0.8, high=0.9),
    schedule=ScheduleConfig(
        warmup_steps=0, joint_steps=0, tune_steps=5, chunk_steps=2, order_batches=1
    ),
    optim=dataclasses.replace(quickstart.optim, batch_size=16, warmup_steps=1),
)
LARGEST = Architecture(
    vision=Tower(2, 16, 2, 32),
    text=Tower(2, 16, 2, 32),
    patch=2,
    image=8,
    context=10,
    projection=32,
    head_dim=8,
    vocab=100,
)


@pytest.fixture(scope="module")
def setup(prepared):
    return prepared(CONFIG)


@pytest.fixture(scope="module")
def trials(setup):
    return Trials.start(setup, setup.params, setup.constants.fixed, None)


@pytest.mark.slow  # compiles a supernet three times
def test_a_trial_is_the_tuning_of_a_search(setup, trials, batch):
    """Against the candidates of a population, tuned beside the supernet, cut out and measured."""
    architectures = np.array([[0, 1, 0, 1, 1, 0, 1, 0], [1, 0, 1, 0, 0, 1, 0, 1]])
    start = setup.start.copy()
    start[2:, :8] = architectures
    population = start_population(setup, setup.params, 0, start)
    goals = setup.goals._replace(searched=jnp.zeros_like(setup.goals.searched))
    with setup.feed.open() as data:
        for done in range(0, 5, 2):
            chunk = data.read(done, min(2, 5 - done), 2)
            population, _ = population_chunk(
                population, goals, chunk, jax.random.key(0), setup.constants, setup.trainer
            )
    indices = np.zeros((2, len(setup.space.steps)), int)
    indices[:, :8] = architectures
    tuned, _ = trials._run(indices, trials.taught)
    results = trials.results(architectures)
    for i, result in enumerate(results):
        # Not their weights: Adam makes steps of the rounding where a gradient is 0, of the keys'
        # biases, which no output depends on.
        networks = [
            setup.model(params, trials.fixed).slice_to(setup.space.architecture_at(indices[i]))
            for params in (
                params_of(tuned, i),
                params_of(population.params, 2 + i),
                setup.params,
            )
        ]
        pixels = setup.trainer.task.student.normalised(batch.images)
        ours, theirs, before = (network(pixels, batch.ids)[0] for network in networks)
        for a, b, c in zip(ours[:2], theirs[:2], before[:2], strict=True):
            moved = float(jnp.abs(b - c).max())
            assert float(jnp.abs(a - b).max()) < 0.01 * moved
        network = networks[0]
        for source, share in zip(setup.held_out, (result.test, result.validation), strict=True):
            right = evaluate_images(network, setup.processor, source).zero_shot
            assert share == pytest.approx(right.mean(), abs=1.5 / len(right))


def test_products_are_those_of_each_network(setup):
    space = setup.space
    networks = np.random.default_rng(1).integers(0, space.steps + 1, (5, len(space.steps)))
    alone = [float(clip_workload(space.architecture_at(row)).macs) for row in networks]
    assert macs_at(space, networks).tolist() == alone


def test_costs_are_of_the_best_accelerator_or_of_the_design_s_own(setup):
    space, table = setup.space, setup.tables.dense
    rng = np.random.default_rng(0)
    designs = rng.integers(0, space.steps + 1, (9, len(space.steps)))
    exact, own = problem_of(setup, "exact"), problem_of(setup, "searched")
    best = best_accelerators(table, designs, "carbon", CONFIG.limits)
    cost = exact.cost(designs[:, :8])
    np.testing.assert_allclose(cost, best.value, rtol=1e-6)
    assert (own.cost(designs) >= cost * (1 - 1e-6)).all()
    on_best = designs.copy()
    on_best[:, 8:] = np.asarray(table.accelerator_indices(jnp.asarray(best.accelerator)))
    np.testing.assert_allclose(own.cost(on_best), cost, rtol=1e-6)
    assert exact.choices == (2,) * 8 and len(own.choices) == len(space.steps)


def test_the_work_of_a_joint_search_by_hand(setup):
    search = dataclasses.replace(
        CONFIG,
        schedule=dataclasses.replace(
            CONFIG.schedule,
            warmup_steps=7,
            joint_steps=3,
            snap_candidates=4,
            snap_images=24,
            snap_steps=30,
        ),
    )
    work = search_work(search, setup, [0.5, 0.25])
    assert work == pytest.approx(
        # Soft gates close nothing: 2 designs of 3 steps. Tuning: 5 (1/2 + 1/4). The snap sees 24
        # images four times, six batches of 16, of networks as large as the designs.
        {"warmup": 7, "order": 1, "teacher": 8, "joint": 6, "tune": 3.75, "snap": 6 * 0.75 / 3}
    )
    # Roundings of both were trained: as many as make 1.5 and 0.5 supernets, and one that teaches.
    more = search_work(search, setup, [0.5, 0.25], [1.5, 0.5])
    assert more == pytest.approx(work | {"snap": work["snap"] + 30 * (2.5 + 1.5)})


def test_the_work_of_an_elastic_search_counts_every_network_that_is_drawn(setup):
    search = dataclasses.replace(
        CONFIG, schedule=dataclasses.replace(CONFIG.schedule, elastic_steps=4)
    )
    work = search_work(search, setup, [0.5])
    least, whole = macs_at(setup.space, np.stack([0 * setup.space.steps, setup.space.steps]))
    share = least / whole
    assert 4 * (1 + 3 * share) <= work["elastic"] <= 4 * (3 + share)
    assert work["ranking"] > 0 and "joint" not in work


def test_the_ranking_is_held_against_every_network_that_rivals_tuned(tmp_path):
    """A proxy that orders its networks as their image tower's place does; by hand."""
    space = DesignSpace(LARGEST, TOWER, TOWER, CHIP)
    assert _fidelity(space, tmp_path, ["gp", "random"]) is None
    loss = np.add.outer(np.arange(16.0), 0.01 * np.arange(16.0))
    (tmp_path / "elastic").mkdir()
    ranked = Ranked(Proxy(loss, np.zeros_like(loss)), LARGEST, 10)
    (tmp_path / "elastic" / PROXY).write_bytes(proxy_bytes(ranked))

    def rows(*each):
        return [
            {"step": i, "design": [*vision, *text, 0, 0, 0, 0], "accuracy": accuracy, "cost": cost}
            for i, (vision, text, accuracy, cost) in enumerate(each)
        ]

    low, mid, high = [0, 0, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1]  # places 1, 8 and 15
    for name, found in {
        "gp": rows((low, high, 0.9, 3.0), (mid, low, 0.7, 1.0), (mid, low, 0.7, 1.0)),
        "random": rows((low, high, 0.9, 3.0), (mid, high, 0.8, 2.0), (high, low, 0.6, 4.0)),
    }.items():
        (tmp_path / name).mkdir()
        RunFolder(tmp_path / name).append_metrics(found)
    found = _fidelity(space, tmp_path, ["gp", "random"])
    # Losses 1.15, 8.01, 8.15, 15.01: ranks 1 2 3 4 where accuracies have 4 2 3 1.
    assert found.designs == 4
    assert found.spearman == pytest.approx(0.8)


def test_wrong_fields_are_one_line(capsys):
    for argv, message in (
        (["--methods", "nsga3"], "--methods"),
        (["--seeds", "1", "1"], "--seeds names one twice"),
        (["--trials", "4", "--startup", "5"], "--startup 5 is more than all --trials 4"),
        (["--schedule.joint_steps", "0"], "--methods joint needs"),
        (["--limits.latency", "1"], "did you mean"),
    ):
        assert main(["compare", "quickstart", *argv]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert main(["compare", "digits_clip"]) == 2
    assert "no comparison" in capsys.readouterr().err


def results(folder):
    """What does not depend on the clock."""
    found = json.loads((folder / "compare.json").read_text())
    for contestant in found["contestants"]:
        for run in contestant["runs"]:
            run.pop("start_wall_s")
            for trial in run["trials"]:
                trial.pop("wall_s")
    return found


@pytest.mark.slow
def test_an_interrupted_comparison_ends_as_an_uninterrupted_one(tmp_path, capsys):
    """Cut off within a rival's trials, the last line torn, and before the product's own search."""
    pytest.importorskip("pymoo")
    (tmp_path / "tiny.py").write_text(SEARCH)
    out = tmp_path / "whole"
    argv = ["compare", str(tmp_path / "tiny.py"), "--methods", "random", "nsga2", "joint"]
    argv += ["--seeds", "0", "--trials", "6", "--startup", "3", "--no-check", "--out"]
    assert main([*argv, str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [c["name"] for c in shown["contestants"]] == ["random", "nsga2", "joint"]
    assert [len(c["runs"][0]["trials"]) for c in shown["contestants"]][:2] == [6, 6]
    assert main([*argv, str(out)]) == 2, "without --resume"
    assert "--resume" in capsys.readouterr().err

    cut = tmp_path / "cut"
    shutil.copytree(out, cut)
    for name in ("compare.json", "report.html"):
        (cut / name).unlink()
    shutil.rmtree(cut / "seed-0" / "joint")
    file = cut / "seed-0" / "nsga2" / "metrics.jsonl"
    text = file.read_text().splitlines(keepends=True)
    file.write_text("".join(text[:4]) + text[4][:20])
    assert main([*argv, str(cut), "--resume"]) == 0
    assert results(cut) == results(out)
    assert file.read_text().count("\n") == 6

    again = tmp_path / "again"
    assert main([*argv, str(again)]) == 0
    assert results(again) == results(out)
    file = again / "seed-0" / "random" / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["design"][0] = 1 - rows[0]["design"][0]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([*argv, str(again), "--resume"]) == 1
    assert "another version" in capsys.readouterr().err
