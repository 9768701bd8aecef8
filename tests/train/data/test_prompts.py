"""Prompt ensembles and files of templates and class names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codesign.train.data import DataError, prompts
from codesign.train.data.captions import captions
from codesign.train.data.prompts import load_class_names, load_templates


def test_ensembles_are_the_published_ones() -> None:
    sizes = {name: len(templates) for name, templates in prompts._ENSEMBLES.items()}
    assert sizes == {"photo": 1, "imagenet": 80, "imagenet7": 7, "cifar": 18, "digits": 6}
    for templates in prompts._ENSEMBLES.values():
        assert len(set(templates)) == len(templates)
        assert all(template.count("{}") == 1 for template in templates)
    assert set(prompts.IMAGENET_BEST) | set(prompts.PHOTO) <= set(prompts.IMAGENET)
    # Each kind of the 80 comes with a and with the, but a few that make no sense so.
    kinds = {t.replace(" the {}", " a {}").replace("the {}", "a {}") for t in prompts.IMAGENET}
    assert 40 <= len(kinds) <= 60
    assert prompts.CIFAR[:3] == (
        "a photo of a {}.",
        "a blurry photo of a {}.",
        "a black and white photo of a {}.",
    )
    assert prompts.CIFAR[-2:] == ("a photo of the small {}.", "a photo of the big {}.")


def test_templates(tmp_path: Path) -> None:
    assert load_templates("auto", ()) == prompts.PHOTO
    assert load_templates("auto", ("the {}",)) == ("the {}",)
    assert load_templates("imagenet", ("the {}",)) == prompts.IMAGENET
    file = tmp_path / "templates.txt"
    file.write_text("a {} here\n\n  of {c}.\n")
    assert load_templates(str(file), ()) == ("a {} here", "of {}.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a photo\n", r"templates.txt: template 'a photo' must have one {} for"),
        ("a {}\n{} and {}\n", "template '{} and {}' must have one"),
        ("\n", "templates.txt is empty: write one template a line"),
    ],
)
def test_wrong_templates(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "templates.txt"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_templates(str(file), ())
    assert "\n" not in str(caught.value)


def test_unknown_templates() -> None:
    with pytest.raises(DataError, match="'imagnet': neither a file nor one of auto, photo, imag"):
        load_templates("imagnet", ())


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        ("sea lion\nyak\n", (), ("sea lion", "yak")),
        ("sea lion\nyak\n", ("n1", "n2"), ("sea lion", "yak")),
        (json.dumps(["a", "b", "c"]), (), ("a", "b", "c")),  # a set may lack the last class
        (json.dumps({"n2": "yak", "n3": "bee", "n1": "ox"}), ("n1", "n2"), ("ox", "yak")),
    ],
)
def test_class_names(text: str, known: tuple, expected: tuple, tmp_path: Path) -> None:
    file = tmp_path / "names"
    file.write_text(text)
    assert load_class_names(str(file), known, 2) == expected


@pytest.mark.parametrize(
    ("text", "known", "message"),
    [
        ("yak\n", (), "names has 1 class names, the data have 2 classes"),
        ("yak\nox\nbee\n", ("n1", "n2"), "names has 3 class names, the data have 2 classes"),
        ('{"n1": "ox"}', ("n1", "n2"), "has no name for 'n2'; give a list of all 2 names"),
        ('{"n1": "ox"}', (), "has names, but the data have none; give a list of all 2"),
        ('["ox", 3]', (), "every class name must be a text"),
        ('["ox", ', (), "is not JSON"),
    ],
)
def test_wrong_class_names(text: str, known: tuple, message: str, tmp_path: Path) -> None:
    file = tmp_path / "names"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_class_names(str(file), known, 2)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="classes is absent: there is no such file"):
        load_class_names("absent", known, 2)


def test_braces_of_a_template_are_its_own(tmp_path: Path) -> None:
    file = tmp_path / "templates.txt"
    file.write_bytes(b'\xef\xbb\xbfjson {"a"} {}\r\n\r\nset {0} of {c}\n')
    templates = load_templates(str(file), ())
    assert templates == ('json {"a"} {}', "set {0} of {}")
    assert captions(("big_{}cat",), templates) == [['json {"a"} big {}cat', "set {0} of big {}cat"]]


def test_a_blank_line_moves_no_names(tmp_path: Path) -> None:
    file = tmp_path / "names"
    file.write_bytes(b"\xef\xbb\xbfox\r\nyak\r\n\r\n")
    assert load_class_names(str(file), (), 2) == ("ox", "yak")
    file.write_text("ox\n\nyak\n")
    with pytest.raises(DataError, match="names line 2 is blank: the class has no name"):
        load_class_names(str(file), (), 2)
