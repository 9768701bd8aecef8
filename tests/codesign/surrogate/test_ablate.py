"""`codesign ablate`: from config to report on an oracle of a few lines, and what it refuses."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.architecture import Architecture, Tower
from codesign.cli import main
from codesign.cost import sram
from codesign.cost.components import nominal
from codesign.cost.model import clip_costs
from codesign.cost.technology import area_breakdown_mm2
from codesign.costing import PHYSICAL
from codesign.errors import UserError
from codesign.oracle.interface import OracleError, Sample
from codesign.scenario import Scenario
from codesign.surrogate import designs, files
from codesign.surrogate.ablation import compare
from codesign.surrogate.config import AblationConfig, FitConfig, PlanConfig
from codesign.surrogate.evidence import gather, subsets
from codesign.surrogate.models import base
from codesign.surrogate.oracles import answer, find_oracle
from codesign.surrogate.plan import drawn_plan, gemm_shapes
from codesign.surrogate.points import FACTORS, Points, observe
from codesign.workload import clip_workload

pytestmark = pytest.mark.usefixtures("quick_compilation")

ORACLE = """
import dataclasses, math
from codesign.oracle.interface import OracleError, Sample

@dataclasses.dataclass(frozen=True)
class Mine:
    name: str = "mine"

    def fingerprint(self):
        return "mine-1"

    def __call__(self, p):
        a, c = p.accelerator, p.constants
        if p.n == 1 and a.pe_x >= 128:
            raise OracleError("no mapping of one column")
        macs, words = p.m * p.k * p.n, p.m * p.k + p.k * p.n + p.m * p.n
        wave = math.exp(0.2 * math.sin(math.log(p.k)) - 0.05 * math.log(a.l2_kib / 256))
        cycles = (macs / (a.cores * a.pe_x * a.pe_y) + words / c.dram_bytes_per_cycle) * wave
        return Sample(cycles, macs * c.mac_pj + words * (c.dram_pj + 5 * c.l2_read_pj))

@dataclasses.dataclass(frozen=True)
class Interrupted(Mine):
    name: str = "interrupted"

    def __call__(self, p):
        if p.m == 1:
            raise KeyboardInterrupt
        return super().__call__(p)
"""

CONFIG = """
from codesign.surrogate.config import AblationConfig, FitConfig, PlanConfig

config = AblationConfig(
    oracles=("mine.py:Mine",), points="drawn", purchases=10_000, processes=0,
    budgets=(12, 24), rounds=1, seeds=1,
    plan=PlanConfig(train=40, gemms=12, designs=4, neighbourhoods=0, pool=4),
    fit=FitConfig(members=2, hidden=(8,), steps=60, checks=6, batch_size=16),
)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the oracle and the config, the cache beside them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(ORACLE)
    (tmp_path / "tiny.py").write_text(CONFIG)
    return tmp_path


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_from_config_to_report(here, capsys):
    assert main(["ablate", "./tiny.py", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    run = here / "runs" / "tiny"
    assert found["run"] == "runs/tiny" and found["report"] == "runs/tiny/report.html"
    (oracle,) = found["oracles"]
    # The points it fails on are named and left out, with the designs that miss them.
    assert 0 < oracle["unanswered"] == len(oracle["failures"])
    assert "no mapping of one column" in oracle["failures"][0]
    assert oracle["bought"] > 100 and oracle["shipped"] == 0
    assert "mine: 0 stored samples" in err and "Traceback" not in err

    errors = rows_of(run / "errors.csv")
    trials = {(r["surrogate"], r["buying"], r["budget"]) for r in errors}
    everything = str(oracle["train"])
    assert trials == {("analytic", "none", "0")} | {
        (kind, *rest)
        for kind in ("learned", "corrected")
        for rest in (("random", "12"), ("random", "24"), ("random", everything), ("active", "24"))
    }
    assert {r["level"] for r in errors} == {"gemm", "design", "pool"}
    # What is printed is the table's rows of the largest budget.
    (shown,) = (
        r
        for r in found["errors"]
        if (r["surrogate"], r["level"], r["subset"], r["metric"])
        == ("learned", "gemm", "all", "cycles")
    )
    (written,) = (
        r
        for r in errors
        if (r["surrogate"], r["budget"], r["level"], r["subset"], r["metric"])
        == ("learned", everything, "gemm", "all", "cycles")
    )
    assert float(written["mape"]) == pytest.approx(shown["mape"], rel=1e-6)
    points = [
        r
        for r in rows_of(run / "points.csv")
        if (r["surrogate"], r["level"], r["metric"]) == ("learned", "gemm", "cycles")
    ]
    shares = [abs(float(r["predicted"]) / float(r["truth"]) - 1) for r in points]
    assert np.mean(shares) == pytest.approx(shown["mape"], rel=1e-4)

    fitted = files.load(run / "surrogates" / "mine-corrected.npz")
    assert (fitted.oracle, fitted.samples.size) == ("mine", oracle["train"])
    page = (run / "report.html").read_text()
    assert "no mapping of one column" in page and page.count("data:image/png") == 3
    assert json.loads((run / "config.json").read_text())["config"]["plan"]["train"] == 40
    assert not list(run.glob(".*")), "files that were written aside"

    # The report again from the folder alone; another run into it is refused.
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert "corrected" in capsys.readouterr().out and (run / "report.html").exists()
    assert main(["ablate", "./tiny.py"]) == 2
    assert "already holds an ablation; --out FOLDER" in capsys.readouterr().err


@pytest.mark.slow
def test_slopes_over_neighbours(here, capsys):
    argv = ["./tiny.py", "--plan.neighbourhoods", "2", "--plan.train", "20", "--budgets", "[]"]
    assert main(["ablate", *argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["gradients"]
    rows = rows_of(here / "runs" / "tiny" / "gradients.csv")
    assert {r["estimate"] for r in rows} == {"difference", "midpoint", "path"}
    factors = {r["factor"] for r in rows}
    assert {"all", "l2_kib", "glb_mib"} <= factors <= {"all", *FACTORS}
    # One row of all factors for each surrogate, quantity and estimate; the others make it up.
    assert len(found) == 3 * 2 * 3
    key = lambda r: (r["surrogate"], r["metric"], r["estimate"])  # noqa: E731
    for row in found:
        parts = [int(r["pairs"]) for r in rows if key(r) == key(row) and r["factor"] != "all"]
        assert sum(parts) == row["pairs"] > 0
        assert row["surrogate"] != "learned" or row["cosine"] is not None


def error_line(capsys, *argv):
    code = main(["ablate", *argv])
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return code, err.splitlines()[-1]


def test_bad_input_is_one_line(here, capsys):
    for argv, code, expected in (
        (["nosuch"], 2, "there is no config 'nosuch'"),
        (["quickstart"], 2, "quickstart is no ablation; try codesign search quickstart"),
        (["./tiny.py", "--seeds", "0"], 2, "seeds is 0: it must be a whole number, at least 1"),
        (["./tiny.py", "--fit.members", "0"], 2, "members is 0"),
        (["./tiny.py", "--scenario.costing", "catransformers"], 2, "price physical costs"),
        (
            ["./tiny.py", "--scenario.precision_bits", "16"],
            2,
            "scenario.precision_bits: mine prices words of 8 bits, not of 16",
        ),
        (["./tiny.py", "--oracles", "['zigzig']"], 2, "no oracle 'zigzig'; did you mean 'zigzag'?"),
        (["./tiny.py", "--oracles", "['none.py:X']"], 2, "there is no file none.py"),
        (["./tiny.py", "--oracles", "['mine.py:X']"], 2, "oracle mine.py:X: AttributeError"),
        (
            ["./tiny.py", "--points", "stored", "--space.patch", "[8]"],
            2,
            "--points drawn, or leave",
        ),
        (["./tiny.py", "--purchases", "0"], 1, "--purchases N asks for N of them"),
    ):
        found, line = error_line(capsys, *argv, "--out", f"out{len(expected)}")
        assert (found, expected in line) == (code, True), line


OWN = """
import dataclasses
from codesign.oracle.interface import Sample

print("imported")

class Setting:
    def __init__(self, factor): self.factor = factor

def doubled(cycles):
    return 2 * cycles

@dataclasses.dataclass
class My:
    setting: Setting = dataclasses.field(default_factory=lambda: Setting(3))
    convert: object = doubled
    name: str = "my"

    def fingerprint(self):
        return "my-1"

    def __call__(self, p):
        print("asked")
        return Sample(self.convert(p.m) * self.setting.factor, float(p.k))

class Unsendable(My):
    def __init__(self):
        super().__init__()
        self.convert = lambda cycles: cycles

instance = My()
"""


@pytest.mark.parametrize("name", ["My", "instance"])
@pytest.mark.parametrize("processes", [0, 2])
def test_an_oracle_in_a_file_reaches_worker_processes(here, capfd, name, processes):
    (here / "own.py").write_text(OWN)
    oracle = find_oracle(f"own.py:{name}")
    plan = small_plan()
    found = answer(oracle, plan, purchases=6, processes=processes)
    assert found.bought == 6 and not found.failures
    for point, sample in zip(plan.points, found.samples, strict=True):
        assert sample is None or sample.cycles == 6 * point.m
    out, err = capfd.readouterr()
    assert "imported" not in out and "imported" in err
    assert processes == 0 or "asked" not in out


def test_an_oracle_that_cannot_be_sent_is_one_line(here):
    (here / "own.py").write_text(OWN)
    with pytest.raises(UserError, match=r"cannot be pickled.*--processes 0") as caught:
        answer(find_oracle("own.py:Unsendable"), small_plan(), purchases=6, processes=2)
    assert "\n" not in str(caught.value)


def test_an_oracle_whose_file_fails_is_one_line_with_its_place(here, capsys):
    for source, expected in (
        ("x = 1\nraise ValueError('no')", "own.py, line 2: ValueError: no"),
        ("import sys\nsys.exit()", "own.py, line 2: it exits"),
        ("def f(:", "own.py, line 1: SyntaxError"),
    ):
        (here / "own.py").write_text(source)
        code, line = error_line(capsys, "./tiny.py", "--oracles", "['own.py:My']")
        assert code == 2 and expected in line


def test_an_interrupted_run_keeps_what_it_bought(here, capsys):
    code, line = error_line(capsys, "./tiny.py", "--oracles", "['mine.py:Interrupted']")
    assert code == 130 and "kept" in line
    (cache,) = (here / "cache").rglob("interrupted-*.csv")
    assert len(cache.read_text().splitlines()) > 3


def small_plan():
    config = AblationConfig()
    counts = PlanConfig(train=20, gemms=5, designs=2, neighbourhoods=1, pool=2)
    return drawn_plan(counts, config.space, config.scenario, seed=1)


def test_a_plan_keeps_fitting_and_testing_apart():
    plan = small_plan()
    tested = {*plan.gemms, *plan.neighbours}
    for design in (*plan.designs, *plan.pool):
        tested |= set(design.rows)
        for (m, k, n), row in zip(gemm_shapes(design.architecture), design.rows, strict=True):
            point = plan.points[row]
            assert (point.m, point.k, point.n, point.accelerator) == (m, k, n, design.accelerator)
    assert not tested & set(plan.train)
    assert len(set(plan.points)) == len(plan.points) == len(plan.in_turn())
    assert len(set(plan.train)) == 20 and len({d.architecture.vision.width for d in plan.pool}) == 1
    # The first third of what is asked for serves every purpose.
    row = {point: i for i, point in enumerate(plan.points)}
    first = {row[point] for point in plan.in_turn()[: len(plan.points) // 3]}
    assert first & set(plan.train) and first & set(plan.gemms) and first & set(plan.neighbours)
    again = small_plan()
    assert again.points == plan.points and np.array_equal(again.train, plan.train)


@dataclasses.dataclass(frozen=True)
class Picky:
    """An oracle without an answer for every third point."""

    name: str = "picky"

    def fingerprint(self):
        return "picky-1"

    def __call__(self, point):
        if (point.m + point.k + point.n) % 3 == 0:
            raise OracleError("not today")
        return Sample(float(point.m), float(point.k))


def test_evidence_leaves_out_what_was_not_answered(here):
    plan = small_plan()
    answers = answer(Picky(), plan, purchases=10_000, processes=0)
    evidence = gather("picky", "picky-1", plan, answers.samples)
    assert evidence.unanswered == len(answers.failures) > 0
    assert evidence.samples.size + evidence.unanswered == len(plan.points)
    np.testing.assert_array_equal(evidence.samples.truth.cycles, evidence.samples.points.m)
    for before, after in ((plan.train, evidence.train), (plan.gemms, evidence.gemms)):
        kept = [plan.points[i] for i in before if answers.samples[i] is not None]
        np.testing.assert_array_equal(evidence.samples.points.k[after], [p.k for p in kept])
    for design in evidence.pool:
        np.testing.assert_array_equal(
            evidence.samples.truth.energy_pj[design.rows],
            [k for _, k, _ in gemm_shapes(design.architecture)],
        )


def test_purchases_are_a_limit(here):
    plan = small_plan()
    answers = answer(Picky(), plan, purchases=10, processes=0)
    assert answers.bought + len(answers.failures) == 10
    # What was bought before is known, the next ten come on top.
    assert answer(Picky(), plan, purchases=20, processes=0).bought > answers.bought


@pytest.fixture(scope="module")
def priced():
    """A plan and what the analytic model says of its points."""
    plan = small_plan()
    return plan, base(observe("corrected", Points.of(plan.points)))


def test_a_surrogate_of_the_truth_itself_is_perfect(priced):
    """The analytic model as the oracle: no error and no regret."""
    plan, costs = priced
    samples = [Sample(float(c), float(e)) for c, e in zip(*costs, strict=True)]
    evidence = gather("itself", "1", plan, samples)
    # Too few to fit, and no slopes, whose programs take longest to compile.
    evidence = evidence._replace(train=evidence.train[:4], neighbours=evidence.train[:0])
    said = []
    tables, fitted = compare(evidence, AblationConfig(fit=FitConfig(steps=50)), said.append)
    assert fitted == [] and "4 samples to fit on are too few" in said[0]
    assert {r["surrogate"] for r in tables.errors} == {"analytic"}
    exact = [r for r in tables.errors if r["metric"] not in ("area_mm2", "carbon_kgco2e")]
    assert exact and all(r["mape"] < 1e-5 and r["top_k_recall"] == 1 for r in exact)
    assert tables.regrets and all(r["regret"] < 1e-5 for r in tables.regrets)
    assert tables.gradients == []


def test_designs_cost_what_the_cost_model_says(priced):
    plan, costs = priced
    scenario = AblationConfig().scenario
    found = designs.design_costs(designs.batch(plan.pool, scenario), costs, scenario)
    model = jax.jit(clip_costs, static_argnames="scenario")
    # Oracles price products with all operands in DRAM.
    crossing = dataclasses.replace(scenario, hand_over=False)
    for i, design in enumerate(plan.pool):
        expected = model(design.architecture, design.accelerator, crossing)
        for metric in ("latency_s", "energy_j", "area_mm2", "carbon_kgco2e"):
            assert found[metric][i] == pytest.approx(float(getattr(expected, metric)), rel=1e-4)
        assert found["edp_js"][i] == pytest.approx(found["latency_s"][i] * found["energy_j"][i])


def test_shapes_are_the_workloads():
    architecture = Architecture(vision=Tower(2, 128, 2, 256), text=Tower(1, 64, 1, 128))
    w = clip_workload(architecture)
    np.testing.assert_array_equal(np.stack([w.m, w.k, w.n], axis=-1), gemm_shapes(architecture))


def test_raw_area_is_of_cactis_own_arrays():
    chip, scenario = Accelerator(2, 64, 16, 256, 64, 4), Scenario()
    parts = area_breakdown_mm2(chip, scenario)
    logic = sum(float(x) for name, x in parts.items() if name not in ("l2", "glb"))
    arrays = 2 * sram.cacti("area_mm2", 256, 64) + sram.cacti("area_mm2", 4096, 64)
    over_law = nominal(PHYSICAL).sram["area"]
    assert designs.raw_area_mm2(chip, scenario) == pytest.approx(logic + over_law * arrays)
    odd = dataclasses.replace(chip, l2_kib=300)
    assert designs.raw_area_mm2(odd, scenario) is None
    # At another node they scale as the smooth law does.
    for node in (7, 45):
        moved = dataclasses.replace(scenario, node_nm=node)
        smooth = sum(float(x) for x in area_breakdown_mm2(chip, moved).values())
        at_22 = sum(float(x) for x in parts.values()) / designs.raw_area_mm2(chip, scenario)
        assert smooth / designs.raw_area_mm2(chip, moved) == pytest.approx(at_22, rel=0.02)


def test_subsets():
    plan = small_plan()
    constants = plan.points[0].constants
    fast, wide = Accelerator(1, 64, 16, 256, 64, 4), Accelerator(4, 256, 64, 256, 32, 4)
    point = plan.points[0]._replace(constants=constants)
    points = Points.of(
        [
            point._replace(m=197, k=768, n=768, accelerator=fast),
            point._replace(m=197, k=64, n=197, accelerator=fast),
            point._replace(m=197, k=197, n=64, accelerator=fast),
            point._replace(m=1, k=512, n=512, accelerator=fast),
            point._replace(m=197, k=768, n=768, accelerator=wide),
        ]
    )
    found = {name: flags.tolist() for name, flags in subsets(points).items()}
    assert found["large"] == [True, False, False, False, True]
    assert found["attention"] == [False, True, True, False, False]
    assert found["starved"] == [False, False, False, True, True]
