"""Hardware search of a fixed model: against a loop over the grid, limits, files, messages."""

from __future__ import annotations

import dataclasses
import functools
import json
import re

import numpy as np
import pytest

from codesign import Accelerator, clip_vit_b16, estimate
from codesign.cli import main
from codesign.cost.capacity import contents_bytes
from codesign.costing import PHYSICAL
from codesign.report.hardware import front_figure, hardware_designs
from codesign.scenario import Scenario
from codesign.search.hardware import (
    HardwareConfig,
    dram_gb_for,
    resolve_scenario,
    search_hardware,
    with_dram,
)
from codesign.search.objectives import METRIC, Limits
from codesign.space import PUBLISHED_GRID, WIDE_GRID, AcceleratorChoices
from codesign.workload import Gemm, clip_workload, gather, load_model

pytestmark = pytest.mark.usefixtures("quick_compilation")

GRID = AcceleratorChoices((1, 2), (32, 128), (4, 16), (64, 256), (64,), (2, 4))
LIMITS = Limits(tops=2.0, latency_s=0.2)
HELD = float(contents_bytes(load_model("clip-vit-b-16").memory, Scenario()))
search = functools.partial(search_hardware, contents=HELD)


@pytest.fixture(scope="module")
def found():
    return search(clip_workload(clip_vit_b16()), GRID, Scenario(), LIMITS)


def test_whole_grid_is_priced_as_each_design_is(found):
    chosen = np.random.default_rng(0).choice(len(found.feasible), 6, replace=False)
    for i in chosen:
        chip, costs = found.at(int(i))
        alone = estimate(clip_vit_b16(), chip)
        for name in ("latency_s", "energy_j", "area_mm2", "tops", "carbon_kgco2e"):
            assert getattr(costs, name) == pytest.approx(getattr(alone, name), rel=1e-5)


def test_best_and_front_by_looking_at_all(found):
    every = [found.at(i)[1] for i in range(len(found.feasible))]
    allowed = [i for i, c in enumerate(every) if c.tops <= 2 and c.latency_s <= 0.2]
    assert np.flatnonzero(found.feasible).tolist() == allowed
    for mode, name in METRIC.items():
        least = min(getattr(every[i], name) for i in allowed)
        assert getattr(every[found.best[mode]], name) == least
    at = lambda i: (every[i].latency_s, every[i].carbon_kgco2e)  # noqa: E731
    beaten = lambda i: any(  # noqa: E731
        at(j) != at(i) and at(j)[0] <= at(i)[0] and at(j)[1] <= at(i)[1] for j in allowed
    )
    assert {at(i) for i in found.front} == {at(i) for i in allowed if not beaten(i)}
    latencies = [every[i].latency_s for i in found.front]
    assert latencies == sorted(latencies)
    assert found.best["latency"] in found.front


def test_limits_that_cannot_be_met_are_named(found):
    work, costs = clip_workload(clip_vit_b16()), found.costs
    least = f"meets area_mm2 <= 0.1; the least is {costs.area_mm2.min():.4g}"
    with pytest.raises(ValueError, match=re.escape(least)):
        search(work, GRID, Scenario(), Limits(area_mm2=0.1))
    # The smallest chip is not the fastest.
    assert np.argmin(costs.area_mm2) != np.argmin(costs.latency_s)
    ends = Limits(
        area_mm2=1.001 * float(costs.area_mm2.min()),
        latency_s=1.001 * float(costs.latency_s.min()),
    )
    with pytest.raises(ValueError, match="together; raise one of them") as caught:
        search(work, GRID, Scenario(), ends)
    # The nearest is the one whose larger excess is least, and its limits are enough.
    over = np.maximum(costs.area_mm2 / ends.area_mm2, costs.latency_s / ends.latency_s)
    chip, nearest = found.at(int(np.argmin(over)))
    assert f"would be met, by cores {chip.cores:g}, pe_x {chip.pe_x:g}, " in str(caught.value)
    enough = re.findall(r"(latency_s|area_mm2) ([\d.e-]+)", str(caught.value).split("all: ")[1])
    named = {key: float(value) for key, value in enough}
    assert all(value >= getattr(nearest, key) for key, value in named.items()) and named
    assert search(work, GRID, Scenario(), dataclasses.replace(ends, **named)).feasible.any()


def test_what_the_dram_holds_must_be_said():
    """Without it the devices would be those of the system's share alone."""
    with pytest.raises(TypeError, match="contents"):
        search_hardware(clip_workload(clip_vit_b16()), GRID, Scenario(), LIMITS)
    assert HELD > 150e6


def test_a_model_that_fits_nowhere():
    tiny = AcceleratorChoices((1,), (32,), (4,), (1e-3,), (64,), (2,))
    with pytest.raises(ValueError, match="fits no mapping on any accelerator"):
        search(gather([Gemm("g", 64, 64, 64)], [], PHYSICAL), tiny, Scenario(), Limits())


def test_dram_holds_the_weights():
    assert [dram_gb_for(n) for n in (1, 10**9, 10**9 + 1, 8 * 10**9)] == [1, 1, 2, 8]
    assert dram_gb_for(8 * 10**9, 0.5) == 4
    assert with_dram(Scenario(), 7e9, 1e6, fixed=False) == Scenario()  # it follows the contents
    assert with_dram(Scenario(dram_gb=1), 7e9, 1e6, fixed=False).dram_gb == 8
    assert with_dram(Scenario(dram_gb=16), 7e9, 1e6, fixed=False).dram_gb == 16
    # What was asked for is not changed in silence.
    with pytest.raises(ValueError, match=r"dram_gb: 4 GB cannot hold 7 GB \(weights 7, act"):
        with_dram(Scenario(dram_gb=4), 7e9, 1e6, fixed=True)


def test_scenario_of_a_search():
    """A file's or a costing's own scenario, with what the user sets on top of it."""
    of_file = Scenario(use_grid="poland", lifetime_years=5.0, dram_gb=2.0)
    theirs = HardwareConfig(costing="catransformers")
    assert resolve_scenario(HardwareConfig()) == Scenario()
    assert resolve_scenario(HardwareConfig(), of_file) == of_file
    assert resolve_scenario(HardwareConfig(costing="physical"), of_file) == of_file
    assert resolve_scenario(theirs).use_grid == "california_2023"
    assert resolve_scenario(theirs, of_file) == resolve_scenario(theirs)
    mine = dataclasses.replace(theirs, scenario=Scenario(use_grid="poland", lifetime_years=10.0))
    for of_model in (None, of_file):
        settled = resolve_scenario(mine, of_model)
        assert (settled.use_grid, settled.lifetime_years) == ("poland", 10.0)
        assert (settled.costing, settled.fab_grid) == ("catransformers", "taiwan_2022")
    # The default's value counts as well where it was given.
    assert resolve_scenario(theirs, None, {"scenario.use_grid"}).use_grid == "california"
    assert (
        resolve_scenario(HardwareConfig(), of_file, {"scenario.lifetime_years"}).lifetime_years == 3
    )
    by_scenario = HardwareConfig(scenario=Scenario(costing="catransformers"))
    assert resolve_scenario(by_scenario).fab_grid == "taiwan_2022"


def test_choices_of_a_grid():
    """The wide grid's choices count as well where they were given for the published one."""
    published = HardwareConfig(grid="published")
    assert published.choices("physical") == PUBLISHED_GRID
    assert HardwareConfig().choices("catransformers") == PUBLISHED_GRID
    wider = published.choices("physical", {"space.cores"})
    assert wider == dataclasses.replace(PUBLISHED_GRID, cores=WIDE_GRID.cores)
    fewer = dataclasses.replace(WIDE_GRID, cores=(1, 8))
    assert dataclasses.replace(published, space=fewer).choices("physical").cores == (1, 8)


def test_a_chip_that_cannot_keep_up_is_not_feasible(found):
    """At 8 inferences a second CLIP-B/16 must take at most 125 ms; at 1,000, 1 ms."""
    work = clip_workload(clip_vit_b16())
    busy = search(work, GRID, Scenario(inferences_per_s=8.0), LIMITS)
    kept = found.feasible & (np.asarray(found.costs.latency_s) <= 0.125)
    assert busy.feasible.tolist() == kept.tolist()
    assert 0 < kept.sum() < found.feasible.sum()
    with pytest.raises(ValueError, match=r"keeps up with scenario.inferences_per_s 1000: the fas"):
        search(work, GRID, Scenario(inferences_per_s=1000.0), LIMITS)


def test_an_objective_is_sought_once(found):
    work = clip_workload(clip_vit_b16())
    with pytest.raises(ValueError, match="objectives: two are called 'carbon'; give each once"):
        search(work, GRID, Scenario(), LIMITS, ("carbon", "carbon_kgco2e"))


@pytest.mark.slow
def test_a_family_keeps_up_on_average(found):
    """The slow dense subnet runs one inference in a hundred."""
    dense, sparse = (clip_workload(clip_vit_b16(), density=d) for d in (1.0, 0.2))
    scenario = Scenario(index_bits=12, inferences_per_s=8.0)
    shares = lambda a, b: dataclasses.replace(scenario, subnet_shares=(a, b))  # noqa: E731
    rarely, always = (
        search([dense, sparse], GRID, shares(*s), Limits()).feasible
        for s in ((0.01, 0.99), (1.0, 0.0))
    )
    assert rarely.sum() > always.sum() > 0


def test_least_of_any_objective_within_any_limit(found, tmp_path):
    """A function and a product are as good as a name; the figure has a star for each."""
    costs = [found.at(i)[1] for i in range(len(found.feasible))]
    within = Limits(edp_js=float(np.median([c.energy_j * c.latency_s for c in costs])))

    def dearer_j(costs):
        return costs.energy_j + costs.area_mm2

    wanted = ("edp", "carbon^0.5*area^2", "carbon-delay", dearer_j, "area")
    again = search(clip_workload(clip_vit_b16()), GRID, Scenario(), within, wanted)
    allowed = [i for i, c in enumerate(costs) if c.energy_j * c.latency_s <= within.edp_js]
    assert np.flatnonzero(again.feasible).tolist() == allowed
    assert min(allowed, key=lambda i: costs[i].energy_j + costs[i].area_mm2) == again.best["dearer"]
    model = load_model("clip-vit-b-16")
    designs = hardware_designs(model, Scenario(), again)
    best = [d for d in designs if d["name"].startswith("least")]
    assert [d["name"] for d in best] == [
        "least-edp",
        "least-carbon0.5-area2",
        "least-carbon-delay",
        "least-dearer",
        "least-area",
    ]
    least = min(c.carbon_kgco2e**0.5 * c.area_mm2**2 for c in (costs[i] for i in allowed))
    assert best[1]["costs"]["carbon0_5_area2"] == pytest.approx(least, rel=1e-5)
    assert front_figure(designs).startswith(b"\x89PNG")


GRID_FLAGS = [
    "--space.cores=[1]",
    "--space.pe_x=[32,64]",
    "--space.pe_y=[4]",
    "--space.l2_kib=[64]",
    "--space.l2_bytes_per_cycle=[64]",
    "--space.glb_mib=[2,4]",
    "--space.channels=[2]",
]


def test_command_writes_designs_that_can_be_priced_again(tmp_path, capsys):
    out = tmp_path / "run"
    command = ["search", "hardware", "--model", "carbonclip-s", *GRID_FLAGS]
    assert main([*command, "--json", "--out", str(out)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accelerators"] == result["feasible"] == 4
    names = [d["name"] for d in result["designs"]]
    assert names[:3] == ["least-carbon", "least-latency", "least-energy"]
    assert json.loads((out / "designs.json").read_text()) == result["designs"]
    # Of two choices each is an edge.
    chips = {d["name"]: d["accelerator"] for d in result["designs"]}
    assert {edge["dimension"] for edge in result["edges"]} == {
        "accelerator.pe_x",
        "accelerator.glb_mib",
    }
    for edge in result["edges"]:
        field = edge["dimension"].removeprefix("accelerator.")
        assert edge["designs"] and all(chips[n][field] == edge["value"] for n in edge["designs"])
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    assert main(["cost", str(out / "designs.json"), "--name", "least-latency", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["costs"]
    first = result["designs"][1]["costs"]
    assert again["carbon_kgco2e"] == pytest.approx(first["carbon_kgco2e"], rel=1e-5)
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "least-carbon" in printed and "look further by --space.glb_mib '[" in printed
    assert main([*command, "--out", str(out)]) == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "tinyclip-39"], "did you mean 'tinyclip-39m-16'?"),
        (["--area_mm2", "0.5"], "no accelerator of the grid meets area_mm2 <= 0.5"),
        (["--costing", "physcal"], "did you mean 'physical'?"),
        (["--phase", "decode"], "no decoder"),
        (["--modle", "x"], "did you mean"),
        (["--space.cores=[-2]"], "choices must be positive and increasing, not (-2,)"),
        (["--space.cores=[]"], "choices must be positive and increasing, not ()"),
        (["--space.pe_x=[64,32]"], "choices must be positive and increasing"),
        (["--space.pe_x=[-32]"], "choices must be positive"),
        (["--space.pe_x=[48]"], "--space.pe_x: 48 is off the grid; use 32 or 64"),
        (["--space.pe_y=[2048]"], "--space.pe_y: 2048 is off the grid; use 1024"),
        (["--space.l2_kib=[0.5]"], "--space.l2_kib"),
        (["--space.glb_mib=[1024]"], "--space.glb_mib: 1024 is off the grid; use 64"),
        (["--scenario.use_grid", "0.224"], "if it is in kg, that is 224 gCO2e/kWh"),
        (["--scenario.clock_mhz", "625e6"], "if it is in Hz, that is 625 MHz"),
        (["--scenario.clock_mhz", "0.625"], "if it is in GHz, that is 625 MHz"),
        (["--scenario.lifetime_years", "1095"], "if it is in days, that is 3 years"),
        (["--scenario.node_nm", "3"], "unknown 3; choose from 7, 10, 14, 16, 20, 22, 28"),
        (["--scenario.dram_gb", "0.01"], "dram_gb: 0.01 GB cannot hold 0.15"),
        (["--scenario.inferences_per_s", "1000"], "keeps up with scenario.inferences_per_s"),
        (["--scenario.subnet_shares", "[0.2,0.8]"], "has 2 shares for 1 subnets"),
    ],
)
def test_bad_input_is_one_line(flags, message, capsys):
    assert main(["search", "hardware", *GRID_FLAGS, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.slow
def test_off_the_published_grid_but_within_the_bounds(tmp_path, capsys):
    """What a search may choose, `cost` prices: the smallest and the largest of each."""
    flags = [
        "--space.cores=[16]",
        "--space.pe_x=[1024]",
        "--space.pe_y=[512]",
        "--space.l2_kib=[4096]",
        "--space.l2_words_per_cycle=[512]",
        "--space.glb_mib=[0.015625,64]",
        "--tops",
        "null",
    ]
    out = tmp_path / "run"
    assert main(["search", "hardware", "--model", "carbonclip-s", *flags, "--out", str(out)]) == 0
    assert main(["cost", str(out / "designs.json"), "--name", "least-carbon", "--json"]) == 0
    capsys.readouterr()


def test_scenario_of_file_and_of_the_command_line(tmp_path, capsys):
    file = tmp_path / "phone.json"
    file.write_text(
        json.dumps(
            {
                "architecture": {},
                "accelerator": {},
                "scenario": {"use_grid": "poland", "hours_per_day": 12},
            }
        )
    )

    def scenario(*flags):
        assert main(["search", "hardware", *GRID_FLAGS, "--json", *flags]) == 0
        return json.loads(capsys.readouterr().out)["designs"][0]["scenario"]

    one = scenario("--model", str(file), "--scenario.lifetime_years", "10")
    assert (one["use_grid"], one["hours_per_day"], one["lifetime_years"]) == ("poland", 12, 10)
    two = scenario("--scenario.use_grid", "poland", "--costing", "physical")
    assert two["use_grid"] == "poland"
    three = scenario("--costing", "catransformers", "--scenario.use_grid", "california")
    assert (three["use_grid"], three["fab_grid"]) == ("california", "taiwan_2022")


def test_an_entry_without_architecture_says_what_prices_it(tmp_path, capsys):
    """The towers of ViT-H/14 have heads of 80 and 64 channels, an Architecture's of one."""
    out = tmp_path / "run"
    command = [
        "search",
        "hardware",
        "--model",
        "clip-vit-h-14",
        *GRID_FLAGS,
        "--out",
        str(out),
        "--scenario.inferences_per_s",
        "0.1",
    ]
    assert main(command) == 0
    capsys.readouterr()
    assert main(["cost", str(out / "designs.json"), "--name", "least-carbon"]) == 2
    error = capsys.readouterr().err
    assert "search hardware --model clip-vit-h-14" in error and error.count("\n") == 1
    assert "defaults" not in error


def test_dram_of_a_decoder(capsys):
    """Llama-3.2-3B at its longest: 3.2 GB of weights, 7.5 GB of keys and values; two channels."""
    command = [
        "search",
        "hardware",
        "--model",
        "llama-3.2-3b",
        "--phase",
        "decode",
        "--context",
        "131072",
        "--scenario.inferences_per_s",
        "0.1",
        "--json",
        *GRID_FLAGS,
    ]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["designs"][0]["costs"]["dram_gb"] == 12


@pytest.mark.slow
def test_a_llama_has_no_architecture_and_larger_dram(capsys):
    command = [
        "search",
        "hardware",
        "--model",
        "llama-3.2-1b",
        "--phase",
        "decode",
        "--context",
        "64",
        "--json",
        *GRID_FLAGS,
    ]
    assert main(command) == 0
    design = json.loads(capsys.readouterr().out)["designs"][0]
    assert "architecture" not in design and design["model"] == "llama-3.2-1b"
    # 1.24e9 bytes, 1.15 GB, and the system's 0.06 on two channels.
    assert design["costs"]["dram_gb"] == 1.5
    assert dataclasses.asdict(Accelerator(**design["accelerator"])) == design["accelerator"]


def test_the_design_of_a_list_that_is_named_is_priced(tmp_path, capsys):
    def design(name, layers):
        tower = {"layers": layers, "width": 192, "heads": 3, "ffn": 256}
        networks = {"vision": tower, "text": tower}
        return {"name": name, "architecture": networks, "accelerator": {}}

    designs = tmp_path / "designs.json"
    designs.write_text(json.dumps([design("small", 1), design("large", 4)]))
    command = ["search", "hardware", "--model", str(designs), *GRID_FLAGS, "--json"]
    latency_s = {}
    for name in ("small", "large"):
        assert main([*command, "--name", name]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["model"] == name
        latency_s[name] = min(d["costs"]["latency_s"] for d in found["designs"])
    assert latency_s["small"] < latency_s["large"]
    assert main(command) == 2
    assert "--name" in capsys.readouterr().err
