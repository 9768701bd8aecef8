"""TorchScript: what an archive's code and settings tell of the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.errors import UserError
from codesign.models.formats import load_clip
from codesign.models.formats.files import read_tensors
from codesign.models.formats.pickles import ScriptModule
from codesign.models.formats.script import read_script
from codesign.models.formats.tensor import Tensor

CODE = {
    "gelu": ("    return torch.gelu(input)", "gelu"),
    "in place": ("    x0 = torch.gelu_(x)", "gelu"),
    "none": ('    return torch.gelu(input, approximate="none")', "gelu"),
    "tanh": ('    _0 = torch.gelu(input, approximate="tanh")', "gelu_tanh"),
    "quick": ("    _0 = torch.mul(x, torch.sigmoid(torch.mul(x, 1.702)))", "quick_gelu"),
    "apart": ("    _0 = torch.mul(x, 1.702)\n    _1 = torch.sigmoid(_0)", "quick_gelu"),
    "swish": ("    _0 = torch.mul(x, torch.sigmoid(x))", None),
    "relu": ("    return torch.relu(input)", None),
    "both": ("    torch.gelu(x)\n    torch.sigmoid(torch.mul(x, 1.702))", None),
}


@pytest.mark.parametrize("case", CODE)
def test_the_activation_that_code_computes(case: str) -> None:
    code, activation = CODE[case]
    assert read_script(ScriptModule(), ["class A(Module):", code], ()).activation == activation


def test_a_traced_constant() -> None:
    code = ["    _0 = torch.sigmoid(torch.mul(x, CONSTANTS.c1))"]

    def constants(*values: float) -> list[Tensor]:
        return [Tensor("", (), lambda v=v: np.array(v, np.float16)) for v in values]

    assert read_script(ScriptModule(), code, constants(0.5, 1.702)).activation == "quick_gelu"
    assert read_script(ScriptModule(), code, constants(0.5, 1.0)).activation is None


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


@pytest.fixture(scope="module")
def plain(files: dict[str, Path]) -> dict[str, np.ndarray]:
    stored = read_tensors(files["openclip"] / "epoch_3.pt").tensors
    return {name.removeprefix("module."): tensor.read() for name, tensor in stored.items()}


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


def test_settings_of_modules(tmp_path: Path, files: dict[str, Path], monkeypatch: Any) -> None:
    """Head widths are taken from them, and images that are no squares refused."""
    from codesign.models.formats import load
    from codesign.models.formats.files import Tensors
    from codesign.models.formats.script import Script

    tensors = read_tensors(files["openclip"] / "epoch_3.pt").tensors
    settings: dict[str, Any] = {
        "visual.transformer.resblocks.0.attn.head_dim": 8,
        "transformer.resblocks.0.attn.head_dim": 4,
        "visual.image_size": (8, 8),
    }
    script = Script(tensors, settings, "quick_gelu")
    monkeypatch.setattr(load, "read_tensors", lambda _: Tensors({"": tensors}, script))
    path = tmp_path / "x.pt"
    path.touch()
    clip = load_clip(path)
    assert (clip.architecture.head_dim, clip.dialect.text.head_dim) == (8, 4)
    settings["visual.image_size"] = (16, 4)
    with pytest.raises(UserError, match=r"for images of \(16, 4\) pixels; only square ones"):
        load_clip(path)
