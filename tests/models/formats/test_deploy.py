"""Exported programs: the model's own embeddings, where this package cannot be imported."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from codesign.architecture import Architecture
from codesign.errors import UserError
from codesign.models.formats import deploy
from codesign.models.formats.assemble import parameter_axes, variables
from codesign.models.formats.deploy import encoders, export_program, export_stablehlo
from codesign.models.formats.image_settings import ImageSettings
from codesign.models.formats.processor import make_processor
from codesign.runs import read_json, write_json

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("flatbuffers")
pytestmark = pytest.mark.usefixtures("quick_compilation")

ENCODERS = {"image_encoder": "vision", "pixel_encoder": "vision", "text_encoder": "text"}

# Programs compile in a third of the time.
QUICK = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false",
}

# Ahead of every script: this package is not there.
ALONE = """
import sys
sys.modules["codesign"] = None
try:
    import codesign.models
except ImportError:
    pass
else:
    sys.exit("codesign can be imported")
"""

# Written against jax, NumPy and safetensors alone, and not with example.py.
USE = """
import json, numpy as np
from jax import export
from safetensors.numpy import load_file
folder, inputs, outputs = sys.argv[1:]
manifest = json.load(open(folder + "/manifest.json"))
weights, inputs, found = load_file(folder + "/weights.safetensors"), np.load(inputs), {}
for name, about in manifest["programs"].items():
    exported = export.deserialize(bytearray(open(f"{folder}/{about['file']}", "rb").read()))
    x = inputs[about["input"]["name"]]
    assert x.dtype == about["input"]["dtype"]
    for rows in [5] if name == "pixel_encoder" else [1, 5]:
        own = {n: weights[n] for n in about["weights"]}
        found[f"{name} {rows}"] = exported.call(own, x[:rows])
np.savez(outputs, **found)
"""

EXAMPLE = """
import runpy
sys.argv[:] = [sys.argv[1] + "/example.py", *sys.argv[2:]]
runpy.run_path(sys.argv[0], None, "__main__")
"""


def run_alone(script: str, *args: Any) -> str:
    """What the script prints, run where this package cannot be imported."""
    command = [sys.executable, "-c", ALONE + script, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=QUICK)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path], quiet_load: Callable
) -> Path:
    """The folder of a pruned CLIP with layers that differ, one without attention."""
    folder = tmp_path_factory.mktemp("exported") / "tinyclip"
    export_stablehlo(quiet_load(files["tinyclip"]), folder)
    return folder


@pytest.fixture(scope="module")
def inputs(golden: Callable) -> dict[str, np.ndarray]:
    """Five of each program, the first three of them with PyTorch's answers."""
    known, rng = golden("tinyclip"), np.random.default_rng(3)
    images, ids = known["pixels"].transpose(0, 2, 3, 1), known["ids"]
    return {
        "images": np.concatenate([images, images[:2] + 0.5]).astype(np.float32),
        "pixels": rng.integers(0, 256, (5, *images.shape[1:]), np.uint8),
        "ids": np.concatenate([ids, ids[:2, ::-1]]).astype(np.int32),
    }


@pytest.fixture(scope="module")
def found(exported: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the programs give in a process without this package."""
    given, returned = (exported.with_name(name) for name in ("inputs.npz", "found.npz"))
    np.savez(given, **inputs)
    run_alone(USE, exported, given, returned)
    return dict(np.load(returned))


def test_programs_give_the_models_embeddings(
    files: dict,
    quiet_load: Callable,
    forward: Callable,
    inputs: dict,
    found: dict,
    golden: Callable,
) -> None:
    clip = quiet_load(files["tinyclip"])
    usual = ImageSettings()
    seen = ((inputs["pixels"] / 255 - usual.mean) / usual.std).astype(np.float32)
    output, _ = forward(clip, (inputs["images"], inputs["ids"]))
    of_pixels, _ = forward(clip, (seen, inputs["ids"]))
    expected = {
        "image_encoder": output.image_embedding,
        "pixel_encoder": of_pixels.image_embedding,
        "text_encoder": output.text_embedding,
    }
    for program, embeddings in expected.items():
        for rows in [5] if program == "pixel_encoder" else [1, 5]:
            got = found[f"{program} {rows}"]
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, embeddings[:rows], atol=1e-6, rtol=0)
    for tower, program in (("image", "image_encoder"), ("text", "text_encoder")):
        torchs = golden("tinyclip")[f"{tower}_embedding"]
        np.testing.assert_allclose(found[f"{program} 5"][:3], torchs, atol=5e-6, rtol=0)


def test_manifest_and_weights(exported: Path, files: dict, quiet_load: Callable) -> None:
    clip = quiet_load(files["tinyclip"])
    manifest, a = read_json(exported / "manifest.json"), clip.architecture
    assert manifest["sha256"].keys() == {f.name for f in exported.iterdir()} - {"manifest.json"}
    variable, weights = variables(clip), load_file(exported / "weights.safetensors")
    parameters = {".".join(path): variable[path][...] for path in parameter_axes(clip)}
    del parameters["logit_scale"]
    jax.tree.map(np.testing.assert_array_equal, weights, parameters)
    programs = manifest["programs"]
    assert {n for about in programs.values() for n in about["weights"]} == weights.keys()
    for program, about in programs.items():  # a device holds one tower alone
        assert {n.split(".")[0] for n in about["weights"]} == {ENCODERS[program]}
        assert about["output"]["shape"] == ["batch", a.projection]
    assert manifest["text"]["context"] == a.context
    assert manifest["logit_scale"] == pytest.approx(math.exp(clip.logit_scale[...]))
    towers = {"vision": a.vision, "text": a.text}
    assert Architecture(**manifest["architecture"] | towers) == a


def test_programs_hold_no_weights(small: Architecture, random_clip: Callable) -> None:
    """Fifty times the words leave the text program as it was."""
    sizes = []
    for words in (16, 800):
        clip = random_clip(dataclasses.replace(small, vocab=words))
        encoder = encoders(clip, ImageSettings(8))["text_encoder"]
        sizes.append(len(export_program(encoder, None, ["cpu"]).serialize()))
    assert sizes[1] - sizes[0] < 100


def test_example_as_shipped(
    tmp_path: Path, files: dict, quiet_load: Callable, forward: Callable, golden: Callable
) -> None:
    """Pictures of three shapes, and texts pooled at an id; a fixed batch that neither fills."""
    origin, folder = shutil.copytree(files["huggingface"], tmp_path / "clip"), tmp_path / "out"
    settings = ImageSettings(8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), interpolation="bilinear")
    write_json(origin / "preprocessor_config.json", settings.huggingface())
    (origin / "merges.txt").write_text("#version: 0.2\n")
    clip = quiet_load(origin)
    export_stablehlo(clip, folder, like=origin, batch=2, platforms=["cpu"])
    assert (folder / "merges.txt").read_text() == "#version: 0.2\n"
    assert read_json(folder / "manifest.json")["text"]["end_of_text"] == clip.dialect.end_of_text
    pictures, ids = draw(tmp_path), golden("huggingface")["ids"]
    np.save(tmp_path / "ids.npy", ids)
    given = [*map(str, pictures), str(tmp_path / "ids.npy")]
    lines = [json.loads(line) for line in run_alone(EXAMPLE, folder, *given).splitlines()]
    assert [line["file"] for line in lines] == given[:3] + given[3:] * 3
    embeddings = np.array([line["embedding"] for line in lines])
    prepare = runpy.run_path(str(folder / "example.py"))["pixels"]
    pixels = np.stack([prepare(str(picture)) for picture in pictures])
    images = ((pixels / 255 - settings.mean) / settings.std).astype(np.float32)
    output, _ = forward(clip, (images, ids))
    expected = np.concatenate([output.image_embedding, output.text_embedding])
    np.testing.assert_allclose(embeddings, expected, atol=3e-6, rtol=0)


def draw(folder: Path) -> list[Path]:
    """Pictures of three shapes; of other kinds than RGB, see `odd`."""
    rng, pictures = np.random.default_rng(0), []
    for width, height in ((30, 20), (13, 40), (8, 9)):
        pictures.append(folder / f"{width}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(pictures[-1])
    return pictures


def odd(folder: Path) -> list[Path]:
    """Transparent pictures, a palette with a transparent colour, and 16-bit greys."""
    rng = np.random.default_rng(1)
    kinds = {
        "rgba": Image.fromarray(rng.integers(0, 256, (9, 11, 4), np.uint8)),
        "la": Image.fromarray(rng.integers(0, 256, (9, 11, 2), np.uint8), "LA"),
        "grey16": Image.fromarray(rng.integers(0, 65536, (9, 11)).astype(np.uint16)),
        "palette": Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8)).quantize(8),
    }
    for name, picture in kinds.items():
        more = {"transparency": 0} if name == "palette" else {}
        picture.save(folder / f"{name}.png", **more)
    return [folder / f"{name}.png" for name in kinds]


@pytest.mark.slow  # the processor imports transformers
@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("colours", [1, 3])
def test_example_prepares_pictures_as_the_processor(
    resize: str, colours: int, tmp_path: Path, small: Architecture
) -> None:
    a = dataclasses.replace(small, channels=colours)
    settings = ImageSettings(8, (0.5,) * colours, (0.2,) * colours, resize, fill=77)
    write_json(tmp_path / "manifest.json", {"images": dataclasses.asdict(settings)})
    example = Path(deploy.__file__).with_name("deploy_example.py")
    prepare = runpy.run_path(str(shutil.copy(example, tmp_path)))["pixels"]
    processor = make_processor(settings, None, a.context)
    for picture in [*draw(tmp_path), *odd(tmp_path)]:
        np.testing.assert_array_equal(prepare(str(picture)), processor.pixels(Image.open(picture)))


def test_example_takes_any_number_of_rows(exported: Path, inputs: dict, found: dict) -> None:
    example = runpy.run_path(str(exported / "example.py"))
    encode = example["program"]("text_encoder", load_file(exported / "weights.safetensors"))
    embeddings = encode(inputs["ids"])
    np.testing.assert_allclose(embeddings, found["text_encoder 5"], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_bfloat16(small: Architecture, random_clip: Callable, batch: tuple) -> None:
    """Computes in bfloat16 from weights in float32, as the model does."""
    clip = random_clip(small, dtype=jnp.bfloat16)
    encoder = encoders(clip, ImageSettings(8))["image_encoder"]
    found = export_program(encoder, None, ["cpu"]).call(encoder.weights, batch[0])
    expected = jax.jit(lambda images: clip.encode_image(images)[0])(batch[0])
    assert encoder.weights["vision.projection"].dtype == found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: No such file"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors: No such"),
        (lambda folder: cut(folder / "weights.safetensors"), "weights.safetensors is damaged"),
        (lambda folder: cut(folder / "text_encoder.stablehlo"), "text_encoder.stablehlo is dam"),
    ],
)
def test_a_damaged_folder_is_one_line(
    damage: Callable[[Path], None],
    message: str,
    tmp_path: Path,
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = shutil.copytree(exported, tmp_path / "x")
    damage(folder)
    monkeypatch.setattr(sys, "argv", ["example.py", "ids.npy"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(folder / "example.py"), None, "__main__")
    assert message in str(stopped.value) and str(stopped.value).count("\n") == 0


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def test_what_is_there_is_kept(tmp_path: Path, small: Architecture, random_clip: Callable) -> None:
    clip = random_clip(small)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already; choose another place or overwrite"):
        export_stablehlo(clip, tmp_path / "x")
    export_stablehlo(clip, tmp_path / "x", platforms=["cpu"], overwrite=True)
    assert (tmp_path / "x" / "mine.txt").read_text() == "mine"
    assert (tmp_path / "x" / "weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"platforms": ["gpu"]}, {}, "no platform 'gpu'"),
        ({"platforms": []}, {}, "no platform to export for; choose from cpu, cuda, rocm, tpu"),
        ({"batch": 0}, {}, "the batch is 0; give 1 or more"),
        ({}, {"channels": 1}, "have 1 channels, the preprocessing is for 3; put a preproc"),
        ({"like": "nowhere/x.pt"}, {}, "there is no file or folder nowhere/x.pt"),
    ],
)
def test_what_cannot_be_exported(
    options: dict[str, Any],
    change: dict[str, Any],
    message: str,
    tmp_path: Path,
    small: Architecture,
    random_clip: Callable,
) -> None:
    clip = random_clip(dataclasses.replace(small, **change))
    with pytest.raises(UserError, match=message):
        export_stablehlo(clip, tmp_path / "x", **options)
    assert not list(tmp_path.iterdir())


def test_float64_is_refused(tmp_path: Path, files: dict, quiet_load: Callable) -> None:
    with jax.enable_x64(True):
        clip = quiet_load(files["huggingface"], dtype=jnp.float64)
        with pytest.raises(UserError, match="load it in float32"):
            export_stablehlo(clip, tmp_path / "x")
