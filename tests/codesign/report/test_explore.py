"""What a report's script reads, and in Chromium what it makes of it."""

from __future__ import annotations

import html as html_text
import json
import re
import shutil
import subprocess

import pytest

from codesign.report import comparison, explore, explorer, finetune, html, words
from codesign.report.names import distinct_names
from codesign.runs import RunFolder, read_run

pytestmark = pytest.mark.usefixtures("quick_compilation")

CHIP = {"cores": 1, "pe_x": 8, "pe_y": 8, "l2_kib": 4, "l2_bytes_per_cycle": 32, "glb_mib": 0.0625}
TOWER = {"layers": 2, "width": 16, "heads": 2, "ffn": 32}
HOSTILE = "</script><script>document.title='owned'</script><!--<img src=x onerror=alert(1)>&amp;"


def design(name, accuracy, carbon, layers=2, **more):
    costs = {
        "latency_s": carbon * 1e-3,
        "energy_j": carbon * 1e-5,
        "area_mm2": carbon * 3,
        "operational_kgco2e": carbon * 0.4,
        "embodied_kgco2e": carbon * 0.6,
        "carbon_kgco2e": carbon,
        "breakdown": {
            "energy_j": {"mac": carbon * 0.6e-5, "dram": carbon * 0.4e-5},
            "embodied_kgco2e": {"chip": carbon * 0.4, "dram": carbon * 0.2},
        },
    }
    return {
        "name": name,
        "role": "found",
        "architecture": {"vision": TOWER | {"layers": layers}, "text": TOWER},
        "accelerator": CHIP,
        "costs": costs,
        "accuracy": accuracy,
        "accuracy_standard_error": 0.02,
        "feasible": True,
    } | more


DESIGNS = [
    design("alpha", 0.5, 0.2, 1),
    design("beta", 0.7, 0.4, 2),
    design("gamma", 0.8, 1.0, 4, role="reference"),
    design(HOSTILE, 0.6, 0.8, 3, feasible=False),
]


def test_values_are_those_of_the_file_in_one_unit():
    found = explore.island({"run": DESIGNS})
    axes = {axis["key"]: i for i, axis in enumerate(found["axes"])}
    assert (found["x"], found["y"]) == ("carbon_kgco2e", "accuracy")
    for key, unit, factor in (
        ("accuracy", "%", 100),
        ("carbon_kgco2e", "gCO2e", 1e3),
        ("latency_s", "µs", 1e6),
        ("energy_j", "µJ", 1e6),
        ("area_mm2", "mm²", 1),
    ):
        axis = found["axes"][axes[key]]
        assert axis["unit"] == unit
        for entry, shown in zip(DESIGNS, found["designs"], strict=True):
            value = entry.get(key, entry["costs"].get(key))
            assert shown["values"][axes[key]] == pytest.approx(value * factor, rel=1e-5)
    assert [d["errors"][axes["accuracy"]] for d in found["designs"]] == [2.0] * 4
    assert found["axes"][axes["accuracy"]]["more"]
    assert not found["axes"][axes["carbon_kgco2e"]]["more"]
    assert [d["feasible"] for d in found["designs"]] == [True, True, True, False]


def test_the_tables_headings_and_numbers_are_the_axes():
    headings, lines = explorer.designs_lines({"run": DESIGNS})
    axes = explore.island({"run": DESIGNS})["axes"]
    titles = [head.text for head in headings]
    for i, axis in enumerate(axes):
        column = titles.index(f"{axis['label']}, {axis['unit']}")
        for line, shown in zip(lines, explore.island({"run": DESIGNS})["designs"], strict=True):
            assert line.cells[column].value == shown["values"][i]
            assert float(line.cells[column].text.split(" ")[0]) == pytest.approx(
                shown["values"][i], rel=5e-3
            )
    assert "role" in titles and "run" not in titles
    assert "recall@1, %" not in titles  # no design has it
    assert "run" in [head.text for head in explorer.designs_lines({"a": DESIGNS, "b": []})[0]]


def test_only_dimensions_that_differ_are_axes():
    found = explore.island({"run": DESIGNS})
    assert found["dimensions"] == ["vision layers"]
    assert [d["dimensions"] for d in found["designs"]] == [[1.0], [2.0], [4.0], [3.0]]


def test_a_group_that_is_a_number_has_no_dimensions():
    damaged = [{"architecture": n, "accelerator": {"pe_x": n}} for n in (1, 2)]
    assert [d.label for d in explore.dimensions(damaged)] == ["PEs across"]


def test_breakdowns_add_up_to_the_costs():
    made = {b["label"]: b for b in explore.breakdowns(DESIGNS)}
    assert set(made) == {"carbon by part", "energy by part", "embodied carbon by part"}
    assert made["energy by part"]["unit"] == "µJ" and made["carbon by part"]["unit"] == "gCO2e"
    for i, entry in enumerate(DESIGNS):
        costs = entry["costs"]
        assert sum(made["energy by part"]["values"][i]) == pytest.approx(1e6 * costs["energy_j"])
        carbon = sum(made["carbon by part"]["values"][i])
        assert carbon == pytest.approx(1e3 * costs["carbon_kgco2e"], rel=1e-3)
    assert explore.breakdowns([design("bare", 0.5, 0.1, costs={})]) == []


def test_numbers_of_no_quantity_are_left_out():
    odd = [design("a", 1e308, 0.2), design("b", None, 1e299), {"name": "bare"}]
    found = explore.island({"run": odd})
    json.dumps(found, allow_nan=False)
    accuracy = next(i for i, a in enumerate(found["axes"]) if a["key"] == "accuracy")
    assert [d["values"][accuracy] for d in found["designs"]] == [None] * 3


def test_curves_are_thinned_and_named():
    rows = [{"step": i, "phase": "warmup", "loss": 3.0 - i / 1000} for i in range(1000)]
    rows += [
        {
            "step": 1000 + i,
            "phase": "joint",
            "loss": [2.0 - i / 100, 1.0],
            "latency_s": [1e-3, 2e-3 + 1e-6 * i],
            "relaxed": {"vision.layers": [1.0, 2.0 + i], "text.layers": [1.0, 1.0]},
        }
        for i in range(10)
    ]
    curves = {curve["label"]: curve for curve in explore.curves(rows, ["a", "b"])}
    assert set(curves) == {"loss", "latency", "vision layers"}  # the flat one is left out
    lines = {line["name"]: line["points"] for line in curves["loss"]["series"]}
    assert set(lines) == {"all networks", "a", "b"}
    assert len(lines["all networks"]) <= 150 and lines["all networks"][-1] == [999, 2.001]
    assert lines["a"][0] == [1000, 2.0] and len(lines["a"]) == 10
    assert curves["loss"]["phases"] == [[0, "warmup"], [1000, "joint"]]
    latency = curves["latency"]
    assert latency["unit"] == "ms" and latency["series"][1]["points"][0] == [1000, 2.0]


def test_what_every_phase_has_is_shown_first():
    rows = [{"step": i, "contrastive_loss": 5.0 - i, "loss": 6.0 - i} for i in range(3)]
    rows += [{"step": 3 + i, "subnet_loss": [2.0 - i, 3.0], "loss": 2.0 - i} for i in range(3)]
    first, *others = explore.curves(rows, ["50% sparse", "80% sparse"])
    assert (first["label"], len(first["series"][0]["points"])) == ("loss", 6)
    assert {curve["label"] for curve in others} == {"contrastive loss", "subnet loss"}
    subnets = next(curve for curve in others if curve["label"] == "subnet loss")
    assert [line["name"] for line in subnets["series"]] == ["50% sparse", "80% sparse"]


def test_no_name_ends_the_json_or_begins_a_script():
    text = explore.json_island(explore.island({HOSTILE: DESIGNS}))
    assert not re.search("[<>&\u2028\u2029]", text) and text.isascii()
    assert json.loads(text)["runs"] == [HOSTILE]


@pytest.mark.slow  # maps every product anew
def test_operators_add_up_to_what_the_run_wrote_down():
    from codesign.accelerator import Accelerator
    from codesign.architecture import Architecture, Tower
    from codesign.cost.estimate import estimate
    from codesign.report.costs import costs_json
    from codesign.report.operators import split
    from codesign.runs import jsonable
    from codesign.scenario import Scenario

    tower = Tower(layers=2, width=32, heads=2, ffn=64)
    network = Architecture(vision=tower, text=tower, patch=4, image=16, context=8, projection=16)
    chip, scenario = Accelerator(), Scenario()
    entries = []
    for sparsity in ((), (0.5, 0.8)):
        costs = estimate(network, chip, scenario, sparsity)
        plain = {"architecture": network, "accelerator": chip, "scenario": scenario}
        entries.append(
            jsonable(plain | {"name": "one", "sparsity": sparsity, "costs": costs_json(costs)})
        )
    stale = entries[0] | {"costs": entries[0]["costs"] | {"energy_j": 1.0}}
    dense, family, none, absent = split([*entries, stale, {"name": "bare"}])
    assert none is None and absent is None
    for found, entry in zip((dense, family), entries, strict=True):
        costs = entry["costs"]
        assert sum(found.operators["latency_s"].values()) == pytest.approx(costs["latency_s"])
        parts = costs["breakdown"]["energy_j"]
        between = sum(parts.get(k, 0) for k in ("idle", "dram_refresh", "dram_between"))
        assert sum(found.operators["energy_j"].values()) == pytest.approx(
            costs["energy_j"] - between, rel=1e-4
        )
        assert found.parts["area_mm2"] == pytest.approx(costs["breakdown"]["area_mm2"], rel=1e-4)
        assert found.parts["energy_j"] == pytest.approx(parts, rel=1e-3)
        assert found.operators["energy_j"]["vision.ffn_up"] > 0
    made = {b["label"]: b for b in explore.breakdowns(entries, [dense, family])}
    by_operator = made["carbon by operator"]
    assert sum(by_operator["values"][0]) == pytest.approx(
        sum(made["carbon by part"]["values"][0]), rel=1e-2
    )
    assert "embodied" in by_operator["parts"] and "vision.ffn up" in by_operator["parts"]


# ---- Pages.


def run_of(path, entries=DESIGNS, kind="search", seed=0, **record):
    config = {"seed": seed, "limits": {"latency_s": 0.05, "tops": 20.0, "area_mm2": None}}
    folder = RunFolder.create(
        path, config | record, name="quickstart", kind=kind, command=["codesign", "search", "a b"]
    )
    folder.write_json("designs.json", entries)
    folder.append_metrics(
        {"step": i, "phase": "joint", "loss": [2.0 - i / 10, 1.0, 1.5]} for i in range(5)
    )
    return folder


def test_limits_scenario_and_command_are_said(tmp_path):
    lived = {"use_grid": "sweden", "lifetime_years": 5.0, "node_nm": 22, "inferences_per_s": 2.0}
    page = html.write_report(run_of(tmp_path / "a", scenario=lived).path).read_text()
    assert "latency at most 50.0 ms; peak at most 20.0 TOPS" in page
    assert "2 inferences a second, for 5 years, on the grid of sweden; a chip of 22 nm" in page
    assert "Made by" in page and "codesign search &#39;a b&#39;" in page
    assert "Joint search" in page
    assert page.count("<h1>") == 1 and "owned'</script>" not in page


def test_a_hardware_run_is_no_joint_search(tmp_path):
    folder = run_of(tmp_path / "hw", kind="hardware", model="tinyclip-39m-16")
    page = html.write_report(folder.path).read_text()
    assert "Exact search of the accelerators of tinyclip-39m-16" in page
    assert "Joint search" not in page


def test_an_old_run_says_what_repeats_it(tmp_path):
    made = words.command({}, tmp_path / "fast")
    assert made[0].startswith("Repeated by")
    assert made[1] == "codesign search runs/fast/config.json --out runs/fast-again"


def test_runs_of_one_config_are_named_by_folder(tmp_path):
    runs = [read_run(run_of(tmp_path / name, seed=i).path) for i, name in enumerate("ab")]
    assert distinct_names(runs) == ["a", "b"] and distinct_names(runs[:1]) == ["quickstart"]
    other = read_run(run_of(tmp_path / "deep" / "a").path)
    names = distinct_names([*runs, other])
    assert len(set(names)) == 3 and names[1] == "b" and names[2] == str(other.path)


def test_a_comparison_overlays_runs_and_says_what_differs(tmp_path):
    runs = [read_run(run_of(tmp_path / name, seed=i).path) for i, name in enumerate("ab")]
    page = comparison.write_searches(runs, tmp_path / "both.html").read_text()
    island = json.loads(re.search(r'id="island">(.*?)</script>', page, re.DOTALL)[1])
    assert island["runs"] == ["a", "b"]
    assert [d["run"] for d in island["designs"]] == [0] * 4 + [1] * 4
    assert comparison.differences(runs) == [["seed", "0", "1"]]
    assert "http" not in page and not re.search(r'(src|href)="(?!data:)', page)


def test_curves_of_runs_are_laid_over_each_other():
    line = {"name": "loss", "points": [[0, 1.0]]}
    curve = {"label": "loss", "unit": "", "series": [line], "phases": []}
    (found,) = comparison.overlaid({"a": [curve], "b": [curve | {"series": [line, line]}]})
    assert [series["name"] for series in found["series"]] == ["a", "b: loss", "b: loss"]


def test_a_family_has_its_dense_network_stages_bytes_and_products(tmp_path):
    config = {"train": {}, "optim": {}, "loss": {}, "subnets": {"dense_steps": 4}}
    folder = RunFolder.create(tmp_path / "r", config, kind="dress")
    result = lambda top: {"images": 100, "classification": {"top_1": top}}  # noqa: E731
    folder.append_metrics([{"step": 3, "phase": "validation", "validation": result(0.9)}])
    subnets = [
        {"sparsity": s, "density": 1 - s, "macs": 500, "validation": result(0.8 - s / 10)}
        for s in (0.5, 0.8)
    ]
    sizes = {"packed": 2000, "csr": 9000, "csr_small": 8000, "dense": 4000}
    folder.write_json(
        "summary.json", {"steps": 9, "bytes": sizes, "macs": 1500, "subnets": subnets}
    )
    run = read_run(folder.path)
    names = [entry["name"] for entry in finetune.designs(run)]
    assert names == ["50% sparse", "80% sparse", "dense, after 4 steps"]
    found = explore.island({"r": finetune.designs(run)})
    assert (found["x"], found["y"]) == ("macs", "accuracy")
    assert found["designs"][2]["errors"][0] == pytest.approx(3.0)
    page = html_text.unescape(finetune.write_report(folder.path).read_text())
    for expected in ("2.00 kB", "4.00 kB", "1.50 kMAC", "500 MAC", "all subnets in each step"):
        assert expected in page
    assert "DRESS" in page and "Contrastive" not in page


def test_subnets_of_nearly_the_same_sparsity_are_told_apart():
    subnets = [{"sparsity": s, "density": 1 - s} for s in (0.5, 0.92, 0.924)]
    table = finetune.subnets_table({"subnets": subnets})
    headings = [str(column.header) for column in table.columns]
    assert headings[1:] == ["50.0% sparse", "92.0% sparse", "92.4% sparse"]


# ---- Chromium.

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
# Runs before the report's script, and after it; what it finds is the page's title.
_LISTENER = """<script type="text/javascript">
window.faults = [];
addEventListener("error", event => faults.push(String(event.message)));
console.error = (...all) => faults.push(all.join(" "));
</script>"""
_QUESTIONS = """<script type="text/javascript">
addEventListener("load", async () => {
  const $ = (s, r = document) => r.querySelector(s);
  const $$ = (s, r = document) => [...r.querySelectorAll(s)];
  const found = {};
  try {
    const rows = () => $$("#designs tbody tr").filter(r => !r.hidden);
    const first = () => rows().map(r => r.cells[0].textContent.trim());
    found.points = $$("#scatter .point").length;
    found.bars = $$("#scatter .point line").length;
    $('#scatter .point[data-i="1"]').dispatchEvent(new MouseEvent("mouseenter"));
    found.tip = $("#tip").hidden ? null : $("#tip").textContent;
    $('#scatter .point[data-i="1"]').dispatchEvent(new MouseEvent("click"));
    found.selected = $$("#designs tr.selected").map(r => r.cells[0].textContent.trim());
    found.breakdown = $("#breakdown caption").textContent;
    found.status = $("#said").textContent;
    $("#scatter svg").focus();
    $("#scatter svg").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
    found.arrow = $("#said").textContent;
    const head = $$("#designs th").find(th => th.textContent.startsWith("accuracy"));
    $("button", head).click();
    found.ascending = first();
    $("button", head).click();
    found.descending = first();
    found.aria = head.getAttribute("aria-sort");
    const filter = $("input.filter");
    const type = text => { filter.value = text; filter.dispatchEvent(new Event("input")); };
    type("accuracy>55 latency<500");
    found.filtered = first();
    found.left = $$("#scatter .point").length;
    let blob = null;
    URL.createObjectURL = b => { blob = b; return "data:,"; };
    $("button.csv").click();
    found.csv = await blob.text();
    type("");
    const up = $$("#explorer select")[1];
    up.value = [...up.options].findIndex(o => o.textContent.startsWith("energy"));
    up.dispatchEvent(new Event("change"));
    found.up = $$("#scatter text.title").map(t => t.textContent);
    found.lines = $$("#parallel .line").length;
    found.curves = $$("#curves .curve").length;
    found.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    const labelled = e => e.labels?.length || e.textContent.trim() || e.ariaLabel;
    found.unlabelled = $$("button, input, select").filter(e => !labelled(e)).length;
    found.names = $$("#designs td:first-child").map(c => c.textContent.trim());
  } catch (error) { faults.push(String(error.stack)); }
  found.faults = faults;
  found.owned = document.title;
  const said = document.createElement("pre");
  said.id = "answers";
  said.textContent = JSON.stringify(found);
  document.body.append(said);
});
</script>"""


def asked(page, tmp_path, width=1200):
    """What the page does in Chromium, without a network."""
    text = page.read_text().replace("<head>", "<head>" + _LISTENER, 1)
    copy = tmp_path / "asked.html"
    copy.write_text(text.replace("</body>", _QUESTIONS + "</body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--virtual-time-budget=10000"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1000"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    answers = re.search(r'<pre id="answers">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(html_text.unescape(answers[1]))


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_the_page_is_explored_in_chromium(tmp_path):
    page = html.write_report(run_of(tmp_path / "run").path)
    found = asked(page, tmp_path)
    assert found["faults"] == [] and found["owned"] == "quickstart – codesign report"
    assert (found["points"], found["bars"]) == (4, 4)
    assert found["tip"].startswith("betafound") and "total carbon 400 gCO2e" in found["tip"]
    assert "accuracy 70.0 ± 2.0 %" in found["tip"]
    assert found["selected"] == ["beta"] and found["status"].startswith("selected: beta")
    assert found["breakdown"].startswith("beta: carbon by part, 400 gCO2e")
    assert found["arrow"].startswith("alpha; found")
    assert found["names"].count(HOSTILE) == 1
    assert found["ascending"] == ["alpha", HOSTILE, "beta", "gamma"]
    assert found["descending"] == found["ascending"][::-1] and found["aria"] == "descending"
    assert found["filtered"] == ["beta"] and found["left"] == 1
    head, row, *rest = found["csv"].splitlines()
    assert head.startswith("design,role,") and '"accuracy, %"' in head and rest == []
    assert row.startswith("beta,found,") and row.split(",")[6:9] == ["70.0", "400.0", "4.0"]
    assert found["up"] == ["total carbon, gCO2e", "energy, µJ"]
    assert found["lines"] == 4 and found["curves"] == 3
    assert found["unlabelled"] == 0


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_the_page_fits_a_narrow_window(tmp_path):
    page = html.write_report(run_of(tmp_path / "run").path)
    found = asked(page, tmp_path, width=400)
    assert found["faults"] == [] and found["wide"] <= 0
