"""Report of an ablation of effects: its order, its cells, its figure, damaged files."""

import copy
import io
import json

import pytest
from PIL import Image

from codesign.cli import main
from codesign.printable import printable
from codesign.report.effects import effects_table, figure, lines, markdown, notes
from codesign.runs import RunFolder

CHIP = {
    "cores": 1,
    "pe_x": 64,
    "pe_y": 16,
    "l2_kib": 64,
    "l2_bytes_per_cycle": 64,
    "glb_mib": 2,
    "channels": 2,
}
OTHER = CHIP | {"channels": 1}


def choice(model, effect, latency_s=0.01, chip=OTHER, **fields):
    same = chip == CHIP
    base = {
        "model": model,
        "latency_s": latency_s,
        "effect": effect,
        "accelerator": chip,
        "same": same,
        "fits": True,
        "predicted": 0.9,
        "actual": 1.0,
        "regret": 0.0,
        "misses": {},
    }
    return base | fields


NONE = {"predicted": None, "actual": None, "regret": None, "fits": False}
RESULT = {
    "objective": "carbon_kgco2e",
    "accelerators": 1234,
    "limits": {"tops": 20.0},
    "effects": [{"name": n, "without": f"no {n}"} for n in ("wire", "bus", "ram", "map", "gate")],
    "best": [
        {"model": model, "latency_s": limit, "accelerator": CHIP, "taken_s": limit, "value": 1.0}
        for model in ("a", "b")
        for limit in (0.01, 0.02)
    ],
    "choices": [
        choice("a", "wire", chip=CHIP),
        choice("a", "wire", 0.02, predicted=1.2, regret=0.0314),
        choice("b", "wire", chip=CHIP),
        choice("b", "wire", 0.02, regret=0.001),
        choice("a", "bus", regret=None, misses={"latency_s": 0.3, "tops": 0.1}),
        choice("a", "bus", 0.02, regret=2.0),
        choice("b", "bus", chip=CHIP),
        choice("b", "bus", 0.02, chip=CHIP),
        choice("a", "ram", chip=None, **NONE),
        choice("a", "ram", 0.02, regret=9.0),
        choice("b", "ram"),
        choice("b", "ram", 0.02),
        choice("a", "map", **NONE | {"predicted": 0.5}),
        choice("a", "map", 0.02),
        choice("b", "map"),
        choice("b", "map", 0.02),
        *(choice(m, "gate", limit, chip=CHIP) for m in ("a", "b") for limit in (0.01, 0.02)),
    ],
}


def test_the_most_harmful_is_first_and_each_cell_the_worst_of_the_limits():
    assert [line.name for line in lines(RESULT)] == ["ram", "map", "bus", "wire", "gate"]
    cells = {line.name: line.cells for line in lines(RESULT)}
    assert cells["ram"][:3] == ["none", "0", "none"]
    assert cells["map"][:3] == ["no fit", "0", "no fit"]
    assert cells["bus"] == ["miss 30 %", "0", "miss 30 %", "2 of 4", "0.90–0.90"]
    assert cells["wire"] == ["3.1 %", "0.10 %", "3.1 %", "2 of 4", "0.90–1.20"]
    assert cells["gate"] == ["0", "0", "0", "4 of 4", "0.90–0.90"]


def test_table_markdown_and_notes_say_the_same():
    assert effects_table(RESULT).row_count == 5
    first, rule, *rows = markdown(RESULT)
    assert first.startswith("| left out | what holds then | a | b | worst |")
    assert {row.count("|") for row in (first, rule, *rows)} == {first.count("|")}
    assert rows[2] == ("| bus | no bus | miss 30 % | 0 | miss 30 % | 2 of 4 | 0.90–0.90 |")
    said = " ".join(notes(RESULT))
    assert "1,234 accelerators" in said and "a 10.0 ms, 20.0 ms" in said and "tops <= 20" in said


def test_figure_has_a_mark_for_what_has_a_number():
    with Image.open(io.BytesIO(figure(RESULT))) as picture:
        size = picture.size
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert size[0] > 1000 and len(colours) > 50
    only = copy.deepcopy(RESULT)
    only["choices"] = [c | NONE | {"accelerator": None} for c in only["choices"]]
    with Image.open(io.BytesIO(figure(only))) as empty:
        assert empty.size == size


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("choices", 0, "regret"), -0.5),
        (("choices", 0, "regret"), "much"),
        (("choices", 3, "misses"), [1]),
        (("best", 0, "latency_s"), 0),
        (("effects",), 3),
        (("effects",), []),
        (("best",), []),
        (("choices", 1, "latency_s"), 1),
        (("best", 0, "latency_s"), 1),
        (("choices", 0, "effect"), "other"),
        (("choices", 0, "predicted"), None),
    ],
)
def test_a_damaged_file_is_one_line(path, value, tmp_path, capsys):
    run = RunFolder.create(tmp_path / "run", {"models": []}, kind="effects")
    damaged = copy.deepcopy(RESULT)
    inner = damaged
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (run.path / "effects.json").write_text(json.dumps(damaged))
    assert main(["report", str(run.path)]) == 2
    error = capsys.readouterr().err
    assert str(path[0]) in error or "choice" in error
    assert error.count("\n") == 1
    (run.path / "effects.json").unlink()
    assert main(["report", str(run.path)]) == 2
    assert "effects.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["$x^$", "[/bold]", "a\x1b[2Jb", "\u202egnp"])
def test_names_of_models_and_effects_are_shown_as_they_are(name, tmp_path, capsys):
    run = RunFolder.create(tmp_path / "run", {"models": [name]}, kind="effects")
    text = json.dumps(RESULT).replace('"a"', json.dumps(name)).replace('"bus"', json.dumps(name))
    (run.path / "effects.json").write_text(text)
    assert main(["report", str(run.path)]) == 0
    shown, page = capsys.readouterr().out, (run.path / "report.html").read_text()
    for said in (shown, page):
        assert all(character.isprintable() or character == "\n" for character in said)
    assert page.count(printable(name)) >= 3
