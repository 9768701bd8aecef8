"""The study of CATransformers: its numbers by `estimate` and the search, verdicts, the command."""

from __future__ import annotations

import dataclasses
import json

import pytest

import codesign as cd
from codesign import tables
from codesign.cli import main
from codesign.cost.capacity import contents_bytes
from codesign.costing import costing_of, default_scenario
from codesign.search.hardware import search_hardware
from codesign.search.objectives import Limits
from codesign.space import AcceleratorChoices
from codesign.study.config import PaperConfig
from codesign.study.finding import IN_PART, NO, YES, grade_of, grade_of_all
from codesign.study.paper import study_paper
from codesign.study.published import as_printed, claims, designs, networks

pytestmark = pytest.mark.usefixtures("quick_compilation")

DATA = "codesign.study.data"
GRID = AcceleratorChoices(
    cores=(1, 2),
    pe_x=(32, 64),
    pe_y=(16,),
    l2_kib=(16,),
    l2_bytes_per_cycle=(64,),
    glb_mib=(0.5, 2.0),
    channels=(1, 4),
)
PUBLISHED = AcceleratorChoices(
    cores=(1, 2), pe_x=(128, 256), pe_y=(8, 16), l2_kib=(64,), glb_mib=(2, 4)
)
CONFIG = PaperConfig(space=GRID, published_space=PUBLISHED)
GRIDS = {"physical": GRID, "catransformers": PUBLISHED}


@pytest.fixture(scope="module")
def found():
    return study_paper(CONFIG)


def finding(result, name):
    return next(each for each in result["findings"] if each["name"] == name)


def row(result, name, subject, quantity):
    rows = finding(result, name)["rows"]
    return next(r for r in rows if (r["subject"], r["quantity"]) == (subject, quantity))


# ---- what is printed ---------------------------------------------------------------------


def test_networks_of_table_4_have_the_parameters_that_are_printed():
    printed = {
        r["network"]: float(r["parameters_m"]) for r in tables.rows(DATA, "catransformers_designs")
    }
    ours = {name: model.parameters / 2**20 for name, model in networks().items()}
    for name in tables.table(DATA, "catransformers_networks", "name"):
        near = 0.04 if "2.5" in name else 0.012
        assert ours[name] == pytest.approx(printed[name], rel=near), name
    for size in ("xs", "s", "m", "32-s", "32-m"):
        name = f"carbonclip-{size}"
        assert ours[name] == pytest.approx(printed[name], rel=0.01), name


def test_every_figure_has_its_table_and_savings_are_those_of_the_tables():
    assert all(d.source.startswith("table ") for d in designs())
    carbon = {d.network: d.carbon_kgco2e for d in designs() if d.optimised == "carbon"}
    for name in ("family", "family-32"):
        for claim in claims(name):
            assert claim.source
            ours, baseline = claim.subject.split(" of ")
            saved = 100 * (1 - carbon[ours] / carbon[baseline])
            # Carbon is printed to two digits.
            assert saved == pytest.approx(claim.published, abs=3), claim


def test_tinyclip_is_there_as_released_and_with_the_layers_of_its_published_costs():
    released, printed = (networks()[f("tinyclip-61m-32")] for f in (str, as_printed))
    assert released.clip.architecture.text.layers == 9
    assert printed.clip.architecture.text.layers == printed.clip.architecture.vision.layers == 12
    assert as_printed("carbonclip-s") == "carbonclip-s"


# ---- what is computed --------------------------------------------------------------------


@pytest.mark.slow  # two costings of all networks, compiled
@pytest.mark.parametrize("costing", GRIDS)
@pytest.mark.parametrize(
    ("name", "subject", "network"),
    [
        ("family", "carbonclip-s, best accelerator", "carbonclip-s"),
        ("fixed", "clip-vit-b-16, least latency", "clip-vit-b-16"),
        ("designs", "carbonclip-xl, least carbon", "carbonclip-xl"),
    ],
)
def test_a_row_is_what_estimate_says_of_its_design(costing, name, subject, network, found):
    carbon, latency = (row(found, name, subject, q) for q in ("carbon_kgco2e", "latency_ms"))
    chip = cd.Accelerator(**carbon["accelerators"][costing])
    costs = cd.estimate(networks()[network].architecture, chip, default_scenario(costing))
    assert carbon["found"][costing] == pytest.approx(costs.carbon_kgco2e, rel=1e-5)
    assert latency["found"][costing] == pytest.approx(1e3 * costs.latency_s, rel=1e-5)
    assert carbon["ratio"][costing] * carbon["published"] == pytest.approx(costs.carbon_kgco2e)


@pytest.mark.slow
@pytest.mark.parametrize("costing", GRIDS)
def test_the_best_accelerators_are_those_of_the_hardware_search(costing, found):
    scenario, model = default_scenario(costing), networks()["tinyclip-39m-16"]
    searched = search_hardware(
        model.operators.under(costing_of(scenario)),
        GRIDS[costing],
        scenario,
        CONFIG.limits,
        ("carbon", "latency"),
        contents=float(contents_bytes(model.memory, scenario)),
    )
    for mode in ("carbon", "latency"):
        ours = row(found, "fixed", f"tinyclip-39m-16, least {mode}", f"{_of[mode]}")
        _, costs = searched.at(searched.best[mode])
        least = costs.carbon_kgco2e if mode == "carbon" else 1e3 * costs.latency_s
        assert ours["found"][costing] == pytest.approx(least, rel=1e-5)


_of = {"carbon": "carbon_kgco2e", "latency": "latency_ms"}


def test_bandwidth_of_local_buffers_costs_nothing_in_the_paper():
    chips = [cd.Accelerator(2, 128, 8, 64, bandwidth, 2) for bandwidth in (32, 64, 128)]
    scenario = default_scenario("catransformers")
    first, *others = (
        cd.estimate(networks()["carbonclip-s"].architecture, chip, scenario) for chip in chips
    )
    for other in others:
        for name in ("latency_s", "energy_j", "area_mm2", "carbon_kgco2e"):
            assert getattr(other, name) == getattr(first, name)


@pytest.mark.slow
def test_savings_are_of_the_rows_beside_them(found):
    for costing in GRIDS:
        best = {
            name: row(found, "family", f"{name}, best accelerator", "carbon_kgco2e")["found"][
                costing
            ]
            for name in ("carbonclip-s", "tinyclip-39m-16")
        }
        saved = row(
            found, "family", "carbonclip-s of tinyclip-39m-16, best accelerators", "saving_percent"
        )
        ours, theirs = best.values()
        assert saved["found"][costing] == pytest.approx(100 * (1 - ours / theirs), rel=1e-6)
        assert saved["published"] == 17


@pytest.mark.slow
def test_limits_that_nothing_meets_leave_a_gap_and_no_verdict(found):
    tight = row(found, "compute", "clip-vit-b-16, 1 TOPS", "carbon_kgco2e")
    assert tight["found"]["catransformers"] is None
    assert tight["accelerators"]["catransformers"] is None
    assert finding(found, "compute")["verdicts"]["catransformers"]["holds"] == NO


@pytest.mark.slow
def test_shares_and_intensities_go_the_way_of_physics(found):
    for costing in GRIDS:
        shares = [
            row(found, "regions", f"carbonclip-s, {region}", "operational_percent")["found"][
                costing
            ]
            for region in ("british_columbia", "california", "taiwan")
        ]
        assert shares == sorted(shares)
        carbon = [
            row(found, "latency", f"carbonclip-s, within {ms} ms", "carbon_kgco2e")["found"][
                costing
            ]
            for ms in (50, 100)
        ]
        assert carbon == sorted(carbon, reverse=True)


@pytest.mark.parametrize(
    ("ours", "published", "verdict"),
    [(17, 17, YES), (9, 17, YES), (8, 17, IN_PART), (0, 17, NO), (-3, 17, NO), (None, 17, NO)],
)
def test_half_of_a_size_is_a_yes(ours, published, verdict):
    assert grade_of(ours, published) == verdict


def test_several_verdicts_are_one():
    assert grade_of_all([YES, YES]) == YES and grade_of_all([NO, NO]) == NO
    assert grade_of_all([YES, NO]) == grade_of_all([YES, IN_PART]) == IN_PART


# ---- the command -------------------------------------------------------------------------


def flags():
    spaces = {"space": GRID, "published_space": PUBLISHED}
    return [
        f"--{space}.{name}={json.dumps(choices)}"
        for space, grid in spaces.items()
        for name, choices in dataclasses.asdict(grid).items()
    ]


@pytest.mark.slow
def test_command_writes_a_run_that_its_report_is_rebuilt_from(tmp_path, capsys, found):
    out = tmp_path / "run"
    assert main(["study", "paper", *flags(), "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    saved = json.loads((out / "paper.json").read_text())
    assert result == {"run": str(out), "report": str(out / "report.html")} | saved
    assert saved == json.loads(json.dumps(found))
    assert json.loads((out / "config.json").read_text())["kind"] == "study"
    assert (out / "paper.png").read_bytes().startswith(b"\x89PNG")
    assert "| carbonclip-s of tinyclip-39m-16, best" in (out / "paper.md").read_text()
    page = (out / "report.html").read_text()
    assert "What was run" in page and "codesign study paper" in page
    assert "appendix K" in page and "carbonclip-s of tinyclip-39m-16" in page
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "family-32" in printed and "report.html" in printed
    assert (out / "report.html").read_text() == page
    assert main(["study", "paper", "--out", str(out)]) == 2
    assert "already holds a study of a paper" in capsys.readouterr().err
    damaged = saved["findings"][0]["rows"][0]
    damaged["found"].pop("physical")
    (out / "paper.json").write_text(json.dumps(saved))
    assert main(["report", str(out)]) == 2
    error = capsys.readouterr().err
    assert "'designs' is not there under every costing" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "[carbonclip-q]"], "--models: there is no 'carbonclip-q'; did you mean"),
        (["--regions", "[taiwann]"], "--regions: there is no 'taiwann'; did you mean 'taiwan'"),
        (["--costings", "[physical,physical]"], "--costings: 'physical' is there twice"),
        (["--tops", "[4,1]"], "--tops is (4.0, 1.0): limits must increase"),
        (["--tops", "[0]"], "--tops is (0.0,)"),
        (["--limits.latency_s", "0.1"], "set latency_s"),
        (["--limits.area_mm2", "1e-3"], "no accelerator of the catransformers grid meets area_mm2"),
        (["--limit", "3"], "did you mean '--limits"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "paper", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error


def test_a_config_of_another_command_is_refused(capsys):
    assert main(["study", "quickstart"]) == 2
    assert "quickstart is no study of a paper; try codesign search" in capsys.readouterr().err
    assert main(["ablate", "paper"]) == 2
    assert "paper is no ablation; try codesign study paper" in capsys.readouterr().err


def test_limits_are_the_papers():
    assert CONFIG.limits == Limits(area_mm2=31.99, tops=20.48)
