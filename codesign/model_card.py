"""Model cards: README.md beside what a run or a command delivers, as the HuggingFace hub reads it.

A card is a header of the hub's metadata and sections of Markdown. All in it comes from files: the
run's config.json, summary.json and designs.json, or the card beside the checkpoint that something
was made from. What these do not tell, such as a licence, is left out.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from codesign.errors import UserError
from codesign.json_text import read_json
from codesign.quantities import percents
from codesign.runs import CONFIG, DESIGNS, SUMMARY, write_bytes

CARD = "README.md"
# Of every card of ours, by which it is known.
TAG = "codesign"
Format = Literal["hf", "openclip", "native", "stablehlo", "onnx", "family", "classifiers"]

_LIBRARIES: dict[str, str] = {
    "hf": "transformers",
    "openclip": "open_clip",
    "stablehlo": "jax",
    "onnx": "onnx",
}
_CIFAR10 = "uoft-cs/cifar10"
_DIGITS = "the UCI scans of handwritten digits that the package holds"
_HUB_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@[\w./-]+)?")


@dataclasses.dataclass(frozen=True)
class Card:
    """What a card tells.

    Attributes:
      header: of the hub's metadata; names as there.
      sections: Markdown by heading, in order.
    """

    header: Mapping[str, Any]
    sections: Mapping[str, str]

    def without(self, *headings: str) -> Card:
        """The card without what is true no more."""
        kept = {name: text for name, text in self.sections.items() if name not in headings}
        gone = {"Measured": "metrics"}
        dropped = {gone[name] for name in headings if name in gone}
        header = {name: value for name, value in self.header.items() if name not in dropped}
        return Card(header, kept)

    def adding(self, heading: str, text: str) -> Card:
        """The card with one more paragraph of a section."""
        before = self.sections.get(heading)
        joined = text if before is None else f"{before}\n\n{text}"
        return dataclasses.replace(self, sections=dict(self.sections) | {heading: joined})

    def markdown(self, name: str) -> str:
        """The whole file."""
        from huggingface_hub import ModelCardData

        header = ModelCardData(**self.header).to_yaml()
        body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in self.sections.items())
        return f"---\n{header}\n---\n\n# {name}\n\n{body}\n"


EMPTY = Card({}, {})


def write_card(folder: str | os.PathLike[str], card: Card) -> None:
    """Writes a card into the folder that it is about.

    Raises:
      RunError: where the disk refuses.
    """
    path = Path(folder)
    text = card.markdown(path.resolve().name)
    write_bytes(path / CARD, text.encode("utf-8", "replace"))


def read_card(folder: str | os.PathLike[str]) -> Card:
    """The card in a folder; of a foreign one only the licence, of none nothing.

    Raises:
      UserError: a card that cannot be read.
    """
    from huggingface_hub import ModelCard

    path = Path(folder) / CARD
    if not path.is_file():
        return EMPTY
    try:
        found = ModelCard.load(path, ignore_metadata_errors=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read the model card {path}: {reason}") from None
    header = {name: value for name, value in found.data.to_dict().items() if value is not None}
    licence = {name: header[name] for name in header if name.startswith("license")}
    if TAG not in (header.get("tags") or ()):
        return Card(licence, {})
    parts = re.split(r"^## (.+)\n+", found.text.strip(), flags=re.MULTILINE)
    return Card(header, {h: text.strip() for h, text in zip(parts[1::2], parts[2::2], strict=True)})


def network_card(
    card: Card,
    format: Format,
    architecture: Mapping[str, Any],
    *,
    parameters: int | None = None,
    uniform: bool = True,
    base: str | None = None,
    tags: Sequence[str] = (),
) -> Card:
    """The card of a CLIP in a format: dimensions and how it is loaded, before what is known of it.

    Args:
      card: what is known of it.
      format: of its files.
      architecture: its dimensions, an `Architecture` as a dict, perhaps with its "dialect".
      parameters: how many.
      uniform: whether OpenCLIP's config can describe it: its layers are alike, and heads fill the
        width.
      base: the hub name of the checkpoint that it was made from.
      tags: more of them.
    """
    header = dict(card.header)
    header["library_name"] = _LIBRARIES.get(format, "codesign")
    header["pipeline_tag"] = "zero-shot-image-classification"
    header["tags"] = list(dict.fromkeys([*(header.get("tags") or ()), TAG, "clip", *tags]))
    if base is not None:
        header["base_model"] = base
    rest = {name: text for name, text in card.sections.items() if name not in _OWN_SECTIONS}
    own = {
        "Dimensions": _dimensions(architecture, parameters),
        "Loading": _loading(format, uniform),
    }
    return Card(header, own | rest)


_OWN_SECTIONS = ("Dimensions", "Loading")


def write_run_cards(run: str | os.PathLike[str], config: Mapping[str, Any] | None = None) -> None:
    """The cards of all that a run of `codesign search`, `finetune` or `dress` delivered.

    Args:
      run: its folder, whose files are whole.
      config: its fields as they are now, where the folder's may be of a former version.

    Raises:
      UserError: files of a run that cannot be read.
      RunError: where the disk refuses.
    """
    path = Path(run)
    record, summary = read_json(path / CONFIG), read_json(path / SUMMARY)
    if config is not None:
        record = record | {"config": config}
    card = _run_card(record, summary)
    if (path / DESIGNS).is_file():
        for design in read_json(path / DESIGNS):
            place = path / "checkpoints" / "designs" / design["name"]
            if place.is_dir():
                write_card(place, _design_card(card, design, record["config"]))
    elif "clip" in summary:
        place = path / summary["clip"]
        card = _measured(card, {"the network": summary.get("validation")}, _validation(record))
        write_card(place, network_card(card, "native", read_json(place / "architecture.json")))
    elif "family" in summary:
        _write_family_card(path, card, record, summary)


def _write_family_card(
    path: Path, card: Card, record: Mapping[str, Any], summary: Mapping[str, Any]
) -> None:
    from codesign.dress.packed import described

    file = path / summary["family"]
    subnets = summary["subnets"]
    shares = percents([subnet["sparsity"] for subnet in subnets])
    measured = {
        f"{share} sparse": subnet.get("validation")
        for share, subnet in zip(shares, subnets, strict=True)
    }
    card = _measured(card, measured, _validation(record))
    card = card.adding("Subnets", _subnets_table(summary["subnets"], summary["bytes"]))
    about = (described(file) or {}).get("about", {})
    if "architecture" in about:
        card = network_card(card, "family", about["architecture"], tags=["sparse"])
    else:
        network = record["config"]["network"]
        header = dict(card.header) | {
            "library_name": "codesign",
            "pipeline_tag": "image-classification",
            "tags": [TAG, "resnet", "sparse"],
        }
        rows = [(name.replace("_", " "), value) for name, value in network.items()]
        own = {"Dimensions": _table(rows), "Loading": _loading("classifiers", True)}
        card = Card(header, own | dict(card.sections))
    write_card(file.parent, card)


def _run_card(record: Mapping[str, Any], summary: Mapping[str, Any]) -> Card:
    """What a run's files tell of all that it delivered."""
    config, versions = record["config"], record.get("versions", {})
    header: dict[str, Any] = {}
    train = _data(config)
    if train in _hub_names([train]):
        header["datasets"] = [train.partition("@")[0]]
    if (start := config.get("checkpoint")) is not None and _hub_names([start]):
        header["base_model"] = start.partition("@")[0]
    if "run_carbon_kgco2e" in summary:
        header["co2_eq_emissions"] = {
            "emissions": round(1e3 * summary["run_carbon_kgco2e"], 4),
            # Runs of before were charged to California.
            "source": "CodeCarbon, of the whole run, in "
            + _grid(summary.get("run_grid", "california")),
            "training_type": "fine-tuning" if start is not None else "pre-training",
        }
    command = "search" if "space" in config else "dress" if "subnets" in config else "finetune"
    known = [f"{name} {versions[name]}" for name in ("codesign", "jax", "flax") if name in versions]
    lines = [
        f"By `codesign {command}` (config {record.get('name', 'unnamed')}, seed {record['seed']}; "
        f"{', '.join(known)}).",
        f"- Data: {shown_name(train)}",
        f"- Start: {'random weights' if start is None else shown_name(start)}",
        *_schedule(config, summary),
    ]
    if "wall_time_s" in summary:
        lines.append(f"- Wall time of the run: {summary['wall_time_s']:.0f} s")
    if "run_carbon_kgco2e" in summary:
        lines.append(
            f"- Carbon of the run: {1e3 * summary['run_carbon_kgco2e']:.3g} gCO2e, measured by "
            "CodeCarbon"
        )
    return Card(header, {"Training": lines[0] + "\n\n" + "\n".join(lines[1:])})


def _schedule(config: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[str]:
    optim, schedule = config["optim"], config["schedule"]
    loss = config.get("loss") or {}
    if "space" in config:
        names = ("warmup", "elastic", "joint", "tune")
        steps = ", ".join(f"{schedule[f'{name}_steps']} {name}" for name in names)
        yield f"- Steps: {steps}"
    elif "subnets" in config:
        stages = ("dense", "joint", "post")
        steps = ", ".join(f"{config['subnets'][f'{name}_steps']} {name}" for name in stages)
        yield f"- Steps: {steps}"
    else:
        yield f"- Steps: {summary['steps']}"
    yield f"- Batch: {optim['batch_size']}, peak learning rate {_rates(config)}"
    if loss.get("teacher") is not None:
        yield f"- Teacher: {shown_name(loss['teacher'])}"


def _rates(config: Mapping[str, Any]) -> str:
    """The peak learning rates; of DRESS, those of the stages that took steps."""
    rate, subnets = f"{config['optim']['lr']:g}", config.get("subnets")
    if subnets is None:
        return rate
    rates = {"dense": rate, "joint": f"{subnets['joint_lr']:g}", "post": f"{subnets['post_lr']:g}"}
    return ", ".join(f"{own} {name}" for name, own in rates.items() if subnets[f"{name}_steps"])


def _design_card(card: Card, design: Mapping[str, Any], config: Mapping[str, Any]) -> Card:
    images = shown_name(_data(config, "test" if config["test"]["path"] else "validation"))
    rows = [
        ("zero-shot accuracy", _share(design["accuracy"], design["accuracy_standard_error"])),
        ("recall at 1", _share(design["recall_at_1"])),
        ("accuracy on validation images", _share(design["validation_accuracy"])),
    ]
    family = bool(design.get("sparsity"))
    of = ", the mean of the subnets by their shares of use" if family else ""
    measured = f"On test images of {images}{of}.\n\n{_table(rows)}"
    card = _with_metrics(card.adding("Measured", measured))
    card = card.adding("Costs", _costs(design))
    format: Format = "family" if family else "native"
    tags = ["sparse"] if family else []
    count = design["parameters"]
    return network_card(card, format, design["architecture"], parameters=count, tags=tags)


def _costs(design: Mapping[str, Any]) -> str:
    """Of a design on its accelerator."""
    costs, scenario = design["costs"], design["scenario"]
    inferences = scenario["inferences_per_s"]
    rows = [
        ("carbon over its life", f"{costs['carbon_kgco2e']:.4g} kgCO2e"),
        ("of which making it", f"{costs['embodied_kgco2e']:.4g} kgCO2e"),
        ("of which using it", f"{costs['operational_kgco2e']:.4g} kgCO2e"),
        ("latency of an inference", f"{1e3 * costs['latency_s']:.4g} ms"),
        ("energy of an inference", f"{1e3 * costs['energy_j']:.4g} mJ"),
        ("area of the chip", f"{costs['area_mm2']:.4g} mm²"),
        ("DRAM", f"{costs['dram_gb']:.4g} GB"),
    ]
    chip = [
        (name, value if isinstance(value, str) else f"{value:g}")
        for name, value in design["accelerator"].items()
    ]
    life = (
        f"Made in {_grid(scenario['fab_grid'])} at {scenario['node_nm']} nm, used in "
        f"{_grid(scenario['use_grid'])} for {scenario['lifetime_years']:g} years, "
        f"{scenario['hours_per_day']:g} hours a day at {inferences:g} inferences a second; "
        f"{scenario['precision_bits']} bits, {scenario['clock_mhz']:g} MHz, DRAM "
        f"{scenario['dram_technology']}, costing {scenario['costing']}."
    )
    means = (
        "; latency is the slowest subnet's, energy and carbon in use are means by their shares"
        if design.get("sparsity")
        else ""
    )
    return (
        "By codesign's cost model, of the design on this accelerator, not measured on silicon"
        f"{means}.\n\n{_table(rows)}\n\n{life} The accelerator:\n\n{_table(chip)}"
    )


def _grid(grid: str | float) -> str:
    return f"a grid of {grid:g} gCO2e/kWh" if isinstance(grid, (int, float)) else grid


def _measured(card: Card, results: Mapping[str, Mapping[str, Any] | None], on: str) -> Card:
    """Adds what networks make of the validation data, a row each."""
    rows = [
        (f"{who}: {what}" if len(results) > 1 else what, _share(value))
        for who, result in results.items()
        for what, value in _measures(result or {})
    ]
    if not rows:
        return card
    pictures = next(result["images"] for result in results.values() if result)
    return _with_metrics(
        card.adding("Measured", f"On {pictures:,} images of {on}.\n\n{_table(rows)}")
    )


def _measures(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    if "zero_shot" in result:
        yield "zero-shot accuracy", result["zero_shot"]["top_1"]
    if "classification" in result:
        yield "accuracy", result["classification"]["top_1"]
    for way, found in result.get("retrieval", {}).items():
        if isinstance(found, Mapping) and "recall_at_1" in found:
            yield f"recall at 1, {way.replace('_', ' ')}", found["recall_at_1"]


def _with_metrics(card: Card) -> Card:
    text = card.sections.get("Measured", "")
    named = {"accuracy": "accuracy", "recall": "recall"}
    metrics = [metric for metric, word in named.items() if word in text]
    return dataclasses.replace(card, header=dict(card.header) | {"metrics": metrics})


def _subnets_table(subnets: Sequence[Mapping[str, Any]], sizes: Mapping[str, Any]) -> str:
    rows = [
        (k, f"{100 * subnet['sparsity']:g} %", f"{100 * subnet['density']:.3g} %")
        for k, subnet in enumerate(subnets)
    ]
    head = ("subnet", "zeros asked for", "weights kept of the pruned kernels")
    size = f"{sizes['packed']:,} bytes, where one dense network takes {sizes['dense']:,}."
    return f"{_table(rows, head)}\n\n{size}"


def _dimensions(a: Mapping[str, Any], parameters: int | None) -> str:
    rows: list[tuple[Any, ...]] = [
        (name, a["vision"][name], a["text"][name]) for name in ("layers", "width", "heads", "ffn")
    ]
    table = _table(rows, ("", "image tower", "text tower"))
    count = "" if parameters is None else f" {parameters:,} parameters."
    towers = {name: (a.get("dialect") or {}).get(name, {}) for name in ("vision", "text")}
    of_image, of_text = (tower.get("head_dim") or a["head_dim"] for tower in towers.values())
    heads = f"{of_image}" if of_image == of_text else f"{of_image} (images) and {of_text} (texts)"
    ragged = any(tower.get("ragged") for tower in towers.values())
    most = "Layers differ: heads and ffn are those of the largest.\n\n" if ragged else ""
    return (
        f"{table}\n\n{most}Images of {a['image']} x {a['image']} pixels and {a['channels']} "
        f"channels in patches of {a['patch']}; texts of {a['context']} tokens out of "
        f"{a['vocab']:,}; heads of {heads} channels; embeddings of {a['projection']}.{count}"
    )


_OURS = """\
import codesign

clip = codesign.load_clip("FOLDER")
processor = codesign.load_processor("FOLDER", clip)
texts, _ = clip.encode_text(processor.texts(["a photo of a cat"]))"""
_CODE: dict[str, str] = {
    "native": _OURS,
    "openclip": _OURS,
    "hf": _OURS,
    "family": """\
import codesign

family = codesign.load_family("FOLDER")
clip = family.at(0)  # the densest subnet
processor = codesign.load_processor("FOLDER", family.clip(0))""",
    "classifiers": """\
from codesign.models.resnet_family import load_resnet_family

classifier = load_resnet_family("FOLDER").at(0)  # the densest subnet""",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/image_encoder.onnx")""",
}
_THEIRS: dict[str, str] = {
    "hf": """\
import transformers

model = transformers.CLIPModel.from_pretrained("FOLDER")""",
    "openclip": """\
import open_clip

model, preprocess = open_clip.create_model_from_pretrained("hf-hub:OWNER/NAME")""",
}


def _loading(format: Format, uniform: bool) -> str:
    """Code that loads the files."""
    if format == "stablehlo":
        return (
            "`python FOLDER/example.py PICTURE.jpg IDS.npy` prints embeddings; it needs jax, "
            "flatbuffers, numpy, safetensors and pillow."
        )
    if format in ("native", "openclip", "hf"):
        where = "FOLDER is this folder, or on the hub the name of the repository."
    else:
        where = (
            "FOLDER is this folder, on the hub what `huggingface_hub.snapshot_download` returns."
        )
    blocks = [f"```python\n{_CODE[format]}\n```"]
    if format in _THEIRS and (uniform or format == "hf"):
        blocks.append(f"```python\n{_THEIRS[format]}\n```")
    return "\n\n".join([where, *blocks])


def _table(rows: Iterable[Sequence[Any]], head: Sequence[str] = ("", "")) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def _share(value: float, error: float | None = None) -> str:
    spread = "" if error is None else f" ± {100 * error:.1f} (standard error)"
    return f"{100 * value:.1f} %{spread}"


def _validation(record: Mapping[str, Any]) -> str:
    config = record["config"]
    return f"{shown_name(_data(config, 'validation'))}, split {config['validation']['split']}"


def _data(config: Mapping[str, Any], part: str = "train") -> str:
    """The path or name of a run's data."""
    path: str = config[part]["path"]
    if not path and "data" in config:
        name = config["data"]["name"]
        path = config["data"]["path"] or (_CIFAR10 if name == "cifar10" else name)
    return path


def _hub_names(names: Iterable[str]) -> list[str]:
    """Those that are no paths here and look like names of the hub."""
    return [
        name
        for name in names
        if _HUB_NAME.fullmatch(name) and not Path(os.path.expanduser(name)).exists()
    ]


def shown_name(name: str) -> str:
    """Data or a checkpoint; of a local path only the last part: cards are published."""
    if name == "digits":
        return _DIGITS
    return f"`{name}`" if _hub_names([name]) else f"local files, `{Path(name).name or name}`"
