"""Ablation of effects: against every accelerator priced alone, regrets, messages, the command."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.cli import main
from codesign.cost.capacity import contents_bytes
from codesign.cost.chips import accelerator_grid
from codesign.cost.effects import EFFECTS, NAMES, World, effect_of
from codesign.cost.execution import Execution
from codesign.cost.model import Costs, workload_costs
from codesign.scenario import Scenario
from codesign.search.effects import (
    EffectsConfig,
    ablate_effects,
    choice_without,
    chosen,
    priced_in_worlds,
)
from codesign.search.objectives import Limits, objective
from codesign.space import AcceleratorChoices
from codesign.workload import load_model

pytestmark = pytest.mark.usefixtures("quick_compilation")

GRID = AcceleratorChoices(
    cores=(1, 2),
    pe_x=(16, 64),
    pe_y=(4, 16),
    l2_kib=(64,),
    l2_bytes_per_cycle=(64,),
    glb_mib=(0.5, 2.0),
    channels=(1, 4),
)
# Components alone, whose worlds one program prices; then the DRAM that is never waited for.
QUICK = (
    "standby",
    "phy",
    "control",
    "network",
    "clock",
    "leakage",
    "memories",
    "arrays",
    "bandwidth",
)
BRUTE = ("standby", "phy", "memories", "arrays", "bandwidth")
CONFIG = EffectsConfig(models=("tinyclip-8m-16", "carbonclip-xs"), space=GRID)


def priced_without(names):
    """The full world's costs, and every other one's by the effect that it lacks."""
    full = World.of(CONFIG.scenario)
    worlds = [full, *(effect_of(name).leave_out(full) for name in names)]
    models = [load_model(name) for name in CONFIG.models]
    truth, *others = priced_in_worlds(worlds, models, accelerator_grid(GRID))
    return truth, dict(zip(names, others, strict=True))


@pytest.fixture(scope="module")
def priced():
    return priced_without(QUICK)


@pytest.fixture(scope="module")
def found():
    return ablate_effects(dataclasses.replace(CONFIG, effects=("bandwidth", "standby")))


@functools.partial(jax.jit, static_argnames="scenario")
def one_by_one(work, chips, scenario, contents, components):
    def price(chip):
        return workload_costs(work, chip, scenario, contents, components).totals()

    return jax.lax.map(price, chips)


@pytest.mark.slow
@pytest.mark.parametrize("name", BRUTE)
def test_choices_are_those_of_pricing_every_accelerator_by_itself(name, priced):
    model, scenario = load_model(CONFIG.models[0]), CONFIG.scenario
    chips = accelerator_grid(GRID)
    full = World.of(scenario)
    truth, ablated = (
        one_by_one(
            model.workload,
            chips,
            world.scenario,
            contents_bytes(model.memory, scenario),
            world.components,
        )
        for world in (full, effect_of(name).leave_out(full))
    )
    for slack in (1.2, 2, 8):
        limit = slack * float(truth.latency_s.min())
        limits = Limits(latency_s=limit)
        fast = [np.asarray(c.latency_s) <= limit for c in (truth, ablated)]
        index = int(np.argmin(np.where(fast[1], ablated.carbon_kgco2e, np.inf)))
        least = float(np.min(np.where(fast[0], truth.carbon_kgco2e, np.inf)))
        best = chosen(priced[0][0], limits, CONFIG)
        got = choice_without(priced[0][0], priced[1][name][0], best, limits, CONFIG)
        assert got.accelerator == index
        assert got.predicted == pytest.approx(float(ablated.carbon_kgco2e[index]), rel=1e-5)
        assert got.actual == pytest.approx(float(truth.carbon_kgco2e[index]), rel=1e-5)
        if fast[0][index]:
            assert got.misses == {}
            assert got.regret == pytest.approx(got.actual / least - 1, abs=1e-5)
        else:
            over = float(truth.latency_s[index]) / limit - 1
            assert got.regret is None
            assert got.misses == {"latency_s": pytest.approx(over, rel=1e-4)}


# Which totals fall, rise or stay where an effect is left out, on every accelerator.
SIGNS = {
    "bandwidth": {"latency_s": -1, "area_mm2": 0, "embodied_kgco2e": 0},
    "usable-share": {"latency_s": -1, "area_mm2": 0},
    "standby": {"energy_j": -1, "area_mm2": 0},
    "self-refresh": {"latency_s": 0, "energy_j": -1, "embodied_kgco2e": 0},
    "phy": {"energy_j": -1, "area_mm2": -1},
    "capacity": {"latency_s": 0, "area_mm2": 0, "dram_gb": 1},
    "densities": {"latency_s": 0, "area_mm2": 0, "dram_gb": -1},
    "packages": {"latency_s": 0, "energy_j": 0, "embodied_kgco2e": -1},
    "hand-over": {"latency_s": 1, "energy_j": 1, "area_mm2": 0},
    "weights": {"latency_s": 0, "area_mm2": 0},  # no GLB of the grid holds them
    "start-up": {"latency_s": -1, "area_mm2": 0},
    "control": {"energy_j": -1, "area_mm2": -1},
    "network": {"area_mm2": -1},
    "clock": {"energy_j": -1, "area_mm2": 0},
    "leakage": {"energy_j": -1, "area_mm2": 0},
    "gating": {"latency_s": 0, "energy_j": -1, "area_mm2": 0},
    "memories": {"energy_j": -1, "area_mm2": -1},
    "arrays": {"energy_j": 1, "area_mm2": 1},
    "catransformers": {"dram_gb": 1},
}


@pytest.mark.parametrize("name", QUICK)
def test_an_effect_left_out_changes_what_it_is_about(name, priced):
    check_signs(name, *priced)


@pytest.mark.slow  # a scenario each, and the mappers of three costings
def test_each_of_all_effects_changes_what_it_is_about():
    priced = priced_without(NAMES)
    for name in NAMES:
        check_signs(name, *priced)


def check_signs(name, truth, others):
    several = accelerator_grid(GRID).cores > 1
    for model in range(len(CONFIG.models)):
        for key, sign in SIGNS[name].items():
            before, after = (np.asarray(getattr(c[model], key)) for c in (truth, others[name]))
            change = (after / before - 1)[several]
            tolerance = 2e-3 if sign == 0 else 0.0
            # The mapper may choose otherwise, and trade a little time for energy.
            assert (sign * change > -2e-3).all() and (sign * change.mean() >= 0), key
            assert (np.abs(change).max() <= tolerance) == (sign == 0), key


@pytest.mark.slow  # two ways of every product
@pytest.mark.parametrize("resident", [False, True])
def test_weights_stay_where_they_did_not_and_the_reverse(resident):
    """Half of a GLB of 32 MiB holds TinyCLIP-8M's image tower, which then is read from no DRAM."""
    large = dataclasses.replace(GRID, cores=(4,), pe_x=(128,), glb_mib=(2.0, 32.0))
    scenario = Scenario(inferences_per_s=30.0, texts_per_image=0.0, resident_weights=resident)
    full = World.of(scenario)
    model = load_model("tinyclip-8m-16").in_scenario(scenario)
    chips = accelerator_grid(large)
    worlds = [full, effect_of("weights").leave_out(full)]
    (truth,), (ablated,) = priced_in_worlds(worlds, [model], chips)
    streamed, stay = (ablated, truth) if resident else (truth, ablated)
    faster = np.asarray(stay.latency_s) / np.asarray(streamed.latency_s)
    assert (faster[chips.glb_mib == 2.0] == 1.0).all()
    assert (faster[chips.glb_mib == 32.0] < 0.99).all()


def test_without_any_effect_left_out_the_best_is_chosen_again(priced):
    for costs in priced[0]:
        limits = Limits(latency_s=2 * float(costs.latency_s.min()))
        best = chosen(costs, limits, CONFIG)
        same = choice_without(costs, costs, best, limits, CONFIG)
        assert (same.accelerator, same.regret, same.misses) == (best, 0.0, {})
        assert same.predicted == same.actual


# Latencies up to 1 s keep up with an inference a second.
positive = st.floats(0.125, 1.0, width=32)
grids = st.integers(1, 8).flatmap(
    lambda n: st.lists(st.tuples(*[positive] * 4), min_size=n, max_size=n)
)


def costs_from(latency, energy, operational, embodied):
    ones = np.ones_like(latency)
    return Costs(latency, energy, ones, ones, operational, embodied, dram_gb=ones)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(["carbon", "energy", "latency", "carbon*latency"]))
def test_a_regret_is_never_negative_and_is_there_exactly_where_limits_are_met(data, mode):
    rows = data.draw(grids)
    others = data.draw(st.lists(st.tuples(*[positive] * 4), min_size=len(rows), max_size=len(rows)))
    truth, ablated = (costs_from(*np.array(r, np.float32).T) for r in (rows, others))
    config = dataclasses.replace(CONFIG, objective=mode)
    limits = Limits(latency_s=float(np.sort(truth.latency_s)[len(rows) // 2]), energy_j=20.0)
    best = chosen(truth, limits, config)
    got = choice_without(truth, ablated, best, limits, config)
    if got.accelerator is None:
        assert (ablated.latency_s > limits.latency_s).all()
        return
    values = objective(mode)(truth)
    meets = truth.latency_s[got.accelerator] <= np.float32(limits.latency_s)
    assert (got.regret is not None) == meets == (not got.misses)
    if meets:
        assert got.regret >= 0
        regret = float(values[got.accelerator] / values[best]) - 1
        assert got.regret == pytest.approx(regret, abs=1e-6)


def test_an_accelerator_that_cannot_keep_up_misses_the_inferences_a_second():
    ones, carbon = np.ones(2, np.float32), np.array([1, 2], np.float32)
    truth, ablated = (
        costs_from(np.array(t, np.float32), ones, carbon, ones) for t in ([1.5, 0.5], [0.9, 0.5])
    )
    limits = Limits(latency_s=2.0)
    assert chosen(truth, limits, CONFIG) == 1
    got = choice_without(truth, ablated, 1, limits, CONFIG)
    assert got.accelerator == 0 and got.regret is None
    assert got.misses == {"inferences_per_s": pytest.approx(0.5)}


def test_effects_that_matter_do_and_others_do_not(found):
    """The bandwidth decides whether a limit is met; standby is a small part of the energy."""
    by = {
        name: [c for c in found["choices"] if c["effect"] == name]
        for name in ("bandwidth", "standby")
    }
    assert all(len(mine) == 6 for mine in by.values())
    missed = [c for c in by["bandwidth"] if c["misses"]]
    assert missed and all(set(c["misses"]) == {"latency_s"} for c in missed)
    assert all(c["regret"] is None and not c["same"] for c in missed)
    for choice in by["standby"]:
        assert choice["predicted"] <= choice["actual"]
    for best in found["best"]:
        assert best["taken_s"] <= best["latency_s"]


def test_worlds_that_map_alike_are_mapped_once(monkeypatch):
    import codesign.search.effects as module

    mapped = []
    run_on = module.run_on

    def counted(works, chips, techs):
        mapped.append(techs)
        return run_on(works, chips, techs)

    monkeypatch.setattr(module, "run_on", counted)
    full = World.of(Scenario())
    worlds = [full, *(effect_of(name).leave_out(full) for name in ("packages", "standby"))]
    models = [load_model(name) for name in CONFIG.models]
    priced_in_worlds(worlds, models, accelerator_grid(GRID))
    assert len(mapped) == 2


def test_accelerators_that_differ_in_nothing_that_counts_are_mapped_once(monkeypatch):
    """The reference's DRAM has one bandwidth, however many channels an accelerator has."""
    import codesign.search.effects as module

    def run_on(works, chips, techs):
        assert len(chips.cores) == len(techs.mac_pj) == 16
        cycles = chips.cores + 10 * chips.pe_x + 1000 * chips.pe_y + 1e6 * chips.glb_mib
        return [Execution({"gemm": cycles[None]}, {"mac": cycles[None]}) for _ in works]

    monkeypatch.setattr(module, "run_on", run_on)
    world = effect_of("catransformers").leave_out(World.of(Scenario()))
    grid = accelerator_grid(GRID)
    ((costs,),) = priced_in_worlds([world], [load_model("tinyclip-8m-16")], grid)
    cycles = grid.cores + 10 * grid.pe_x + 1000 * grid.pe_y + 1e6 * grid.glb_mib
    np.testing.assert_allclose(costs.latency_s, cycles / 625e6, rtol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--models", "[tinyclip-39]"], "did you mean 'tinyclip-39m-16'?"),
        (["--models", "[]"], "--models is (): it must be a list of one or more"),
        (["--models", "[bert-tiny,bert-tiny]"], "--models: 'bert-tiny' is there twice"),
        (["--effects", "[bandwith]"], "no effect 'bandwith'; did you mean 'bandwidth'?"),
        (["--effects", "[phy,phy]"], "--effects: 'phy' is there twice; give it once"),
        (["--slack", "[0.5]"], "--slack is (0.5,)"),
        (["--objective", "carbn"], "--objective is 'carbn'"),
        (["--limits.latency_s", "0.01"], "set latency_s"),
        (["--limits.tops", "1e-3"], "no accelerator of the grid meets tops <= 0.001"),
        (["--scenario.costing", "catransformers"], "of the physical costing"),
        (
            ["--scenario.precision_bits", "4"],
            "catransformers: scenario.costing: catransformers knows 8 bits at 22 nm",
        ),
        (["--effect", "[phy]"], "did you mean '--effects'?"),
        (
            ["--models", "[tinyclip-8m-16]", "--scenario.dram_gb", "1e-3"],
            "tinyclip-8m-16: scenario.dram_gb: 0.001 GB cannot hold",
        ),
    ],
)
def test_bad_input_is_one_line(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["ablate", "effects", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error


def test_limits_that_nothing_meets_are_named(tmp_path, capsys):
    flags = [MODEL_FLAG, "--effects", "[standby]", "--latency_s", "[1e-6]"]
    assert main(["ablate", "effects", *GRID_FLAGS, *flags, "--out", str(tmp_path / "run")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "tinyclip-8m-16: no accelerator of the grid meets latency_s <= 1e-06" in last


# Those of the fixtures, whose programs are there.
MODEL_FLAG = f"--models={json.dumps(CONFIG.models)}"
GRID_FLAGS = [
    f"--space.{name}={json.dumps(choices)}" for name, choices in dataclasses.asdict(GRID).items()
]


def test_command_writes_a_run_that_its_report_is_rebuilt_from(tmp_path, capsys):
    out = tmp_path / "run"
    flags = [MODEL_FLAG, "--effects", "[bandwidth,standby]", *GRID_FLAGS]
    assert main(["ablate", "effects", *flags, "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    saved = json.loads((out / "effects.json").read_text())
    assert result == {"run": str(out), "report": str(out / "report.html")} | saved
    assert saved["accelerators"] == 32 and len(saved["choices"]) == 2 * len(saved["best"]) == 12
    assert (out / "effects.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert "bandwidth" in page and "the DRAM is never waited for" in page
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "bandwidth" in printed and "report.html" in printed
    assert (out / "report.html").read_text() == page
    assert main(["ablate", "effects", "--out", str(out)]) == 2
    assert "already holds an ablation of effects" in capsys.readouterr().err


def test_help_lists_the_fields_and_every_effect(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["ablate", "effects", "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"--{name}" in printed for name in ("models", "effects", "slack", "space.channels"))
    assert all(name in printed for name in NAMES)


def test_documentation_has_every_effect():
    text = (Path(__file__).parents[3] / "docs" / "cost-model.md").read_text(encoding="utf-8")
    for effect in EFFECTS:
        assert f"| {effect.name} | {effect.without}" in text
