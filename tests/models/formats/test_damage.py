"""Weights and tokenizers of which some bytes are others."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.errors import UserError
from codesign.models.formats.files import read_tensors
from codesign.models.formats.tokenizer_files import read_tokenizer
from codesign.train.data.tokenizer import train_tokenizer
from simulators.limits import bounded
from simulators.mutations import damaged

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file, read."""
    found = {}
    for place, tensors in read_tensors(path).dicts.items():
        for name, tensor in tensors.items():
            found[f"{place} {name}"] = np.array(tensor.read())
    return found


def refused(
    read: Callable[[Path], Any],
    path: Path,
    mutated: Callable[[], bytes],
    times: int,
    same: Callable[[Any], bool],
) -> int:
    """How many of so many damaged files are refused, in one line; of the others all are `same`."""
    told: list[str] = []
    for _ in range(times):
        path.write_bytes(mutated())
        with bounded(20):
            try:
                found = read(path)
            except UserError as error:
                told.append(str(error))
            else:
                assert same(found)
    assert all(len(line.splitlines()) == 1 and len(line) < 1000 for line in told)
    return len(told)


@pytest.mark.parametrize("name", ["openclip", "training", "carbonclip"])
def test_zips_of_torch(files: dict[str, Path], tmp_path: Path, name: str) -> None:
    file = files[name] / "epoch_3.pt" if files[name].is_dir() else files[name]
    data, rng = file.read_bytes(), np.random.default_rng(0)
    whole = arrays(file)
    (pickled,) = [
        info for info in zipfile.ZipFile(file).infolist() if info.filename.endswith("data.pkl")
    ]
    # Most of a file is numbers: the pickle before them and the directory after them tell more.
    end = pickled.header_offset + pickled.compress_size + 200

    def same(found: dict[str, np.ndarray]) -> bool:
        """Whether the tensors are those of the file: other names miss some, later on."""
        return all(
            values.tobytes() == whole[name].tobytes() and values.shape == whole[name].shape
            for name, values in found.items()
            if name in whole
        )

    def mutated() -> bytes:
        where = rng.integers(3)
        if where == 0:
            return damaged(data, rng)
        if where == 1:
            return damaged(data, rng, end)
        return damaged(data[::-1], rng, len(data) // 50 + 200)[::-1]

    count = refused(arrays, tmp_path / "x.pt", mutated, 300, same)
    assert count > 150


def test_pickles_of_torch_before_1_6(files: dict[str, Path], tmp_path: Path) -> None:
    data, rng = files["tinyclip"].read_bytes(), np.random.default_rng(0)
    end = len(data) // 8  # the pickle; there is no checksum of the numbers behind it

    def mutated() -> bytes:
        return damaged(data, rng, end if rng.integers(4) else None)

    assert refused(arrays, tmp_path / "x.pt", mutated, 300, lambda _: True) > 100


def repacked(path: Path, change: Callable[[bytes], bytes]) -> bytes:
    """A torch file whose pickle is another, with a right checksum of it."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info, change(content) if info.filename.endswith("data.pkl") else content)
    return out.getvalue()


@pytest.mark.parametrize("name", ["training", "carbonclip"])
def test_pickles_with_right_checksums(files: dict[str, Path], tmp_path: Path, name: str) -> None:
    """A program that wrote something else, not a disk that lost it."""
    file = files[name] / "epoch_3.pt" if files[name].is_dir() else files[name]
    rng = np.random.default_rng(0)

    def mutated() -> bytes:
        return repacked(file, lambda content: damaged(content, rng))

    assert refused(arrays, tmp_path / "x.pt", mutated, 300, lambda _: True) > 100


def test_headers_of_safetensors(files: dict[str, Path], tmp_path: Path) -> None:
    file = files["huggingface"] / "model.safetensors"
    data, rng, whole = file.read_bytes(), np.random.default_rng(0), arrays(file)
    end = 8 + int.from_bytes(data[:8], "little")

    def same(found: dict[str, np.ndarray]) -> bool:
        """The bytes of what has its name still; another shape or dtype is seen by the network."""
        return all(
            values.nbytes == whole[name].nbytes for name, values in found.items() if name in whole
        )

    path = tmp_path / "x.safetensors"
    assert refused(arrays, path, lambda: damaged(data, rng, end), 400, same) > 150
    assert refused(arrays, path, lambda: damaged(data, rng), 100, lambda _: True) > 0


def test_tokenizer_files(tmp_path: Path) -> None:
    train_tokenizer(["a photo of a cat", "two dogs"]).fast().save_pretrained(tmp_path / "t")
    whole = read_tokenizer(tmp_path / "t")
    rng = np.random.default_rng(0)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = tmp_path / "t" / name
        data = file.read_bytes()

        def same(found: Any) -> bool:
            ids = found(["a photo of two cats"], max_length=9, truncation=True)["input_ids"][0]
            return all(isinstance(i, int) for i in ids) and len(ids) <= 9

        def read(_: Path) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return read_tokenizer(tmp_path / "t")

        assert refused(read, file, lambda data=data: damaged(data, rng), 150, same) > 40
        file.write_bytes(data)
    assert read_tokenizer(tmp_path / "t").get_vocab() == whole.get_vocab()
