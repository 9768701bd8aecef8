"""Model cards: what they say is in the run's files, and the hub's own reader reads their header."""

from __future__ import annotations

import dataclasses
import json

import pytest
from huggingface_hub import ModelCard

from codesign.accelerator import Accelerator
from codesign.architecture import clip_vit_b16
from codesign.model_card import (
    EMPTY,
    _schedule,
    network_card,
    read_card,
    write_card,
    write_run_cards,
)
from codesign.runs import jsonable, write_json
from codesign.scenario import Scenario

ARCHITECTURE = dataclasses.asdict(clip_vit_b16())
SOURCE = {"path": "", "split": "validation"}
DESIGN = {
    "name": "carbon-00",
    "architecture": ARCHITECTURE,
    "accelerator": jsonable(Accelerator()),
    "scenario": jsonable(Scenario(use_grid="sweden", fab_grid=583.0, lifetime_years=4.0)),
    "sparsity": [],
    "costs": {
        "latency_s": 0.0125,
        "energy_j": 0.25,
        "area_mm2": 7.5,
        "tops": 1.0,
        "operational_kgco2e": 1.5,
        "embodied_kgco2e": 2.0,
        "carbon_kgco2e": 3.5,
        "dram_gb": 0.5,
    },
    "accuracy": 0.625,
    "accuracy_standard_error": 0.0125,
    "recall_at_1": 0.5,
    "validation_accuracy": 0.75,
    "parameters": 1_234_567,
}


def run(folder, config, summary, designs=None):
    base = {"train": SOURCE, "validation": SOURCE, "test": SOURCE, "checkpoint": None}
    base["optim"] = {"batch_size": 64, "lr": 4e-3}
    record = {"name": "mine", "seed": 7, "config": base | config, "versions": {"jax": "0.10.1"}}
    write_json(folder / "config.json", record)
    write_json(folder / "summary.json", {"wall_time_s": 60.0} | summary)
    if designs is not None:
        write_json(folder / "designs.json", designs)
        (folder / "checkpoints" / "designs" / "carbon-00").mkdir(parents=True)
    return folder


def table(card):
    """The rows of all tables by their first cell."""
    lines = [line.strip("| ").split(" | ") for line in card.text.splitlines() if line[:1] == "|"]
    return {cells[0]: cells[1:] for cells in lines}


def test_a_searched_design(tmp_path):
    steps = {"warmup_steps": 1, "elastic_steps": 2, "joint_steps": 3, "tune_steps": 4}
    config = {"space": {}, "schedule": steps, "data": {"name": "cifar10", "path": None}}
    summary = {"run_carbon_kgco2e": 0.0125}
    write_run_cards(run(tmp_path, config, summary, [DESIGN, DESIGN | {"name": "absent"}]))
    card = ModelCard.load(tmp_path / "checkpoints" / "designs" / "carbon-00" / "README.md")
    header = card.data.to_dict()
    emissions = header.pop("co2_eq_emissions")
    assert emissions["emissions"] == 12.5 and emissions["training_type"] == "pre-training"
    assert header == {
        "library_name": "codesign",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["codesign", "clip"],
        "datasets": ["uoft-cs/cifar10"],
        "metrics": ["accuracy", "recall"],
    }
    rows = table(card)
    assert rows["layers"] == ["12", "12"] and rows["width"] == ["768", "512"]
    assert rows["carbon over its life"] == ["3.5 kgCO2e"]
    assert rows["of which making it"] == ["2 kgCO2e"]
    assert rows["latency of an inference"] == ["12.5 ms"]
    assert rows["energy of an inference"] == ["250 mJ"]
    assert rows["zero-shot accuracy"] == ["62.5 % ± 1.2 (standard error)"]
    assert rows["pe_x"] == [str(Accelerator().pe_x)]
    for said in (
        "Made in a grid of 583 gCO2e/kWh at 22 nm, used in sweden for 4 years",
        "- Steps: 1 warmup, 2 elastic, 3 joint, 4 tune",
        "(config mine, seed 7; jax 0.10.1)",
        "1,234,567 parameters",
        "# carbon-00",
    ):
        assert said in card.text


def test_a_fine_tuning_of_a_checkpoint_of_the_hub_on_local_files(tmp_path):
    config = {
        "train": {"path": str(tmp_path / "secret" / "shards")},
        "validation": {"path": "digits", "split": "test"},
        "checkpoint": "openai/clip-vit-base-patch16@v1",
        "loss": {"teacher": str(tmp_path / "large")},
        "schedule": {},
    }
    validation = {
        "images": 1797,
        "zero_shot": {"top_1": 0.5},
        "retrieval": {"pairs": 3, "image_to_text": {"recall_at_1": 0.25}},
    }
    run(tmp_path, config, {"steps": 99, "clip": "clip", "validation": validation})
    (tmp_path / "clip").mkdir()
    write_json(tmp_path / "clip" / "architecture.json", ARCHITECTURE)
    write_run_cards(tmp_path)
    text = (tmp_path / "clip" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.base_model == "openai/clip-vit-base-patch16" and card.data.datasets is None
    assert card.data.license is None
    assert table(card)["recall at 1, image to text"] == ["25.0 %"]
    assert "On 1,797 images of the UCI scans" in text and "- Steps: 99" in text
    assert "secret" not in text and str(tmp_path) not in text
    assert "local files, `shards`" in text and "- Teacher: local files, `large`" in text


@pytest.mark.parametrize(
    ("dense", "said"), [(0, "0.002 joint, 0.001 post"), (5, "0.004 dense, 0.002 joint, 0.001 post")]
)
def test_the_rates_of_a_family_are_those_of_its_stages(dense, said):
    steps = {"dense_steps": dense, "joint_steps": 4, "post_steps": 2}
    config = {
        "optim": {"lr": 0.004, "batch_size": 8},
        "schedule": {},
        "subnets": steps | {"joint_lr": 0.002, "post_lr": 0.001},
    }
    assert f"peak learning rate {said}" in "\n".join(_schedule(config, {}))


def test_a_card_is_read_as_it_was_written(tmp_path):
    card = EMPTY.adding("Training", "By hand.").adding("Training", "Twice.")
    card = network_card(card.adding("Measured", "x"), "hf", ARCHITECTURE, base="a/b")
    write_card(tmp_path, card)
    found = read_card(tmp_path)
    assert found == card and found.sections["Training"] == "By hand.\n\nTwice."
    again = network_card(found.without("Measured"), "openclip", ARCHITECTURE, uniform=False)
    assert list(again.sections) == ["Dimensions", "Loading", "Training"]
    assert again.header["library_name"] == "open_clip" and again.header["base_model"] == "a/b"
    assert "transformers" in card.sections["Loading"]
    assert "open_clip" not in again.sections["Loading"]


@pytest.mark.parametrize("text", ["no header", "---\nlicense: mit\ntags: [x]\n---\n## Training\nx"])
def test_of_a_foreign_card_the_licence_is_taken_alone(text, tmp_path):
    (tmp_path / "README.md").write_text(text)
    licence = {"license": "mit"} if "mit" in text else {}
    assert read_card(tmp_path) == dataclasses.replace(EMPTY, header=licence)
    assert read_card(tmp_path / "none") == EMPTY


def test_nothing_of_a_run_is_invented(tmp_path):
    """Numbers of a card are numbers of its files, rounded, or of the formats' names."""
    import re

    steps = {"warmup_steps": 1, "elastic_steps": 2, "joint_steps": 3, "tune_steps": 4}
    config = {"space": {}, "schedule": steps, "data": {"name": "digits", "path": None}}
    write_run_cards(run(tmp_path, config, {}, [DESIGN]))
    text = (tmp_path / "checkpoints" / "designs" / "carbon-00" / "README.md").read_text()
    assert "co2_eq_emissions" not in text and "license" not in text and "datasets" not in text
    files = json.dumps([json.loads(f.read_text()) for f in tmp_path.glob("*.json")])
    known = {float(n) for n in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", files)}
    known |= {1e3 * n for n in known} | {100 * n for n in known} | {1.2, 1.0, 0.0}
    prose = re.sub(r"```.*?```|CO2e?|codesign [\d.]+|mm²", "", text, flags=re.DOTALL)
    for number in re.findall(r"(?<![\w.])\d[\d,]*\.?\d*(?![\w])", prose):
        assert float(number.replace(",", "")) in known, number
