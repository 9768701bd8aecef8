"""`codesign convert`: what the program prints, and its exit codes."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from flax import nnx
from huggingface_hub import ModelCard

import codesign
from codesign.cli import main
from codesign.models.formats.files import read_tensors


def test_convert(tmp_path: Path, files: dict[str, Path], capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    assert main(["convert", str(files["tinyclip"]), str(out), "--to", "openclip"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}: vision 3x12 h2 f20, text 2x10 h1 f12\n"
    assert "pruning masks" in printed.err and printed.err.count("\n") == 1
    back = tmp_path / "back"
    assert main(["convert", str(out), str(back), "--to", "native", "--image", "16", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["architecture"]["image"] == 16 and told["notes"] == []
    assert codesign.load_clip(back).architecture.image == 16


@pytest.mark.parametrize("to", ["hf", "openclip", "native"])
def test_the_card_beside_an_export_says_how_to_load_it(
    to: str, tmp_path: Path, files: dict[str, Path], quiet_load: Callable
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(files["huggingface"], source)
    (source / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\n\n# theirs\n")
    assert main(["convert", str(source), str(out), "--to", to]) == 0
    card = ModelCard.load(out / "README.md")
    library = {"hf": "transformers", "openclip": "open_clip", "native": "codesign"}[to]
    assert (card.data.license, card.data.library_name) == ("mit", library)
    blocks = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    assert len(blocks) == (1 if to == "native" else 2)
    clip = quiet_load(source)
    count = sum(x.size for x in jax.tree.leaves(nnx.state(clip, nnx.Param)))
    assert f"{count:,} parameters" in card.text
    for block in blocks:
        if "transformers" in block:
            pytest.importorskip("torch")
        if "open_clip" not in block:  # not a dependency
            lines = [line for line in block.splitlines() if "processor" not in line]
            code, names = "\n".join(lines).replace("FOLDER", str(out)), {}
            exec(compile(code, "the card", "exec"), names)
            assert "clip" in names or "model" in names


def test_the_card_of_a_pruned_network_tells_no_former_accuracy(
    tmp_path: Path, files: dict[str, Path], capsys: pytest.CaptureFixture
) -> None:
    whole, small, single = tmp_path / "whole", tmp_path / "small", tmp_path / "one.safetensors"
    assert main(["convert", str(files["openclip"]), str(whole), "--to", "native"]) == 0
    text = (whole / "README.md").read_text()
    (whole / "README.md").write_text(text + "\n## Measured\n\n99 %\n\n## Training\n\nLong.\n")
    prune = ["prune", str(whole), str(small), "--keep", "ffn=0.5", "--method", "magnitude"]
    assert main([*prune, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.partition("\n")[2])
    card = (small / "README.md").read_text()
    assert "99 %" not in card and "Long.\n\nPruned by magnitude importance to " in card
    assert f"to {told['parameters']:,} of {told['parameters_before']:,} parameters" in card
    assert main(["convert", str(small), str(single), "--to", "openclip"]) == 0
    assert not (tmp_path / "README.md").exists(), "of a single file there is none"


def test_the_card_of_a_network_whose_layers_differ(
    tmp_path: Path, files: dict[str, Path], capsys: pytest.CaptureFixture
) -> None:
    """Zeros that pad its layers are no parameters, and both towers' heads are told."""
    out, small = tmp_path / "out", tmp_path / "small"

    def stored(folder: Path) -> int:
        tensors = read_tensors(folder / "open_clip_model.safetensors").tensors
        return sum(math.prod(x.shape) for x in tensors.values())

    assert main(["convert", str(files["tinyclip"]), str(out), "--to", "openclip"]) == 0
    numbers = stored(out)
    card = (out / "README.md").read_text()
    assert f" {numbers:,} parameters" in card and "Layers differ: heads and ffn are" in card
    prune = ["prune", str(out), str(small), "--keep", "heads=0.5", "--method", "magnitude"]
    capsys.readouterr()
    assert main([*prune, "--to", "openclip", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["parameters"], told["parameters_before"]) == (stored(small), numbers)
    plain = tmp_path / "plain"
    assert main(["convert", str(files["openclip"]), str(plain), "--to", "native"]) == 0
    assert "heads of 8 (images) and 4 (texts) channels" in (plain / "README.md").read_text()


def test_convert_tells_what_it_assumed(
    tmp_path: Path, files: dict[str, Path], capsys: pytest.CaptureFixture
) -> None:
    source, out = str(files["carbonclip"]), str(tmp_path / "out")
    args = ["convert", source, out, "--to", "openclip", "--json"]
    assert main(args) == 0
    told = json.loads(capsys.readouterr().out)
    assert "assumed are heads of 64 channels" in told["notes"][0]
    assert main(args) == 2
    said = capsys.readouterr().err
    assert "is there already" in said and "--overwrite" in said
    options = ["--overwrite", "--head-dim", "32", "64", "--activation", "quick_gelu"]
    assert main([*args, *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["notes"] == [] and told["architecture"]["vision"]["heads"] == 2


@pytest.mark.parametrize(
    ("to", "options", "of"),
    [
        ("openclip", ["--batch", "2"], "--batch is of --to stablehlo, not of openclip"),
        ("onnx", ["--platforms", "cpu"], "--platforms is of --to stablehlo, not of onnx"),
        ("native", ["--pad"], "--pad is of --to hf, not of native"),
    ],
)
def test_options_of_another_format_are_refused(
    to: str, options: list[str], of: str, tmp_path: Path, files: dict[str, Path], capsys: Any
) -> None:
    source, out = str(files["openclip"]), tmp_path / "out"
    assert main(["convert", source, str(out), "--to", to, *options]) == 2
    assert of in capsys.readouterr().err and not out.exists()


def test_convert_takes_the_weights_that_are_wanted(
    tmp_path: Path, files: dict[str, Path], capsys: pytest.CaptureFixture
) -> None:
    source, options = str(files["training"]), ["--to", "native", "--json", "--head-dim", "8", "4"]
    options += ["--activation", "quick_gelu"]
    notes: dict[str, list[str]] = {}
    for weights in ("", "raw", "averaged"):
        wanted = ["--weights", weights] if weights else []
        assert main(["convert", source, str(tmp_path / f"x{weights}"), *options, *wanted]) == 0
        notes[weights] = json.loads(capsys.readouterr().out)["notes"]
    assert not notes["raw"] and not notes["averaged"]
    assert len(notes[""]) == 1 and "taken are the averaged" in notes[""][0]
    default, raw, averaged = (
        codesign.load_clip(tmp_path / f"x{w}").vision.positions[...] for w in notes
    )
    assert (default == averaged).all() and (raw == 2 * averaged).all()


def test_convert_to_stablehlo(
    tmp_path: Path, files: dict[str, Path], capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    options = ["--to", "stablehlo", "--batch", "2", "--platforms", "cpu", "--json"]
    assert main(["convert", str(files["tinyclip"]), str(out), *options]) == 0
    assert json.loads(capsys.readouterr().out)["to"] == "stablehlo"
    assert (out / "image_encoder.stablehlo").is_file() and (out / "example.py").is_file()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{data}/missing.pt", "--to", "hf"], "there is no file or folder"),
        (["{data}", "--to", "hf"], "holds 2 checkpoints"),
        (["{data}/carbonclip.pt", "--to", "hf", "--pad"], "save as openclip"),
        (["{data}/openclip", "--to", "tflite"], "invalid choice: 'tflite'"),
        (["{data}/openclip"], "required: --to"),
    ],
)
def test_bad_input_is_one_line(
    args: list[str], message: str, tmp_path: Path, files: dict, capsys: pytest.CaptureFixture
) -> None:
    data = files["tinyclip"].parent
    source, *rest = (arg.format(data=data) for arg in args)
    assert main(["convert", source, str(tmp_path / "out"), *rest]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not (tmp_path / "out").exists()
