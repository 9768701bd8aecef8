"""`codesign convert`: what the program prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import codesign
from codesign.cli import main


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
