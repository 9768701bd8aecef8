"""Sources: tables, class folders, parquet and digits; splits, names, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.train.data import DataConfig, DataError, Source, SourceConfig, open_source
from codesign.train.data.captions import CIFAR10_NAMES, PHOTO_TEMPLATES
from codesign.train.data.named import open_named


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The datasets library, caching inside the test's own folder and saying nothing."""
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    library.disable_progress_bars()
    return library


@pytest.fixture
def folder(tmp_path: Path, picture: Callable) -> Path:
    """data/ with the pictures images/0.png to images/4.png."""
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    for i in range(5):
        (images / f"{i}.png").write_bytes(picture(i))
    return tmp_path / "data"


def all_of(source: Source, number_of: Callable) -> list[tuple[int, tuple[str, ...], int]]:
    samples = [source[i] for i in range(len(source))]
    return [(number_of(s.image), s.captions, s.label) for s in samples]


# Tables

TABLES = {
    "metadata.csv": 'file_name,caption\nimages/0.png,"one, two"\nimages/1.png,"a ""b""\nc"\n',
    "captions.tsv": "filepath\tid\ttitle\nimages/0.png\t7\tone, two\n"
    'images/1.png\t8\t"a ""b""\nc"\n',
    # As OpenCLIP wants them.
    "any.csv": 'filepath\ttitle\nimages/0.png\tone, two\nimages/1.png\t"a ""b""\nc"\n',
    "metadata.jsonl": '{"image": "images/0.png", "text": "one, two"}\n\n'
    '{"image": "images/1.png", "text": "a \\"b\\"\\nc"}\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str, folder: Path, number_of: Callable) -> None:
    (folder / name).write_text(TABLES[name])
    expected = [(0, ("one, two",), -1), (1, ('a "b"\nc',), -1)]
    for path in (folder, folder / name):
        source = open_source(SourceConfig(str(path)))
        assert all_of(source, number_of) == expected
        assert source.where(1) == str(folder / "images/1.png") and source.class_names == ()


def test_several_captions_and_chosen_columns(
    folder: Path, number_of: Callable, picture: Callable, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "far.png"
    elsewhere.write_bytes(picture(7))
    (folder / "a.csv").write_text(
        "path,caption\nimages/2.png,first\nimages/0.png,alone\nimages/2.png,second\n"
        f"{elsewhere},far\n"
    )
    expected = [(2, ("first", "second"), -1), (0, ("alone",), -1), (7, ("far",), -1)]
    assert all_of(open_source(SourceConfig(str(folder))), number_of) == expected
    rows = [
        {"path": "x", "photo": "images/2.png", "words": ["first", "second"], "text": "no"},
        {"path": "x", "photo": "images/0.png", "words": "alone"},
        {"path": "x", "photo": str(elsewhere), "words": ["far", " ", 3]},
    ]
    table = folder / "b.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = SourceConfig(str(table), image_column="photo", caption_column="words")
    assert all_of(open_source(config), number_of) == expected


def test_rows_and_files_that_are_missing(folder: Path) -> None:
    table = folder / "metadata.csv"
    table.write_text("file_name,caption\nimages/0.png,a\nimages/1.png,\n,b\ngone.png,c\n")
    source = open_source(SourceConfig(str(folder)))
    assert source.lost == (f"{table} line 3: no caption", f"{table} line 4: no file_name")
    assert len(source) == 2
    with pytest.raises(OSError, match=r"^no such file or directory$"):
        source.image(1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "file_name,words\nx,y\n", "a.csv has no column caption or captions or text or"),
        (
            "a.csv",
            "name,caption\nx,y\n",
            "no column file_name or .* its columns are: name, caption",
        ),
        ("a.csv", "file_name,caption\n", "a.csv is empty: no row with"),
        ("a.csv", "", "a.csv is empty"),
        (
            "a.csv",
            "file_name,caption\nx,y\nz,y\n",
            "a.csv names .*/x, which does not exist, nor do",
        ),
        ("a.jsonl", '{"image": "x", "text": "y"}\n{"image": \n', "a.jsonl line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl line 1 is no JSON object"),
        ("a.csv", b"file_name,caption\n\xff\xfe,y\n", "a.csv is no text in UTF-8"),
        ("a.xlsx", "", "a.xlsx cannot be read: expected .tar, .parquet, .csv"),
        ("a.zip", b"PK", "a.zip is an archive that cannot be read in place: unpack it first"),
    ],
)
def test_wrong_tables(name: str, text: str | bytes, message: str, folder: Path) -> None:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as caught:
        open_source(SourceConfig(str(path)))
    assert "\n" not in str(caught.value)


# Folders


@pytest.fixture
def classes(tmp_path: Path, picture: Callable) -> Path:
    """sea_lion/ with 0 to 9, yak/ with 10 to 19."""
    for i in range(20):
        place = tmp_path / "classes" / ("yak" if i > 9 else "sea_lion")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:02}.{'jpg' if i % 2 else 'PNG'}").write_bytes(picture(i))
    (tmp_path / "classes" / "yak" / "notes.txt").write_text("no picture")
    (tmp_path / "classes" / ".hidden").mkdir()
    return tmp_path / "classes"


def test_class_folders(classes: Path, number_of: Callable) -> None:
    source = open_source(SourceConfig(str(classes)))
    assert source.class_names == ("sea_lion", "yak")
    assert all_of(source, number_of) == [(i, (), i // 10) for i in range(20)]
    assert source.templates == ("a photo of a {}.",)
    names = classes.parent / "names.json"
    names.write_text('{"yak": "ox", "sea_lion": "seal"}')
    renamed = open_source(SourceConfig(str(classes), classes=str(names), templates="imagenet7"))
    assert renamed.class_names == ("seal", "ox") and len(renamed.templates) == 7


def test_split_folders(classes: Path, picture: Callable, number_of: Callable) -> None:
    root = classes.parent / "root"
    root.mkdir()
    classes.rename(root / "train")
    (root / "val" / "bee").mkdir(parents=True)
    (root / "val" / "bee" / "x.png").write_bytes(picture(30))
    validation = open_source(SourceConfig(str(root), split="validation"))
    assert validation.class_names == ("bee", "sea_lion", "yak")
    assert all_of(validation, number_of) == [(30, (), 0)]
    train = open_source(SourceConfig(str(root), holdout=0.5))  # has its own validation
    assert train.labels.tolist() == [1] * 10 + [2] * 10
    everything = open_source(SourceConfig(str(root), split="all"))
    assert [n for n, *_ in all_of(everything, number_of)] == [*range(20), 30]
    assert everything.where(20) == str(root / "val" / "bee" / "x.png")
    with pytest.raises(DataError, match=r"has no split test \(it has: train, validation\)"):
        open_source(SourceConfig(str(root), split="test"))


def test_split_folders_of_tables(folder: Path, number_of: Callable) -> None:
    (folder / "metadata.csv").write_text("file_name,caption\nimages/0.png,a\n")
    root = folder.parent / "root"
    root.mkdir()
    folder.rename(root / "test")
    source = open_source(SourceConfig(str(root), split="test"))
    assert all_of(source, number_of) == [(0, ("a",), -1)]


def test_a_class_may_be_called_train(classes: Path) -> None:
    (classes / "yak").rename(classes / "train")
    assert open_source(SourceConfig(str(classes))).class_names == ("sea_lion", "train")


@pytest.fixture
def put(tmp_path: Path, picture: Callable) -> Callable[..., Path]:
    """({file: number}) -> a folder with these pictures."""

    def write(files: dict[str, int]) -> Path:
        for name, number in files.items():
            path = tmp_path / "put" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number))
        return tmp_path / "put"

    return write


def test_stray_pictures_beside_the_classes_of_splits(put: Callable, number_of: Callable) -> None:
    root = put(
        {
            "train/cat/a.png": 0,
            "train/dog/a.png": 1,
            "train/sample.png": 9,
            "val/cat/a.png": 2,
            "val/sample.png": 9,
            "test/a.png": 9,  # of no class, as in Kaggle's competitions
            "masks/a.png": 9,
        }
    )
    beside = f"{root}/masks: beside the splits, not read"
    source = open_source(SourceConfig(str(root)))
    assert source.class_names == ("cat", "dog")
    assert all_of(source, number_of) == [(0, (), 0), (1, (), 1)]
    assert source.lost == (f"{root}/train/sample.png: in no class's folder", beside)
    everything = open_source(SourceConfig(str(root), split="all"))
    assert all_of(everything, number_of) == [(0, (), 0), (1, (), 1), (2, (), 0)]
    assert sorted(everything.lost) == [
        beside,
        *(
            f"{root}/{f}.png: in no class's folder"
            for f in ("test/a", "train/sample", "val/sample")
        ),
    ]
    with pytest.raises(
        DataError, match=r"no pictures in split test: .*a\.png: in no class's folder"
    ):
        open_source(SourceConfig(str(root), split="test"))


def test_split_folders_of_pictures_alone_are_no_classes(put: Callable) -> None:
    root = put({"train/a.png": 0, "val/a.png": 1})
    with pytest.raises(DataError, match="train holds pictures but no captions: add metadata"):
        open_source(SourceConfig(str(root)))


def test_tiny_imagenet(put: Callable, number_of: Callable) -> None:
    root = put(
        {f"train/{c}/images/{c}_{i}.JPEG": 10 * i + i for i, c in enumerate(("n1", "n2"))}
        | {f"val/images/val_{i}.JPEG": i for i in range(4)}
        | {"test/images/test_0.JPEG": 9}
    )
    lines = ("val_0.JPEG\tn2\t0\t0\t9\t9", "val_2.JPEG\tn1\t0", "val_3.JPEG\tn3", "gone.JPEG\tn1")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))
    train = open_source(SourceConfig(str(root)))
    assert train.class_names == ("n1", "n2", "n3")
    assert all_of(train, number_of) == [(0, (), 0), (11, (), 1)] and train.lost == ()
    validation = open_source(SourceConfig(str(root), split="validation"))
    assert all_of(validation, number_of) == [(0, (), 1), (2, (), 0), (3, (), 2)]
    assert validation.lost == (
        f"{root}/val/images/val_1.JPEG: in no class's folder",
        f"{root}/val: gone.JPEG of val_annotations.txt is not there",
    )
    with pytest.raises(DataError, match=r"no pictures in split test: .*test_0\.JPEG: in no class"):
        open_source(SourceConfig(str(root), split="test"))
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG n2\n")
    with pytest.raises(DataError, match=r"val_annotations\.txt line 1 holds no picture and class"):
        open_source(SourceConfig(str(root)))


def test_a_folder_called_images_is_no_class(put: Callable, number_of: Callable) -> None:
    root = put({"images/cat/a.png": 0, "images/dog/a.png": 1})
    source = open_source(SourceConfig(str(root)))
    assert source.class_names == ("cat", "dog") and len(source) == 2
    (root / "images" / "cat").rename(root / "cat")  # beside another it is
    assert open_source(SourceConfig(str(root))).class_names == ("cat", "images")
    (root / "images" / "dog" / "a.png").rename(root / "images" / "a.png")
    (root / "cat").rename(root / "annotations")
    with pytest.raises(DataError, match="holds pictures but no captions"):
        open_source(SourceConfig(str(root)))


def test_links_are_followed_and_hidden_folders_left_out(put: Callable, number_of: Callable) -> None:
    root = put(
        {
            "data/cat/a.png": 0,
            "data/dog/b.png": 1,
            "data/dog/.ipynb_checkpoints/b-checkpoint.png": 9,
            "data/.cache/x.png": 9,
            "far/more/c.png": 2,
        }
    )
    (root / "data" / "cat" / "more").symlink_to(root / "far" / "more")
    (root / "data" / "wolf").symlink_to(root / "far")
    (root / "data" / "dog" / "round").symlink_to(root / "data" / "dog")
    source = open_source(SourceConfig(str(root / "data")))
    assert source.class_names == ("cat", "dog", "wolf") and source.lost == ()
    assert all_of(source, number_of) == [(0, (), 0), (2, (), 0), (1, (), 1), (2, (), 2)]


def test_folders_that_cannot_be_read_are_named(
    put: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = put({"cat/a.png": 0, "cat/b/c.png": 1})
    scan = os.scandir

    def refuse(place: str) -> Any:
        if str(place).endswith("b"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    assert open_source(SourceConfig(str(root))).lost == (f"{root}/cat/b: permission denied",)
    (root / "cat").rename(root / "lab")  # a whole class: without it the others move up
    with pytest.raises(DataError, match=r"cannot read .*/lab: Permission denied"):
        open_source(SourceConfig(str(put({"cat/a.png": 0}))))


def test_folders_without_data(tmp_path: Path, picture: Callable) -> None:
    place = tmp_path / "place"
    place.mkdir()

    def message() -> str:
        with pytest.raises(DataError) as caught:
            open_source(SourceConfig(str(place)))
        return str(caught.value)

    assert "place holds no data: no table of captions, tar shards" in message()
    (place / "data.zip").write_bytes(b"PK")
    assert "data.zip is an archive that cannot be read in place: unpack it first" in message()
    (place / "a.png").write_bytes(picture(0))
    assert "holds pictures but no captions: add metadata.csv" in message()
    (place / "a.csv").write_text("")
    (place / "b.csv").write_text("")
    assert "holds several tables (a.csv, b.csv): name one, or call it metadata" in message()
    (place / "val").mkdir()
    (place / "valid").mkdir()
    for name in ("a.csv", "b.csv"):
        (place / name).unlink()
    assert "place has two folders for validation: val, valid" in message()


@pytest.mark.parametrize("form", ["list", "lines", "object", "none"])
def test_classes_that_are_numbers_go_by_number(
    form: str, tmp_path: Path, picture: Callable, number_of: Callable
) -> None:
    numbers = [0, 2, 3, 10, 11]  # 1 and 4 to 9 have no pictures
    for number in numbers:
        (tmp_path / "data" / str(number)).mkdir(parents=True)
        (tmp_path / "data" / str(number) / "a.png").write_bytes(picture(number))
    names = [f"name {i}" for i in range(12)]
    file = tmp_path / "names"
    file.write_text(
        {
            "list": json.dumps(names),
            "lines": "\ufeff" + "\r\n".join(names) + "\n",
            "object": json.dumps({str(i): name for i, name in enumerate(names)}),
            "none": "",
        }[form]
    )
    classes = None if form == "none" else str(file)
    source = open_source(SourceConfig(str(tmp_path / "data"), classes=classes))
    assert [number_of(source.image(i)) for i in range(5)] == numbers
    named = [source.class_names[label] for label in source.labels]
    assert named == [str(i) if form == "none" else f"name {i}" for i in numbers]


@pytest.mark.parametrize(
    ("folders", "names", "message"),
    [
        (["1", "2", "3"], 3, "3 class names, for the classes 0 to 2, but .* has a class 3; give"),
        (["0", "00"], 2, "the classes 0 and 00 have one number"),
    ],
)
def test_ambiguous_numbers_are_refused(
    folders: list[str], names: int, message: str, tmp_path: Path, picture: Callable
) -> None:
    for name in folders:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.png").write_bytes(picture(0))
    (tmp_path / "names").write_text("name\n" * names)
    with pytest.raises(DataError, match=message):
        open_source(SourceConfig(str(tmp_path / "data"), classes=str(tmp_path / "names")))


# Splits, limit, seeds


def test_holdout_and_limit(classes: Path, number_of: Callable) -> None:
    config = SourceConfig(str(classes), holdout=0.3, seed=1)
    train = open_source(config)
    validation = open_source(dataclasses.replace(config, split="val"))
    parts = [[n for n, *_ in all_of(part, number_of)] for part in (train, validation)]
    assert sorted(parts[0] + parts[1]) == list(range(20))
    assert [sum(n < 10 for n in part) for part in parts] == [7, 3]
    other = open_source(dataclasses.replace(config, seed=2))
    assert [n for n, *_ in all_of(other, number_of)] != parts[0]
    limited = [
        [n for n, *_ in all_of(open_source(dataclasses.replace(config, limit=k)), number_of)]
        for k in (4, 8, 99)
    ]
    assert [len(part) for part in limited] == [4, 8, 14]
    assert set(limited[0]) < set(limited[1]) < set(limited[2])
    for split, message in (
        ("validation", r"no split validation \(it has none\); holdout keeps a share of train"),
        ("test", r"has no split test \(it has none\); split all is everything"),
    ):
        with pytest.raises(DataError, match=message):
            open_source(SourceConfig(str(classes), split=split))
    assert len(open_source(SourceConfig(str(classes), split="all", holdout=0.3))) == 20


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SourceConfig("digits", limit=0), "limit is 0"),
        (SourceConfig("digits", holdout=1.0), "holdout is 1.0"),
        (SourceConfig("digits", seed=-1), "seed is -1"),
        (SourceConfig(""), "path is empty"),
        (SourceConfig("digits", split="dev-2"), r"digits has no split dev-2 \(it has: train, val"),
        (SourceConfig("/nowhere/at/all"), "/nowhere/at/all does not exist: give a file"),
        (SourceConfig("absent.csv"), "absent.csv does not exist"),
        (SourceConfig("digits", templates="phot"), "templates is 'phot': neither a file nor"),
    ],
)
def test_wrong_configurations(config: SourceConfig, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        open_source(config)
    assert "\n" not in str(caught.value)


def test_digits_are_those_of_a_search() -> None:
    for split in ("train", "validation", "test"):
        source = open_source(SourceConfig("digits", split=split))
        searched = getattr(open_named(DataConfig()), split)
        np.testing.assert_array_equal(source.labels, searched.labels)
        for i in range(len(source)):
            np.testing.assert_allclose(source.image(i), searched.image(i), atol=0.5)
        assert source.class_names[7] == "seven" and len(source.templates) == 6


# Parquet


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
