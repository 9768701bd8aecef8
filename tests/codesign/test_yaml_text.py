"""YAML of configs: one meaning for every text, and any config is a CONFIG again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.cli import main
from codesign.errors import UserError
from codesign.overrides import config_names, load_config, printed
from codesign.yaml_text import read_yaml, yaml_text


def of(text: str, tmp_path: Path) -> Any:
    (tmp_path / "a.yaml").write_text(text)
    return read_yaml(tmp_path / "a.yaml")


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Control characters and half surrogates are no YAML.
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")))
    | st.sampled_from(["1e-3", "010", "no", "~", "null", "1:30", "2026-11-29", "true", "<<", "="]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc_", min_size=1), inner),
    max_leaves=8,
)


@given(PLAIN)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    found = of(yaml_text(value), tmp_path_factory.mktemp("yaml"))
    assert json.dumps(found) == json.dumps(value)


def test_texts_mean_what_yaml_1_2_says(tmp_path: Path) -> None:
    text = "a: 1e-3\nb: no\nc: 010\nd: 1:30\ne: 2026-11-29\nf: [1, .5, -2.]\ng:\nh: 'true'\ni: true"
    assert of(text, tmp_path) == {
        "a": 1e-3,
        "b": "no",
        "c": 10,
        "d": "1:30",
        "e": "2026-11-29",
        "f": [1, 0.5, -2.0],
        "g": None,
        "h": "true",
        "i": True,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "'a' is there twice; give it once at line 2 column 1"),
        ("a: &x [1]\nb: *x", "an alias; write its value out at line 2 column 4"),
        ("1: 2", "the key 1 is no text"),
        ("a: [1", "is no YAML: expected"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("[" * 5000, "is no YAML"),
        ("a: \x00", "is no YAML"),
        ("a: " + "9" * 5000, "is no YAML"),
        ("#" * (2**20 + 1), "too large for a config"),
    ],
)
def test_bad_files_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        of(text, tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", config_names())
def test_a_printed_config_is_the_config(name: str, tmp_path: Path) -> None:
    from codesign.kinds import kind_of

    config = load_config(name)
    command = kind_of(type(config)).command
    (tmp_path / "again.yaml").write_text(printed(config))
    assert load_config(str(tmp_path / "again.yaml"), command=command) == config


def test_fields_of_a_file_are_those_of_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "config: quickstart\nseed: 7\noptim: {lr: 2e-3}\nspace:\n  vision:\n    heads: [1, 2]"
    )
    argv = ["search", str(file), "--schedule.joint_steps", "40", "--print-config"]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    given = ["--seed", "7", "--optim.lr", "2e-3", "--space.vision.heads", "[1,2]"]
    assert main(["search", "quickstart", *given, *argv[2:]]) == 0
    assert capsys.readouterr().out == shown
    (tmp_path / "shown.yaml").write_text(shown)
    assert main(["search", str(tmp_path / "shown.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "config: quickstart\noptim: {learning: 1}",
            "bad.yaml: unknown option --optim.learning; did you mean '--optim.lr'?",
        ),
        ("config: quickstart\nseed: x", "seed"),
        ("config: nosuch", "there is no config 'nosuch'"),
        ("config: 3", "config is 3: it must be a config's name or path"),
        ("kind: finetun", "bad.yaml: there is no kind 'finetun'; did you mean 'finetune'?"),
        ("kind: finetune\nconfig: digits_clip", "is no search; try codesign finetune"),
        ("[1]", "holds no fields of a config"),
        ("sede: 1", "bad.yaml: space is missing; a line 'config: NAME' gives what is left out"),
    ],
)
def test_bad_fields_are_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    assert main(["search", str(tmp_path / "bad.yaml"), "--print-config"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error


def test_a_text_stays_one(tmp_path: Path) -> None:
    """Also one that the command line would take for null or a number."""
    source = load_config("digits_clip").train
    config = dataclasses.replace(load_config("digits_clip"), tokenizer="null", checkpoint="300")
    config = dataclasses.replace(config, train=dataclasses.replace(source, classes="1e3"))
    (tmp_path / "texts.yaml").write_text(printed(config))
    assert load_config(str(tmp_path / "texts.yaml"), command="finetune") == config


def test_a_function_of_a_config_file_is_not_printed() -> None:
    from codesign.search.objectives import FunctionLimit, Limits

    config = load_config("quickstart")
    mode = dataclasses.replace(config.targets, mode=lambda costs: costs.carbon_kgco2e)
    limits = Limits(functions=(FunctionLimit(lambda costs: costs.energy_j, 1.0),))
    for field, value in (("targets", mode), ("limits", limits)):
        with pytest.raises(UserError, match=rf"--{field}\.\w+ is a function .*FILE\.py:NAME"):
            printed(dataclasses.replace(config, **{field: value}))


def test_an_empty_file_has_no_fields(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(UserError, match="holds no fields of a config"):
        load_config(str(tmp_path / "empty.yaml"), command="search")
