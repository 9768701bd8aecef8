"""Finding and reading files: every layout of them, and every way they can be broken."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from codesign.errors import UserError
from codesign.models.formats import save_clip
from codesign.models.formats.files import locate, locate_side_files, read_tensors
from codesign.models.formats.torch_file import read_torch


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in read_tensors(path).tensors.items()}


def assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, values in a.items():
        assert values.dtype == b[name].dtype and values.shape == b[name].shape, name
        assert values.tobytes() == b[name].tobytes(), name


def test_safetensors_of_every_dtype(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 2))
    dtypes = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int64, np.bool_)
    stored = {np.dtype(d).name: values.astype(d) for d in dtypes}
    stored |= {"scalar": np.array(2.5, np.float32), "none": np.zeros((0, 4), np.float32)}
    save_file(stored, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert_equal(arrays(tmp_path / "x.safetensors"), stored)


def test_a_dtype_that_is_not_known_hinders_only_who_reads_it(tmp_path: Path) -> None:
    stored = {"a": np.arange(2.0), "c": np.arange(4, dtype=np.uint8), "e": np.arange(3.0)}
    path = tmp_path / "x.safetensors"
    save_file(stored, path)
    path.write_bytes(path.read_bytes().replace(b'"U8"', b'"F4"').replace(b"[4]", b"[8]"))
    found = read_tensors(path).tensors
    for name in "ae":
        np.testing.assert_array_equal(found[name].read(), stored[name])
    with pytest.raises(UserError, match="tensor 'c' is of the dtype F4, which cannot be read"):
        found["c"].read()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("change", ["cut", "removed"])
def test_a_file_that_changes_before_it_is_read_is_a_line(
    kind: str, change: str, tmp_path: Path
) -> None:
    """A mapped one would end the process by a signal."""
    torch = pytest.importorskip("torch")
    path, values = tmp_path / "x.pt", np.ones((500, 500), np.float32)
    if kind == "safetensors":
        save_file({"a": values}, path)
    else:
        new = kind == "zip"
        torch.save({"a": torch.tensor(values)}, path, _use_new_zipfile_serialization=new)
    tensor = read_tensors(path).tensors["a"]
    np.testing.assert_array_equal(tensor.read(), values)
    os.truncate(path, 5000) if change == "cut" else path.unlink()
    with pytest.raises(UserError, match=r"x\.pt"):
        tensor.read()


def entry(begin: Any, end: Any, shape: Any = (1,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def header(*tensors: Any) -> str:
    """A header of tensors a, b, ...; a dict stands for a whole one, with a name twice if wanted."""
    return "{" + ", ".join(f'"{"ab"[i]}": {json.dumps(t)}' for i, t in enumerate(tensors)) + "}"


BROKEN_HEADERS: dict[str, tuple[str, int]] = {
    "overlap": (header(entry(0, 4), entry(0, 4)), 4),
    "partial overlap": (header(entry(0, 8, (2,)), entry(4, 12, (2,))), 12),
    "hole": (header(entry(0, 4), entry(8, 12)), 12),
    "hole at the start": (header(entry(4, 8)), 8),
    "trailing bytes": (header(entry(0, 4)), 5),
    "cut off": (header(entry(0, 4), entry(4, 8)), 7),
    "float shape": (header(entry(0, 4, (1.0,))), 4),
    "float offsets": (header(entry(0.0, 4.0)), 4),
    "negative offset": (header(entry(-4, 0)), 0),
    "negative shape": (header(entry(0, 4, (-1, -1))), 4),
    "text as a shape": (header(entry(0, 4, "1")), 4),
    "wrong length": (header(entry(0, 8)), 8),
    "reversed": (header(entry(4, 0)), 4),
    "huge": (header(entry(0, 4, (2**62, 4))), 4),
    "many digits": (header(entry(0, 4)).replace("[1]", "[" + "9" * 5000 + "]"), 4),
    "unknown dtype": (header(entry(0, 4, dtype="F31")), 4),
    "a name twice": (header(entry(0, 4), entry(0, 4)).replace('"b"', '"a"'), 4),
    "other tensors of a name": (header(entry(0, 4), entry(4, 8)).replace('"b"', '"a"'), 8),
    "no object": ('{"a": 1}', 0),
    "nested": ('{"a": ' + "[" * 5000 + "]" * 5000 + "}", 0),
    "no JSON": ("{a: 1}", 0),
    "not UTF-8": ("{\udcff}", 0),
}


@pytest.mark.parametrize("case", BROKEN_HEADERS)
def test_safetensors_whose_header_is_wrong(tmp_path: Path, case: str) -> None:
    text, size = BROKEN_HEADERS[case]
    content = text.encode(errors="surrogateescape")
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(size))
    with pytest.raises(UserError, match=r"x.safetensors") as told:
        read_tensors(path)
    assert "\n" not in str(told.value) and len(str(told.value)) < 500


def test_a_whole_header_is_read(tmp_path: Path) -> None:
    """The table's good neighbour, in any order, with an empty tensor."""
    content = (
        header(entry(4, 8), entry(0, 4))
        .replace("}}", '}, "c": {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}}')
        .encode()
    )
    path = tmp_path / "x.safetensors"
    numbers = np.array([1.5, 2.5], np.float32)
    path.write_bytes(len(content).to_bytes(8, "little") + content + numbers.tobytes())
    found = arrays(path)
    assert (found["a"], found["b"], found["c"].shape) == (2.5, 1.5, (0,))


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_of_every_dtype_and_stride(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    x = torch.randn(4, 6)
    tensors = {
        "view": x[1:3, ::2],
        "transposed": x.T,
        "parameter": torch.nn.Parameter(x),
        "half": x.half(),
        "bfloat16": x.bfloat16(),
        "double": x.double(),
        "int": torch.arange(3),
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "shared": x,
    }
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
    whole = {"epoch": 3, "state_dict": tensors, "optimizer": optimizer, "size": x.shape}
    path = tmp_path / "x.pt"
    torch.save(whole, path, _use_new_zipfile_serialization=zipped)
    found = arrays(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(np.float64(found[name]), tensor.detach().double().numpy())


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_is_read_without_its_code(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Inner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
            self.scale = torch.nn.Parameter(torch.randn(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks(x)

    module = Inner()
    torch.jit.trace(module, torch.zeros(1, 2)).save(tmp_path / "x.pt")
    assert read_tensors(tmp_path / "x.pt").script
    expected = {name: value.numpy() for name, value in module.state_dict().items()}
    assert_equal(dict(sorted(arrays(tmp_path / "x.pt").items())), dict(sorted(expected.items())))


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_refused_unrun(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    content = {"state_dict": {"a": torch.ones(2)}, "extra": Evil(tmp_path / "ran")}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"asks to run 'posix.mkdir'.*nothing was run"):
        read_tensors(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


PICKLES = {
    # A global outside the list, by each opcode that can name one.
    "GLOBAL": b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "INST": b"\x80\x02(X\x04\x00\x00\x00trueios\nsystem\n.",
    "builtins.eval": b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
    # A dotted name that would walk from an allowed object to another.
    "dotted": b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
    # BUILD, to replace what an allowed callable does.
    "BUILD": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x05\x00\x00\x00_callK\x01sb.",
    "BUILD slots": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x05\x00\x00\x00_callK\x01s\x86b."
    ),
}


@pytest.mark.parametrize("name", PICKLES)
def test_no_opcode_reaches_beyond_the_list(tmp_path: Path, name: str) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", PICKLES[name])
    with pytest.raises(UserError, match=r"asks to run|not a torch checkpoint"):
        read_torch(tmp_path / "x.pt")


def test_broken_bytes_end_in_one_line(tmp_path: Path, files: dict[str, Path]) -> None:
    """Cut off anywhere, or with bytes changed: a UserError or, where it hit no structure, data."""
    rng = np.random.default_rng(0)
    broken = tmp_path / "x"
    stored = [files["carbonclip"], files["tinyclip"], files["huggingface"] / "model.safetensors"]
    for path in stored:
        whole, lines = np.frombuffer(path.read_bytes(), np.uint8), []
        for trial in range(150):
            content = whole.copy()
            content[rng.integers(0, 4000 if trial % 2 else len(content), 2)] = rng.integers(
                0, 256, 2
            )
            content = content[: rng.integers(0, len(content))] if trial % 5 == 0 else content
            broken.write_bytes(content.tobytes())
            try:
                arrays(broken)
            except UserError as error:
                lines.append(str(error))
        print(f"{path.name}: {len(lines)} of 150 refused")
        assert len(lines) > 30 and not any("\n" in line for line in lines)


def test_cut_off_files_are_called_so(tmp_path: Path, files: dict[str, Path]) -> None:
    for path in (
        files["carbonclip"],
        files["tinyclip"],
        files["huggingface"] / "model.safetensors",
    ):
        cut = tmp_path / path.name
        cut.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
        with pytest.raises(UserError, match="cut off"):
            read_tensors(cut)


def test_foreign_files_are_named(tmp_path: Path) -> None:
    contents = {
        "empty": (b"", "is an empty file"),
        "text": (b"hello, world, this is text", "neither a safetensors nor a torch file"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        "pickle": (b"\x80\x02}q\x00.", "a pickle, but not one of torch's"),
    }
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_tensors(tmp_path / name)


def test_shards(tmp_path: Path, files: dict[str, Path]) -> None:
    whole = arrays(files["huggingface"] / "model.safetensors")
    half = len(whole) // 2
    parts = {"a.safetensors": list(whole)[:half], "b.safetensors": list(whole)[half:]}
    for file, names in parts.items():
        save_file({name: whole[name] for name in names}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    named = {name: file for file, names in parts.items() for name in names}
    index.write_text(json.dumps({"metadata": {}, "weight_map": named}))
    assert locate(tmp_path).weights == index
    assert_equal(arrays(index), whole)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"names the shard b.safetensors, which is missing"):
        read_tensors(index)
    index.write_text(json.dumps({"weight_map": {"x": "../../secret.safetensors"}}))
    with pytest.raises(UserError, match="outside its folder; refused"):
        read_tensors(index)
    index.write_text("[]")
    with pytest.raises(UserError, match="no weight_map"):
        read_tensors(index)


def test_a_tensor_in_two_shards_is_that_of_the_shard_named(tmp_path: Path) -> None:
    for i, shard in enumerate("abc"):
        save_file({"x": np.full(2, i), shard: np.zeros(1)}, tmp_path / f"{shard}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    for i, shard in enumerate("abc"):
        named = {name: f"{name}.safetensors" for name in "abc"} | {"x": f"{shard}.safetensors"}
        index.write_text(json.dumps({"weight_map": named}))
        np.testing.assert_array_equal(arrays(index)["x"], [i, i])
    index.write_text(json.dumps({"weight_map": {"b": "a.safetensors", "c": "c.safetensors"}}))
    with pytest.raises(UserError, match=r"a.safetensors lacks the tensor 'b'"):
        read_tensors(index)


def test_places_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file or folder .*missing.pt"):
        locate(tmp_path / "missing.pt")
    with pytest.raises(UserError, match="holds no checkpoint"):
        locate(tmp_path)
    for name in ("epoch_1.pt", "epoch_2.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"holds 2 checkpoints, such as epoch_1.pt; name one"):
        locate(tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def fill(cache: Path, repo: str, contents: dict[str, bytes]) -> Path:
    """Lays a repository out as the hub's cache does."""
    root = cache / f"models--{repo.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name, content in contents.items():
        (snapshot / name).write_bytes(content)
    return snapshot


def test_hub_names(hub: Path, files: dict[str, Path], quiet_load: Callable) -> None:
    stored = {file.name: file.read_bytes() for file in files["huggingface"].iterdir()}
    snapshot = fill(hub, "someone/tiny-clip", stored | {"tokenizer.json": b"{}"})
    found = locate("someone/tiny-clip")
    assert found.weights == snapshot / "model.safetensors" and found.folder == snapshot
    assert locate("hf-hub:someone/tiny-clip") == type(found)(
        "hf-hub:someone/tiny-clip", snapshot, found.weights
    )
    assert locate_side_files("someone/tiny-clip") == snapshot
    assert quiet_load("someone/tiny-clip").architecture.vision.width == 24
    with pytest.raises(UserError, match="'no/such' is no path here, and holds no CLIP"):
        locate("no/such")
    with pytest.raises(UserError, match="'x/y--z' is no path here, and the hub says"):
        locate("x/y--z")


def test_openclip_repositories(hub: Path, files: dict[str, Path]) -> None:
    """HuggingFace's weights are preferred where a repository holds both."""
    weights = (files["huggingface"] / "model.safetensors").read_bytes()
    both = {"open_clip_model.safetensors": weights, "open_clip_config.json": b"{}"}
    snapshot = fill(hub, "laion/one", both)
    assert locate("laion/one").weights == snapshot / "open_clip_model.safetensors"
    snapshot = fill(hub, "laion/two", both | {"model.safetensors": weights})
    assert locate("laion/two").weights == snapshot / "model.safetensors"


TIMM = {"architecture": "vit_base_patch16_clip_224", "pretrained_cfg": {"tag": "laion2b"}}


@pytest.mark.parametrize("config", [True, False])
def test_timms_file_beside_openclips(
    tmp_path: Path, files: dict[str, Path], config: bool, quiet_load: Callable
) -> None:
    """timm's image tower has HuggingFace's file name; its config.json, where it is there, tells."""
    whole = arrays(files["openclip"] / "epoch_3.pt")
    save_file(
        {k: np.ascontiguousarray(v) if v.ndim else v for k, v in whole.items()},
        tmp_path / "open_clip_model.safetensors",
    )
    save_file({"blocks.0.norm1.weight": np.ones(2)}, tmp_path / "model.safetensors")
    beside = (files["openclip"] / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").write_text(beside)
    if config:
        (tmp_path / "config.json").write_text(json.dumps(TIMM))
    assert locate(tmp_path).weights == tmp_path / "open_clip_model.safetensors"
    assert quiet_load(tmp_path).architecture == quiet_load(files["openclip"]).architecture


def test_timms_file_on_the_hub_is_not_fetched(hub: Path, files: dict[str, Path]) -> None:
    weights = (files["huggingface"] / "model.safetensors").read_bytes()
    both = {"open_clip_model.safetensors": weights, "model.safetensors": b""}
    snapshot = fill(hub, "timm/vit", both | {"config.json": json.dumps(TIMM).encode()})
    assert locate("timm/vit").weights == snapshot / "open_clip_model.safetensors"


def test_a_revision_may_follow_the_hub_name(hub: Path, files: dict[str, Path]) -> None:
    stored = {file.name: file.read_bytes() for file in files["huggingface"].iterdir()}
    main = fill(hub, "someone/tiny-clip", stored)
    branch = main.with_name("f" * 40)
    shutil.copytree(main, branch)
    (main.parents[1] / "refs" / "v2.0").write_text(branch.name)
    assert locate("someone/tiny-clip").folder == main
    for name in ("someone/tiny-clip@v2.0", "hf-hub:someone/tiny-clip@v2.0"):
        assert locate(name).folder == locate(name, "v2.0").folder == branch
        assert locate_side_files(name) == branch
    assert locate("someone/tiny-clip@" + "f" * 40).folder == branch
    with pytest.raises(UserError, match=r"v2\.0 and the revision v1 contradict each other"):
        locate("someone/tiny-clip@v2.0", "v1")
    with pytest.raises(UserError, match="'someone/tiny-clip' is no path here, and holds no CLIP"):
        locate("someone/tiny-clip@v3")


def test_our_own_format_is_read_from_the_hub(
    tmp_path: Path, files: dict[str, Path], quiet_load: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import types

    import huggingface_hub

    native, cache = tmp_path / "native", tmp_path / "cache"
    save_clip(quiet_load(files["huggingface"]), native, "native")
    listed = [str(f.relative_to(native)) for f in native.rglob("*") if f.is_file()]

    def model_info(self: Any, repo: str, revision: str | None = None) -> Any:
        return types.SimpleNamespace(siblings=[types.SimpleNamespace(rfilename=f) for f in listed])

    def download(repo: str, file: str, **_: Any) -> str:
        cache.mkdir(exist_ok=True)
        shutil.copyfile(native / file, cache / file)
        return str(cache / file)

    def snapshot(repo: str, *, revision: str, allow_patterns: list[str]) -> None:
        assert (repo, revision) == ("someone/native", "v2")
        taken = huggingface_hub.utils.filter_repo_objects(listed, allow_patterns=allow_patterns)
        for file in taken:
            (cache / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(native / file, cache / file)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert quiet_load("someone/native@v2").architecture == quiet_load(native).architecture


def test_only_one_copy_of_the_weights_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import types

    import huggingface_hub

    listed = ["config.json", "model.safetensors", "pytorch_model.bin", "flax_model.msgpack"]
    fetched: list[str] = []

    def model_info(self: Any, repo: str, revision: str | None = None) -> Any:
        assert (repo, revision) == ("someone/clip", "v2")
        return types.SimpleNamespace(siblings=[types.SimpleNamespace(rfilename=f) for f in listed])

    def download(repo: str, file: str, **_: Any) -> str:
        fetched.append(file)
        (tmp_path / file).write_bytes(b"")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert locate("someone/clip", "v2").weights == tmp_path / "model.safetensors"
    assert fetched == ["config.json", "model.safetensors"]
    fetched.clear()
    assert locate_side_files("someone/clip", "v2") == tmp_path
    assert fetched == ["config.json"]
