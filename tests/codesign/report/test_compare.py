"""Report of a comparison: curves by hand, who wins, damaged files."""

import copy
import io
import json
import math

import pytest
from PIL import Image

from codesign.cli import main
from codesign.printable import printable
from codesign.report.compare import claims_json, curve, duels, figure, lines, markdown, standings
from codesign.runs import RunFolder

SIDES = {"worst_cost": math.e, "best_cost": 1.0, "worst_accuracy": 0.5}


def trial(cost, validation, test, mac_eq, wall_s=1.0):
    return {
        "cost": cost,
        "validation_accuracy": validation,
        "accuracy": test,
        "mac_eq": mac_eq,
        "wall_s": wall_s,
    }


def run(seed, trials, work=None):
    return {
        "seed": seed,
        "work": work or {"warmup": 100.0, "order": 10.0, "teacher": 20.0},
        "start_wall_s": 5.0,
        "trials": trials,
    }


def rival(scale):
    """Two trials, at half the box and at its best cost: accuracies of the test are scaled."""
    half = math.exp(0.5)
    return [trial(half, 0.9, 0.9 * scale, 50.0), trial(1.0, 0.7, 0.7 * scale, 100.0)]


RESULT = {
    **SIDES,
    "metric": "carbon_kgco2e",
    "trials": 2,
    "hardware": "exact",
    "validation_images": 100,
    "test_images": 200,
    "rank_fidelity": [{"seed": 0, "designs": 3, "spearman": 1.0, "at_equal_cost": None}],
    "contestants": [
        {
            "name": "gp",
            "title": "GP",
            "own": False,
            "runs": [run(0, rival(1.0)), run(1, rival(0.99)), run(2, rival(1.01))],
        },
        {
            "name": "random",
            "title": "random search",
            "own": False,
            "runs": [run(s, [trial(2.0, 0.6, 0.6, 40.0)]) for s in range(3)],
        },
        {
            "name": "elastic",
            "title": "elastic",
            "own": True,
            "runs": [
                run(
                    s, [trial(1.0, 0.95, 0.95, 30.0)], {"warmup": 100.0, "order": 10, "teacher": 20}
                )
                for s in range(3)
            ],
        },
    ],
}


def test_a_curve_is_of_the_test_accuracies_of_the_validation_front():
    half = math.exp(0.5)
    trials = [
        trial(half, 0.9, 0.8, 50.0),
        trial(1.0, 0.7, 0.6, 100.0),
        trial(half, 0.85, 1.0, 150.0),  # better on the test images, but not chosen
    ]
    found = curve(run(0, trials), SIDES)
    # Half of the log cost at .3 of .5; then the other half at .1 of .5 too.
    first, second = 0.5 * 0.6, 0.5 * 0.6 + 0.5 * 0.2
    assert found.volume.tolist() == pytest.approx([first, second, second])
    assert found.mac_eq.tolist() == [180.0, 230.0, 280.0] and found.front == 2
    assert found.wall_s.tolist() == [6.0, 7.0, 8.0]
    assert [found.volume_at(w) for w in (179, 180, 230)] == pytest.approx([0, first, second])


def test_who_wins_is_said_at_equal_work_and_with_an_interval():
    found = standings(RESULT)
    assert [each.name for each in found] == ["elastic", "gp", "random"]
    assert found[0].volume == pytest.approx(0.9)
    (duel,) = duels(found, RESULT)
    # The search takes 30 beside the teacher's 20, the rival 100: (30 + 20) / (100 + 20).
    assert duel.share == pytest.approx(50 / 120) and duel.reached == 3
    assert duel.ratio is None, "the rival has no trial done after 30"
    more = copy.deepcopy(RESULT)
    for each in more["contestants"][2]["runs"]:
        each["trials"][0]["mac_eq"] = 60.0
    (duel,) = duels(standings(more), more)
    own, ratios = 0.9, [0.9 / (0.5 * (0.9 * s - 0.5) / 0.5) for s in (1.0, 0.99, 1.01)]
    assert duel.ratio == pytest.approx(sum(ratios) / 3)
    assert duel.ratio_interval.low < own / 0.4 < duel.ratio_interval.high
    assert "it wins" in str(duel) and "at 0.67 of its work" in str(duel)


def test_a_rival_that_was_given_less_work_is_not_said_to_lose_at_equal_work():
    less = copy.deepcopy(RESULT)
    for each in less["contestants"]:
        for own in each["runs"]:
            # With what all start from, 160 and 130.
            del own["trials"][1:]
            own["trials"][0]["mac_eq"] = 60.0 if each["own"] else 10.0
    (duel,) = duels(standings(less), less)
    works = [float(s.curves[0].mac_eq[-1]) for s in standings(less) if s.name in ("elastic", "gp")]
    assert duel.rival_work == pytest.approx(works[1] / works[0]) and duel.rival_work < 1
    said = str(duel)
    assert f"the rival with {duel.rival_work:.0%} of the work" in said and "more --trials" in said
    assert "equal work" not in said and "wins" not in said


def test_the_ranking_s_fidelity_is_said_for_every_seed():
    told = [{"seed": 3, "designs": 40, "spearman": 0.92, "at_equal_cost": None}]
    (line,) = (x for x in lines(RESULT | {"rank_fidelity": told}) if x.startswith("seed 3: "))
    assert line.endswith("40 designs: Spearman's correlation 0.92")


def test_a_rival_that_wins_is_named():
    worse = copy.deepcopy(RESULT)
    for each in worse["contestants"][2]["runs"]:
        each["trials"][0] |= {"accuracy": 0.52, "mac_eq": 200.0}
    said = " ".join(lines(worse))
    assert "GP ends at the largest hypervolume" in said and "a rival wins" in said
    assert "the rival wins" in said and "on 0 of 3 seeds" in said
    one = copy.deepcopy(worse)
    for each in one["contestants"]:
        each["runs"] = each["runs"][:1]
    assert "One seed says little" in " ".join(lines(one))
    assert "decides nothing" in " ".join(lines(one))
    json.dumps(claims_json(one), allow_nan=False)


def test_fronts_outside_the_box_decide_nothing():
    outside = copy.deepcopy(RESULT)
    for contestant in outside["contestants"]:
        for each in contestant["runs"]:
            each["trials"][0]["accuracy"] = 0.4
            del each["trials"][1:]
    assert "nothing is decided" in " ".join(lines(outside))
    (duel,) = duels(standings(outside), outside)
    assert duel.ratio is None and duel.reached == 0 and duel.share is None


def test_figures_and_tables_have_every_contestant():
    for against in ("mac_eq", "wall_s"):
        with Image.open(io.BytesIO(figure(RESULT, against))) as picture:
            assert picture.size[0] > 1000
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 30
    table = markdown(RESULT)
    assert [row.split("|")[1].strip() for row in table[2:]] == ["elastic", "GP", "random search"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("contestants",), []),
        (("contestants", 0, "runs"), []),
        (("contestants", 0, "runs", 0, "seed"), 7),
        (("contestants", 0, "runs", 0, "trials", 0, "accuracy"), 1.5),
        (("contestants", 0, "runs", 0, "trials", 0, "cost"), 0),
        (("best_cost",), 3.0),
        (("test_images",), "many"),
    ],
)
def test_a_damaged_file_is_one_line(path, value, tmp_path, capsys):
    folder = RunFolder.create(tmp_path / "run", {"methods": []}, kind="comparison")
    damaged = copy.deepcopy(RESULT)
    inner = damaged
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder.path / "compare.json").write_text(json.dumps(damaged))
    assert main(["report", str(folder.path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "compare.json" in error


def test_the_page_holds_the_table_and_names_as_they_are(tmp_path, capsys):
    folder = RunFolder.create(tmp_path / "run", {"methods": []}, kind="comparison")
    named = json.loads(json.dumps(RESULT).replace('"GP"', json.dumps("G\x1b[2JP")))
    (folder.path / "compare.json").write_text(json.dumps(named))
    assert main(["report", str(folder.path)]) == 0
    shown, page = capsys.readouterr().out, (folder.path / "report.html").read_text()
    assert "What was run" in page and "codesign compare" in page
    assert printable("G\x1b[2JP") in shown and printable("G\x1b[2JP") in page
    assert "<script" not in page and page.count("data:image/png") == 2
    assert main(["report", str(folder.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["duels"][0]["rival"] == "G\x1b[2JP"
