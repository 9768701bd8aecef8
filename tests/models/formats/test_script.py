"""TorchScript: what an archive's code and settings tell of the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.errors import UserError
from codesign.models.formats import load_clip, script_config
from codesign.models.formats.files import Tensors, read_tensors
from codesign.models.formats.pickles import ScriptModule
from codesign.models.formats.script import read_script
from codesign.models.formats.tensor import Tensor

CODE = {
    "gelu": ("    return torch.gelu(input)", ["gelu"]),
    "in place": ("    x0 = torch.gelu_(x)", ["gelu"]),
    "none": ('    return torch.gelu(input, approximate="none")', ["gelu"]),
    "tanh": ('    _0 = torch.gelu(input, approximate="tanh")', ["gelu_tanh"]),
    "quick": ("    _0 = torch.mul(x, torch.sigmoid(torch.mul(x, 1.702)))", ["quick_gelu"]),
    "apart": ("    _0 = torch.mul(x, 1.702)\n    _1 = torch.sigmoid(_0)", ["quick_gelu"]),
    "swish": ("    _0 = torch.mul(x, torch.sigmoid(x))", []),
    "relu": ("    return torch.relu(input)", []),
    "both": ("    torch.gelu(x)\n    torch.sigmoid(torch.mul(x, 1.702))", ["gelu", "quick_gelu"]),
}


@pytest.mark.parametrize("case", CODE)
def test_the_activations_that_code_computes(case: str) -> None:
    code, activations = CODE[case]
    found = read_script(ScriptModule(), ["class A(Module):", code], ()).activations
    assert sorted(found) == activations


def test_a_traced_constant() -> None:
    code = ["    _0 = torch.sigmoid(torch.mul(x, CONSTANTS.c1))"]

    def constants(*values: float) -> list[Tensor]:
        return [Tensor("", (), lambda v=v: np.array(v, np.float16)) for v in values]

    found = read_script(ScriptModule(), code, constants(0.5, 1.702))
    assert found.activations == {"quick_gelu"} and found.constants == ((), ())
    assert not read_script(ScriptModule(), code, constants(0.5, 1.0)).activations


def test_modules_without_end_are_refused() -> None:
    loop = ScriptModule()
    loop.again = loop
    wide = ScriptModule()
    for _ in range(40):  # 2^40 paths
        outer = ScriptModule()
        outer.a = outer.b = wide
        wide = outer
    for root in (loop, wide):
        with pytest.raises(ValueError, match="nested without end"):
            read_script(root, (), ())


def archive(path: Path, tensors: dict[str, np.ndarray], activation: str) -> Path:
    """A traced module with these parameters by their dotted names, and one activation's code."""
    torch = pytest.importorskip("torch")

    class Holder(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            if activation == "quick_gelu":
                return x * torch.sigmoid(1.702 * x)
            return torch.nn.functional.gelu(x) if activation == "gelu" else torch.relu(x)

    root = Holder()
    for name, values in tensors.items():
        *outer, last = name.split(".")
        module = root
        for word in outer:
            if not hasattr(module, word):
                module.add_module(word, torch.nn.Module())
            module = getattr(module, word)
        module.register_buffer(last, torch.from_numpy(np.array(values)))
    torch.jit.trace(root, torch.zeros(2)).save(path)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_archives_load_as_they_compute(
    tmp_path: Path, plain: dict[str, np.ndarray], activation: str, recwarn: Any
) -> None:
    path = archive(tmp_path / "x.pt", plain, activation)
    recwarn.clear()
    for option in (None, activation):
        clip = load_clip(path, head_dim=(8, 4), activation=option)
        assert clip.architecture.activation == activation and not recwarn.list
    wrong = "gelu" if activation == "quick_gelu" else "quick_gelu"
    with pytest.raises(UserError, match=f"says the activation {activation}, but {wrong} was given"):
        load_clip(path, head_dim=(8, 4), activation=wrong)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_where_code_does_not_tell(tmp_path: Path, plain: dict[str, np.ndarray]) -> None:
    path = archive(tmp_path / "x.pt", plain, "relu")
    with pytest.warns(UserWarning, match="assumed are the activation quick_gelu"):
        load_clip(path, head_dim=(8, 4))
    clip = load_clip(path, head_dim=(8, 4), activation="gelu")
    assert clip.architecture.activation == "gelu"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_code_goes_before_a_config_beside_it(
    tmp_path: Path, plain: dict[str, np.ndarray], files: dict[str, Path]
) -> None:
    """The stored config says QuickGELU."""
    path = archive(tmp_path / "x.pt", plain, "gelu")
    config = (files["openclip"] / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").write_text(config)
    with pytest.warns(UserWarning, match="says the activation quick_gelu, its code computes gelu"):
        assert load_clip(path).architecture.activation == "gelu"


@pytest.fixture
def load(tmp_path: Path, plain: dict[str, np.ndarray], monkeypatch: Any) -> Callable[..., Any]:
    """(settings of modules, code) -> the CLIP of an archive that holds them."""
    from codesign.models.formats import load as loading

    def of(settings: dict[str, Any], code: str) -> Any:
        root = ScriptModule()
        vars(root).update(settings)
        tensors = {
            name: Tensor(name, values.shape, lambda v=values: v) for name, values in plain.items()
        }
        script = dataclasses.replace(read_script(root, [code], ()), tensors=tensors)
        found = Tensors({"": tensors}, script)
        monkeypatch.setattr(loading, "read_tensors", lambda _: found)
        path = tmp_path / "x.pt"
        path.touch()
        return load_clip(path, head_dim=None if "head_dim" in str(settings) else (8, 4))

    return of


def test_settings_of_modules(load: Callable[..., Any]) -> None:
    """Head widths are taken from them, and images that are no squares refused."""
    settings: dict[str, Any] = {
        "visual.transformer.resblocks.0.attn.head_dim": 8,
        "transformer.resblocks.0.attn.head_dim": 4,
        "visual.image_size": (8, 8),
    }
    clip = load(settings, QUICK)
    assert (clip.architecture.head_dim, clip.dialect.text.head_dim) == (8, 4)
    settings["visual.image_size"] = (16, 4)
    with pytest.raises(UserError, match=r"for images of \(16, 4\) pixels; only square ones"):
        load(settings, QUICK)


QUICK = CODE["quick"][0] + "\n"
VISION, TEXT = 24, 16
"""Widths of the stored network."""


def norm(width: int, *epsilon: str) -> str:
    """What tracing writes of a LayerNorm: torch's own epsilon is left out."""
    arguments = ", ".join([f"input, [{width}], weight, bias", *epsilon])
    return f"    x = torch.layer_norm({arguments})\n"


TRACED = QUICK + norm(VISION) + norm(TEXT) + "    mask = torch.triu(x)\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"visual.pool_type": "avg"}, "image tower pools by avg, which is not supported"),
        ({"visual.pool_type": "none"}, "image tower pools by none"),
        ({"visual.global_average_pool": True}, "image tower pools by avg"),
        ({"text_pool_type": "first"}, "text tower pools by first"),
        ({"text.pool_type": "last"}, "text tower pools by last"),
        ({"attn_mask": None}, "no causal mask"),
        ({"text.attn_mask": None}, "no causal mask"),
    ],
)
def test_towers_that_are_not_ours(load: Callable[..., Any], settings: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(settings, TRACED)


@pytest.mark.parametrize(
    ("settings", "code", "end"),
    [
        ({"text_pool_type": "eos", "text_eos_id": 5}, "torch.argmax(text, -1)", 5),
        ({"text.pool_type": "eos", "text.eos_id": 7}, "", 7),
        ({"text_pool_type": "argmax", "text_eos_id": 5}, "torch.eq(text, 9)", None),
        ({}, "    idx = torch.argmax(torch.to(torch.eq(text, 5), 3), -1)", 5),
        ({}, "    _1 = torch.to(torch.eq(torch.to(ids, 3), 6), 3)\n_2 = torch.argmax(_1, -1)", 6),
        ({}, "    mask = torch.eq(x, 0)\ntorch.argmax(text, -1)", None),
        ({}, "    _8 = annotate(List[Optional[Tensor]], [_7, torch.argmax(text, -1)])", None),
    ],
)
def test_where_texts_are_read(
    load: Callable[..., Any], settings: Any, code: str, end: int | None, recwarn: Any
) -> None:
    assert load(settings, TRACED + code).dialect.end_of_text == end
    assert not recwarn.list


def test_what_traced_code_does_not_do_is_said(load: Callable[..., Any]) -> None:
    with pytest.warns(UserWarning, match="assumed are texts that end with their largest id;"):
        load({}, TRACED)
    unmasked = TRACED.replace("triu", "tanh") + "torch.argmax(text, -1)"
    with pytest.warns(UserWarning, match="assumed are a causal mask of the text tower;"):
        load({}, unmasked)
    implied = "    y = torch.scaled_dot_product_attention(q, k, v, None, 0., True)\n"
    for masks in (implied, "    mask = torch.le(_1, _2)\n"):
        load({}, unmasked + "\n" + masks)
    with pytest.raises(UserError, match="image tower pools by avg"):
        load({}, TRACED + "    pooled = torch.mean(x, [1])")
    load({"visual.pool_type": "tok"}, TRACED + "torch.mean(x, [1])\ntorch.argmax(text, -1)")


def test_epsilons_are_those_of_the_code(load: Callable[..., Any]) -> None:
    code = QUICK + "torch.triu(x)\ntorch.argmax(text, -1)\n"
    scripted = f"    x0 = _0(x, [{TEXT}], weight, bias, 9.9999999999999995e-07, )\n"
    dialect = load({}, code + norm(VISION, "0.001") + scripted).dialect
    assert (dialect.vision.epsilon, dialect.text.epsilon) == (1e-3, 1e-6)
    dialect = load({}, code + norm(VISION) + norm(TEXT, "0.001")).dialect
    assert (dialect.vision.epsilon, dialect.text.epsilon) == (1e-5, 1e-3)
    with pytest.raises(UserError, match=r"the epsilon 1e-05 and 0\.001 in its code"):
        load({}, code + norm(VISION) + norm(VISION, "0.001"))
    with pytest.raises(UserError, match=r"the epsilon 3 in its code; supported is one"):
        load({}, code + norm(VISION, "3"))


def test_two_activations_are_not_one(load: Callable[..., Any], files: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its code computes gelu and quick_gelu; put its config"):
        load({}, CODE["both"][0])
    with pytest.raises(UserError, match="its code computes gelu_tanh, which is not supported"):
        load({}, CODE["gelu"][0] + CODE["tanh"][0])
    config = (files["openclip"] / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").write_text(config)
    assert load({}, CODE["both"][0]).architecture.activation == "quick_gelu"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_torch_writes_what_is_looked_for(how: str, tmp_path: Path) -> None:
    """Settings, constants and calls of a module, in both of torch's ways to write it."""
    torch = pytest.importorskip("torch")

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln, self.usual = torch.nn.LayerNorm(6, eps=1e-3), torch.nn.LayerNorm(4)
            self.pool_type, self.eos_id, self.attn_mask = "eos", 5, None

        def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            at = (text == 5).int().argmax(dim=-1)
            return self.usual(self.ln(x)[:, :4])[at].triu(1).mean(1)

    tower = Tower()
    ids = torch.zeros(2, 3, dtype=torch.int64)
    made = (
        torch.jit.script(tower)
        if how == "script"
        else torch.jit.trace(tower, (torch.ones(2, 6), ids))
    )
    made.save(tmp_path / "x.pt")
    script = read_tensors(tmp_path / "x.pt").script
    assert script is not None and script.epsilons == {6: {1e-3}, 4: {1e-5}}
    for pattern in ("_EQUAL", "_LARGEST", "_CAUSAL", "_MEAN_OF_TOKENS"):
        assert getattr(script_config, pattern).search(script.code), pattern
    if how == "script":
        assert script.setting("pool_type") == "eos" and script.setting("eos_id") == 5
        assert script.settings["attn_mask"] is None
