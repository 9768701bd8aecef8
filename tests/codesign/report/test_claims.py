"""What a report claims of a search: matched costs, savings, equality, seeds; correct.json."""

import copy
import io
import json

import numpy as np
import pytest
from rich.console import Console

from codesign.cli import main
from codesign.errors import UserError
from codesign.report.claims import claims, run_claims
from codesign.report.correct import correct_json, read_correct, scores
from codesign.report.seeds import means, run_groups, seed_groups
from codesign.report.tables import claims_table, seeds_table
from codesign.runs import RunFolder, read_run
from codesign.search.pareto import hypervolume

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGES = 400
SUMMARY = {"reference_point": {"carbon_kgco2e": 1.0, "accuracy": 0.5}, "best_cost": 0.1}


def design(name, correct, carbon, role="found", **more):
    """An entry of designs.json that is right on `correct` of the test images."""
    costs = {"carbon_kgco2e": carbon, "operational_kgco2e": carbon / 2, "latency_s": 2 * carbon}
    return {
        "name": name,
        "role": role,
        "architecture": {},
        "accelerator": {},
        "costs": costs,
        "accuracy": correct / IMAGES,
        "feasible": True,
        "pareto": False,
    } | more


def nested(designs):
    """The designs' correctness where the harder images are the same for all."""
    return {d["name"]: (np.arange(IMAGES) < round(d["accuracy"] * IMAGES))[None] for d in designs}


DESIGNS = [
    design("low", 320, 0.2, validation_accuracy=0.79),
    design("middle", 380, 0.4, validation_accuracy=0.96),
    design("lucky", 386, 0.45, validation_accuracy=0.94),
    design("broken", 400, 0.3, validation_accuracy=1.0, feasible=False),
    design("high", 385, 0.9, validation_accuracy=0.97),
    design("supernet", 384, 1.0, role="reference", validation_accuracy=0.97),
    design("half", 300, 0.15, role="reference", validation_accuracy=0.75),
]


def test_matched_accuracies_are_chosen_on_validation_and_measured_on_test():
    found = claims(DESIGNS, SUMMARY, scores(DESIGNS, nested(DESIGNS)))
    chosen = [(at.share, at.cost, at.design, at.accuracy) for at in found.matched]
    assert chosen == [
        (0.25, 0.25, "low", 0.8),
        (0.5, 0.5, "middle", 0.95),
        (0.75, 0.75, "middle", 0.95),
        (1.0, 1.0, "high", 0.9625),
    ]
    for at in found.matched:
        assert at.interval.low < at.accuracy < at.interval.high
        assert at.interval.high - at.interval.low == pytest.approx(
            2 * 1.96 * np.sqrt(at.accuracy * (1 - at.accuracy) / IMAGES), rel=0.12
        )


def test_without_validation_accuracies_the_measured_ones_choose():
    entries = [{k: v for k, v in d.items() if k != "validation_accuracy"} for d in DESIGNS]
    found = claims(entries, SUMMARY, None)
    assert [at.design for at in found.matched] == ["low", "lucky", "lucky", "lucky"]


def test_a_cost_below_every_design_has_no_accuracy():
    entries = [design("one", 300, 0.3), design("supernet", 300, 1.0, role="reference")]
    found = claims(entries, SUMMARY, scores(entries, nested(entries)))
    assert found.matched[0].design is None and found.matched[0].accuracy is None
    assert found.matched[1].design == "one"
    text = shown(claims_table(found))
    assert "no feasible design costs as little" in text


def test_the_references_own_cost_is_within_its_budget():
    """Costs of a table are float32, those of designs.json float64."""
    entries = [design("same", 300, 1.0 + 5e-8), design("supernet", 300, 1.0, role="reference")]
    assert claims(entries, SUMMARY, None).matched[-1].design == "same"


def test_the_hypervolume_is_as_before_and_within_its_interval():
    found = claims(DESIGNS, SUMMARY, scores(DESIGNS, nested(DESIGNS)))
    expected = hypervolume(
        [0.2, 0.4, 0.45, 0.9],
        [0.8, 0.95, 0.965, 0.9625],
        worst_cost=1.0,
        best_cost=0.1,
        worst_accuracy=0.5,
    )
    assert found.hypervolume == pytest.approx(expected)
    assert found.hypervolume_interval.low < expected < found.hypervolume_interval.high


def test_another_metric_has_its_own_box():
    box = {"reference_point": {"latency_s": 2.0, "accuracy": 0.5}, "best_cost": 0.1}
    found = claims(DESIGNS, box, None)
    assert [at.cost for at in found.matched] == [0.5, 1.0, 1.5, 2.0]
    assert [at.design for at in found.matched] == ["low", "middle", "middle", "high"]
    assert "25 % of the reference's latency, 500 ms" in shown(claims_table(found))


def test_designs_within_noise_are_equal():
    found = claims(DESIGNS, SUMMARY, scores(DESIGNS, nested(DESIGNS)))
    assert found.equal == [["lucky", "high", "supernet"], ["supernet", "middle"]]
    assert any(line.startswith("equal in accuracy within noise") for line in found.lines())


def test_a_saving_that_may_be_none_says_so():
    """62 % saved, by a design that ties with the reference on images of its own."""
    random = np.random.default_rng(0)
    entries = [design("small", 345, 0.38), design("supernet", 345, 1.0, role="reference")]
    right = {e["name"]: random.permutation(np.arange(IMAGES) < 345)[None] for e in entries}
    (saving,) = claims(entries, SUMMARY, scores(entries, right)).savings
    assert saving.saved_share == pytest.approx(0.62)
    assert saving.saved_share_interval == pytest.approx((0.0, 0.62))
    assert "saves 62.0 % (95 % interval 0.0 to 62.0 %: not distinguishable from 0)" in str(saving)
    assert "equal within noise" in str(saving)


def test_what_costs_more_has_no_interval_of_a_saving():
    entries = [design("large", 350, 1.1), design("supernet", 345, 1.0, role="reference")]
    (saving,) = claims(entries, SUMMARY, scores(entries, nested(entries))).savings
    assert saving.saved_share == pytest.approx(-0.1) and saving.saved_share_interval is None
    assert "costs 100 gCO2e more" in str(saving)


def test_a_sure_saving_has_its_interval_and_no_caveat():
    entries = [design("small", 380, 0.38), design("supernet", 345, 1.0, role="reference")]
    (saving,) = claims(entries, SUMMARY, scores(entries, nested(entries))).savings
    assert "saves 62.0 % (95 % interval 62.0 to 62.0 %)" in str(saving)
    assert "+8.8 points" in str(saving) and "more accurate)" in str(saving)


def test_devices_that_pay_back_the_run():
    """A sure saving has a sure number; one that may be none is perhaps never paid back."""
    sure = [design("small", 380, 0.38), design("supernet", 345, 1.0, role="reference")]
    took = SUMMARY | {"run_carbon_kgco2e": 3.2}
    found = claims(sure, took, scores(sure, nested(sure)))
    (payback,) = found.paybacks
    # 0.62 kg a device: 5 save 3.1 kg, 6 save 3.72.
    assert payback.devices == 6 and payback.devices_interval == (6, 6)
    line = "this run emitted 3.20 kgCO2e: 6 devices with small in place of supernet pay it back"
    assert f"{line} (95 % interval 6 to 6)" in found.lines()
    assert found.summary()["paybacks"][0]["devices"] == 6
    random = np.random.default_rng(0)
    unsure = [design("small", 345, 0.38), design("supernet", 345, 1.0, role="reference")]
    right = {e["name"]: random.permutation(np.arange(IMAGES) < 345)[None] for e in unsure}
    (payback,) = claims(unsure, took, scores(unsure, right)).paybacks
    assert payback.devices_interval == (6, None) and "interval 6 to never" in str(payback)


@pytest.mark.parametrize(
    ("carbon", "more", "known"),
    [
        (0.38, {}, True),  # the run was not measured
        (0.38, {"run_carbon_kgco2e": 3.2}, False),  # no results of each image
        (1.3, {"run_carbon_kgco2e": 3.2}, True),  # it costs more than the reference
    ],
)
def test_no_payback_is_claimed_without_what_it_is_made_of(carbon, more, known):
    entries = [design("small", 380, carbon), design("supernet", 345, 1.0, role="reference")]
    found = claims(entries, SUMMARY | more, scores(entries, nested(entries)) if known else None)
    assert not found.paybacks and "paybacks" not in found.summary()


def test_a_design_measured_a_little_worse_is_not_called_as_accurate():
    """Not within a standard error either: that would flatter every saving."""
    entries = [
        design("small", 344, 0.38),
        design("supernet", 345, 1.0, role="reference", accuracy_standard_error=0.02),
    ]
    (saving,) = claims(entries, SUMMARY, scores(entries, nested(entries))).savings
    assert saving.design is None and "no feasible design found measured as accurate" in str(saving)


def test_no_saving_is_named_without_its_interval():
    (supernet, half) = claims(DESIGNS, SUMMARY, None).savings
    assert "saves" not in f"{supernet} {half}" and "%:" not in str(supernet)
    assert supernet.design == "lucky" and supernet.saved_share == pytest.approx(0.55)


def test_a_family_is_as_right_as_its_subnets_by_use():
    subnets = [{"share": 0.25}, {"share": 0.75}]
    family = design("family", 0, 0.3, subnets=subnets) | {"accuracy": 0.25 * 0.5 + 0.75 * 0.75}
    right = {"family": np.stack([np.arange(IMAGES) < 200, np.arange(IMAGES) < 300])}
    found = scores([family], right)
    assert found.shape == (1, IMAGES) and found.mean() == pytest.approx(family["accuracy"])
    assert set(np.unique(found)) == {0.0, 0.75, 1.0}


def test_a_ranking_is_held_against_what_tuned_designs_reach():
    """By hand: one pair of four is ranked the wrong way; references are not ranked."""
    ranked = [
        design(str(i), right, carbon, proxy_loss=loss)
        for i, (right, carbon, loss) in enumerate(
            [(310, 0.2, 2.0), (350, 0.3, 1.2), (340, 0.25, 1.4), (380, 0.5, 1.3)]
        )
    ]
    reference = design("supernet", 390, 1.0, role="reference", proxy_loss=9.0)
    found = claims([*ranked, reference], SUMMARY, None).fidelity
    assert found.designs == 4 and found.spearman == pytest.approx(1 - 6 * 2 / (4 * 15))
    # Cost ranks as accuracy does: nothing is left of either.
    assert np.isnan(found.at_equal_cost) and found.json()["at_equal_cost"] is None
    assert "4 designs: Spearman's correlation 0.80" in str(found)
    assert "at equal cost" not in str(found)
    assert claims(ranked[:2], SUMMARY, None).fidelity is None
    assert claims(DESIGNS, SUMMARY, None).fidelity is None, "no proxy"


def folder_of(path, designs=DESIGNS, seed=0, keep=True, **config):
    made = RunFolder.create(path, {"seed": seed} | config, name="digits")
    made.append_metrics([{"step": 0, "phase": "tune", "loss": [1.0] * len(designs)}])
    made.write_json("designs.json", designs)
    made.write_json("summary.json", SUMMARY | {"test_images": IMAGES})
    if keep:
        made.write_json("correct.json", correct_json(nested(designs)))
    return made


def test_correctness_is_kept_a_bit_an_image(tmp_path):
    random = np.random.default_rng(0)
    right = {d["name"]: random.random((1, 403)) < 0.9 for d in DESIGNS}
    entries = [d | {"accuracy": float(right[d["name"]].mean())} for d in DESIGNS]
    folder = folder_of(tmp_path, entries, keep=False)
    folder.write_json("correct.json", correct_json(right))
    found = read_correct(tmp_path, entries)
    np.testing.assert_array_equal(found, np.concatenate([*right.values()]))
    assert (tmp_path / "correct.json").stat().st_size < len(entries) * (403 / 4 + 60)


def test_an_old_folder_has_no_intervals(tmp_path):
    folder = folder_of(tmp_path, keep=False)
    found = run_claims(read_run(folder.path))
    assert found.images is None and found.hypervolume_interval is None and found.equal == []
    assert [at.interval for at in found.matched] == [None] * 4
    assert "no correct.json" in found.lines()[-1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda held: [],
        lambda held: held | {"images": "400"},
        lambda held: held | {"images": -8},
        lambda held: held | {"images": 10**12},
        lambda held: held | {"images": 1e400},
        lambda held: {"images": 400},
        lambda held: held | {"right": []},
        lambda held: held | {"right": held["right"] | {"low": "ff"}},
        lambda held: held | {"right": held["right"] | {"low": []}},
        lambda held: held | {"right": held["right"] | {"low": [12]}},
        lambda held: held | {"right": held["right"] | {"low": ["xy" * 50]}},
        lambda held: held | {"right": held["right"] | {"low": ["ff" * 49]}},
        lambda held: held | {"right": held["right"] | {"low": ["00" * 50]}},
        lambda held: held | {"right": held["right"] | {"low": held["right"]["low"] * 2}},
        lambda held: held | {"right": {"other": ["ff" * 50]}},
    ],
)
def test_a_damaged_file_is_one_line(damage, tmp_path):
    folder = folder_of(tmp_path)
    held = json.loads((folder.path / "correct.json").read_text())
    (folder.path / "correct.json").write_text(json.dumps(damage(copy.deepcopy(held))))
    with pytest.raises(UserError, match=r"correct\.json .*no intervals"):
        run_claims(read_run(folder.path))


def test_correctness_without_a_name_is_one_line(tmp_path):
    folder = folder_of(tmp_path)
    folder.write_json("designs.json", [{"accuracy": 0.5}])
    with pytest.raises(UserError, match=r"correct\.json is damaged"):
        run_claims(read_run(folder.path))


def test_runs_of_one_config_are_grouped_by_all_but_the_seed(tmp_path):
    folders = [
        folder_of(tmp_path / "a0", seed=0, rate=1.0),
        folder_of(tmp_path / "b0", seed=0, rate=2.0),
        folder_of(tmp_path / "a1", seed=1, rate=1.0),
        folder_of(tmp_path / "c0", seed=0, rate=3.0),
        folder_of(tmp_path / "c0again", seed=0, rate=3.0),
    ]
    runs = [read_run(folder.path) for folder in folders]
    assert seed_groups(runs) == [[0, 2]], "c has one seed twice: what differs is not known"
    newer = runs[2].record | {"versions": {"jax": "9"}}
    runs[2] = type(runs[2])(
        runs[2].path, newer, *(getattr(runs[2], f) for f in ("metrics", "designs", "summary"))
    )
    assert seed_groups(runs) == []


def moved(by):
    """DESIGNS with some images more right."""
    return [
        d | {"accuracy": d["accuracy"] + by / IMAGES} if d["name"] == "high" else d for d in DESIGNS
    ]


def test_means_over_seeds_are_students(tmp_path):
    runs = [
        read_run(folder_of(tmp_path / str(seed), moved(by), seed=seed).path)
        for seed, by in enumerate((0, 4, 8))
    ]
    (group,) = run_groups(runs, [run_claims(run) for run in runs])
    assert group.seeds == (0, 1, 2) and group.name == "digits"
    at_all = next(f for f in group.figures if f.share == 1.0)
    assert at_all.mean == pytest.approx(389 / 400) and at_all.seeds == 3
    reach = 4.302653 * 0.01 / np.sqrt(3)  # Student's quantile of 2 degrees of freedom
    assert at_all.interval.low == pytest.approx(389 / 400 - reach)
    assert at_all.interval.high == pytest.approx(389 / 400 + reach)
    text = shown(seeds_table([group]))
    assert "97.3 %" in text and "accuracy at 100 %" in text and "hypervolume" in text


def test_intervals_of_shares_stay_within_0_and_1():
    found = [claims(moved(by), SUMMARY, None) for by in (-40, 15)]
    at_all = next(f for f in means(found) if f.share == 1.0)
    assert at_all.interval.high == 1.0 and at_all.interval.low >= 0


def test_the_command_reports_intervals_and_seeds(tmp_path, capsys):
    paths = [str(folder_of(tmp_path / str(s), moved(4 * s), seed=s).path) for s in (0, 1)]
    assert main(["report", *paths, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["seed"] == 0 and first["over_seeds"] == second["over_seeds"]
    assert first["over_seeds"]["figures"][0]["figure"] == "hypervolume"
    low, high = first["hypervolume_interval"]
    assert low < first["hypervolume"] < high
    assert [at["design"] for at in first["accuracy_at_cost"]] == ["low", "middle", "middle", "high"]
    assert first["savings"][0]["saved_share_interval"]
    assert main(["report", *paths]) == 0
    text = capsys.readouterr().out
    assert "over seeds" in text and "equal in accuracy within noise" in text and "…" not in text
    page = (tmp_path / "0" / "report.html").read_text()
    assert "95 % interval" in page and "equal in accuracy within noise" in page


def test_one_run_has_nothing_over_seeds(tmp_path, capsys):
    assert main(["report", str(folder_of(tmp_path / "a").path)]) == 0
    assert "over seeds" not in capsys.readouterr().out


def shown(table):
    console = Console(width=120, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()
