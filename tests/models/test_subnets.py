"""Subnets of a CLIP: what is pruned, the masked network, and families that round trip."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import save_file

from codesign.architecture import Architecture, Tower
from codesign.cli import main
from codesign.dress.masks import Masks, subnet_masks
from codesign.dress.packed import pack
from codesign.dress.rows import RowSpec, flax_spec, to_rows
from codesign.errors import UserError
from codesign.models.clip import CLIP
from codesign.models.dialect import Dialect, TowerDialect
from codesign.models.formats import load_clip, save_clip
from codesign.models.formats.assemble import variables
from codesign.models.packed_clip import PackedClip
from codesign.models.subnets import (
    ClipFamily,
    load_family,
    norm_parameters,
    pack_clip,
    subnet,
    subnet_specs,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

SPARSITIES = (0.3, 0.6, 0.8)


@pytest.fixture(scope="module")
def clip(small: Architecture, random_clip: Callable[..., CLIP]) -> CLIP:
    # Heads that fill the width, as HuggingFace's config needs.
    text = Tower(layers=2, width=8, heads=2, ffn=6)
    return random_clip(dataclasses.replace(small, text=text))


@pytest.fixture(scope="module")
def specs(clip: CLIP) -> dict[str, RowSpec]:
    return subnet_specs(clip)


@pytest.fixture(scope="module")
def masks(clip: CLIP, specs: dict[str, RowSpec]) -> Masks:
    mask = jax.jit(lambda params: subnet_masks(params, specs, SPARSITIES))
    return mask(nnx.state(clip, nnx.Param))


@pytest.fixture(scope="module")
def file(clip: CLIP, specs: dict, masks: Masks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("family") / "family.safetensors"
    norms = [{name: values + k for name, values in norm_parameters(clip).items()} for k in range(3)]
    pack_clip(clip, masks, specs, SPARSITIES, norms=norms).save(path)
    return path


def arrays(model: CLIP) -> dict[str, np.ndarray]:
    return {".".join(path): np.asarray(v[...]) for path, v in variables(model).items()}


def test_what_is_pruned(clip: CLIP, specs: dict[str, RowSpec]) -> None:
    kernels = ("query", "key", "value", "out", "fc1", "fc2")
    assert set(specs) == {f"{t}.blocks.{k}" for t in ("vision", "text") for k in kernels}
    everything = set(subnet_specs(clip, include=("*",)))
    assert everything - set(specs) == {
        "vision.patch_kernel",
        "vision.projection",
        "text.projection",
    }
    assert list(subnet_specs(clip, ("*.fc?",), ("text.*",))) == [
        "vision.blocks.fc1",
        "vision.blocks.fc2",
    ]
    with pytest.raises(ValueError, match=r"no kernel is called '\*.fc3'; .*blocks"):
        subnet_specs(clip, ("*.fc3",))
    with pytest.raises(ValueError, match=r"no kernel is called 'text.token_table'"):
        subnet_specs(clip, exclude=("text.token_table",))


def test_a_row_feeds_one_output_unit(clip: CLIP) -> None:
    specs, values = subnet_specs(clip, include=("*",)), arrays(clip)

    def row(name: str, layer: int, index: int) -> np.ndarray:
        return to_rows(values[f"vision.{name}"], specs[f"vision.{name}"])[layer, index]

    kernels = {name: values[f"vision.blocks.{name}"] for name in ("query", "out", "fc1", "fc2")}
    head_dim = kernels["query"].shape[3]
    expected = {
        "blocks.query": kernels["query"][1, :, 2, 3],
        "blocks.out": kernels["out"][1, :, :, 5].ravel(),
        "blocks.fc1": kernels["fc1"][1, :, 5],
        "blocks.fc2": kernels["fc2"][1, :, 5],
    }
    index = {"blocks.query": 2 * head_dim + 3}
    for name, weights in expected.items():
        np.testing.assert_array_equal(row(name, 1, index.get(name, 5)), weights)
    patch = values["vision.patch_kernel"][..., 4].ravel()
    np.testing.assert_array_equal(row("patch_kernel", 0, 4), patch)
    np.testing.assert_array_equal(row("projection", 0, 4), values["vision.projection"][:, 4])


def test_a_masked_clip(clip: CLIP, masks: Masks) -> None:
    before = arrays(clip)
    sparse = arrays(subnet(clip, masks, 1))
    for name, values in arrays(clip).items():
        np.testing.assert_array_equal(values, before[name])
        kept = np.asarray(masks.levels[name]) > 1 if name in masks.levels else True
        np.testing.assert_array_equal(sparse[name], np.where(kept, values, 0))
    share = sum((sparse[name] != 0).sum() for name in masks.levels)
    total = sum(before[name].size for name in masks.levels)
    assert share / total == pytest.approx(0.4, abs=0.02)


def test_a_family_gives_every_subnet(clip: CLIP, masks: Masks, file: Path) -> None:
    family = load_family(file)
    assert len(family) == 3 and family.sparsities == SPARSITIES
    for k in range(3):
        member = family.clip(k)
        expected = arrays(subnet(clip, masks, k))
        expected |= {name: values + k for name, values in norm_parameters(clip).items()}
        for name, values in arrays(member).items():
            np.testing.assert_array_equal(values, expected[name], strict=True)
        assert member.architecture == clip.architecture
    assert family.clip(0, dtype=jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize("format", ["hf", "openclip", "native"])
def test_a_subnet_goes_into_every_format(file: Path, tmp_path: Path, format: Any) -> None:
    member = load_family(file).clip(1)
    save_clip(member, tmp_path / "clip", format)
    back = load_clip(tmp_path / "clip", head_dim=4 if format == "openclip" else None)
    found = arrays(back)
    for name, values in arrays(member).items():
        if not name.endswith("layer_rank") or format == "native":
            np.testing.assert_array_equal(found[name], values)


def test_sixteen_bits_take_half(clip: CLIP, specs: dict, masks: Masks, tmp_path: Path) -> None:
    wide = pack_clip(clip, masks, specs, SPARSITIES)
    narrow = pack_clip(clip, masks, specs, SPARSITIES, dtype="bfloat16")
    assert narrow.sizes().dense < 0.51 * wide.sizes().dense
    narrow.save(tmp_path / "f.safetensors")
    member = load_family(tmp_path / "f.safetensors").clip(0)
    fc1 = arrays(subnet(clip, masks, 0))["vision.blocks.fc1"]
    np.testing.assert_array_equal(
        arrays(member)["vision.blocks.fc1"], np.asarray(jnp.asarray(fc1, jnp.bfloat16), np.float32)
    )


def test_families_of_other_models(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    kernel = np.ones((4, 2), np.float32)
    pack(
        {"k": kernel},
        {"k": np.ones((4, 2), np.uint8)},
        {"k": flax_spec((4, 2))},
        (0.0,),
        model="resnet",
    ).save(other)
    with pytest.raises(UserError, match="family of a resnet model, not of a clip"):
        load_family(other)
    with safe_open(file, framework="numpy") as old:
        metadata = old.metadata()
        metadata.pop("sha256")  # as older versions wrote it
        tensors = {name: old.get_tensor(name) for name in old.keys()}  # noqa: SIM118
    for change, message in (
        ({"projection": 6}, r"'text.projection' has shape \(8, 5\), expected \(8, 6\)"),
        ({"image": 9}, "does not describe a CLIP of ours: image 9 is not a multiple"),
        ({"patch": ""}, "does not describe a CLIP of ours: architecture.patch is '', expected a"),
        ({"head_dim": 1.5}, "architecture.head_dim is 1.5, expected a positive whole number"),
        ({"text": None}, "architecture.text is None, expected an object"),
    ):
        about = json.loads(metadata["family"])
        about["about"]["architecture"] |= change
        save_file(tensors, other, {**metadata, "family": json.dumps(about)})
        with pytest.raises(UserError, match=message):
            load_family(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # A square kernel, whose axes its shape does not tell.
        (
            lambda about, _: about["kernels"]["vision.blocks.query"].update(
                inputs=[2, 3], outputs=[1]
            ),
            "the rows of 'vision.blocks.query' are not those of a CLIP",
        ),
        (
            lambda _, t: t.update(
                {"dense/vision.positions": t["dense/vision.positions"].view(np.int32)}
            ),
            "another network than it describes: 'vision.positions' is int32, expected floating",
        ),
    ],
)
def test_families_whose_packed_and_dense_clips_would_differ(
    file: Path, tmp_path: Path, change: Any, message: str
) -> None:
    with safe_open(file, framework="numpy") as old:
        tensors = {name: old.get_tensor(name) for name in old.keys()}  # noqa: SIM118
        kind, about = old.metadata()["kind"], json.loads(old.metadata()["family"])
    change(about, tensors)
    save_file(tensors, tmp_path / "x", {"kind": kind, "family": json.dumps(about)})
    with pytest.raises(UserError, match=message):
        load_family(tmp_path / "x")


# ---- on the packed weights -------------------------------------------------------------------


def assert_rounded(found: Any, expected: Any) -> None:
    """Equal trees but for rounding of float32; a weight more or less changes far more."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=3e-5), found, expected
    )


@jax.jit
def encode_image(clip: PackedClip, images: jax.Array) -> jax.Array:
    return clip.encode_image(images)[0]


@pytest.fixture(scope="module")
def encoders() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Jitted once for all: by a PackedClip, and by a PackedClip and k."""
    return (
        jax.jit(lambda clip, images, ids: clip(images, ids)),
        jax.jit(lambda clip, k, images, ids: clip.at(k)(images, ids)),
    )


def test_a_packed_clip_computes_what_the_clip_does(
    file: Path, encoders: tuple, forward: Callable, batch: tuple[jax.Array, jax.Array]
) -> None:
    family = load_family(file)
    by_member, by_number = encoders
    for k in range(3):
        expected = forward(family.clip(k), batch)
        for found in (by_member(family.at(k), *batch), by_number(family.at(0), k, *batch)):
            assert_rounded(found, expected)
    assert by_member._cache_size() == by_number._cache_size() == 1
    for k in (3, jnp.int32(3), -1):
        with pytest.raises(ValueError, match=f"there is no subnet {k}; the family has 0 to 2"):
            family.at(k)


def test_switching_moves_no_array(file: Path) -> None:
    family = load_family(file)

    def pointers(k: int) -> list[int]:
        member = dataclasses.replace(family.at(k), subnet=None)
        return [array.unsafe_buffer_pointer() for array in jax.tree.leaves(member)]

    assert pointers(0) == pointers(1) == pointers(2)


def test_it_may_be_loaded_while_a_function_is_traced(file: Path) -> None:
    family = load_family(file)
    name = "text.blocks.fc1"
    last = jax.jit(lambda k: family.at(k).counts[name][k, -1])
    assert last(1) == family.packed.kernels[name].counts[1, -1]
    np.testing.assert_array_equal(family.at(2).counts[name], family.packed.kernels[name].counts)


@pytest.mark.parametrize(
    ("include", "dtype"), [(("*",), "bfloat16"), (("*.fc1", "vision.*.query"), "float32")]
)
def test_other_kernels_and_dtypes(
    clip: CLIP, include: Any, dtype: str, forward: Callable, batch: tuple
) -> None:
    specs = subnet_specs(clip, include)
    masks = jax.jit(lambda params: subnet_masks(params, specs, (0.3, 0.8)))(
        nnx.state(clip, nnx.Param)
    )
    packed = pack_clip(clip, masks, specs, (0.3, 0.8), dtype=dtype)
    family = ClipFamily(packed, clip.architecture, clip.dialect)
    expected, _ = forward(family.clip(1), batch)
    assert_rounded(encode_image(family.at(1), batch[0]), expected.image_embedding)


def test_without_a_compiler(
    file: Path, monkeypatch: pytest.MonkeyPatch, forward: Callable, batch: tuple
) -> None:
    monkeypatch.setattr("codesign.dress.kernel.panels.available", lambda: False)
    family = load_family(file)
    expected, _ = forward(family.clip(1), batch)
    assert_rounded(encode_image(family.at(1), batch[0]), expected.image_embedding)


def test_layers_that_differ(
    random_clip: Callable, small: Architecture, forward: Callable, batch: tuple
) -> None:
    """A layer without attention adds no bias either."""
    clip = random_clip(small, dialect=Dialect(vision=TowerDialect(ragged=True)))
    clip.vision.blocks.present_heads[...] = jnp.ones((3, 3), bool).at[1].set(False)
    specs = subnet_specs(clip, ("vision.blocks.fc1",))
    levels = {"vision.blocks.fc1": np.ones(clip.vision.blocks.fc1.shape, np.uint8)}
    packed = pack_clip(clip, Masks(levels, {}), specs, (0.0,))
    family = ClipFamily(packed, clip.architecture, clip.dialect)
    expected, _ = forward(clip, batch)
    assert_rounded(encode_image(family.at(0), batch[0]), expected.image_embedding)


def test_bad_input_of_a_packed_clip(file: Path, batch: tuple) -> None:
    member = load_family(file).at(0)
    with pytest.raises(ValueError, match=r"images have shape .*, the model needs"):
        member.encode_image(batch[0][:, :4])
    with pytest.raises(ValueError, match="ids must be integers"):
        member.encode_text(batch[1].astype(float))


@pytest.mark.slow
def test_cost_of_a_packed_family_takes_the_shares_of_its_own_subnets(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The design file gives the chip and the scenario alone: no sparsity of its own is needed."""
    design = {"architecture": {}, "accelerator": {"cores": 1, "pe_x": 32, "pe_y": 8}}
    shares = [0.2, 0.3, 0.5]

    def cost(**scenario: Any) -> int:
        path = tmp_path / "design.json"
        path.write_text(json.dumps(design | {"scenario": scenario}))
        return main(["cost", str(path), "--family", str(file), "--json"])

    assert cost(subnet_shares=shares) == 0
    found = json.loads(capsys.readouterr().out)
    assert [subnet["share"] for subnet in found["subnets"]] == pytest.approx(shares)
    assert found["sparsity"] == sorted(found["sparsity"]) and len(found["sparsity"]) == 3
    energies = [subnet["energy_j"] for subnet in found["subnets"]]
    assert energies == sorted(energies, reverse=True)
    assert found["costs"]["energy_j"] == pytest.approx(np.dot(shares, energies))
    assert cost(subnet_shares=[0.4, 0.6]) in (1, 2)
    assert "2 shares for 3 subnets" in capsys.readouterr().err
    assert cost() == 0
    found = json.loads(capsys.readouterr().out)
    assert [subnet["share"] for subnet in found["subnets"]] == pytest.approx([1 / 3] * 3)
