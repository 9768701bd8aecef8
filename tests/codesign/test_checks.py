"""Designs that cannot be: one line from the commands, a ValueError from Python; and sound ones."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign import Accelerator, Architecture, Scenario, Tower, estimate
from codesign.cli import main
from codesign.cost.capacity import OverloadWarning, busy_share
from codesign.cost.estimate import estimate_family, estimate_subnets
from codesign.cost.model import clip_costs
from codesign.design_file import ACCELERATOR_BOUNDS, checked_scenario, parse_design
from codesign.dress.masks import checked_sparsities
from codesign.errors import UserError
from codesign.workload import PRESETS, load_model
from codesign.workload.blocks import Block
from codesign.workload.clip import ClipNetwork
from codesign.workload.memory import activation_words, cache_words

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = Architecture(
    vision=Tower(1, 32, 2, 64),
    text=Tower(1, 16, 1, 32),
    patch=8,
    image=32,
    context=8,
    projection=16,
    head_dim=16,
    vocab=100,
)
CHIP = Accelerator(1, 16, 4, 16, 32, 0.125)
NAN = float("nan")

# A field, what is wrong in it, and what the line about it says.
WRONG = [
    ("accelerator.cores", 1.5, "cores: 1.5 is off the grid; use 1 or 2"),
    ("accelerator.cores", 0, "cores: 0 is off the grid; use 1"),
    ("accelerator.pe_x", -64, "pe_x: -64 is off the grid; use 1"),
    ("accelerator.pe_x", 48, "pe_x: 48 is off the grid; use 32 or 64"),
    ("accelerator.pe_y", 2048, "use 1024"),
    ("accelerator.l2_kib", 0.5, "l2_kib: 0.5 is off the grid; use 1"),
    ("accelerator.glb_mib", 1024, "glb_mib: 1024 is off the grid; use 64"),
    ("accelerator.glb_mib", "4", "expected a number"),
    ("architecture.image", 20, "patch: 8 does not divide image 20; set image to 16 or 24"),
    ("architecture.patch", 64, "patch: 64 does not divide image 32"),
    ("architecture.vocab", 0, "vocab: expected 1 to"),
    ("architecture.vision.layers", 1.5, "layers: expected a whole number"),
    ("architecture.text.heads", -1, "heads: expected 1 to"),
    ("architecture.activation", "gleu", "did you mean 'gelu'?"),
    ("scenario.lifetime_years", -3, "expected more than 0, got -3"),
    ("scenario.lifetime_years", 1095, "if it is in days, that is 3 years"),
    ("scenario.dram_gb", -1, "expected 0 or more, got -1"),
    ("scenario.dram_gb", 512e6, "if it is in bytes, that is 0.512 GB"),
    ("scenario.dram_gb", 8192, "if it is in MB, that is 8.192 GB"),
    ("scenario.dram_gb", 0, "dram_gb: 0 GB cannot hold"),
    ("scenario.dram_gb", 1e-5, "dram_gb: 1e-05 GB cannot hold"),
    ("scenario.use_grid", 0.224, "if it is in kg, that is 224 gCO2e/kWh"),
    ("scenario.use_grid", 224_000, "if it is in gCO2e/MWh, that is 224 gCO2e/kWh"),
    ("scenario.fab_grid", 0.5, "if it is in kg, that is 500 gCO2e/kWh"),
    ("scenario.use_grid", "polnad", "did you mean 'poland'?"),
    ("scenario.clock_mhz", 625e6, "if it is in Hz, that is 625 MHz"),
    ("scenario.clock_mhz", 0.625, "if it is in GHz, that is 625 MHz"),
    ("scenario.clock_mhz", 625_000, "if it is in kHz, that is 625 MHz"),
    ("scenario.glb_bytes_per_cycle", 1e-18, "1e-18 bytes is not plausible (0.125 to"),
    ("scenario.node_nm", 3, "choose from 7, 10, 14, 16, 20, 22, 28, 32, 40, 45 nm"),
    ("scenario.precision_bits", 32, "expected 4, 8 or 16, got 32"),
    ("scenario.inferences_per_s", 0, "expected more than 0"),
    ("scenario.hours_per_day", 25, "at most 24"),
    ("scenario.logic_yield", 87.5, "at most 1"),
    ("scenario.index_bits", 33, "expected a whole number of 0 to 32"),
    ("scenario.subnet_shares", (0.5, 0.5), "2 shares for 1 subnets"),
    ("scenario.hand_over", 1, "hand_over: expected true or false, got 1"),
    ("scenario.hand_over", "yes", "hand_over: expected true or false"),
]


def changed(path, value):
    """SMALL on CHIP in the default scenario, one dotted field changed."""
    parts = {"architecture": SMALL, "accelerator": CHIP, "scenario": Scenario()}
    part, *inner, field = path.split(".")
    where = parts[part]
    for name in inner:
        where = getattr(where, name)
    where = dataclasses.replace(where, **{field: value})
    for name in inner:
        where = dataclasses.replace(parts[part], **{name: where})
    return parts | {part: where}


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_wrong_in_python(path, value, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        estimate(**changed(path, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_wrong_in_a_file(path, value, message, tmp_path, capsys):
    file = tmp_path / "design.json"
    parts = changed(path, value)
    file.write_text(json.dumps({name: dataclasses.asdict(part) for name, part in parts.items()}))
    assert main(["cost", str(file)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out


NUMBERS = [
    *(f"accelerator.{name}" for name in ACCELERATOR_BOUNDS),
    *(
        f"scenario.{f.name}"
        for f in dataclasses.fields(Scenario)
        if isinstance(f.default, (int, float)) and not isinstance(f.default, bool)
    ),
    *(f"architecture.{t}.{f.name}" for t in ("vision", "text") for f in dataclasses.fields(Tower)),
    "architecture.patch",
    "architecture.head_dim",
]


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf"), -1, True, None, [1]])
def test_no_number(path, value):
    with pytest.raises(ValueError, match=path.replace(".", r"\.")):
        estimate(**changed(path, value))


def test_families_are_checked_alike():
    wrong = dataclasses.replace(CHIP, pe_x=-64)
    with pytest.raises(ValueError, match="pe_x: -64 is off the grid"):
        estimate_subnets(SMALL, wrong, Scenario(), (0.5,))
    with pytest.raises(ValueError, match="pe_x: -64 is off the grid"):
        estimate_family(SMALL, wrong, Scenario(), [{}])
    with pytest.raises(ValueError, match=r"dram_gb: 1e-05 GB cannot hold"):
        estimate(SMALL, CHIP, Scenario(dram_gb=1e-5), (0.5,))


def test_numbers_of_numpy_and_jax_are_numbers():
    plain = estimate(SMALL, CHIP)
    for kind in (np.int64, np.float32, jnp.float32):
        chip = dataclasses.replace(CHIP, pe_x=kind(16), glb_mib=jnp.float32(0.125))
        assert estimate(SMALL, chip) == plain


def test_relaxed_designs_are_for_clip_costs():
    """Under jit and grad, where values are not known, nothing is checked."""

    def latency(pe_x):
        return clip_costs(SMALL, dataclasses.replace(CHIP, pe_x=pe_x), Scenario()).latency_s

    traced = jax.eval_shape(jax.value_and_grad(latency), 17.5)
    assert [x.shape for x in traced] == [(), ()]
    with pytest.raises(ValueError, match=r"17\.5 is off the grid"):
        estimate(SMALL, dataclasses.replace(CHIP, pe_x=17.5))


def test_bounds_are_accepted():
    for end in (0, 1):
        for name, bounds in ACCELERATOR_BOUNDS.items():
            chip = dataclasses.replace(CHIP, **{name: bounds[end]})
            try:
                assert estimate(SMALL, chip).latency_s > 0
            except ValueError as error:
                assert "fits no mapping" in str(error)  # noqa: PT017 -- small buffers may not do


DESIGN = (SMALL, CHIP, Scenario())


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, "clip-vit-b-16", 'architecture is "clip-vit-b-16": it must be a codesign Arch'),
        (0, CHIP, "it must be a codesign Architecture"),
        (0, dataclasses.replace(SMALL, vision={"layers": 1}), "architecture.vision is"),
        (0, dataclasses.replace(SMALL, text=None), "text is null: it must be a codesign Tower"),
        (1, {"cores": 1}, "accelerator is"),
        (1, Accelerator, "it must be a codesign Accelerator"),
        (2, "california", "scenario is"),
        (2, {}, "it must be a codesign Scenario"),
        (2, 0, "it must be a codesign Scenario"),
    ],
)
def test_wrong_kinds_are_one_line(place, value, message):
    wrong = [value if i == place else part for i, part in enumerate(DESIGN)]
    for price in (estimate, clip_costs):
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            price(*wrong)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "field", "value", "message"),
    [
        (1, "pe_x", -64, "pe_x: expected 1 to 1024, got -64"),
        (1, "glb_mib", 65536, "glb_mib: expected 0.015625 to 64"),
        (1, "cores", NAN, "cores: expected 1 to 16"),
        (1, "pe_y", "4", "expected a number"),
        (1, "l2_kib", np.array([16.0, -1.0]), "l2_kib: expected 1 to 4096"),
        (0, "patch", 64, "patch: 64 does not divide image 32"),
        (0, "vision", Tower(-1, 32, 2, 64), "vision.layers: expected more than 0 to"),
        (2, "lifetime_years", -3, "expected more than 0, got -3"),
        (2, "use_grid", 0.224, "if it is in kg"),
        (2, "node_nm", 3, "choose from 7"),
    ],
)
def test_relaxed_designs_are_checked_as_far_as_they_are_known(place, field, value, message):
    wrong = list(DESIGN)
    wrong[place] = dataclasses.replace(wrong[place], **{field: value})
    with pytest.raises(ValueError, match=re.escape(message)):
        clip_costs(*wrong)


@pytest.mark.parametrize("cores", [np.array([1, None]), np.array(["1", "2"])])
def test_an_array_of_no_numbers_is_refused(cores):
    with pytest.raises(ValueError, match=r"estimate: an array of .*; give arrays of numbers"):
        estimate(SMALL, dataclasses.replace(CHIP, cores=cores))


def test_values_of_python_become_those_of_a_file():
    """As JSON's 22.0 and lists do; a scenario must also stay hashable, jitted as it is."""
    listed = checked_scenario(Scenario(subnet_shares=[0.5, 0.5]))
    assert listed == Scenario(subnet_shares=(0.5, 0.5)) and hash(listed)
    expected = estimate(SMALL, CHIP).carbon_kgco2e
    scenario = Scenario(node_nm=22.0, precision_bits=np.int64(8))
    small = dataclasses.replace(SMALL, context=8.0, vision=Tower(1.0, np.int32(32), 2, 64))
    chip = dataclasses.replace(CHIP, pe_x=np.float32(16))
    assert estimate(small, chip, scenario).carbon_kgco2e == expected


@pytest.mark.parametrize(
    "sparsity", [0.5, "0.5", [None], ["a"], [[0.5], [0.5, 0.9]], np.array(0.5), {0.5: 1}, [True]]
)
def test_sparsity_is_a_list_of_numbers(sparsity):
    with pytest.raises(ValueError, match="it must be a list of shares such as"):
        estimate(SMALL, CHIP, sparsity=sparsity)


def test_sparsity_may_be_an_array(monkeypatch):
    pricing = sys.modules[estimate.__module__]
    monkeypatch.setattr(pricing, "estimate_subnets", lambda *design: design[-1])
    monkeypatch.setattr(pricing, "family_costs", checked_sparsities)
    assert estimate(SMALL, CHIP, sparsity=np.array([0.5, 0.75])) == (0.5, 0.75)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_grid", 0),
        ("use_grid", 7.3),
        ("use_grid", 1200.0),
        ("fab_grid", 11),
        ("clock_mhz", 5000.0),
        ("clock_mhz", 10),
        ("dram_gb", 0.001),
        ("lifetime_years", 15),
        ("lifetime_years", 0.5),
        ("node_nm", 7),
        ("inferences_per_s", 1 / 3600),
    ],
)
def test_plausible_scenarios(field, value):
    checked_scenario(Scenario(**{field: value}))


# --- what the chip and its DRAM must do ------------------------------------------------------


def test_a_busy_chip_is_told_of(tmp_path, capsys):
    latency = estimate(SMALL, CHIP).latency_s
    scenario = Scenario(inferences_per_s=4 / latency)
    assert busy_share(latency, scenario) == pytest.approx(4)
    with pytest.warns(OverloadWarning, match="busy 400 % of the time"):
        estimate(SMALL, CHIP, scenario)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate(SMALL, CHIP, Scenario(inferences_per_s=0.9 / latency))

    def cost(share):
        file = tmp_path / "design.json"
        file.write_text(
            json.dumps(
                {
                    "architecture": dataclasses.asdict(SMALL),
                    "accelerator": dataclasses.asdict(CHIP),
                    "scenario": {"inferences_per_s": share / latency},
                }
            )
        )
        assert main(["cost", str(file), "--json"]) == 0
        printed = capsys.readouterr()
        return json.loads(printed.out)["costs"]["busy_share"], printed.err

    share, error = cost(4)
    assert share == pytest.approx(4)
    assert "busy 400 % of the time" in error and error.count("\n") == 1
    share, error = cost(0.9)
    assert share == pytest.approx(0.9) and not error


def test_a_family_is_busy_by_its_shares():
    """The slow dense subnet runs one inference in a hundred: the mean of both counts."""
    # Operators of so small a network take less than their starts, which all subnets have.
    at_once = Scenario(subnet_shares=(0.01, 0.99), operator_start_cycles=0.0)
    subnets = estimate_subnets(SMALL, CHIP, at_once, (0.0, 0.9))
    slow, fast = (subnet.costs.latency_s for subnet in subnets)
    mean = 0.01 * slow + 0.99 * fast
    assert mean < 0.99 * slow
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scenario = dataclasses.replace(at_once, inferences_per_s=0.995 / mean)
        estimate(SMALL, CHIP, scenario, (0.0, 0.9))
    scenario = dataclasses.replace(scenario, inferences_per_s=1.005 / mean)
    with pytest.warns(OverloadWarning):
        estimate(SMALL, CHIP, scenario, (0.0, 0.9))


def test_activations_by_hand():
    """4 tokens of width 8, 2 heads of 3 channels, ffn 32, beside the residual's 32 words."""
    block = Block(8, 2, 3, 32)
    assert activation_words(block, tokens=4) == 32 + (32 + 128)  # normed and hidden
    narrow = dataclasses.replace(block, ffn=1)
    assert activation_words(narrow, tokens=4) == 32 + (32 + 3 * 24)  # queries, keys, values
    # 100 tokens: queries, keys, values of 6 channels, and the scores of a head at a time
    assert activation_words(block, tokens=100) == 800 + 3 * 600 + 100**2
    # two groups of one head's keys: as before, with half the keys and values, two heads' scores
    shared = dataclasses.replace(block, kv_heads=1)
    assert activation_words(shared, tokens=100) == 800 + 600 + 2 * 300 + 2 * 100**2
    assert activation_words(shared, tokens=100, cached=True) == 800 + 600 + 2 * 100**2
    gated = dataclasses.replace(block, gated=True)
    assert activation_words(gated, tokens=4) == 32 + (32 + 256)
    assert cache_words(shared, 100, layers=5) == 2 * 5 * 100 * 3


def test_memory_of_models():
    """Llama-3.2-3B: 8 heads of 128 keys and values, 28 layers; CLIP keeps no cache."""
    decoding = load_model("llama-3.2-3b", phase="decode", context=131072).memory
    assert decoding.weights == 3_212_749_824
    assert decoding.cache == 2 * 28 * 8 * 128 * 131072
    assert 24 * 131072 / 8 <= decoding.activations < 0.001 * decoding.words
    prompt = load_model("llama-3.2-3b", tokens=1024).memory
    assert prompt.cache == 2 * 28 * 8 * 128 * 1024
    for name in PRESETS:
        memory = load_model(name).memory
        assert memory.weights == load_model(name).parameters and memory.activations > 0
        assert (memory.cache > 0) == name.startswith("llama")


def test_dram_that_just_holds_a_design():
    words = ClipNetwork(SMALL).memory().words
    enough = Scenario(dram_gb=words / 1e9)
    assert estimate(SMALL, CHIP, enough).latency_s > 0
    for scenario in (
        Scenario(dram_gb=(words - 1) / 1e9),
        dataclasses.replace(enough, precision_bits=16),
    ):
        with pytest.raises(ValueError, match="cannot hold"):
            estimate(SMALL, CHIP, scenario)
    # Of a family the densest subnet is stored, positions included where that is less.
    assert estimate(SMALL, CHIP, enough, (0.9,)).latency_s > 0


def test_shares_of_a_family_yet_to_come():
    obj = {"architecture": {}, "accelerator": {}, "scenario": {"subnet_shares": [0.2, 0.3, 0.5]}}
    assert parse_design(obj, own_subnets=False).scenario.subnet_shares == (0.2, 0.3, 0.5)
    with pytest.raises(UserError, match="3 shares for 1 subnets"):
        parse_design(obj)


@pytest.mark.parametrize(
    ("design", "named"),
    [
        (("clip-vit-b-16", CHIP), 'architecture is "clip-vit-b-16": it must be a codesign Arch'),
        ((SMALL, {"cores": 4}), 'accelerator is {"cores": 4}: it must be a codesign Accelerator'),
        ((SMALL, CHIP, "poland"), 'scenario is "poland": it must be a codesign Scenario'),
    ],
)
def test_estimate_names_what_is_no_design(design, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        estimate(*design)
