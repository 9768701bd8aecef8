"""Hardware search of a fixed model: against a loop over the grid, limits, files, messages."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from codesign import Accelerator, clip_vit_b16, estimate
from codesign.cli import main
from codesign.costing import PHYSICAL
from codesign.scenario import Scenario
from codesign.search.hardware import (
    HardwareConfig,
    dram_gb_for,
    search_hardware,
    settled_scenario,
)
from codesign.search.objectives import METRIC, Limits
from codesign.space import AcceleratorChoices
from codesign.workload import Gemm, clip_workload, gather

pytestmark = pytest.mark.usefixtures("quick_compilation")

GRID = AcceleratorChoices((1, 2), (32, 128), (4, 16), (64, 256), (64,), (2, 4))
LIMITS = Limits(tops=2.0, latency_s=0.2)


@pytest.fixture(scope="module")
def found():
    return search_hardware(clip_workload(clip_vit_b16()), GRID, Scenario(), LIMITS)


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


def test_limits_that_cannot_be_met_are_named():
    work = clip_workload(clip_vit_b16())
    with pytest.raises(ValueError, match=r"meets area_mm2 <= 0\.1; the least is 2\."):
        search_hardware(work, GRID, Scenario(), Limits(area_mm2=0.1))
    with pytest.raises(ValueError, match="together; raise one of them"):
        search_hardware(work, GRID, Scenario(), Limits(area_mm2=2.2, latency_s=0.02))


def test_a_model_that_fits_nowhere():
    tiny = AcceleratorChoices((1,), (32,), (4,), (1e-3,), (64,), (2,))
    with pytest.raises(ValueError, match="fits no mapping on any accelerator"):
        search_hardware(gather([Gemm("g", 64, 64, 64)], [], PHYSICAL), tiny, Scenario(), Limits())


def test_dram_holds_the_weights():
    assert [dram_gb_for(n) for n in (1, 10**9, 10**9 + 1, 8 * 10**9)] == [1, 1, 2, 8]
    assert dram_gb_for(8 * 10**9, 0.5) == 4
    assert settled_scenario(HardwareConfig(), 7 * 10**9).dram_gb == 8
    wide = HardwareConfig(scenario=Scenario(dram_gb=16))
    assert settled_scenario(wide, 7 * 10**9).dram_gb == 16
    theirs = HardwareConfig(costing="catransformers")
    assert settled_scenario(theirs, 1).use_grid == "california_2023"


GRID_FLAGS = ["--space.cores=[1]", "--space.pe_x=[32,64]", "--space.pe_y=[4]",
              "--space.l2_kib=[64]", "--space.l2_words_per_cycle=[64]", "--space.glb_mib=[2,4]"]


def test_command_writes_designs_that_can_be_priced_again(tmp_path, capsys):
    out = tmp_path / "run"
    command = ["search", "hardware", "--model", "carbonclip-s", *GRID_FLAGS]
    assert main([*command, "--json", "--out", str(out)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accelerators"] == result["feasible"] == 4
    names = [d["name"] for d in result["designs"]]
    assert names[:3] == ["least-carbon", "least-latency", "least-energy"]
    assert json.loads((out / "designs.json").read_text()) == result["designs"]
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    assert main(["cost", str(out / "designs.json"), "--name", "least-latency", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["costs"]
    first = result["designs"][1]["costs"]
    assert again["carbon_kgco2e"] == pytest.approx(first["carbon_kgco2e"], rel=1e-5)
    assert main(command) == 0
    assert "least-carbon" in capsys.readouterr().out
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
    ],
)
def test_bad_input_is_one_line(flags, message, capsys):
    assert main(["search", "hardware", *GRID_FLAGS, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_llama_has_no_architecture_and_larger_dram(capsys):
    command = ["search", "hardware", "--model", "llama-3.2-1b", "--phase", "decode", "--context",
               "64", "--json", *GRID_FLAGS]
    assert main(command) == 0
    design = json.loads(capsys.readouterr().out)["designs"][0]
    assert "architecture" not in design and design["model"] == "llama-3.2-1b"
    assert design["scenario"]["dram_gb"] == 2
    assert dataclasses.asdict(Accelerator(**design["accelerator"])) == design["accelerator"]
