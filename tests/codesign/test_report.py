"""Reports from a made-up run folder: figures, tables, savings, HTML."""

import io
import json
import math
import re

import pytest
from rich.console import Console

from codesign.errors import UserError
from codesign.report import html, plots, write_report
from codesign.report.tables import (
    COLUMNS,
    accelerator_text,
    comparison_table,
    design_rows,
    designs_table,
    duration,
    run_summary,
    savings,
    si,
    tower_text,
)
from codesign.runs import RunFolder, read_run

SPACE = {
    "vision": {"layers": [1, 2, 3, 4], "width": [16, 24, 32], "heads": [1, 2, 4], "ffn": [32, 128]},
    "text": {"layers": [1, 2], "width": [32]},
    "accelerator": {"cores": [1], "pe_x": [4, 8, 16, 32], "glb_mib": [0.0625, 0.125, 0.25]},
}


def design(name, accuracy, carbon, role="found", **more):
    """An entry of designs.json, its other numbers in proportion."""
    return {
        "name": name,
        "role": role,
        "architecture": {
            "vision": {"layers": 4, "width": 32, "heads": 4, "ffn": 128},
            "text": {"layers": 2, "width": 32, "heads": 2, "ffn": 64},
        },
        "accelerator": {
            "cores": 1,
            "pe_x": 8,
            "pe_y": 8,
            "l2_kib": 4,
            "l2_words_per_cycle": 32,
            "glb_mib": 0.0625,
        },
        "scenario": {},
        "costs": {
            "latency_s": carbon * 2e-3,
            "energy_j": carbon * 1e-4,
            "area_mm2": carbon * 3,
            "tops": 0.1,
            "operational_kgco2e": carbon * 0.4,
            "embodied_kgco2e": carbon * 0.6,
            "carbon_kgco2e": carbon,
            "breakdown": {"embodied_kgco2e": {"chip": carbon * 0.4, "dram": carbon * 0.2}},
        },
        "accuracy": accuracy,
        "recall_at_1": accuracy / 2,
        "feasible": True,
        "pareto": role == "found",
    } | more


DESIGNS = [
    design("carbon-00", 0.41, 0.21),
    design("carbon-01", 0.55, 0.24),
    design("carbon-02", 0.62, 0.29),
    design("carbon-03", 0.60, 0.33, pareto=False),
    design("carbon-04", 0.68, 0.41),
    design("carbon-05", 0.685, 0.43, feasible=False, pareto=False),
    design("largest", 0.67, 0.55, role="reference"),
    design("smallest", 0.40, 0.215, role="reference"),
    design("hand-made", 0.75, 0.50, role="reference"),
]


def metrics():
    """Warm-up with one loss, a joint phase with six designs, and their tuning."""
    rows = [{"step": i, "phase": "warmup", "loss": 2.5 * math.exp(-i / 40)} for i in range(40)]
    for i in range(40, 160):
        t = (i - 40) / 120
        rows.append({
            "step": i,
            "phase": "joint",
            "loss": [1.0 - 0.4 * t + 0.05 * d + 0.04 * math.sin(i * (d + 1)) for d in range(6)],
            "relaxed": {
                "vision.layers": [2.5 + (d - 2.5) * 0.6 * t for d in range(6)],
                "vision.width": [24 + (d - 2.5) * 3 * t for d in range(6)],
                "vision.heads": [2 + (d - 2.5) * 0.4 * t for d in range(6)],
                "vision.ffn": [80 + (d - 2.5) * 18 * t for d in range(6)],
                "text.layers": [1.5 + (d - 2.5) * 0.2 * t for d in range(6)],
                "text.width": [32.0] * 6,
                "accelerator.cores": [1.0] * 6,
                "accelerator.pe_x": [8 * 2 ** ((d - 2.5) * 0.4 * t) for d in range(6)],
                "accelerator.glb_mib": [0.125 * 2 ** ((d - 2.5) * 0.4 * t) for d in range(6)],
            },
            "carbon_kgco2e": [0.3] * 6,
        })  # fmt: skip
    tuned = [{"step": i, "phase": "tune", "loss": [0.6 + 0.05 * d for d in range(6)]}
             for i in range(160, 200)]  # fmt: skip
    return rows + tuned


SUMMARY = {"wall_time_s": 432.0, "hypervolume": 0.1234, "reference_point": [0.0, 1.0],
           "run_carbon_kgco2e": 0.0042, "run_energy_kwh": 0.0187}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    made = RunFolder.create(tmp_path / "quickstart", {"seed": 0, "space": SPACE})
    made.append_metrics(metrics())
    made.write_json("designs.json", DESIGNS)
    made.write_json("summary.json", SUMMARY)
    return made


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.234e-3, "s", "1.23 ms"),
        (999.7e-6, "s", "1.00 ms"),
        (1e-6, "J", "1.00 µJ"),
        (1e-3, "J", "1.00 mJ"),
        (1.0, "s", "1.00 s"),
        (0.21, "kgCO2e", "210 gCO2e"),
        (2.5, "kgCO2e", "2.50 kgCO2e"),
        (2500, "kgCO2e", "2500 kgCO2e"),
        (4.2e-6, "kgCO2e", "4.20 mgCO2e"),
        (12.345, "mm²", "12.3 mm²"),
        (0.01234, "mm²", "0.0123 mm²"),
        (0, "s", "0 s"),
        (-0.002, "s", "-2.00 ms"),
        (None, "s", "–"),
        (math.nan, "s", "–"),
    ],
)
def test_si(value, unit, text):
    assert si(value, unit) == text


def test_short_forms():
    assert tower_text(DESIGNS[0]["architecture"]["vision"]) == "4x32 h4 f128"
    assert accelerator_text(DESIGNS[0]["accelerator"]) == ("1 core 8x8", "L2 4K/32 G 64K")
    assert tower_text(None) == "–"
    assert [duration(s) for s in (4.2, 185, 7620)] == ["4.20 s", "3 min 05 s", "2 h 07 min"]


def test_savings_take_the_cheapest_feasible_design_as_accurate():
    largest, smallest, hand_made = savings(DESIGNS)
    assert (largest.reference, largest.design) == ("largest", "carbon-04")
    assert largest.saved_kgco2e == pytest.approx(0.14)
    assert largest.saved_share == pytest.approx(0.14 / 0.55)
    assert str(largest) == (
        "largest (67.0 %, 550 gCO2e): carbon-04 (68.0 %, 410 gCO2e) saves 140 gCO2e, 25.5 %"
    )
    assert smallest.design == "carbon-00"
    assert hand_made.design is None and "no feasible design found" in str(hand_made)


def test_a_dearer_design_is_not_called_a_saving():
    (one,) = savings([design("a", 0.5, 0.4), design("r", 0.4, 0.3, role="reference")])
    assert one.saved_kgco2e == pytest.approx(-0.1)
    assert "costs 100 gCO2e more" in str(one)


def test_the_terminal_table_fits_and_cuts_nothing():
    console = Console(width=105, record=True, file=io.StringIO())
    full = design("full-scale-vit-b", 0.75, 250.0, accelerator={"cores": 4, "pe_x": 256, "pe_y": 64,
        "l2_kib": 1024, "l2_words_per_cycle": 128, "glb_mib": 8})  # fmt: skip
    full["architecture"] = {"vision": {"layers": 12, "width": 768, "heads": 12, "ffn": 3072}}
    console.print(designs_table([*DESIGNS, full], "quickstart"))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 105 and "…" not in text
    for expected in (
        "carbon-04",
        "L2 4K/32 G 64K",
        "68.0 %",
        "820 µs",
        "12x768 h12 f3072",
        "full-scale-vit-b",
    ):
        assert expected in text


def test_unknown_and_absent_parts_are_dashes():
    rows = design_rows([{"name": "bare", "novelty": 1}, {"costs": {"latency_s": None}}])
    assert [len(row) for row in rows] == [len(COLUMNS)] * 2
    assert rows[0][1:] == ["–"] * 4 + [""] + ["–"] * 10


def test_report_is_one_self_contained_page(folder):
    path = write_report(folder.path)
    page = path.read_text()
    assert path == folder.path / "report.html"
    for name in ("pareto", "carbon", "trajectories", "training"):
        assert (folder.path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert page.count("data:image/png;base64,") == 4 and page.count(" alt=") == 4
    assert not re.search(r'(src|href)="(?!data:)', page) and "http" not in page
    for expected in ("carbon-04", "saves 140 gCO2e", "7 min 12 s", "18.7 Wh", "4.20 gCO2e", "seed"):
        assert expected in page
    assert write_report(folder.path).read_text() == page


def test_report_of_an_unfinished_run(tmp_path):
    folder = RunFolder.create(tmp_path, {"seed": 0})
    assert "no designs yet" in write_report(folder.path).read_text()
    folder.append_metrics(metrics()[:60])
    assert "training.png" in {p.name for p in write_report(folder.path).parent.iterdir()}


def test_names_are_escaped(tmp_path):
    folder = RunFolder.create(tmp_path, {"seed": 0})
    folder.write_json("designs.json", [design("<script>", 0.5, 0.1)])
    assert "<script>" not in write_report(folder.path).read_text()


def test_report_of_no_run(tmp_path):
    with pytest.raises(UserError, match="not the folder of a run"):
        write_report(tmp_path)


@pytest.mark.parametrize("entries", [
    [design("one", 0.5, 0.2)],
    [design("one", 0.5, 0.2), design("same", 0.5, 0.2)],
    [design("free", 0.5, 0.0), {"name": "bare"}],
    [design("old", 0.5, 0.2, costs={"carbon_kgco2e": 0.2, "operational_kgco2e": 0.1})],
])  # fmt: skip
def test_figures_of_odd_designs(entries):
    plots.pareto(entries)
    assert plots.carbon(entries).startswith(b"\x89PNG")


def test_lines_are_named_in_the_order_networks_are_trained_in():
    """Rivals of families are references, but searched; the search's own are neither."""
    entries = [
        design("carbon-00", 0.5, 0.2, target_carbon_kgco2e=0.2),
        design("dense-00", 0.4, 0.2, role="reference", target_carbon_kgco2e=0.2),
        design("supernet", 0.6, 0.5, role="reference", target_carbon_kgco2e=None),
        design("half", 0.3, 0.3, role="reference", target_carbon_kgco2e=None),
    ]
    assert html.line_names(entries) == (["supernet", "half"], ["carbon-00", "dense-00"])
    assert html.line_names(DESIGNS)[0] == ["largest", "smallest", "hand-made"]


def test_choices_of_a_dimension():
    space = SPACE | {"sparsity": [[0.5, 0.7], [0.9]]}
    assert plots._choices("accelerator.pe_x", space) == [4, 8, 16, 32]
    assert plots._choices("sparsity.0", space) == [0.5, 0.7]
    assert plots._varies("sparsity.0", space) and not plots._varies("sparsity.1", space)
    assert plots._choices("text.heads", space) == plots._choices("sparsity.x", space) == []


def test_figures_of_nothing():
    assert plots.pareto([]) is None and plots.carbon([]) is None
    assert plots.trajectories([], {}) is None and plots.training([]) is None


def test_many_designs_and_an_unknown_space_are_drawn():
    rows = [
        {
            "step": i,
            "phase": "joint",
            "loss": [1.0] * 14,
            "relaxed": {"vision.layers": [float(d) for d in range(14)]},
        }
        for i in range(3)
    ]
    assert plots.trajectories(rows, {}).startswith(b"\x89PNG")


def test_comparison_shows_hypervolumes_only_from_one_reference_point(folder):
    run = read_run(folder.path)
    summary = run_summary(run.name, run.designs, run.summary)
    assert summary["designs"] == 6 and summary["feasible"] == 5
    assert summary["accuracy"] == 0.68 and summary["carbon_kgco2e"] == 0.21
    assert json.dumps(summary)
    other = summary | {"name": "other", "reference_point": [0.0, 2.0]}

    def text(runs):
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(comparison_table(runs))
        return console.export_text()

    assert "0.123" in text([summary, summary | {"name": "other"}])
    assert "0.123" not in text([summary, other]) and "different" in text([summary, other])
