"""Sources: tables, class folders and digits; splits, names, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.train.data import DataConfig, DataError, SourceConfig, open_source
from codesign.train.data.named import open_named
from simulators.samples import all_of


@pytest.fixture
def folder(tmp_path: Path, picture: Callable) -> Path:
    """data/ with the pictures images/0.png to images/4.png."""
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    for i in range(5):
        (images / f"{i}.png").write_bytes(picture(i))
    return tmp_path / "data"


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
            assert source.image(i).dtype == searched.image(i).dtype == np.uint8
            np.testing.assert_array_equal(source.image(i), searched.image(i))
        assert source.class_names[7] == "seven" and len(source.templates) == 6
