"""Reports from a made-up run folder: figures, tables, savings, HTML."""

import io
import json
import math
import re

import numpy as np
import pytest
from markupsafe import escape
from rich.console import Console

from codesign.errors import UserError
from codesign.printable import printable
from codesign.report import finetune, html, plots
from codesign.report.correct import correct_json
from codesign.report.html import write_report
from codesign.report.savings import savings
from codesign.report.tables import (
    COLUMNS,
    accelerator_text,
    comparison_table,
    design_rows,
    designs_table,
    duration,
    run_summary,
    si,
    tower_text,
)
from codesign.report.text import share_of
from codesign.runs import RunFolder, read_run

pytestmark = pytest.mark.usefixtures("quick_compilation")

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
            "l2_bytes_per_cycle": 32,
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
        rows.append(
            {
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
            }
        )
    tuned = [
        {"step": i, "phase": "tune", "loss": [0.6 + 0.05 * d for d in range(6)]}
        for i in range(160, 200)
    ]
    return rows + tuned


SUMMARY = {
    "wall_time_s": 432.0,
    "hypervolume": 0.1234,
    "reference_point": [0.0, 1.0],
    "run_carbon_kgco2e": 0.0042,
    "run_energy_kwh": 0.0187,
}


@pytest.fixture
def folder(tmp_path):
    made = RunFolder.create(tmp_path / "quickstart", {"seed": 0, "space": SPACE})
    made.append_metrics(metrics())
    made.write_json("designs.json", DESIGNS)
    made.write_json("correct.json", correct_json({d["name"]: right(d) for d in DESIGNS}))
    made.write_json("summary.json", SUMMARY)
    return made


def right(entry, images=1000):
    """Which of the images a design of this accuracy gets right, in an order of its own."""
    counted = np.arange(images) < round(entry["accuracy"] * images)
    order = np.random.default_rng(round(1e4 * entry["costs"]["carbon_kgco2e"]))
    return order.permutation(counted)[None]


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
        (1e308, "kgCO2e", "1.00e+308 kgCO2e"),
        (1.7976931348623157e308, "", "1.80e+308"),
        (10**400, "s", "–"),
    ],
)
def test_si(value, unit, text):
    assert si(value, unit) == text


def test_measured_shares_have_their_standard_error():
    assert share_of(0.9, 400) == "90.0 ± 1.5 %"
    assert share_of(1.0, 400) == "100.0 ± 0.2 %"  # as if one of them had been wrong
    assert share_of(0.9, None) == share_of(0.9, 0) == "90.0 %" and share_of(None, 400) == "–"
    result = {
        "images": 400,
        "zero_shot": {"classes": 10, "templates": 3, "top_1": 0.9, "top_5": 1.0},
        "retrieval": {
            "captions": 1600,
            "image_to_text": {"recall_at_1": 0.5},
            "text_to_image": {"recall_at_1": 0.5},
        },
    }
    found = dict(finetune.measures(result))
    assert found["zero-shot top-1"] == "90.0 ± 1.5 %"
    assert found["image to text recall@1"] == "50.0 ± 2.5 %"
    assert found["text to image recall@1"] == "50.0 ± 1.3 %"
    assert finetune.headline(result) == (
        "zero-shot 90.0 ± 1.5 %, recall@1 50.0 ± 2.5 % / 50.0 ± 1.3 %"
    )


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
        "largest (67.0 %, 550 gCO2e): the cheapest measured no less accurate, carbon-04 (68.0 %, "
        "410 gCO2e), costs less; how surely is not known without per-image results"
    )
    assert smallest.design == "carbon-00"
    assert hand_made.design is None and "no feasible design found" in str(hand_made)


def test_a_dearer_design_is_not_called_a_saving():
    (one,) = savings([design("a", 0.5, 0.4), design("r", 0.4, 0.3, role="reference")])
    assert one.saved_kgco2e == pytest.approx(-0.1)
    assert "costs 100 gCO2e more" in str(one)


def test_the_terminal_table_fits_and_cuts_nothing():
    console = Console(width=105, record=True, file=io.StringIO())
    full = design(
        "full-scale-vit-b",
        0.75,
        250.0,
        accelerator={
            "cores": 4,
            "pe_x": 256,
            "pe_y": 64,
            "l2_kib": 1024,
            "l2_bytes_per_cycle": 128,
            "glb_mib": 8,
        },
    )
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
    for expected in (
        "carbon-04",
        "saves 25.5 % (95 % interval",
        "7 min 12 s",
        "18.7 Wh",
        "4.20 gCO2e",
        "seed",
        "equal in accuracy within noise",
    ):
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


HOSTILE = (
    "$x^$",
    "$\\frac{1}{$",
    "[/bold]",
    "[red]x",
    ":smile:",
    "\x1b[2J\x1b]0;t\x07",
    "a\nb",
    "\ud800",
    "_hidden",
    "\u202egnp",
)


def shown(*renderables):
    """What a console of rich's own, with its markup, writes."""
    console = Console(width=250, file=io.StringIO(), force_terminal=False)
    for renderable in renderables:
        console.print(renderable)
    return console.file.getvalue()


def unprintable(text):
    return re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", text)


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_shown_as_it_is(name):
    text = shown(
        designs_table([design(name, 0.5, 0.1, role=name)], name),
        comparison_table([run_summary(name, DESIGNS, {})]),
        finetune.comparison_table({name: {"steps": 3}}),
    )
    assert not unprintable(text)
    assert text.count(printable(name)) == 5
    assert (printable(name) == name) == name.isprintable()


def test_any_name_is_reported(tmp_path):
    """Of designs, in tables and figures, and of the run."""
    folder = RunFolder.create(tmp_path, {"seed": 0}, name="".join(HOSTILE))
    entries = [design(name, 0.5 + i / 40, 0.1 + i / 10) for i, name in enumerate(HOSTILE)]
    entries += [design("r" * 5000, 0.5, 0.3, role="reference")]
    folder.write_json("designs.json", entries)
    count = len(entries)
    folder.append_metrics(
        [
            {
                "step": i,
                "phase": "$^$",
                "loss": [1.0] * count,
                "relaxed": {"$^$": [1.0] * (count - 1)},
            }
            for i in range(3)
        ]
    )
    page = write_report(folder.path).read_text(encoding="utf-8")
    assert not unprintable(page)
    # Half a surrogate pair is written as a question mark.
    written = [name.encode("utf-8", "replace").decode() for name in HOSTILE]
    assert all(escape(printable(name)) in page for name in written)


def test_names_in_figures_are_no_formulas_and_not_hidden():
    figure, axes = plots.new_figure(3, 2)
    for name in HOSTILE:
        axes.plot([0], [0], label=plots.name_text(name))
    drawn = [text.get_text() for text in axes.legend().get_texts()]
    assert [text.strip().replace(r"\$", "$") for text in drawn] == [*map(printable, HOSTILE)]
    assert plots.png(figure) and len(plots.name_text("x" * 5000)) == 40


@pytest.mark.parametrize(
    "number",
    [1e308, -1e308, 1.79e308, 5e-324, 10**299],
    ids=["1e308", "-1e308", "1.79e308", "5e-324", "10**299"],
)
def test_any_number_is_reported(number, tmp_path):
    """Dashes or plain text where a quantity cannot be drawn; no overflow."""
    folder = RunFolder.create(tmp_path, {"seed": 0})
    costs = {
        "latency_s": number,
        "energy_j": number,
        "area_mm2": number,
        "tops": number,
        "operational_kgco2e": number,
        "embodied_kgco2e": number,
        "carbon_kgco2e": number,
        "breakdown": {"embodied_kgco2e": {"chip": number, "dram": number}},
    }
    entries = [
        design("a", 0.5, 0.1, costs=costs),
        design("b", 0.5, 0.2) | {"accuracy": number},
        design("c", 0.5, 0.3),
        design("r", 0.5, 0.3, role="reference", costs=costs, accuracy_standard_error=number),
    ]
    folder.write_json("designs.json", entries)
    folder.write_json(
        "summary.json",
        {
            "hypervolume": number,
            "best_cost": number,
            "wall_time_s": number,
            "reference_point": {"carbon_kgco2e": number, "accuracy": 0.5},
            "run_energy_kwh": number,
        },
    )
    loss, relaxed = [number, 1.0], {"vision.layers": [number]}
    folder.append_metrics(
        [
            {"step": step, "phase": "tune", "loss": loss, "relaxed": relaxed}
            for step in (0, 1, 10**299)
        ]
    )
    page = write_report(folder.path).read_text()
    assert "inf" not in page.split("What was run")[0].replace("infeasible", "")
    assert shown(designs_table(entries)) and (folder.path / "pareto.png").exists()


def test_report_of_no_run(tmp_path):
    with pytest.raises(UserError, match="not the folder of a run"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    "entries",
    [
        [design("one", 0.5, 0.2)],
        [design("one", 0.5, 0.2), design("same", 0.5, 0.2)],
        [design("free", 0.5, 0.0), {"name": "bare"}],
        [design("old", 0.5, 0.2, costs={"carbon_kgco2e": 0.2, "operational_kgco2e": 0.1})],
    ],
)
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
