"""Which CLIP of a file is taken, under whatever wrappers, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.errors import UserError
from codesign.models.formats import load_clip
from codesign.models.formats.files import Tensors, read_tensors
from codesign.models.formats.layout import HUGGINGFACE, OPENCLIP
from codesign.models.formats.names import recognise
from codesign.models.formats.state_dicts import state_dicts
from codesign.models.formats.tensor import Tensor

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def other(plain: Arrays) -> Arrays:
    return {name: np.asarray(values + 1) for name, values in plain.items()}


def found(saved: Any) -> Tensors:
    """What a file would hold of nested dicts of arrays."""

    def tensors(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: tensors(value) for key, value in node.items()}
        if isinstance(node, np.ndarray):
            return Tensor("", node.shape, lambda: node)
        return [tensors(value) for value in node] if isinstance(node, list) else node

    there = state_dicts(tensors(saved), Path("x.pt"))
    return Tensors(there.dicts, lists=there.lists)


def under(prefix: str, arrays: Arrays) -> Arrays:
    return {prefix + name: values for name, values in arrays.items()}


def assert_taken(saved: Any, arrays: Arrays, **options: Any) -> tuple[str, ...]:
    named = recognise(found(saved), "x.pt", **options)
    assert named.layout is OPENCLIP and named.tensors.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(named.tensors[name].read(), values)
    return named.notes


def inside(name: str, word: str) -> str:
    """A word within the names of a block, as FSDP puts it."""
    return name.replace("resblocks.0.", f"resblocks.0.{word}.")


WRAPPED: dict[str, Callable[[Arrays], Any]] = {
    "plain": lambda t: t,
    "module.": lambda t: {"epoch": 1, "state_dict": under("module.", t)},
    "model.": lambda t: under("model.", t),
    "clip_model.": lambda t: under("clip_model.", t),
    "Lightning": lambda t: {"state_dict": under("model.", t), "callbacks": {}},
    "DeepSpeed": lambda t: {"module": t, "optimizer": {"fp32": np.ones(2)}, "dp_world_size": 1},
    "all at once": lambda t: {"module": under("module._orig_mod.net.clip_model.module.", t)},
    "state_dict_ema": lambda t: {"state_dict_ema": t},
    "model_ema": lambda t: {"model_ema": {"module": t}},
    "ema_state_dict": lambda t: {"ema_state_dict": under("module.", t)},
    "AveragedModel": lambda t: under("module.", t) | {"n_averaged": np.array(3)},
    "FSDP": lambda t: {
        inside(name, "_fsdp_wrapped_module._checkpoint_wrapped_module"): v for name, v in t.items()
    },
    "a stray tensor at the top": lambda t: {"step": np.array(3), "model": t},
    "the same twice": lambda t: {"model": t, "state_dict": under("module.", t)},
    "moments by name": lambda t: {
        "model": t,
        "optimizer": {"exp_avg": under("", t)},
        "exp_avg_sq": {name: np.asarray(values + 1) for name, values in t.items()},
    },
    "a name that only begins so": lambda t: {"optimized_model": t, "grad": {"a": np.ones((2, 2))}},
    "keys that are no names": lambda t: {"model": t | {0: np.ones(2)}, 1: {"a": np.ones(1)}},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_a_clip_is_found_under_its_wrappers(plain: Arrays, wrapping: str) -> None:
    assert not assert_taken(WRAPPED[wrapping](plain), plain)


BOTH: dict[str, Callable[[Arrays, Arrays], Any]] = {
    "timm": lambda raw, mean: {"state_dict": raw, "state_dict_ema": mean},
    "model_ema": lambda raw, mean: {"model_ema": mean, "model": raw},
    "one dict": lambda raw, mean: {
        "state_dict": under("model.", raw) | under("model_ema.module.", mean)
    },
    "AveragedModel": lambda raw, mean: {
        "model": raw,
        "swa_model": under("module.", mean) | {"n_averaged": np.array(3)},
    },
    "ema-pytorch": lambda raw, mean: {
        "ema": under("online_model.", raw) | under("ema_model.", mean)
    },
    "callbacks": lambda raw, mean: {"state_dict": raw, "callbacks": {"EMACallback": {"w": mean}}},
    "by count": lambda raw, mean: {"a": raw, "b": mean | {"n_averaged": np.array(1)}},
}


@pytest.mark.parametrize("case", BOTH)
def test_raw_and_averaged_weights(plain: Arrays, other: Arrays, case: str) -> None:
    saved = BOTH[case](plain, other)
    (note,) = assert_taken(saved, other)
    assert "taken are the averaged" in note and "(--weights raw) takes the others" in note
    assert assert_taken(saved, plain, weights="raw") == ()
    assert assert_taken(saved, other, weights="averaged") == ()


def test_weights_that_are_not_there(plain: Arrays) -> None:
    with pytest.raises(UserError, match=r"no averaged weights, only those under 'state_dict'"):
        recognise(found({"state_dict": plain}), "x.pt", "averaged")
    with pytest.raises(UserError, match=r"no raw weights, only those under 'ema'"):
        recognise(found({"ema": plain}), "x.pt", "raw")
    with pytest.raises(UserError, match="weights is 'best', expected raw or averaged"):
        recognise(found(plain), "x.pt", "best")


@pytest.mark.parametrize("kind", ["list", "numbers"])
def test_averages_without_names_are_told(plain: Arrays, other: Arrays, kind: str) -> None:
    """As torch_ema and diffusers keep them, in the order of a model's parameters."""
    averages: Any = list(other.values())
    averages = dict(enumerate(averages)) if kind == "numbers" else averages
    saved = {"model": plain, "ema": {"decay": 0.99, "shadow_params": averages}}
    (note,) = assert_taken(saved, plain)
    assert "taken are the raw weights (under 'model')" in note
    assert "averaged ones are a list without names ('ema.shadow_params'), which are not" in note
    assert assert_taken(saved, plain, weights="raw") == ()
    with pytest.raises(UserError, match=r"no averaged weights, .* a list without names \('ema.sh"):
        recognise(found(saved), "x.pt", "averaged")


def test_lists_are_looked_into(plain: Arrays, other: Arrays) -> None:
    counts = {"model": plain, "counts": [np.zeros(3)]}
    assert assert_taken([plain, {"epoch": 3}], plain) == assert_taken(counts, plain) == ()
    (note,) = assert_taken({"model": plain, "queue": [np.zeros((2, 2)), np.zeros(3)]}, plain)
    assert "no part of the CLIP: the tensor 'queue[0]'" in note
    with pytest.raises(UserError, match=r"several CLIPs, under 'model' and under 'best.0'"):
        recognise(found({"model": plain, "best": [other]}), "x.pt")


def test_none_of_several_clips_is_guessed(plain: Arrays, other: Arrays) -> None:
    saved = under("student.", plain) | under("teacher.", other)
    with pytest.raises(UserError, match=r"several CLIPs, under 'student' and under 'teacher'"):
        recognise(found(saved), "x.pt")
    assert_taken({"model": plain, "copy": plain}, plain)


def test_tensors_of_something_else_are_named(plain: Arrays) -> None:
    """Beside the CLIP they are not used, which is said; within it they are refused."""
    (note,) = assert_taken(
        under("clip.", plain) | {"decoder.weight": np.ones(2), "loss.scale": np.ones(1)}, plain
    )
    assert note == (
        "x.pt: not used, being no part of the CLIP: 2 tensors, such as 'decoder.weight'"
    )
    (note,) = assert_taken(
        {"model": plain, "step": np.ones(1), "head": {"fc": np.ones((2, 2))}}, plain
    )
    assert note.endswith("the tensor 'head.fc'")
    named = recognise(found(under("clip.", plain) | {"clip.prompt.ctx": np.ones(2)}), "x.pt")
    assert "prompt.ctx" in named.tensors  # which `check` refuses by name


FOREIGN = {
    "CLAP": ({"audio_model.x": 1, "text_model.x": 1, "logit_scale_a": 1}, "one tower only"),
    "LAION's CLAP": ({"audio_branch.x": 1, "text_branch.x": 1}, "is no CLIP checkpoint"),
    "BLIP": ({"vision_model.x": 1, "text_decoder.x": 1}, "a CoCa captioner"),
    "SigLIP": (
        {"vision_model.head.probe": 1, "text_model.head.bias": 1, "logit_bias": 1},
        "a SigLIP",
    ),
    "wrapped SigLIP": (
        {"model.visual.trunk.x": 1, "model.text.x": 1, "model.logit_bias": 1},
        "a timm image",
    ),
    "GPT": ({"transformer.wte.weight": 1, "transformer.h.0.x": 1}, "one tower only"),
    "a classifier": ({"fc.weight": 1}, "is no CLIP checkpoint: its tensors are 'fc.weight'"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_networks_are_refused(kind: str) -> None:
    names, message = FOREIGN[kind]
    with pytest.raises(UserError, match=message):
        recognise(found({name: np.ones(1) for name in names}), "x.pt")


def test_huggingfaces_names_under_a_prefix(files: dict[str, Path]) -> None:
    stored = read_tensors(files["huggingface"] / "model.safetensors").tensors
    arrays = {f"model.clip.{name}": tensor.read() for name, tensor in stored.items()}
    named = recognise(found({"state_dict": arrays}), "x.pt")
    assert named.layout is HUGGINGFACE and named.tensors.keys() == stored.keys()


def test_a_training_checkpoint_with_all_that_lies_beside(
    files: dict[str, Path], quiet_load: Callable, tmp_path: Path
) -> None:
    """The stored one has NumPy's scalars, paths, a Namespace and averages, see make_data.py."""
    path = files["training"]
    clip = quiet_load(files["openclip"], weights="raw")
    with pytest.warns(UserWarning, match="raw weights .under 'state_dict.clip_model'. and averag"):
        averaged = load_clip(path, head_dim=(8, 4), activation="quick_gelu")
    assert averaged.architecture == clip.architecture
    np.testing.assert_array_equal(averaged.vision.positions[...], clip.vision.positions[...])
    raw = load_clip(path, head_dim=(8, 4), activation="quick_gelu", weights="raw")
    np.testing.assert_array_equal(raw.vision.positions[...], 2 * clip.vision.positions[...])
