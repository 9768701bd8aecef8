"""Parquet as a source: columns, labels, splits by files' names, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codesign.train.data import DataError, SourceConfig, open_source
from codesign.train.data.captions import CIFAR10_NAMES, PHOTO_TEMPLATES
from simulators.samples import all_of


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The datasets library, caching inside the test's own folder and saying nothing."""
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    library.disable_progress_bars()
    return library


def write_parquet(datasets: Any, path: Path, features: dict | None = None, **columns: list) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    options = {"features": datasets.Features(features)} if features else {}
    datasets.Dataset.from_dict(columns, **options).to_parquet(path)


def test_parquet(datasets: Any, tmp_path: Path, picture: Callable, number_of: Callable) -> None:
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["sea_lion", "yak"]),
        "captions": datasets.Sequence(datasets.Value("string")),
    }
    for split, start in (("train", 0), ("test", 10)):
        write_parquet(
            datasets,
            tmp_path / "data" / f"{split}-00000-of-00001.parquet",
            features,
            image=[{"bytes": picture(start + i), "path": None} for i in range(4)],
            label=[0, 1, 1, 0],
            captions=[[f"one {i}", f"two {i}"] for i in range(4)],
        )
    expected = [(10 + i, (f"one {i}", f"two {i}"), [0, 1, 1, 0][i]) for i in range(4)]
    source = open_source(SourceConfig(str(tmp_path / "data"), split="test"))
    assert all_of(source, number_of) == expected and source.class_names == ("sea_lion", "yak")
    assert source.where(3) == f"{tmp_path}/data test row 3"
    file = tmp_path / "data" / "test-00000-of-00001.parquet"
    for path in (str(file), f"{tmp_path}/data/test-*.parquet"):
        assert all_of(open_source(SourceConfig(path)), number_of) == expected
    train = open_source(SourceConfig(str(tmp_path / "data"), holdout=0.5))
    held = open_source(SourceConfig(str(tmp_path / "data"), split="validation", holdout=0.5))
    assert sorted(n for part in (train, held) for n, *_ in all_of(part, number_of)) == [0, 1, 2, 3]


def test_parquet_of_other_columns(
    datasets: Any, tmp_path: Path, picture: Callable, number_of: Callable
) -> None:
    features = {
        "jpg": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        "fine": datasets.Value("int64"),
    }
    images = [{"bytes": picture(i), "path": None} for i in range(3)]
    images[1] = {"bytes": None, "path": None}
    path = tmp_path / "cifar10.parquet"
    write_parquet(datasets, path, features, jpg=images, fine=[3, 9, -1])
    config = SourceConfig(str(path), image_column="jpg", label_column="fine")
    source = open_source(config)
    assert source.labels.tolist() == [3, 9, -1]
    # The common copy of CIFAR-10 does not name its classes.
    assert source.class_names == CIFAR10_NAMES and source.templates == PHOTO_TEMPLATES
    assert number_of(source.image(2)) == 2
    with pytest.raises(ValueError, match="the row holds no image"):
        source.image(1)
    other = path.rename(tmp_path / "cifar100.parquet")
    config = dataclasses.replace(config, path=str(other))
    with pytest.raises(DataError, match="has classes without names; give classes"):
        open_source(config)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {i}" for i in range(12)))
    named = open_source(dataclasses.replace(config, classes=str(names)))
    assert named.class_names[9] == "class 9"


@pytest.mark.parametrize(
    ("columns", "config", "message"),
    [
        ({"label": [0]}, {}, "no column img or image for images; its columns are: label"),
        ({"img": [{"bytes": b"", "path": ""}]}, {}, "no column caption or .* or label for capt"),
        ({"img": [1], "text": ["a"]}, {}, "column img of .* holds no encoded images but"),
        ({"img": [{"bytes": b"", "path": ""}], "label": ["a"]}, {}, "whole numbers, .* not string"),
        ({"img": [{"bytes": b"", "path": ""}], "label": [1.0]}, {}, "whole numbers, .* not double"),
        ({"img": [{"bytes": b"", "path": ""}], "label": [[1]]}, {}, "whole numbers, .* not list"),
        (
            {"img": [{"bytes": b"", "path": ""}], "text": ["a"]},
            {"caption_column": "words"},
            "no column words for captions; its columns are: img, text",
        ),
        (
            {"img": [{"bytes": b"", "path": ""}], "text": ["a"]},
            {"label_column": "y"},
            "no column y for classes",
        ),
        ({"img": [{"bytes": b"", "path": ""}], "text": [""]}, {}, "neither captions nor classes"),
    ],
)
def test_wrong_parquet(
    columns: dict, config: dict, message: str, datasets: Any, tmp_path: Path
) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(datasets, path, **columns)
    with pytest.raises(DataError, match=message) as caught:
        open_source(SourceConfig(str(path), **config))
    assert "\n" not in str(caught.value)


def test_broken_parquet_and_absent_hub_names(
    datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"cannot load .*x\.parquet") as caught:
        open_source(SourceConfig(str(tmp_path / "x.parquet")))
    assert "\n" not in str(caught.value)

    def unreachable(name: str) -> None:
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"^cannot load someone/things .*Hub$"):
        open_source(SourceConfig("someone/things"))


def test_parquet_rows_that_lack_something(
    datasets: Any, tmp_path: Path, picture: Callable, number_of: Callable
) -> None:
    """A row without a class or a picture is one without, and costs the others nothing."""
    rows = {
        "image": [{"bytes": picture(i), "path": None} for i in range(4)],
        "label": [0, None, 1, None],
        "caption": [["a", "b"], [], None, [None, "c"]],
    }
    rows["image"][2] = None
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "names").write_text("cat\ndog\n")
    source = open_source(SourceConfig(str(tmp_path / "a.parquet"), classes=str(tmp_path / "names")))
    assert source.labels.tolist() == [0, -1, 1, -1]
    assert [source.captions(i) for i in range(4)] == [("a", "b"), (), (), ("c",)]
    assert [number_of(source.image(i)) for i in (0, 1, 3)] == [0, 1, 3]
    with pytest.raises(ValueError, match="the row holds no image"):
        source.image(2)


@pytest.mark.parametrize("kind", ["uint8", "uint64", "int8", "int64"])
def test_parquet_labels_of_any_width(
    kind: str, datasets: Any, tmp_path: Path, picture: Callable
) -> None:
    features = {
        "image": datasets.Image(),
        "label": datasets.Value(kind),
        "text": datasets.Value("string"),
    }
    images = [{"bytes": picture(i), "path": None} for i in range(3)]
    path = tmp_path / "a.parquet"
    write_parquet(datasets, path, features, image=images, label=[100, None, 0], text=["a"] * 3)
    assert open_source(SourceConfig(str(path))).labels.tolist() == [100, -1, 0]
    if kind == "uint64":
        write_parquet(
            datasets, path, features, image=images, label=[1, 2**63 - 1, 0], text=["a"] * 3
        )
        with pytest.raises(DataError, match=f"row 1 has label {2**63 - 1} in column label"):
            open_source(SourceConfig(str(path)))


@pytest.mark.parametrize("labels", [["cat", "dog"], [0.5, 1.0], [[0], [0, 1]]])
def test_captions_do_without_labels_that_are_no_numbers(
    labels: list, datasets: Any, tmp_path: Path, picture: Callable
) -> None:
    images = [{"bytes": picture(i), "path": None} for i in range(2)]
    path = tmp_path / "a.parquet"
    write_parquet(datasets, path, image=images, caption=["a", "b"], label=labels)
    source = open_source(SourceConfig(str(path)))
    assert source.captions(1) == ("b",) and source.labels.tolist() == [-1, -1]
    assert len(source.lost) == 1 and "no numbers of classes: not used" in source.lost[0]
    with pytest.raises(DataError, match=r"column label of .* must hold whole numbers"):
        open_source(SourceConfig(str(path), label_column="label"))


def test_parquet_files_of_no_split(
    datasets: Any, tmp_path: Path, picture: Callable, number_of: Callable
) -> None:
    root = tmp_path / "data"

    def write(name: str, *numbers: int) -> None:
        images = [{"bytes": picture(i), "path": None} for i in numbers]
        write_parquet(datasets, root / name, image=images, text=[f"{i}" for i in numbers])

    def found(split: str) -> tuple[list[int], tuple[str, ...]]:
        source = open_source(SourceConfig(str(root), split=split))
        return [n for n, *_ in all_of(source, number_of)], source.lost

    write("test-0.parquet", 0, 1)
    write("other.parquet", 2)
    write(".hidden/x.parquet", 9)
    assert found("test") == ([0, 1], ()) and found("train") == ([2], ())
    assert found("all") == ([0, 1, 2], ())
    write("train-0.parquet", 3)
    assert found("train") == ([3], ()) and sorted(found("all")[0]) == [0, 1, 2, 3]
    write_parquet(datasets, root / "other.parquet", count=[1])
    numbers, lost = found("all")
    assert sorted(numbers) == [0, 1, 3]
    assert len(lost) == 1 and lost[0].startswith(f"{root}/other.parquet: of no split, and not read")
    # In the folder of a split all are of it.
    root.rename(tmp_path / "val")
    (tmp_path / "whole").mkdir()
    root = (tmp_path / "val").rename(tmp_path / "whole" / "val").parent
    assert sorted(found("validation")[0]) == [0, 1, 3]


def test_parquet_files_that_name_their_classes_otherwise(
    datasets: Any, tmp_path: Path, picture: Callable
) -> None:
    for file, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
        images = [{"bytes": picture(i), "path": None} for i in range(2)]
        path = tmp_path / "data" / f"{file}.parquet"
        write_parquet(datasets, path, features, image=images, label=[0, 1])
    for place in ("data", "data/*.parquet"):
        with pytest.raises(DataError, match="names the classes of column label otherwise than"):
            open_source(SourceConfig(str(tmp_path / place)))
    assert open_source(SourceConfig(str(path))).class_names == ("dog", "cat")


@pytest.mark.parametrize("label", [2**31, 2**32, 2**32 + 1, 2**40])
def test_parquet_labels_beyond_32_bits(
    label: int, datasets: Any, tmp_path: Path, picture: Callable
) -> None:
    rows = {"image": [{"bytes": picture(0), "path": None}] * 2, "label": [0, label]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "names").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=f"row 1 has label {label} in column label: classes are"):
        open_source(SourceConfig(str(tmp_path / "a.parquet"), classes=str(tmp_path / "names")))
