"""Design files: round trip, defaults, and one clear line for every kind of bad input."""

import dataclasses
import json

import pytest

from codesign import design_file
from codesign.accelerator import Accelerator
from codesign.architecture import clip_vit_b16
from codesign.design_file import Design, design_to_json, load_design, parse_design
from codesign.errors import UserError
from codesign.scenario import Scenario
from simulators.mutations import mutations

SMALLEST = {"architecture": {}, "accelerator": {}}


def with_value(path, value):
    """SMALLEST with one dotted field set."""
    obj = json.loads(json.dumps(SMALLEST))
    *parents, last = path.split(".")
    at = obj
    for parent in parents:
        at = at.setdefault(parent, {})
    at[last] = value
    return obj


def test_keys_left_out_take_the_documented_defaults():
    expected = Design("design", clip_vit_b16(), Accelerator(), Scenario())
    assert parse_design(SMALLEST) == expected


def test_round_trip():
    design = parse_design(
        {
            "name": "tiny",
            "architecture": {"vision": {"layers": 4, "width": 32}, "patch": 4, "image": 32},
            "accelerator": {"pe_x": 8, "l2_kib": 4.0, "glb_mib": 0.0625},
            "scenario": {"use_grid": 68, "node_nm": 28, "hours_per_day": 12},
        }
    )
    assert design.accelerator.l2_kib == 4 and isinstance(design.accelerator.l2_kib, int)
    assert design.accelerator.glb_mib == 0.0625
    assert design.architecture.vision.heads == 12
    assert parse_design(json.loads(json.dumps(design_to_json(design)))) == design


def test_every_scenario_field_can_be_given():
    given = dataclasses.asdict(Scenario())
    assert set(given) == set(design_file._SCENARIO_CHECKS)
    assert parse_design(SMALLEST | {"scenario": given}).scenario == Scenario()


def test_an_entry_of_designs_json_can_be_priced_again():
    entry = SMALLEST | {
        "name": "carbon-03",
        "costs": {"latency_s": 0.1},
        "accuracy": 0.5,
        "feasible": True,
        "pareto": True,
        "role": "found",
        "some_later_result": 1,
    }
    assert parse_design(entry).name == "carbon-03"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("architecture.vision.widht", 3, "architecture.vision.widht: unknown key; did you mean 'w"),
        ("architecture.vison", {}, "architecture.vison: unknown key; did you mean 'vision'?"),
        ("acelerator", {}, "acelerator: unknown key; did you mean 'accelerator'?"),
        ("scenario.use_gird", 1, "scenario.use_gird: unknown key; did you mean 'use_grid'?"),
        ("architecture.vision", 3, "architecture.vision: expected an object {...}, got 3"),
        ("architecture.text.layers", "six", 'architecture.text.layers: expected a number, got "si'),
        ("architecture.text.layers", True, "expected a number, got true"),
        ("architecture.text.layers", None, "expected a number, got null"),
        ("architecture.text.layers", 0, "expected 1 to 1000000, got 0"),
        ("architecture.text.layers", -2, "expected 1 to 1000000, got -2"),
        ("architecture.text.layers", 2.5, "expected a whole number, got 2.5"),
        ("architecture.image", 225, "patch: 16 does not divide image 225; set image to 224 or 240"),
        ("architecture.image", 8, "does not divide image 8; set image to 16, or another patch"),
        ("architecture.activation", "gleu", "unknown activation \"gleu\"; did you mean 'gelu'?"),
        ("accelerator.cores", 3, "cores: 3 is off the grid; use 2 or 4 (a power of two from 1"),
        ("accelerator.pe_x", 100, "pe_x: 100 is off the grid; use 64 or 128"),
        ("accelerator.pe_x", 4096, "pe_x: 4096 is off the grid; use 1024 ("),
        ("accelerator.pe_y", 0, "pe_y: 0 is off the grid; use 1 ("),
        ("accelerator.pe_y", -8, "pe_y: -8 is off the grid; use 1 ("),
        ("accelerator.glb_mib", 0.1, "glb_mib: 0.1 is off the grid; use 0.0625 or 0.125"),
        ("accelerator.cores", 1.5, "cores: 1.5 is off the grid; use 1 or 2"),
        ("accelerator.cores", 1e300, "far out of range"),
        ("sparsity", [10**400], "sparsity[0]: 1000"),
        ("scenario.clock_mhz", 10**400, "is far out of range; give a smaller number"),
        ("scenario.use_grid", "californa", "unknown \"californa\"; did you mean 'california'?"),
        ("scenario.use_grid", -1, "expected 0 or more, got -1"),
        ("scenario.node_nm", 23, "scenario.node_nm: unknown 23; "),
        ("scenario.precision_bits", 12, "scenario.precision_bits: expected 4, 8 or 16, got 12"),
        ("scenario.defects_per_cm2", -1, "defects_per_cm2: expected more than 0, got -1"),
        ("scenario.logic_yield", 1.5, "expected more than 0 and at most 1, got 1.5"),
        ("scenario.hours_per_day", 25, "expected more than 0 and at most 24, got 25"),
        ("scenario.gas_abatement_pct", 96, "expected 95, 97 or 99, got 96"),
        ("scenario.dram_technology", 4, "expected a name, got 4"),
        ("name", 7, "name: expected text, got 7"),
    ],
)
def test_bad_fields_get_one_clear_line(path, value, message):
    with pytest.raises(UserError) as caught:
        parse_design(with_value(path, value), "my.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("my.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["architecture", "accelerator"])
def test_a_missing_part_is_named(key):
    obj = {k: v for k, v in SMALLEST.items() if k != key}
    with pytest.raises(UserError, match=f"missing key '{key}'"):
        parse_design(obj)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"architecture": {},}', "is not JSON: .* at line 1 column 21"),
        ("", "is not JSON: .* at line 1 column 1"),
        ('{"accelerator": {"cores": NaN}}', "NaN is no value"),
        ('{"architecture": {}, "architecture": {}}', "'architecture' is given twice"),
        ('"design"', "expected an object"),
        ("[" * 100_000, "nested too deeply|not JSON"),
    ],
)
def test_bad_files_get_one_clear_line(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_design(path)
    assert str(path) in str(caught.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(UserError, match="there is no design file"):
        load_design(tmp_path / "absent.json")
    with pytest.raises(UserError, match="cannot read"):
        load_design(tmp_path)
    (tmp_path / "image.json").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UserError, match="is not a text file"):
        load_design(tmp_path / "image.json")


def test_a_list_needs_a_name(tmp_path):
    path = tmp_path / "designs.json"
    path.write_text(json.dumps([SMALLEST | {"name": name} for name in ("a-01", "a-02")]))
    assert load_design(path, name="a-02").name == "a-02"
    with pytest.raises(UserError, match=r"pick one with --name \(a-01, a-02\)"):
        load_design(path)
    with pytest.raises(UserError, match="no design is named 'a-03'; did you mean"):
        load_design(path, name="a-03")
    path.write_text("[]")
    with pytest.raises(UserError, match="the list holds no design"):
        load_design(path)


def test_a_single_design_takes_its_name_from_the_file(tmp_path):
    path = tmp_path / "phone.json"
    path.write_text(json.dumps(SMALLEST))
    assert load_design(path).name == "phone"
    with pytest.raises(UserError, match="drop --name"):
        load_design(path, name="other")


def test_mutations():
    """Of one value at a time: a design, or one line."""
    whole = design_to_json(parse_design(SMALLEST | {"sparsity": [0.5, 0.9]}))
    refused = []
    for _, _, mutated in mutations(json.loads(json.dumps(whole)), 600):
        try:
            again = parse_design(mutated, "x")
        except UserError as error:
            refused.append(str(error))
        else:
            assert parse_design(json.loads(json.dumps(design_to_json(again)))) == again
    assert len(refused) > 400 and all(len(line) < 300 for line in refused)
    assert all(line.startswith("x: ") and len(line.splitlines()) == 1 for line in refused)
